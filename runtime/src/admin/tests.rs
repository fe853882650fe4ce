//! Tests of the pages as they are served.

use axum::{body::Body, http::Request};
use tower::ServiceExt;

use super::*;

/// Answers a request on a thread and runtime of its own, as the server does.
fn get(admin: &Admin, path: &str, accept: &str) -> (StatusCode, String, String) {
    let request = Request::get(path).header(header::ACCEPT, accept);
    let request = request.body(Body::empty()).unwrap();
    let router = admin.router();
    let ask = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let answer = router.oneshot(request).await.unwrap();
            let kind = answer.headers()[header::CONTENT_TYPE]
                .to_str()
                .unwrap()
                .to_owned();
            let status = answer.status();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            (status, kind, String::from_utf8(body.to_vec()).unwrap())
        })
    };
    std::thread::spawn(ask).join().unwrap()
}

fn admin() -> Admin {
    Admin::new(
        "test".to_owned(),
        Supervisor::new(tokio_util::sync::CancellationToken::new()),
        Registry::default(),
        Arc::new(|| Err("nobody is connected".to_owned())),
        Arc::new(|| "in short\n".to_owned()),
        vec![DebugPage::by_id(
            "/debug/things/ID",
            "a thing",
            |id| {
                let text = format!("the thing {id}\n");
                let json = serde_json::json!({ "id": id });
                (id != "none").then_some(Content { text, json })
            },
            || vec!["a".to_owned(), "none".to_owned()],
        )],
    )
}

fn on_a_runtime<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(test)
}

/// The main runtime has one thread here, and that thread is stuck in this function.
#[test]
fn it_answers_while_the_main_runtime_is_stuck_and_says_so() {
    on_a_runtime(async {
        let admin = admin();
        let page = |path| get(&admin, path, "").2;
        // From here on nothing awaits, so the main runtime does not run.
        assert_eq!(get(&admin, "/livez", "").0, StatusCode::OK);
        let tasks = page("/debug/tasks");
        assert!(tasks.contains("pulse"), "{tasks}");
        let index = page("/debug/");
        assert!(
            index.contains("in short") && index.contains("/debug/things/ID"),
            "{index}"
        );
        // Whatever stands there is taken for an id.
        assert_eq!(
            page("/debug/things/h:/run/a%20b.sock"),
            "the thing h:/run/a b.sock\n"
        );
        assert_eq!(get(&admin, "/debug/things/none", "").0, StatusCode::NOT_FOUND);
        assert_eq!(page("/debug/tasks/count"), "1\n");
        assert!(page("/readyz").contains("nobody is connected"));
        let deadline = Instant::now() + PULSE_MAX_AGE * 3;
        while !page("/livez").contains("has not run for") {
            assert!(Instant::now() < deadline, "a stuck runtime still counts as alive");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

#[test]
fn metrics_come_in_the_format_that_was_asked_for() {
    on_a_runtime(async {
        let admin = admin();
        let (status, kind, text) = get(&admin, "/metrics", "*/*");
        assert_eq!(
            (status, kind.as_str()),
            (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8")
        );
        assert!(
            text.contains("redkeeper_tasks_alive{kind=\"pulse\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE redkeeper_panics_total counter\n") && !text.contains("# EOF"),
            "{text}"
        );
        let (_, kind, text) = get(&admin, "/metrics", "application/openmetrics-text;version=1.0.0");
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert!(
            text.contains("# TYPE redkeeper_panics counter\n") && text.ends_with("# EOF\n"),
            "{text}"
        );
    });
}
