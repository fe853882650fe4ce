//! Finds servers on this host: by their configuration files, and by their processes. Says of each candidate why it
//! is taken or left. Works unprivileged within what `/proc` shows, and says what it could not see.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use redkeeper_core::status::Role;

use crate::{blocking::Bounded, config::DiscoverySettings, redis::Target};

use candidate::SENTINEL;
pub use candidate::{Candidate, Known, Left};
use confirm::{CONFIRMED_AT_ONCE, Unconfirmed, confirm, run_ids};

mod candidate;
mod config_files;
mod confirm;
mod processes;
pub mod registry;
pub(crate) mod state_file;

/// How long reading files and `/proc` may take: either may stand on a file system that hangs.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);
static LOOKS: Bounded = Bounded::new(1);

/// Addresses of everything that is found, whether it is wanted or not. Reads files and `/proc`, speaks to nobody.
pub fn addresses(settings: &DiscoverySettings) -> Vec<String> {
    let found = look(settings).into_iter().map(|candidate| candidate.address);
    found.filter(|address| !address.is_empty()).collect()
}

fn look(settings: &DiscoverySettings) -> Vec<Candidate> {
    let mut found = config_files::candidates(&settings.config_files);
    found.extend(processes::candidates(&settings.process_names));
    found
}

/// Everything that is found, each confirmed by speaking to it in the way that `target` says; `None` where the look
/// itself failed.
pub async fn find(
    settings: DiscoverySettings,
    known: Vec<Known>,
    target: impl Fn(&str) -> Result<Arc<Target>, String>,
) -> Option<Vec<Candidate>> {
    let ignore = settings.ignore.clone();
    let Some(mut found) = LOOKS.run(LOOK_TIMEOUT, move || look(&settings)).await else {
        // Its end is seen; the next look comes all the same.
        tracing::error!("discovery failed, or took longer than {LOOK_TIMEOUT:?}");
        return None;
    };
    let configured: BTreeSet<_> = known.iter().map(|known| known.target.address.clone()).collect();
    let mut addresses = BTreeSet::new();
    let mut asked = Vec::new();
    for (n, candidate) in found.iter_mut().enumerate().filter(|(_, c)| c.left.is_none()) {
        candidate.left = if configured.contains(&candidate.address) {
            Some(Left::Configured(String::new()))
        } else if !addresses.insert(candidate.address.clone()) {
            Some(Left::Twice)
        } else if ignore.iter().any(|pattern| pattern.matches(&candidate.address)) {
            Some(Left::Unwanted("discovery.ignore says so"))
        } else {
            match target(&candidate.address) {
                Ok(target) if candidate.tls && target.tls.is_none() => {
                    let why = "speaks TLS only: say whom to trust under [[access]] or [[instances]]";
                    Some(Left::Because(why.to_owned()))
                }
                Ok(target) => {
                    asked.push(async move { (n, confirm(&target).await) });
                    None
                }
                Err(why) => Some(Left::Because(why)),
            }
        };
    }
    let mut answers: Vec<_> = stream::iter(asked)
        .buffer_unordered(CONFIRMED_AT_ONCE)
        .collect()
        .await;
    // In the order of the candidates, so that of several addresses of one server the same is taken each time.
    answers.sort_by_key(|(n, _)| *n);
    let watched = if answers.is_empty() {
        BTreeMap::new()
    } else {
        run_ids(known).await
    };
    let mut servers = BTreeMap::<String, String>::new();
    for (n, answer) in answers {
        let candidate = &mut found[n];
        candidate.left = match answer {
            // Its process lives: it is an instance, and its status says what is wrong with it.
            Err(Unconfirmed::NoAnswer(_)) if candidate.lives => None,
            Err(Unconfirmed::NoAnswer(why) | Unconfirmed::IsNone(why)) => Some(Left::Because(why)),
            Ok(told) if told.role == Some(Role::Sentinel) => Some(Left::Unwanted(SENTINEL)),
            // It does not say which server it is.
            Ok(told) if told.run_id.is_empty() => None,
            Ok(told) => match watched.get(&told.run_id) {
                Some(address) => Some(Left::Configured(address.clone())),
                None => {
                    let server = format!("{} {}", told.run_id, told.port);
                    let left = servers.get(&server).cloned().map(Left::Same);
                    servers.entry(server).or_insert_with(|| candidate.address.clone());
                    candidate.told = left.is_none();
                    left
                }
            },
        };
    }
    Some(found)
}
