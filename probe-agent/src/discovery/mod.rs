//! Discovery finds servers on this host by their configuration files and by their processes. It states for each
//! candidate why it is accepted or rejected. It works unprivileged within what `/proc` shows, and reports what it could
//! not see.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use redkeeper_core::status::Role;

use crate::{blocking::BlockingPool, config::DiscoverySettings, redis::Target};

use candidate::SENTINEL;
pub use candidate::{Candidate, Known, Rejection};
use confirm::{CONFIRMED_AT_ONCE, Unconfirmed, confirm, run_ids};

mod candidate;
mod config_files;
mod confirm;
mod processes;
pub mod registry;
pub(crate) mod state_file;

/// Maximum time for reading files and `/proc`: a file system may hang.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);
static LOOKS: BlockingPool = BlockingPool::new(1);

/// Returns the addresses of all candidates, accepted or not. Reads files and `/proc`; makes no connections.
pub fn addresses(settings: &DiscoverySettings) -> Vec<String> {
    let found = look(settings).into_iter().map(|candidate| candidate.address);
    found.filter(|address| !address.is_empty()).collect()
}

fn look(settings: &DiscoverySettings) -> Vec<Candidate> {
    let mut found = config_files::candidates(&settings.config_files);
    found.extend(processes::candidates(&settings.process_names));
    found
}

/// Returns all candidates, each confirmed by a connection as `target` describes; `None` if the scan itself failed.
pub async fn find(
    settings: DiscoverySettings,
    known: Vec<Known>,
    target: impl Fn(&str) -> Result<Arc<Target>, String>,
) -> Option<Vec<Candidate>> {
    let ignore = settings.ignore.clone();
    let Some(mut found) = LOOKS.run(LOOK_TIMEOUT, move || look(&settings)).await else {
        // The failure is logged; the next scan takes place regardless.
        tracing::error!("discovery failed, or took longer than {LOOK_TIMEOUT:?}");
        return None;
    };
    let configured: BTreeSet<_> = known.iter().map(|known| known.target.address.clone()).collect();
    let mut addresses = BTreeSet::new();
    let mut asked = Vec::new();
    for (n, candidate) in found
        .iter_mut()
        .enumerate()
        .filter(|(_, c)| c.rejection.is_none())
    {
        candidate.rejection = if configured.contains(&candidate.address) {
            Some(Rejection::Configured(String::new()))
        } else if !addresses.insert(candidate.address.clone()) {
            Some(Rejection::Twice)
        } else if ignore.iter().any(|pattern| pattern.matches(&candidate.address)) {
            Some(Rejection::Unwanted("discovery.ignore says so"))
        } else {
            match target(&candidate.address) {
                Ok(target) if candidate.tls && target.tls.is_none() => {
                    let why = "speaks TLS only: say whom to trust under [[access]] or [[instances]]";
                    Some(Rejection::Because(why.to_owned()))
                }
                Ok(target) => {
                    asked.push(async move { (n, confirm(&target).await) });
                    None
                }
                Err(why) => Some(Rejection::Because(why)),
            }
        };
    }
    let mut answers: Vec<_> = stream::iter(asked)
        .buffer_unordered(CONFIRMED_AT_ONCE)
        .collect()
        .await;
    // Sorted in the order of the candidates, so that of several addresses of one server the same one is accepted each
    // time.
    answers.sort_by_key(|(n, _)| *n);
    let watched = if answers.is_empty() {
        BTreeMap::new()
    } else {
        run_ids(known).await
    };
    let mut servers = BTreeMap::<String, String>::new();
    for (n, answer) in answers {
        let candidate = &mut found[n];
        candidate.rejection = match answer {
            // Its process is alive: it is an instance, and its status will say what is wrong with it.
            Err(Unconfirmed::NoAnswer(_)) if candidate.process_alive => None,
            Err(Unconfirmed::NoAnswer(why) | Unconfirmed::IsNone(why)) => Some(Rejection::Because(why)),
            Ok(told) if told.role == Some(Role::Sentinel) => Some(Rejection::Unwanted(SENTINEL)),
            // The server does not identify itself.
            Ok(told) if told.run_id.is_empty() => None,
            Ok(told) => match watched.get(&told.run_id) {
                Some(address) => Some(Rejection::Configured(address.clone())),
                None => {
                    let server = format!("{} {}", told.run_id, told.port);
                    let left = servers.get(&server).cloned().map(Rejection::Same);
                    servers.entry(server).or_insert_with(|| candidate.address.clone());
                    candidate.identified = left.is_none();
                    left
                }
            },
        };
    }
    Some(found)
}
