//! The requests of one candidate to ZooKeeper: list, watch, claim, settle, verify. `core::election` decides their
//! order.

use std::{sync::Arc, time::Duration};

use redkeeper_core::{
    election::{Candidate, Effect, Election, Input, Term, plausible},
    ids::{CollectorId, Epoch},
};

use redkeeper_runtime::errors::chain;

use super::{Coordinator, Operation};
use crate::store::{
    CommitError, Session, Store, StoreError, Write,
    layout::Layout,
    records::{EpochJson, PublisherJson, read_json},
};

/// Interval at which candidates look again, in case an event was lost.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Delay after a refused claim, times 0.5 to 1.5.
const REFUSED_DELAY: Duration = Duration::from_millis(100);

/// Waits until the candidate ahead changes, or it is time to look again.
pub(crate) async fn watch_candidate<T: Session>(
    session: &T,
    layout: &Layout,
    other: &str,
) -> Result<Input, StoreError> {
    if let Some(watch) = session.watch(&layout.candidate(other)).await? {
        tokio::select! { biased; () = watch => (), () = tokio::time::sleep(LOOK_AGAIN) => () }
    }
    Ok(Input::LookAgain)
}

/// Claims leadership: one multi that advances the epoch, on condition that nobody else did and the own node still
/// exists. It deletes the candidates in `ended`, whose processes have ended, so that nobody waits for them.
pub(crate) async fn claim<T: Session>(
    session: &T,
    layout: &Layout,
    (node, ended): (&str, &[String]),
    id: &CollectorId,
    newest: Epoch,
) -> Result<Input, StoreError> {
    let paths = [layout.candidate(node), layout.epoch(), layout.publisher()];
    let mut nodes = session.get(&paths).await?.into_iter();
    let (own, epoch, publisher) = (
        nodes.next().flatten(),
        nodes.next().flatten(),
        nodes.next().flatten(),
    );
    // A layout that was deleted meanwhile is created again by the next session.
    let epoch = epoch.ok_or_else(|| StoreError::Lost(format!("{} is gone", layout.epoch())))?;
    let Some(own) = own.filter(|own| own.owner == session.id()) else {
        return refused().await;
    };
    let version = epoch.version;
    let former: EpochJson = read_json(Some(epoch));
    // The epoch is never below what this process has held or seen, even if ZooKeeper was wiped or restored.
    let former = plausible(Epoch(former.epoch));
    let number = former.max(newest).0.saturating_add(1);
    let next = EpochJson {
        epoch: number,
        holder: id.to_string(),
        node: node.to_owned(),
        // A node's name is unique, and one node claims an epoch number at most once.
        claim: format!("{node}/{number}"),
    };
    let json = PublisherJson {
        epoch: next.epoch,
        holder: next.holder.clone(),
        phase: "reconciling".to_owned(),
        ..PublisherJson::default()
    };
    let delete = |node: &String| Write::Delete(layout.candidate(node));
    let mut writes: Vec<_> = ended.iter().take(ENDED_MAX).map(delete).collect();
    if publisher.is_some() {
        writes.push(Write::Delete(layout.publisher()));
    }
    writes.push(Write::Create(
        layout.publisher(),
        serde_json::to_vec(&json).unwrap_or_default(),
        true,
    ));
    writes.push(Write::Set(
        layout.epoch(),
        serde_json::to_vec(&next).unwrap_or_default(),
        Some(version),
    ));
    // The last write sets the epoch: if it is refused, the epoch has moved on.
    let epoch_write = writes.len() - 1;
    match session.commit((&paths[0], own.version), writes).await {
        Err(CommitError::Operation(index, error @ StoreError::Refused(_))) if index < epoch_write => {
            Err(error)
        }
        Ok(()) => Ok(Input::Claimed(Term {
            epoch: Epoch(next.epoch),
            token: version + 1,
        })),
        Err(CommitError::Request(error)) => Err(error),
        Err(CommitError::Fenced | CommitError::Operation(..)) => refused().await,
    }
}

/// Maximum candidates that a claim deletes: one for each other collector.
const ENDED_MAX: usize = 16;

/// Another collector was faster, or the server that was asked lags behind: waits before the next attempt.
async fn refused() -> Result<Input, StoreError> {
    tokio::time::sleep(REFUSED_DELAY.mul_f64(0.5 + fastrand::f64())).await;
    Ok(Input::ClaimRefused)
}

/// Owner of a candidate whose owner cannot be found out: it takes part in the election.
const OWNER_UNKNOWN: i64 = -1;

