//! Plots in `target/bench/`.

use plotters::{
    coord::ranged1d::{AsRangedCoord, ValueFormatter},
    prelude::*,
};

use crate::{report::folder, stats::Samples};

type Failed = Box<dyn std::error::Error>;

/// Share of samples below a time, for several sets, on a logarithmic axis.
pub(crate) fn distributions(
    file: &str,
    title: &str,
    unit: &str,
    sets: &[(&str, &Samples)],
) -> Option<String> {
    let all = sets
        .iter()
        .flat_map(|(_, samples)| &samples.0)
        .copied()
        .filter(|x| *x > 0.0);
    let (min, max) = all.fold((f64::MAX, 0.0f64), |(min, max), x| (min.min(x), max.max(x)));
    if max == 0.0 {
        return None;
    }
    let curves = sets.iter().map(|(name, samples)| {
        let sorted = samples.sorted();
        let count = sorted.len() as f64;
        // A million points draw no other line than a thousand.
        let step = (sorted.len() / 1_000).max(1);
        let points = sorted
            .into_iter()
            .enumerate()
            .step_by(step)
            .map(|(n, x)| (x, (n + 1) as f64 / count));
        ((*name).to_owned(), points.collect::<Vec<_>>())
    });
    let curves: Vec<_> = curves.collect();
    let axes = (unit, "share of samples");
    draw(file, title, axes, (min * 0.8, max * 1.2), 0.0..1.0, &curves)
}

type Lines<'a> = &'a [(String, Vec<(f64, f64)>)];

/// A little more than from the smallest to the largest number above zero.
fn range(lines: Lines<'_>, of: fn(&(f64, f64)) -> f64) -> Option<(f64, f64)> {
    let points = lines.iter().flat_map(|(_, points)| points);
    let all = points.map(of).filter(|value| *value > 0.0);
    let (low, high) = all.fold((f64::MAX, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
    (high > 0.0).then_some((low * 0.8, high * 1.2))
}

/// The points in words.
fn points((x_name, y_name): (&str, &str), lines: Lines<'_>) -> String {
    let one = |(x, y): &(f64, f64)| format!("{}: {}", label(*x), label(*y));
    let line = |(name, points): &(String, Vec<_>)| {
        let points: Vec<_> = points.iter().map(one).collect();
        format!("{name} {}", points.join(", "))
    };
    let lines: Vec<_> = lines.iter().map(line).collect();
    format!(", {y_name} by {x_name}: {}", lines.join("; "))
}

/// Lines over a number of things. Both axes are logarithmic: what grows in proportion is a straight line.
pub(crate) fn growth(file: &str, title: &str, axes: (&str, &str), lines: Lines<'_>) -> Option<String> {
    let (x, y) = (range(lines, |point| point.0)?, range(lines, |point| point.1)?);
    let drawn = draw(file, title, axes, x, (y.0..y.1).log_scale(), lines)?;
    Some(drawn + &points(axes, lines))
}

/// The same where something is zero, which a logarithmic axis cannot show.
pub(crate) fn growth_from_zero(
    file: &str,
    title: &str,
    axes: (&str, &str),
    lines: Lines<'_>,
) -> Option<String> {
    let (x, y) = (range(lines, |point| point.0)?, range(lines, |point| point.1)?);
    let drawn = draw(file, title, axes, x, 0.0..y.1, lines)?;
    Some(drawn + &points(axes, lines))
}

/// Labels of an axis, about.
const LABELS: usize = 6;

/// Without the digits that a float has too many.
fn label(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn draw<Y>(
    file: &str,
    title: &str,
    (x_name, y_name): (&str, &str),
    x: (f64, f64),
    y: Y,
    lines: Lines<'_>,
) -> Option<String>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let path = folder().join(file);
    let made = (|| -> Result<(), Failed> {
        let area = SVGBackend::new(&path, (900, 540)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 20))
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d((x.0..x.1).log_scale(), y)?;
        // A few labels: on a logarithmic axis of one decade they would cover each other.
        chart
            .configure_mesh()
            .x_desc(x_name)
            .y_desc(y_name)
            .x_labels(LABELS)
            .y_labels(LABELS)
            .x_label_formatter(&|x| label(*x))
            .y_label_formatter(&|y| label(*y))
            .draw()?;
        for (n, (name, points)) in lines.iter().enumerate() {
            let color = Palette99::pick(n).to_rgba();
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(2))?
                .label(name.as_str())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()?;
        Ok(())
    })();
    match made {
        Ok(()) => Some(format!("`target/bench/{file}`")),
        Err(e) => {
            eprintln!("{file} was not drawn: {e}");
            None
        }
    }
}
