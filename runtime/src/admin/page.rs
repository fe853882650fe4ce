//! A debug page, and its content in both forms: text for people, JSON for programs.

use std::sync::Arc;

use axum::{
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

/// What a page says.
#[derive(Clone, PartialEq, Debug)]
pub struct Content {
    /// For people.
    pub text: String,
    /// The same for programs.
    pub json: serde_json::Value,
}

/// Makes the content of a page from the id in its path.
type MakeContent = dyn Fn(&str) -> Option<Content> + Send + Sync;

/// Lists ids.
type ListIds = dyn Fn() -> Vec<String> + Send + Sync;

/// A page below `/debug/` that one of the daemons adds to the common ones.
#[derive(Clone)]
pub struct DebugPage {
    /// Its path, such as `/debug/streams`. One that ends with `/ID` stands for all paths with an id in its place.
    pub path: &'static str,
    /// One line of help for the index.
    pub help: &'static str,
    /// Makes its content from the id in the path, which is empty if the path has none; `None` if there is no such thing.
    /// Runs on the thread of the HTTP server. Must not block, must not wait for the main runtime, and may hold a lock
    /// that the main runtime needs for microseconds only.
    pub content: Arc<MakeContent>,
    /// Ids of the things that the archive of `/debug/bundle` shows, the most interesting first.
    pub ids: Arc<ListIds>,
}

impl DebugPage {
    /// A page that always exists.
    pub fn new(
        path: &'static str,
        help: &'static str,
        content: impl Fn() -> Content + Send + Sync + 'static,
    ) -> Self {
        // A single thing, whose id is empty.
        Self::by_id(path, help, move |_| Some(content()), || vec![String::new()])
    }

    /// Pages of things that have an id. `path` ends with `/ID`; `ids` lists those that need attention first.
    pub fn by_id(
        path: &'static str,
        help: &'static str,
        content: impl Fn(&str) -> Option<Content> + Send + Sync + 'static,
        ids: impl Fn() -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            path,
            help,
            content: Arc::new(content),
            ids: Arc::new(ids),
        }
    }
}

/// Parameters in the address of a debug page.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub(super) struct Parameters {
    /// `json` asks for JSON, as the header `Accept: application/json` does.
    pub(super) format: String,
    /// Only tasks of this kind.
    pub(super) kind: Option<String>,
    /// How long a CPU profile lasts.
    pub(super) seconds: Option<String>,
    /// How long a change lasts, such as `10m`.
    #[serde(rename = "for")]
    pub(super) lasts: Option<String>,
}

impl DebugPage {
    /// The pages for an archive, at most `max` of them, each with its path.
    pub(super) fn all(&self, max: usize) -> Vec<(String, Content)> {
        let page = |id: String| {
            let path = self
                .path
                .strip_suffix("ID")
                .map_or(self.path.to_owned(), |path| format!("{path}{id}"));
            (self.content)(&id).map(|content| (path, content))
        };
        (self.ids)().into_iter().take(max).filter_map(page).collect()
    }
}

impl Content {
    /// A page that is the same for people and programs, apart from its form.
    pub(super) fn lines(text: String) -> Self {
        let json = serde_json::json!({ "lines": text.lines().collect::<Vec<_>>() });
        Self { text, json }
    }

    /// The form that was asked for.
    pub(super) fn answer(self, parameters: &Parameters, headers: &HeaderMap) -> Response {
        match wants_json(parameters, headers) {
            true => self.json_response(),
            false => self.text.into_response(),
        }
    }

    /// The form for programs.
    pub(super) fn json_response(&self) -> Response {
        let json = [(header::CONTENT_TYPE, "application/json")];
        (json, format!("{}\n", self.json)).into_response()
    }
}

/// Whether JSON was asked for.
pub(super) fn wants_json(parameters: &Parameters, headers: &HeaderMap) -> bool {
    let accepts =
        |value: &header::HeaderValue| value.to_str().is_ok_and(|text| text.contains("application/json"));
    match parameters.format.as_str() {
        "" => headers.get_all(header::ACCEPT).iter().any(accepts),
        format => format == "json",
    }
}

/// A duration as people read it: two units at most, milliseconds below ten seconds.
pub fn short(time: std::time::Duration) -> String {
    let whole = match time.as_secs() {
        0..10 => std::time::Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        seconds => std::time::Duration::from_secs(seconds),
    };
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn durations_are_short() {
        assert_eq!(short(Duration::from_micros(1_234_567)), "1s 234ms");
        assert_eq!(short(Duration::from_millis(12_345)), "12s");
        assert_eq!(short(Duration::from_secs(90_061)), "1day 1h");
        assert_eq!(short(Duration::ZERO), "0s");
    }
}
