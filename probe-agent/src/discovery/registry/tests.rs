//! Tests of the list of discovered instances. Scans are made up; nothing is looked for.
#![allow(clippy::unwrap_used)]

use std::{fs, time::Duration};

use super::*;
use crate::{
    cli::Cli,
    config::{self, Config},
};

/// When an instance that vanished is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);
const BY_PROCESS: &str = "id = 'h'\n[discovery]\nprocesses = true\n";
const BY_FILE: &str = "id = 'h'\n[discovery]\nconfig_files = ['/nonexistent/*.conf']\n";

fn config(text: &str) -> Config {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let cli = Cli {
        config: Some(file.path().to_owned()),
        ..Cli::default()
    };
    config::load(&cli, []).unwrap()
}

fn discovery(text: &str) -> DiscoveryConfig {
    config(text).discovery.unwrap()
}

/// A server that runs and has told its `run_id`.
fn server(address: &str) -> Candidate {
    Candidate {
        process_alive: true,
        identified: true,
        ..Candidate::new(address, "a test")
    }
}

fn rejected(address: &str, why: Rejection) -> Candidate {
    Candidate {
        rejection: Some(why),
        ..Candidate::new(address, "a test")
    }
}

struct Scans {
    discovery: DiscoveryConfig,
    discovered: DiscoveredInstances,
    taken: BTreeSet<InstanceId>,
    now: Instant,
}

impl Scans {
    fn new(text: &str) -> Self {
        Self {
            discovery: discovery(text),
            discovered: DiscoveredInstances::default(),
            taken: BTreeSet::new(),
            now: Instant::now(),
        }
    }

    /// Applies a scan; returns whether something changed.
    fn find(&mut self, found: &[Candidate]) -> bool {
        self.discovered
            .update(&self.discovery, found, &self.taken, self.now)
    }

    fn find_later(&mut self, after: Duration, found: &[Candidate]) -> bool {
        self.now += after;
        self.find(found)
    }

    fn ids(&self) -> Vec<String> {
        let ids = self.discovered.entries.keys();
        ids.map(|id| id.as_str().to_owned()).collect()
    }

    fn vanished(&self) -> Vec<bool> {
        let configs = self.discovered.configs();
        configs.iter().map(|config| config.probe.vanished).collect()
    }
}

#[test]
fn what_is_found_is_added_once() {
    let mut scans = Scans::new(BY_PROCESS);
    let found = [
        server("127.0.0.1:6379"),
        server("/run/redis.sock"),
        rejected("127.0.0.1:6380", Rejection::Because("is no server".to_owned())),
        server("nonsense"),
    ];
    assert!(scans.find(&found));
    assert_eq!(scans.ids(), ["h:6379", "h:redis.sock"]);
    assert!(!scans.find(&found), "nothing is new");
}

#[test]
fn an_instance_that_vanishes_is_kept_as_vanished_until_it_is_forgotten() {
    let mut scans = Scans::new(BY_PROCESS);
    scans.find(&[server("127.0.0.1:6379")]);
    assert!(scans.find_later(Duration::from_secs(30), &[]));
    assert_eq!(scans.vanished(), [true]);
    assert!(!scans.find_later(FORGET_AFTER / 2, &[]));

    // It returns: the time counts anew from then.
    assert!(scans.find_later(Duration::from_secs(30), &[server("127.0.0.1:6379")]));
    assert_eq!(scans.vanished(), [false]);
    scans.find_later(FORGET_AFTER - Duration::from_secs(1), &[]);
    assert_eq!(scans.vanished(), [true]);
    assert!(scans.find_later(Duration::from_secs(1), &[]));
    assert!(scans.discovered.is_empty());
}

#[test]
fn a_process_that_does_not_answer_has_not_vanished() {
    let silent = || rejected("127.0.0.1:6379", Rejection::Because("does not answer".to_owned()));
    let mut scans = Scans::new(BY_PROCESS);
    scans.find(&[server("127.0.0.1:6379")]);
    let hung = Candidate {
        process_alive: true,
        ..silent()
    };
    assert!(!scans.find_later(FORGET_AFTER, &[hung]));
    // A file that still names it proves nothing where processes are looked at.
    assert!(scans.find(&[silent()]));
    assert_eq!(scans.vanished(), [true]);

    let mut by_file = Scans::new(BY_FILE);
    by_file.find(&[server("127.0.0.1:6379")]);
    assert!(!by_file.find_later(FORGET_AFTER, &[silent()]));
    assert_eq!(by_file.vanished(), [false]);
}

