//! What a scenario measured, judged by the targets, for people and for machines.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Instant};

use comfy_table::{Table, presets::NOTHING};
use serde::{Deserialize, Serialize};

use crate::{
    machine::{Noise, Observed},
    scenarios,
    stats::Samples,
};

const TARGETS: &str = include_str!("../targets.toml");

/// A bound.
#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
struct Target {
    min: Option<f64>,
    max: Option<f64>,
}

impl Target {
    fn holds(&self, value: f64) -> bool {
        self.min.is_none_or(|min| value >= min) && self.max.is_none_or(|max| value <= max)
    }

    fn words(&self) -> String {
        let bound = |sign: &str, value: Option<f64>| value.map(|value| format!("{sign} {value}"));
        let bounds = [bound(">=", self.min), bound("<=", self.max)];
        bounds.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// What a scenario gives.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Samples by name, with their unit.
    pub(crate) samples: Vec<(String, &'static str, Samples)>,
    pub(crate) ratios: BTreeMap<&'static str, f64>,
    pub(crate) values: BTreeMap<&'static str, f64>,
    /// What could not be measured, and why; and what must be known to read the figures.
    pub(crate) notes: Vec<String>,
    /// Plots, by file name.
    pub(crate) plots: Vec<String>,
}

impl Outcome {
    /// Takes samples for the table.
    pub(crate) fn sample(&mut self, name: &str, unit: &'static str, samples: &Samples) {
        self.samples.push((name.to_owned(), unit, samples.clone()));
    }

    /// Takes a ratio; one that could not be computed is missing, and said to be.
    pub(crate) fn ratio(&mut self, key: &'static str, value: Option<f64>) {
        match value.filter(|value| value.is_finite()) {
            Some(value) => drop(self.ratios.insert(key, value)),
            None => self
                .notes
                .push(format!("{key} is missing: there are no samples for it")),
        }
    }

    /// Takes a value; see [`ratio`](Self::ratio).
    pub(crate) fn value(&mut self, key: &'static str, value: Option<f64>) {
        match value.filter(|value| value.is_finite()) {
            Some(value) => drop(self.values.insert(key, value)),
            None => self
                .notes
                .push(format!("{key} is missing: there are no samples for it")),
        }
    }
}

/// The last line of a run.
#[derive(Serialize, Clone, Default)]
struct Line {
    scenario: String,
    pass: bool,
    ratios: BTreeMap<&'static str, f64>,
    values: BTreeMap<&'static str, f64>,
    targets: BTreeMap<String, f64>,
    /// Why nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn targets(scenario: &str) -> Result<BTreeMap<String, Target>, String> {
    let mut all: BTreeMap<String, BTreeMap<String, Target>> =
        toml::from_str(TARGETS).map_err(|e| format!("targets.toml: {e}"))?;
    all.remove(scenario)
        .ok_or_else(|| format!("targets.toml says nothing of {scenario}"))
}

fn judge(scenario: &str, outcome: &Outcome) -> Result<Line, String> {
    let targets = targets(scenario)?;
    let measured = |key: &str| outcome.ratios.get(key).or(outcome.values.get(key)).copied();
    // What is missing is not reached.
    let pass = targets
        .iter()
        .all(|(key, target)| measured(key).is_some_and(|value| target.holds(value)));
    let bounds = targets.iter().flat_map(|(key, target)| {
        let both = target.min.is_some() && target.max.is_some();
        let max = target.max.map(|max| (key.clone(), max));
        let name = if both { format!("{key}_min") } else { key.clone() };
        [max, target.min.map(|min| (name, min))]
    });
    Ok(Line {
        scenario: scenario.to_owned(),
        pass,
        ratios: outcome.ratios.clone(),
        values: outcome.values.clone(),
        targets: bounds.flatten().collect(),
        error: None,
    })
}

fn number(value: f64) -> String {
    match value.abs() {
        x if x >= 1_000.0 => format!("{value:.0}"),
        x if x >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

fn text(
    scenario: &str,
    outcome: &Outcome,
    line: &Line,
    noise: &Observed,
    seconds: f64,
) -> Result<String, String> {
    let cell = |value: Option<f64>| value.map_or("-".to_owned(), number);
    let mut text = format!("## {scenario}\n\n");
    if !outcome.samples.is_empty() {
        text.push_str("| what | unit | n | median | p99 | min | max |\n|---|---|---|---|---|---|---|\n");
        for (name, unit, s) in &outcome.samples {
            let cells = [cell(s.median()), cell(s.p99()), cell(s.min()), cell(s.max())].join(" | ");
            text.push_str(&format!("| {name} | {unit} | {} | {cells} |\n", s.len()));
        }
        text.push('\n');
    }
    text.push_str("| figure | measured | target | reached |\n|---|---|---|---|\n");
    let targets = targets(scenario)?;
    let figures: BTreeMap<_, _> = outcome.ratios.iter().chain(&outcome.values).collect();
    for (key, value) in &figures {
        let target = targets.get(**key);
        let words = target.map_or("-".to_owned(), Target::words);
        let reached = target.map_or("-", |target| if target.holds(**value) { "yes" } else { "NO" });
        text.push_str(&format!(
            "| {key} | {} | {words} | {reached} |\n",
            number(**value)
        ));
    }
    for (key, target) in targets
        .iter()
        .filter(|(key, _)| !figures.contains_key(&key.as_str()))
    {
        text.push_str(&format!("| {key} | missing | {} | NO |\n", target.words()));
    }
    text.push('\n');
    for note in &outcome.notes {
        text.push_str(&format!("* {note}\n"));
    }
    text.push_str(&format!(
        "* noise: the same work took up to {:.1} x its median, {:.2} x after the run; {:.1} % of the CPU was stolen; the run took \
         {seconds:.0} s\n",
        noise.worst_to_median,
        noise.after_to_before,
        noise.steal * 100.0
    ));
    for plot in &outcome.plots {
        text.push_str(&format!("* plot: `{plot}`\n"));
    }
    text.push_str(&format!("* {}\n", if line.pass { "PASS" } else { "FAIL" }));
    Ok(text)
}

/// Where reports and plots go.
pub(crate) fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    fs::create_dir_all(&folder).ok();
    folder
}

/// Markdown tables as columns, for a terminal.
fn columns(markdown: &str) -> String {
    let (mut out, mut rows) = (String::new(), Vec::new());
    for line in markdown.lines().chain([""]) {
        if let Some(row) = line.strip_prefix("| ") {
            rows.push(
                row.trim_end_matches('|')
                    .split('|')
                    .map(|cell| cell.trim().to_owned())
                    .collect::<Vec<_>>(),
            );
        } else if !line.starts_with("|--") {
            if !rows.is_empty() {
                let mut table = Table::new();
                table.load_style(NOTHING).add_rows(rows.drain(..));
                out.push_str(&format!("{table}\n"));
            }
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

fn run(name: &str, quick: bool) -> Result<(Line, String), String> {
    let (noise, start) = (Noise::start(), Instant::now());
    let outcome = scenarios::run(name, quick)?;
    let seconds = start.elapsed().as_secs_f64();
    let line = judge(name, &outcome)?;
    let text = text(name, &outcome, &line, &noise.end(), seconds)?;
    let file = folder().join(format!("{name}.md"));
    fs::write(&file, &text).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok((line, text))
}

fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|e| e.to_string())
}

/// Runs one scenario and prints. Says whether it passed.
pub(crate) fn one(name: &str, quick: bool) -> Result<bool, String> {
    if !scenarios::names().any(|known| known == name) {
        return Err(format!("there is no scenario {name:?}; ./bench lists them"));
    }
    // What a scenario waits for in vain ends it with a panic.
    let ran = std::panic::catch_unwind(|| run(name, quick));
    let (line, text) = match ran {
        Ok(Ok(done)) => done,
        failed => {
            let error = match failed {
                Ok(Err(error)) => error,
                _ => "the scenario panicked; what it said is above".to_owned(),
            };
            eprintln!("error: {error}");
            let line = judge(name, &Outcome::default())?;
            println!(
                "{}",
                json(&Line {
                    error: Some(error),
                    ..line
                })?
            );
            return Ok(false);
        }
    };
    print!("{}", columns(&text));
    println!("{}", json(&line)?);
    Ok(line.pass)
}

/// Runs all and writes `report.md` and `report.json`.
pub(crate) fn all(quick: bool) -> Result<bool, String> {
    let (mut lines, mut report) = (Vec::new(), String::from("# redkeeper, measured\n\n"));
    for name in scenarios::names() {
        eprintln!("{name} ...");
        // In a process of its own: what one leaves behind is not there for the next.
        let own = std::env::current_exe().map_err(|e| e.to_string())?;
        let output = std::process::Command::new(own)
            .arg(name)
            .args(quick.then_some("--quick"))
            .stderr(std::process::Stdio::inherit())
            .output()
            .map_err(|e| format!("{name}: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().last().unwrap_or_default();
        let line: serde_json::Value = match serde_json::from_str(last) {
            Ok(line) => line,
            Err(_) => {
                report.push_str(&format!("## {name}\n\nfailed: no result\n\n"));
                lines.push(serde_json::json!({ "scenario": name, "pass": false }));
                continue;
            }
        };
        print!("{text}");
        let part = fs::read_to_string(folder().join(format!("{name}.md"))).unwrap_or_default();
        report.push_str(&format!("{part}\n"));
        lines.push(line);
    }
    let write =
        |file: &str, text: &str| fs::write(folder().join(file), text).map_err(|e| format!("{file}: {e}"));
    write("report.md", &report)?;
    write("report.json", &json(&lines)?)?;
    let pass = lines.iter().all(|line| line["pass"] == true);
    let all = serde_json::json!({
        "scenario": "all", "pass": pass, "ratios": {}, "values": {}, "targets": {}, "results": lines
    });
    println!("{}", json(&all)?);
    Ok(pass)
}
