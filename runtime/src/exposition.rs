//! The two text formats of metrics: OpenMetrics 1.0, which the library writes, and the classic Prometheus format 0.0.4,
//! which a scraper reads by default. They differ in how counters are described: the classic format gives type and help
//! to `x_total`, OpenMetrics to `x`. In the wrong format, both are lost.

use prometheus_client::{encoding::text::encode, registry::Registry};

/// All metrics, as OpenMetrics.
///
/// # Errors
/// When one of them cannot be written; the text says so.
pub(crate) fn openmetrics(registry: &Registry) -> Result<String, String> {
    let mut text = String::new();
    encode(&mut text, registry).map_err(|e| format!("metrics cannot be encoded: {e}\n"))?;
    Ok(text)
}

/// Content type of OpenMetrics.
pub(crate) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of the classic format.
pub(crate) const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether a scraper with this `Accept` header prefers OpenMetrics. Prometheus lists the formats that it accepts with
/// weights.
pub(crate) fn prefers_openmetrics(accept: &str) -> bool {
    let weight = |kind: &str| {
        let offers = accept.split(',').map(str::trim);
        let of_kind = offers.filter(|offer| offer.split(';').next().is_some_and(|name| name.trim() == kind));
        let weights = of_kind.map(|offer| {
            let quality = offer.split(';').find_map(|part| part.trim().strip_prefix("q="));
            quality.map_or(1.0, |text| text.trim().parse::<f64>().unwrap_or(0.0))
        });
        weights.fold(0.0, f64::max)
    };
    let openmetrics = weight("application/openmetrics-text");
    openmetrics > 0.0 && openmetrics >= weight("text/plain")
}

/// Converts OpenMetrics to the classic format.
pub(crate) fn classic(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len());
    // OpenMetrics has the help line before the type line, but the type decides the name that the help line gets.
    let mut help: Option<&str> = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map(|(_, text)| text);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "gauge" | "histogram" | "summary" => ("", kind),
                _ => ("", "untyped"),
            };
            if let Some(text) = help.take() {
                out.push_str(&format!("# HELP {name}{suffix} {text}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_infos_are_described_under_the_names_of_their_samples() {
        let text = "# HELP a Things done.\n# TYPE a counter\na_total{x=\"# y\"} 3\n# HELP b Seconds.\n# TYPE b gauge\n\
                    # UNIT b seconds\nb 1\n# HELP c Build.\n# TYPE c info\nc_info{v=\"1\"} 1\n# TYPE d unknown\nd 1\n# EOF\n";
        let wanted = "# HELP a_total Things done.\n# TYPE a_total counter\na_total{x=\"# y\"} 3\n\
                      # HELP b Seconds.\n# TYPE b gauge\nb 1\n# HELP c_info Build.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n\
                      # TYPE d untyped\nd 1\n";
        assert_eq!(classic(text), wanted);
    }

    #[test]
    fn the_scraper_chooses() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert!(prefers_openmetrics(prometheus));
        assert!(prefers_openmetrics("application/openmetrics-text"));
        for other in [
            "",
            "*/*",
            "text/plain",
            "text/plain;q=0.6, application/openmetrics-text;q=0.5",
            "application/openmetrics-text;q=0",
            "text/html;q=",
        ] {
            assert!(!prefers_openmetrics(other), "{other}");
        }
    }
}
