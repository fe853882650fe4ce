//! Tests of a reload as SIGHUP asks for it. No signal is sent, and nothing is looked for on this host.
#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf, sync::mpsc as std_mpsc};

use tokio::sync::{Mutex, MutexGuard, oneshot};

use super::*;
use crate::{cli::Cli, config, tests_log::Log};

const HEAD: &str = "id = 'h'\n";
/// Discovery that finds nothing.
const DISCOVERY: &str = "id = 'h'\n[discovery]\nconfig_files = ['/nonexistent/*.conf']\n";
const KEPT: &str = "the former one stays in force";

/// Entries of instances at these ports.
fn instances(ports: impl IntoIterator<Item = u16>) -> String {
    let one = |port| format!("[[instances]]\naddress = '127.0.0.1:{port}'\n");
    ports.into_iter().map(one).collect()
}

/// Held by each test. The pool that reads files is one for the process: a test that waited for a place would see
/// virtual time pass, which stands still while a file is read.
static ALONE: Mutex<()> = Mutex::const_new(());

struct Rig {
    _alone: MutexGuard<'static, ()>,
    folder: tempfile::TempDir,
    reloader: Reloader,
    reloads: mpsc::Receiver<Vec<InstanceConfig>>,
}

impl Rig {
    async fn start(head: &str, ports: impl IntoIterator<Item = u16>) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), head, ports).await
    }

    async fn start_in(folder: tempfile::TempDir, head: &str, ports: impl IntoIterator<Item = u16>) -> Self {
        let alone = ALONE.lock().await;
        let file = folder.path().join("agent.toml");
        fs::write(&file, format!("{head}{}", instances(ports))).unwrap();
        let load: Load = Arc::new(move || {
            let cli = Cli {
                config: Some(file.clone()),
                ..Cli::default()
            };
            config::load(&cli, [])
        });
        let (sender, reloads) = mpsc::channel(8);
        let table = Arc::new(InstanceTable::new(redkeeper_runtime::clock::Clock::new()));
        let present = load().unwrap();
        let reloader = Reloader::new(present, load, sender, Metrics::default(), table).await;
        Self {
            _alone: alone,
            folder,
            reloader,
            reloads,
        }
    }

    /// Replaces the file and reloads it.
    async fn reload(&mut self, text: &str) -> &'static str {
        fs::write(self.folder.path().join("agent.toml"), text).unwrap();
        self.reloader.reload().await
    }

    /// Reloads a file with these instances.
    async fn reload_ports(&mut self, ports: impl IntoIterator<Item = u16>) -> &'static str {
        self.reload(&format!("{HEAD}{}", instances(ports))).await
    }

    /// The ids that were handed to the probe supervisor next.
    fn handed_over(&mut self) -> Option<Vec<String>> {
        Some(ids_of(&self.reloads.try_recv().ok()?))
    }
}

fn ids_of(instances: &[InstanceConfig]) -> Vec<String> {
    instances.iter().map(|one| one.identity.id.to_string()).collect()
}

/// A state file with one instance.
fn state_file_in(folder: &tempfile::TempDir, text: &str) -> (PathBuf, String) {
    let file = folder.path().join("discovered.json");
    fs::write(&file, text).unwrap();
    let head = format!("{DISCOVERY}state_file = '{}'\n", file.display());
    (file, head)
}

const REMEMBERED: &str = r#"{"discovered":[{"address":"127.0.0.1:9","id":"h:9"}]}"#;

