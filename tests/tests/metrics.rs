//! `/metrics` as Prometheus itself reads it.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

use redkeeper_tests::{Sandbox, daemons::http_get, eventually, ports, process::Process};

/// What `promtool check metrics` finds wrong with a page.
fn lint(page: &str) -> (bool, String) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, which ./test installs");
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[tokio::test]
async fn promtool_and_prometheus_find_type_and_help_of_everything() {
    let sandbox = Sandbox::new();
    let (_redis, a, agent, _) = sandbox.reported_redis(None).await;
    for port in [a.admin.number, a.http.number, agent.admin.number] {
        let page = http_get(port, "/metrics").unwrap();
        assert!(page.contains("redkeeper_tasks_alive{"), "{page}");
        assert_eq!(lint(&page), (true, String::new()));
    }
    // The lint sees what it should: this is the other format, which a scraper must not be given under this name.
    assert!(!lint("# HELP a Help.\n# TYPE a counter\na_total 1\n# EOF\n").0);

    let web = ports::port();
    let targets = [a.http.number, agent.admin.number].map(|port| format!("'127.0.0.1:{port}'"));
    let config = sandbox.write(
        "prometheus.yml",
        &format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\n\
             scrape_configs:\n- job_name: redkeeper\n  static_configs:\n  - targets: [{}]\n",
            targets.join(", ")
        ),
    );
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            sandbox.path("prometheus").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{}", web.number));
    let _prometheus = Process::start(command, &sandbox.path("prometheus.log"));
    // In OpenMetrics, which Prometheus asks for, a counter is described without `_total`.
    for (metric, kind) in [
        ("redkeeper_tasks_ended", "counter"),
        ("redkeeper_tasks_alive", "gauge"),
        ("redkeeper_probe_duration_seconds", "histogram"),
    ] {
        let path = format!("/api/v1/targets/metadata?metric={metric}");
        let known = || async { http_get(web.number, &path).unwrap_or_default() };
        let wanted = format!("\"type\":\"{kind}\"");
        eventually("Prometheus knows its type", known, |answer| {
            answer.contains(&wanted)
        })
        .await;
        assert!(!known().await.contains("\"help\":\"\""), "{metric}");
    }
    let path = "/api/v1/query?query=redkeeper_panics_total";
    let samples = || async { http_get(web.number, path).unwrap_or_default() };
    eventually("samples", samples, |answer| answer.contains("\"instance\"")).await;
}
