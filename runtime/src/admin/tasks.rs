//! `/debug/tasks`: live tasks by kind and one by one, and how tasks ended.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use super::page::{Content, short};
use crate::supervise::{LiveTask, Supervisor};

/// Tasks of each kind that are listed if no kind is asked for: those that waited longest.
const LISTED_MAX: usize = 50;

/// A poll that lasts longer holds up the other tasks of its thread noticeably.
const LONG_POLL: Duration = Duration::from_millis(100);

/// What the tasks of one kind have in common.
#[derive(Default)]
struct Kind {
    alive: usize,
    expected: Option<usize>,
    oldest: Duration,
    longest_idle: Duration,
    longest_poll: Duration,
    polls: u64,
}

/// The page. `alive` is the number of all tasks on the main runtime, `only` the kind that is asked for.
pub(super) fn page(supervisor: &Supervisor, alive: usize, only: Option<&str>) -> Content {
    let now = Instant::now();
    let is_asked = |kind: &str| only.is_none_or(|only| only == kind);
    let mut tasks = supervisor.live();
    let supervised = tasks.len();
    tasks.retain(|task| is_asked(task.kind));
    // By kind. A task that holds up its thread comes first, then what waits longest: a task that waits for ever grows in
    // idle time.
    let holds_up = |task: &LiveTask| task.running_poll().is_some_and(|time| time >= LONG_POLL);
    tasks.sort_by_cached_key(|task| (task.kind, !holds_up(task), Reverse(task.idle())));
    let kinds = kinds(supervisor, &tasks, is_asked, now);
    let ended: Vec<_> = supervisor
        .exits()
        .into_iter()
        .filter(|((kind, _), _)| is_asked(kind))
        .collect();

    let mut text = format!("{alive} tasks alive on the main runtime, {supervised} supervised\n\n");
    text.push_str("KIND                ALIVE  EXPECTED  OLDEST      LONGEST IDLE  LONGEST POLL  POLLS\n");
    for (kind, of) in &kinds {
        let expected = of.expected.map_or("-".to_owned(), |n| n.to_string());
        let differs = of.expected.is_some_and(|n| n != of.alive);
        text.push_str(&format!(
            "{kind:<20}{:<7}{expected:<10}{:<12}{:<14}{:<14}{}{}\n",
            of.alive,
            short(of.oldest),
            short(of.longest_idle),
            short(of.longest_poll),
            of.polls,
            if differs {
                "  <- not as many as expected"
            } else {
                ""
            }
        ));
    }
    text.push_str("\nENDED               HOW        COUNT\n");
    for ((kind, exit), count) in &ended {
        text.push_str(&format!("{kind:<20}{:<11}{count}\n", exit.as_str()));
    }
    text.push_str(
        "\nLIVE TASK           NAME                                     AGE         IDLE        LONGEST POLL  POLLS\n",
    );
    let mut listed = BTreeMap::new();
    for task in &tasks {
        let count: &mut usize = listed.entry(task.kind).or_default();
        *count += 1;
        if only.is_some() || *count <= LISTED_MAX {
            text.push_str(&format!(
                "{:<20}{:<41}{:<12}{:<12}{:<14}{}\n",
                task.kind,
                task.name,
                short(now - task.started),
                short(task.idle()),
                short(task.longest_poll()),
                match task.running_poll().filter(|time| *time >= LONG_POLL) {
                    Some(time) => format!("{}  <- in a poll for {}", task.polls(), short(time)),
                    None => task.polls().to_string(),
                }
            ));
        }
    }
    for (kind, count) in listed
        .iter()
        .filter(|(_, count)| only.is_none() && **count > LISTED_MAX)
    {
        let rest = count - LISTED_MAX;
        text.push_str(&format!("and {rest} more of {kind}: ?kind={kind} lists all\n"));
    }

    let json = json!({
        "alive": alive,
        "supervised": supervised,
        "kinds": kinds.iter().map(|(kind, of)| json!({
            "kind": kind,
            "alive": of.alive,
            "expected": of.expected,
            "oldest_seconds": of.oldest.as_secs_f64(),
            "longest_idle_seconds": of.longest_idle.as_secs_f64(),
            "longest_poll_seconds": of.longest_poll.as_secs_f64(),
            "polls": of.polls,
        })).collect::<Vec<_>>(),
        "ended": ended.iter().map(|((kind, exit), count)| json!({
            "kind": kind, "how": exit.as_str(), "count": count,
        })).collect::<Vec<_>>(),
        "tasks": tasks.iter().map(|task| json!({
            "kind": task.kind,
            "name": task.name,
            "age_seconds": (now - task.started).as_secs_f64(),
            "idle_seconds": task.idle().as_secs_f64(),
            "longest_poll_seconds": task.longest_poll().as_secs_f64(),
            "polls": task.polls(),
            "running_poll_seconds": task.running_poll().map(|time| time.as_secs_f64()),
        })).collect::<Vec<_>>(),
    });
    Content { text, json }
}