#[test]
fn what_is_watched_under_another_address_or_unwanted_is_dropped_at_once() {
    for why in [
        Rejection::Configured("10.0.0.1:6379".to_owned()),
        Rejection::Same("127.0.0.1:6380".to_owned()),
        Rejection::Unwanted("discovery.ignore says so"),
    ] {
        let mut scans = Scans::new(BY_PROCESS);
        scans.find(&[server("127.0.0.1:6379")]);
        assert!(scans.find(&[rejected("127.0.0.1:6379", why)]));
        assert!(scans.discovered.is_empty());
    }
}

#[test]
fn servers_with_the_same_short_id_are_told_apart_if_each_proves_what_it_is() {
    let mut scans = Scans::new(BY_PROCESS);
    scans.find(&[server("127.0.0.1:6379"), server("127.0.0.2:6379")]);
    assert_eq!(scans.ids(), ["h:127.0.0.2:6379", "h:6379"]);

    // The second could be the first at another address.
    let mut scans = Scans::new(BY_PROCESS);
    let unproved = Candidate {
        identified: false,
        ..server("127.0.0.2:6379")
    };
    scans.find(&[server("127.0.0.1:6379"), unproved]);
    assert_eq!(scans.ids(), ["h:6379"]);
    // The first is silent in this scan, so nothing shows that it is another one.
    let silent = Candidate {
        identified: false,
        ..server("127.0.0.1:6379")
    };
    scans.find(&[silent, server("127.0.0.2:6379")]);
    assert_eq!(scans.ids(), ["h:6379"]);
}

#[test]
fn an_id_that_is_configured_later_is_given_up_for_a_longer_one() {
    let mut scans = Scans::new(BY_PROCESS);
    scans.find(&[server("127.0.0.1:6379")]);
    scans.taken.insert(InstanceId::new("h:6379").unwrap());
    assert!(scans.find(&[server("127.0.0.1:6379")]));
    assert_eq!(scans.ids(), ["h:127.0.0.1:6379"]);
}

#[test]
fn configured_instances_hide_discovered_ones_of_the_same_id_or_address() {
    let mut scans = Scans::new(BY_PROCESS);
    let ports = [1, 2, 3].map(|port| server(&format!("127.0.0.1:{port}")));
    scans.find(&ports);
    let text = "id = 'h'\n[[instances]]\naddress = '127.0.0.1:1'\nname = 'other'\n\
                [[instances]]\naddress = '10.0.0.1:2'\n";
    let rest = scans.discovered.instances(&config(text).instances);
    let ids: Vec<_> = rest.iter().map(|one| one.identity.id.as_str()).collect();
    assert_eq!(ids, ["h:3"]);
}

#[test]
fn no_more_instances_are_taken_than_an_agent_may_watch() {
    let mut scans = Scans::new(BY_PROCESS);
    scans.discovered = recalled(&scans, AGENT_INSTANCES_MAX);
    let new = server("127.0.0.1:9999");
    scans.find(std::slice::from_ref(&new));
    assert_eq!(scans.ids().len(), AGENT_INSTANCES_MAX);
    assert!(!scans.ids().contains(&"h:9999".to_owned()));
    assert!(
        !scans.find(std::slice::from_ref(&new)),
        "one that is too many is no change"
    );
    // One leaves, and there is room.
    let unwanted = rejected("127.0.0.1:1", Rejection::Unwanted("is no longer wanted"));
    assert!(scans.find(&[unwanted, new]));
    assert!(scans.ids().contains(&"h:9999".to_owned()));
    assert_eq!(scans.ids().len(), AGENT_INSTANCES_MAX);
}