#[tokio::test(start_paused = true)]
async fn a_reload_hands_over_all_instances_as_they_are_configured_now() {
    let (log, mut rig) = (Log::start(), Rig::start(HEAD, [1, 2, 3]).await);
    let text = format!("{HEAD}[probe]\ninterval = '1s'\n{}", instances([2, 3, 4]));
    assert_eq!(rig.reload(&text).await, "ok");
    let handed = rig.reloads.try_recv().unwrap();
    assert_eq!(ids_of(&handed), ["h:2", "h:3", "h:4"]);
    let interval = Duration::from_secs(1);
    assert!(handed.iter().all(|one| one.probe.interval == interval));
    let told = log.lines_with("configuration reloaded");
    assert_eq!(
        told,
        ["INFO configuration reloaded added=1 dropped=1 instances=3"]
    );
    // What was applied is what the next reload is compared with.
    assert_eq!(rig.reload_ports([2, 3, 4]).await, "ok");
    let told = log.lines_with("added=0 dropped=0 instances=3");
    assert_eq!(told.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_file_changes_nothing_and_each_mistake_is_told() {
    let (log, mut rig) = (Log::start(), Rig::start(HEAD, [1, 2]).await);
    let wrong = format!(
        "{HEAD}[probe]\ninterval = '1ms'\n[[instances]]\naddress = 'nowhere'\n{}",
        instances([7])
    );
    for (text, mistakes) in [(&*wrong, 2), ("id = ", 1)] {
        assert_eq!(rig.reload(text).await, "invalid");
        assert_eq!(rig.handed_over(), None);
        let told = log.lines_with(&format!("{KEPT} mistakes={mistakes}"));
        assert_eq!(told.len(), 1, "{text}");
    }
    assert_eq!(log.lines_with("ERROR configuration: ").len(), 3);
    fs::remove_file(rig.folder.path().join("agent.toml")).unwrap();
    assert_eq!(rig.reloader.reload().await, "invalid");
    assert_eq!(ids_of(&rig.reloader.all()), ["h:1", "h:2"]);

    assert_eq!(rig.reload_ports([1, 2, 7]).await, "ok");
    assert_eq!(rig.handed_over().unwrap(), ["h:1", "h:2", "h:7"]);
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_drops_too_many_must_be_asked_for_twice() {
    let (log, mut rig) = (Log::start(), Rig::start(HEAD, 1..=10).await);
    // Half of them is allowed by default.
    assert_eq!(rig.reload_ports(1..=4).await, "refused");
    assert_eq!(rig.handed_over(), None);
    assert_eq!(log.lines_with("drops 6 of 10 instances").len(), 1);
    // Another file is another question.
    assert_eq!(rig.reload_ports(1..=3).await, "refused");
    assert_eq!(rig.reload_ports(1..=4).await, "refused");
    assert_eq!(rig.reload_ports(1..=4).await, "ok");
    assert_eq!(rig.handed_over().unwrap().len(), 4);
    // Each question is answered once.
    assert_eq!(rig.reload_ports(1..=10).await, "ok");
    assert_eq!(rig.reload_ports(1..=4).await, "refused");
    assert_eq!(rig.reload_ports(1..=5).await, "ok");
    assert_eq!(log.lines_with(KEPT).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_refused_reload_is_confirmed_within_a_minute_or_not_at_all() {
    let mut rig = Rig::start(HEAD, 1..=10).await;
    assert_eq!(rig.reload_ports([1]).await, "refused");
    let (at, ids) = rig.reloader.refused.take().unwrap();
    rig.reloader.refused = Some((at.checked_sub(CONFIRM_WITHIN).unwrap(), ids));
    assert_eq!(rig.reload_ports([1]).await, "refused");
    assert_eq!(rig.reload_ports([1]).await, "ok");
}

#[tokio::test(start_paused = true)]
async fn the_share_that_may_be_dropped_is_that_of_the_configuration_in_force() {
    let mut rig = Rig::start("id = 'h'\nreload_drop_max_percent = 0\n", 1..=10).await;
    let lax = |ports| format!("id = 'h'\nreload_drop_max_percent = 100\n{}", instances(ports));
    assert_eq!(rig.reload(&lax(1..=9)).await, "refused");
    assert_eq!(rig.reload(&lax(1..=10)).await, "ok");
    assert_eq!(rig.reload(&lax(1..=1)).await, "ok");
}

#[tokio::test(start_paused = true)]
async fn what_only_a_restart_changes_is_told() {
    let (log, mut rig) = (Log::start(), Rig::start(HEAD, [1]).await);
    let text = format!("id = 'h'\ncollectors = ['10.0.0.1']\n{}", instances([1]));
    assert_eq!(rig.reload(&text).await, "ok");
    assert_eq!(log.lines_with("change with a restart only").len(), 1);
    assert_eq!(rig.reload_ports([1]).await, "ok");
    assert_eq!(log.lines_with("change with a restart only").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_file_system_that_hangs_delays_a_reload_by_ten_seconds_at_most() {
    let (log, mut rig) = (Log::start(), Rig::start(HEAD, [1]).await);
    let (started, begun) = oneshot::channel();
    let (release, held) = std_mpsc::channel::<()>();
    let hang = std::sync::Mutex::new(Some((started, held)));
    let load = Arc::clone(&rig.reloader.load);
    rig.reloader.load = Arc::new(move || {
        if let Some((started, held)) = hang.lock().unwrap().take() {
            started.send(()).unwrap();
            held.recv().unwrap_err();
        }
        load()
    });
    let pass_time = async {
        begun.await.unwrap();
        tokio::time::advance(FILE_TIMEOUT + Duration::from_secs(1)).await;
        // Time for the reload to see that, before the file system recovers.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        drop(release);
    };
    let (result, ()) = tokio::join!(rig.reloader.reload(), pass_time);
    assert_eq!((result, rig.handed_over()), ("invalid", None));
    assert_eq!(log.lines_with("took longer than 10s").len(), 1);
    assert_eq!(rig.reload_ports([2, 1]).await, "ok");
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_reading_keeps_the_former_configuration() {
    let mut rig = Rig::start(HEAD, [1]).await;
    let load = std::mem::replace(&mut rig.reloader.load, Arc::new(|| panic!("planted")));
    assert_eq!(rig.reloader.reload().await, "invalid");
    assert_eq!(ids_of(&rig.reloader.all()), ["h:1"]);
    rig.reloader.load = load;
    assert_eq!(rig.reload_ports([1, 2]).await, "ok");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_probe_supervisor_does_not_hold_up_a_reload() {
    let mut rig = Rig::start(HEAD, [1]).await;
    rig.reloads.close();
    assert_eq!(rig.reload_ports([1, 2]).await, "ok");
    assert_eq!(ids_of(&rig.reloader.all()), ["h:1", "h:2"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_discovered_before_a_restart_is_probed_and_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (_, head) = state_file_in(&folder, REMEMBERED);
    let mut rig = Rig::start_in(folder, &head, [1]).await;
    assert_eq!(ids_of(&rig.reloader.all()), ["h:1", "h:9"]);
    assert!(rig.reloader.first_look().is_cancelled());

    // It outlives a reload, counts as one of the instances, and goes when discovery is turned off.
    assert_eq!(rig.reload(&format!("{head}{}", instances([2]))).await, "ok");
    assert_eq!(rig.handed_over().unwrap(), ["h:2", "h:9"]);
    assert_eq!(rig.reload_ports([2]).await, "ok");
    assert_eq!(rig.handed_over().unwrap(), ["h:2"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_discovered_counts_as_dropped_when_discovery_is_turned_off() {
    let (log, folder) = (Log::start(), tempfile::tempdir().unwrap());
    let (_, head) = state_file_in(&folder, REMEMBERED);
    let head = head.replace(HEAD, "id = 'h'\nreload_drop_max_percent = 0\n");
    let mut rig = Rig::start_in(folder, &head, [1]).await;
    assert_eq!(rig.reload_ports([1]).await, "refused");
    assert_eq!(log.lines_with("drops 1 of 2 instances").len(), 1);
    assert_eq!(ids_of(&rig.reloader.all()), ["h:1", "h:9"]);
    assert_eq!(rig.reload_ports([1]).await, "ok");
}

#[tokio::test(start_paused = true)]
async fn without_a_memory_the_first_report_waits_for_the_first_look() {
    let rig = Rig::start(DISCOVERY, [1]).await;
    assert!(!rig.reloader.first_look().is_cancelled());
    drop(rig);
    let rig = Rig::start(HEAD, [1]).await;
    assert!(
        rig.reloader.first_look().is_cancelled(),
        "there is nothing to look for"
    );
}

#[tokio::test(start_paused = true)]
async fn a_damaged_state_file_is_told_and_the_agent_starts_without_it() {
    let (log, folder) = (Log::start(), tempfile::tempdir().unwrap());
    let (file, head) = state_file_in(&folder, &REMEMBERED[..20]);
    let rig = Rig::start_in(folder, &head, [1]).await;
    assert_eq!(ids_of(&rig.reloader.all()), ["h:1"]);
    assert!(!rig.reloader.first_look().is_cancelled());
    let told = log.lines_with("what was discovered before is not remembered");
    assert_eq!(told.len(), 1);
    assert!(told[0].contains(&*file.display().to_string()), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn instances_above_the_limit_are_left_out_and_told_once() {
    let (log, folder) = (Log::start(), tempfile::tempdir().unwrap());
    let (_, head) = state_file_in(&folder, REMEMBERED);
    let mut rig = Rig::start_in(folder, &head, [1]).await;
    let one = rig.reloader.present.instances[0].clone();
    let another = |n| {
        let mut another = one.clone();
        another.identity.id = InstanceId::new(&format!("h:name-{n}")).unwrap();
        another
    };
    rig.reloader.present.instances = (0..AGENT_INSTANCES_MAX).map(another).collect();
    for _ in 0..2 {
        rig.reloader.hand_over().await;
        let handed = rig.handed_over().unwrap();
        assert_eq!(handed.len(), AGENT_INSTANCES_MAX);
        assert!(
            !handed.contains(&"h:9".to_owned()),
            "a configured one is left out"
        );
    }
    assert_eq!(log.lines_with("1 of those found are left out").len(), 1);
    rig.reloader.present.instances.pop();
    assert!(ids_of(&rig.reloader.all()).contains(&"h:9".to_owned()));
}