/// Lists all candidates, with the sessions that own them. One that went away meanwhile is left out.
pub(crate) async fn list<T: Session>(session: &T, layout: &Layout) -> Result<Input, StoreError> {
    let names = layout.candidates(session).await?;
    let paths: Vec<_> = names.iter().map(|name| layout.candidate(name)).collect();
    let nodes = session.get(&paths).await?;
    let mut candidates = Vec::with_capacity(names.len());
    for ((name, path), node) in names.into_iter().zip(&paths).zip(nodes) {
        let Some(node) = node else { continue };
        let owner = if node.readable {
            Some(node.owner)
        } else {
            match session.stat(path).await {
                Ok(stat) => stat.map(|stat| stat.owner),
                Err(StoreError::Refused(_)) => Some(OWNER_UNKNOWN),
                Err(e) => return Err(e),
            }
        };
        candidates.extend(owner.map(|owner| Candidate { name, owner }));
    }
    Ok(Input::Listed(candidates))
}

/// Finds out whether a claim with unknown outcome was applied.
pub(crate) async fn settle<T: Session>(
    session: &T,
    layout: &Layout,
    node: &str,
) -> Result<Input, StoreError> {
    session.sync(&layout.epoch()).await?;
    let found = session.get(&[layout.epoch()]).await?.remove(0);
    let Some(found) = found else {
        return Ok(Input::Settled(None));
    };
    let version = found.version;
    let epoch: EpochJson = read_json(Some(found));
    let own = epoch.claim == format!("{node}/{}", epoch.epoch);
    Ok(Input::Settled(own.then_some(Term {
        epoch: Epoch(epoch.epoch),
        token: version,
    })))
}

pub(crate) async fn verify<T: Session>(
    session: &T,
    layout: &Layout,
    node: &str,
    term: Option<Term>,
) -> Result<Input, StoreError> {
    session.sync(&layout.epoch()).await?;
    let paths = [layout.candidate(node), layout.epoch(), layout.publisher()];
    let nodes = session.get(&paths).await?;
    // Without the publisher's znode consumers believe that statuses are frozen, so holding it is part of leading.
    let own = [&nodes[0], &nodes[2]].map(|node| node.as_ref().is_some_and(|node| node.owner == session.id()));
    let own = own == [true, true];
    let epoch = nodes[1].as_ref().map(|node| node.version) == term.map(|term| term.token);
    Ok(Input::Verified(own && epoch))
}

/// Name of the operation that the election asks for, for debug pages.
fn name(effect: &Effect) -> &'static str {
    match effect {
        Effect::Enqueue => "create the own candidate",
        Effect::FindOwn => "look for the own candidate",
        Effect::List => "list the candidates",
        Effect::Watch(_) => "watch the candidate ahead",
        Effect::Claim(_) => "claim leadership",
        Effect::Settle => "find out whether the claim was applied",
        Effect::Verify => "verify leadership",
        Effect::Drop | Effect::Lead(_) | Effect::Hold | Effect::StepDown(_) | Effect::HandOver(_) => "none",
    }
}

impl<S: Store> Coordinator<S> {
    /// The operation that the election asks for. Resolves to the election's next input.
    pub(super) fn operation(
        &self,
        session: &Arc<S::Session>,
        election: &Election,
        effect: Effect,
    ) -> Operation {
        let (session, layout) = (Arc::clone(session), self.layout.clone());
        let node = election.node().unwrap_or_default().to_owned();
        let (term, id, newest) = (election.term(), self.id.clone(), election.newest());
        let sent = self.clock.now();
        self.diagnostics.election(Some(name(&effect)));
        Box::pin(async move {
            let result = match effect {
                Effect::Enqueue => layout.enqueue(&*session).await.map(Input::Enqueued),
                Effect::FindOwn => layout.find_own(&*session).await.map(Input::Found),
                Effect::List => list(&*session, &layout).await,
                Effect::Watch(other) => watch_candidate(&*session, &layout, &other).await,
                Effect::Claim(ended) => claim(&*session, &layout, (&node, &ended), &id, newest).await,
                Effect::Settle => settle(&*session, &layout, &node).await,
                Effect::Verify => verify(&*session, &layout, &node, term).await,
                Effect::Drop | Effect::Lead(_) | Effect::Hold | Effect::StepDown(_) | Effect::HandOver(_) => {
                    Ok(Input::LookAgain)
                }
            };
            let input = result.unwrap_or_else(|error| match error {
                // The request may still be sent later: only the end of the session rules that out.
                StoreError::TimedOut | StoreError::Lost(_) | StoreError::Refused(_) => {
                    tracing::warn!("election: {}", chain(&error));
                    Input::Lost
                }
                error => {
                    tracing::debug!("election: {}", chain(&error));
                    Input::Unknown
                }
            });
            (input, sent)
        })
    }

    /// Warns once of candidates that no session owns: they do no harm, and stay until somebody deletes them.
    pub(super) fn tell_leftovers(&self, candidates: &[Candidate], told: &mut usize) {
        let left = || candidates.iter().filter(|candidate| candidate.is_leftover());
        let (first, count) = (left().next(), left().count());
        let before = std::mem::replace(told, count);
        if let Some(first) = first.filter(|_| before != count) {
            let path = self.layout.candidate(&first.name);
            tracing::warn!(
                znode = path,
                count,
                "candidates that no session owns, as a restored backup leaves them, do not take part in the election; delete them"
            );
        }
    }
}