#[test]
fn a_new_configuration_applies_to_known_instances_and_keeps_what_is_known_of_them() {
    let mut scans = Scans::new(BY_PROCESS);
    scans.find(&[server("127.0.0.1:6379"), server("127.0.0.2:6379")]);
    scans.find(&[server("127.0.0.1:6379")]);
    let text = format!("{BY_PROCESS}[probe]\ninterval = '1s'\n");
    scans.discovered.configure(&discovery(&text));
    assert_eq!(scans.ids(), ["h:127.0.0.2:6379", "h:6379"]);
    assert_eq!(scans.vanished(), [true, false]);
    let configs = scans.discovered.configs();
    let interval = Duration::from_secs(1);
    assert!(configs.iter().all(|config| config.probe.interval == interval));
}

/// What a restarted agent knows of the instances of a former one.
fn after_restart(scans: &Scans) -> DiscoveredInstances {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("discovered.json");
    state_file::write(&file, &scans.discovered.serialize()).unwrap();
    let mut again = DiscoveredInstances::default();
    again.load(&scans.discovery, &file, scans.now).unwrap();
    again
}

#[test]
fn a_restarted_agent_knows_each_instance_by_its_former_id() {
    let mut scans = Scans::new(BY_PROCESS);
    let both = [server("127.0.0.1:6379"), server("127.0.0.2:6379")];
    scans.find(&both);
    let former = scans.discovered.ids();
    scans.discovered = after_restart(&scans);
    assert_eq!(scans.discovered.ids(), former);
    // The one with the longer id keeps it, although the other one is gone.
    assert!(scans.find(&both[1..]));
    assert_eq!(scans.vanished(), [false, true]);
    scans.find_later(FORGET_AFTER, &both[1..]);
    assert_eq!(scans.ids(), ["h:127.0.0.2:6379"]);
    scans.discovered = after_restart(&scans);
    scans.find(&both[1..]);
    assert_eq!(scans.ids(), ["h:127.0.0.2:6379"]);
}

#[test]
fn what_is_recalled_counts_as_found_at_the_restart() {
    let mut scans = Scans::new(BY_PROCESS);
    scans.find(&[server("127.0.0.1:6379")]);
    scans.now += FORGET_AFTER * 10;
    scans.discovered = after_restart(&scans);
    assert!(scans.find_later(FORGET_AFTER - Duration::from_secs(1), &[]));
    assert_eq!(scans.vanished(), [true]);
    scans.find_later(Duration::from_secs(1), &[]);
    assert!(scans.discovered.is_empty());
}

#[test]
fn a_damaged_state_file_is_an_error_and_adds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("discovered.json");
    let mut discovered = DiscoveredInstances::default();
    let mut recall = |text: &str| {
        fs::write(&file, text).unwrap();
        discovered.load(&discovery(BY_PROCESS), &file, Instant::now())
    };
    let entry = r#"{"address":"127.0.0.1:1","id":"h:1"}"#;
    for damaged in ["", "{", "[]", &format!("{{\"discovered\":[{entry}")] {
        assert!(recall(damaged).is_err(), "{damaged}");
    }
    // What another version may have written is not taken for an instance; the rest is.
    let odd = r#"{"address":"nonsense","id":"h:2"},{"address":"127.0.0.1:3","id":"not an id"}"#;
    recall(&format!("{{\"discovered\":[{odd},{entry}]}}")).unwrap();
    assert_eq!(discovered.ids().into_keys().collect::<Vec<_>>(), ["127.0.0.1:1"]);
}

/// What is known after a start with a state file of this many instances.
fn recalled(scans: &Scans, count: usize) -> DiscoveredInstances {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("discovered.json");
    let ids = (1..=count).map(|port| {
        let id = InstanceId::new(&format!("h:{port}")).unwrap();
        (format!("127.0.0.1:{port}"), id)
    });
    state_file::write(&file, &state_file::serialize(ids.collect())).unwrap();
    let mut discovered = DiscoveredInstances::default();
    discovered.load(&scans.discovery, &file, scans.now).unwrap();
    discovered
}

#[test]
fn no_more_is_recalled_than_an_agent_may_watch() {
    let discovered = recalled(&Scans::new(BY_PROCESS), AGENT_INSTANCES_MAX + 10);
    assert_eq!(discovered.ids().len(), AGENT_INSTANCES_MAX);
}
