//! What a scenario measured, judged by the targets, for people and for machines.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Instant};

use comfy_table::{Table, presets::NOTHING};
use redkeeper_tests::process::mortal;
use serde::{Deserialize, Serialize};

use crate::{flame::Flame, machine::Noise, scenarios, stats::Samples};

const TARGETS: &str = include_str!("../targets.toml");
/// A scenario with `--quick` takes less, in seconds.
const QUICK_MAX: f64 = 45.0;

/// How scenarios are run.
#[derive(Clone, Copy)]
pub(crate) struct How {
    /// With fewer rounds.
    pub(crate) quick: bool,
    /// With flame graphs.
    pub(crate) flame: bool,
}

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
    /// What the ratios and values are medians of, where they are.
    spreads: BTreeMap<&'static str, Samples>,
    /// What could not be measured, and why; and what must be known to read the figures.
    pub(crate) notes: Vec<String>,
    /// Plots: where each is, and the points of its lines if they stand nowhere else.
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

    /// Takes the median of the ratios of pairs that were measured side by side.
    pub(crate) fn ratio_of(&mut self, key: &'static str, a: &Samples, b: &Samples) {
        let ratios = a.ratios(b);
        self.ratio(key, ratios.median());
        self.spreads.insert(key, ratios);
    }

    /// Takes the median as a value.
    pub(crate) fn value_of(&mut self, key: &'static str, samples: &Samples) {
        self.value(key, samples.median());
        self.spreads.insert(key, samples.clone());
    }

    /// Says that the quick run did not measure how cost grows.
    pub(crate) fn growth_is_left_out(&mut self) {
        self.notes
            .push("how cost grows is measured and drawn without --quick".to_owned());
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

fn text(scenario: &str, outcome: &Outcome, line: &Line) -> Result<String, String> {
    let cell = |value: Option<f64>| value.map_or("-".to_owned(), number);
    let mut text = format!("## {scenario}\n\n");
    let spread = |s: &Samples| {
        let range = format!("{} - {}", cell(s.min()), cell(s.max()));
        [cell(s.median()), cell(s.p99()), range].join(" | ")
    };
    text.push_str("| what | unit | n | median | p99 | min - max | target | reached |\n");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for (name, unit, s) in &outcome.samples {
        text.push_str(&format!(
            "| {name} | {unit} | {} | {} | - | - |\n",
            s.len(),
            spread(s)
        ));
    }
    let targets = targets(scenario)?;
    let ratios = outcome.ratios.iter().map(|figure| (figure, "x"));
    let figures = ratios.chain(outcome.values.iter().map(|figure| (figure, "")));
    for ((key, value), unit) in figures {
        let target = targets.get(*key);
        let words = target.map_or("-".to_owned(), Target::words);
        let reached = target.map_or("-", |target| if target.holds(*value) { "yes" } else { "NO" });
        let single = || format!("1 | {} | - | -", number(*value));
        let cells = outcome
            .spreads
            .get(key)
            .filter(|s| s.len() > 1)
            .map_or_else(single, |s| format!("{} | {}", s.len(), spread(s)));
        text.push_str(&format!("| `{key}` | {unit} | {cells} | {words} | {reached} |\n"));
    }
    let known = |key: &str| outcome.ratios.contains_key(key) || outcome.values.contains_key(key);
    for (key, target) in targets.iter().filter(|(key, _)| !known(key)) {
        text.push_str(&format!(
            "| `{key}` | | 0 | missing | - | - | {} | NO |\n",
            target.words()
        ));
    }
    text.push('\n');
    for note in &outcome.notes {
        text.push_str(&format!("* {note}\n"));
    }
    text.push_str(
        "* noise: how much longer the same work took in its worst than in its median try, and after the run than before \
         it; and the CPU that the host kept for others\n",
    );
    for plot in &outcome.plots {
        text.push_str(&format!("* plot: {plot}\n"));
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

fn run(name: &str, How { quick, flame }: How) -> Result<(Line, String), String> {
    let (noise, start) = (Noise::start(), Instant::now());
    let flame = flame.then(|| Flame::start(name));
    let mut outcome = scenarios::run(name, quick)?;
    let seconds = start.elapsed().as_secs_f64();
    let noise = noise.end();
    outcome.value("noise_worst_to_median", Some(noise.worst_to_median));
    outcome.value("noise_after_to_before", Some(noise.after_to_before));
    outcome.value("noise_stolen_percent", Some(noise.steal * 100.0));
    outcome.value("seconds", Some(seconds));
    if quick && seconds > QUICK_MAX {
        let note = format!("the run took {seconds:.0} s, and --quick promises less than {QUICK_MAX} s");
        outcome.notes.push(note);
    }
    for drawn in flame.into_iter().flat_map(Flame::end) {
        match drawn {
            Ok(file) => outcome.plots.push(format!("`{file}`")),
            Err(why) => outcome.notes.push(why),
        }
    }
    let line = judge(name, &outcome)?;
    let text = text(name, &outcome, &line)?;
    let file = folder().join(format!("{name}.md"));
    fs::write(&file, &text).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok((line, text))
}

fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|e| e.to_string())
}

/// Runs one scenario and prints. Says whether it passed.
pub(crate) fn one(name: &str, how: How) -> Result<bool, String> {
    if !scenarios::names().any(|known| known == name) {
        return Err(format!("there is no scenario {name:?}; ./bench lists them"));
    }
    // What a scenario waits for in vain ends it with a panic.
    let ran = std::panic::catch_unwind(|| run(name, how));
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

/// All figures that have a target, as they were measured.
fn summary(lines: &[serde_json::Value]) -> Result<String, String> {
    let mut text =
        String::from("| scenario | figure | measured | target | reached |\n|---|---|---|---|---|\n");
    for line in lines {
        let name = line["scenario"].as_str().unwrap_or_default();
        for (key, target) in targets(name)? {
            let value = line["ratios"][&key].as_f64().or(line["values"][&key].as_f64());
            let reached = value.is_some_and(|value| target.holds(value));
            text.push_str(&format!(
                "| {name} | `{key}` | {} | {} | {} |\n",
                value.map_or("missing".to_owned(), number),
                target.words(),
                if reached { "yes" } else { "NO" }
            ));
        }
    }
    Ok(text)
}

/// Runs all and writes `report.md` and `report.json`.
pub(crate) fn all(how: How) -> Result<bool, String> {
    let (mut lines, mut parts) = (Vec::new(), String::new());
    for name in scenarios::names() {
        eprintln!("{name} ...");
        // In a process of its own: what one leaves behind is not there for the next.
        let own = std::env::current_exe().map_err(|e| e.to_string())?;
        let output = mortal(std::process::Command::new(own))
            .arg(name)
            .args(how.quick.then_some("--quick"))
            .args(how.flame.then_some("--flame"))
            .stderr(std::process::Stdio::inherit())
            .output()
            .map_err(|e| format!("{name}: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().last().unwrap_or_default();
        let line: serde_json::Value = match serde_json::from_str(last) {
            Ok(line) => line,
            Err(_) => {
                parts.push_str(&format!("## {name}\n\nfailed: no result\n\n"));
                lines.push(serde_json::json!({ "scenario": name, "pass": false }));
                continue;
            }
        };
        print!("{text}");
        let part = fs::read_to_string(folder().join(format!("{name}.md"))).unwrap_or_default();
        parts.push_str(&format!("{part}\n"));
        lines.push(line);
    }
    let write =
        |file: &str, text: &str| fs::write(folder().join(file), text).map_err(|e| format!("{file}: {e}"));
    let report = format!("# redkeeper, measured\n\n{}\n{parts}", summary(&lines)?);
    write("report.md", &report)?;
    write("report.json", &json(&lines)?)?;
    let pass = lines.iter().all(|line| line["pass"] == true);
    let all = serde_json::json!({
        "scenario": "all", "pass": pass, "ratios": {}, "values": {}, "targets": {}, "results": lines
    });
    println!("{}", json(&all)?);
    Ok(pass)
}