fn kinds(
    supervisor: &Supervisor,
    tasks: &[Arc<LiveTask>],
    is_asked: impl Fn(&str) -> bool,
    now: Instant,
) -> BTreeMap<&'static str, Kind> {
    let mut kinds = BTreeMap::<_, Kind>::new();
    for (kind, (alive, expected)) in supervisor.by_kind() {
        if is_asked(kind) {
            let of = Kind {
                alive,
                expected,
                ..Kind::default()
            };
            kinds.insert(kind, of);
        }
    }
    for task in tasks {
        let of = kinds.entry(task.kind).or_default();
        of.oldest = of.oldest.max(now - task.started);
        of.longest_idle = of.longest_idle.max(task.idle());
        of.longest_poll = of.longest_poll.max(task.longest_poll());
        of.polls += task.polls();
    }
    kinds
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn kinds_are_grouped_and_one_can_be_asked_for() {
        let supervisor = Supervisor::new(CancellationToken::new());
        supervisor.expect("stream", 3);
        let names = ["a", "b"];
        let _streams = names.map(|name| supervisor.spawn("stream", name, std::future::pending()));
        let _other = supervisor.spawn("other", "", std::future::pending());
        tokio::task::yield_now().await;

        let all = page(&supervisor, 3, None);
        let row = |start: &str| {
            let line = all.text.lines().find(|line| line.starts_with(start));
            line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert!(row("stream ").starts_with("stream 2 3 "), "{}", all.text);
        assert!(
            row("stream ").ends_with("2 <- not as many as expected"),
            "{}",
            all.text
        );
        assert!(row("other ").starts_with("other 1 - "), "{}", all.text);
        assert_eq!(all.json["tasks"].as_array().unwrap().len(), 3);

        let one = page(&supervisor, 3, Some("stream"));
        assert!(!one.text.contains("other"), "{}", one.text);
        assert_eq!(one.json["kinds"][0]["alive"], 2);
        assert_eq!(one.json["kinds"][0]["polls"], 2);
        assert_eq!(one.json["supervised"], 3);
    }

    #[tokio::test]
    async fn of_many_tasks_those_are_listed_that_waited_longest() {
        let supervisor = Supervisor::new(CancellationToken::new());
        for n in 0..LISTED_MAX + 7 {
            let _task = supervisor.spawn("stream", format!("n{n}"), std::future::pending());
        }
        let text = page(&supervisor, 0, None).text;
        assert_eq!(
            text.matches("\nstream              n").count(),
            LISTED_MAX,
            "{text}"
        );
        assert!(
            text.ends_with("and 7 more of stream: ?kind=stream lists all\n"),
            "{text}"
        );
        let all = page(&supervisor, 0, Some("stream")).text;
        assert_eq!(all.matches("\nstream              n").count(), LISTED_MAX + 7);
    }
}
