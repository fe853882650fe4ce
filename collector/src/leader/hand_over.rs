//! Hands leadership over: to the next candidate, when this collector stops, or to a certain one, when somebody asks for it.

use std::{sync::Arc, time::Duration};

use redkeeper_core::election::{Candidate, Effect, Election, Input, Term};
use redkeeper_runtime::errors::chain;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{Coordinator, Lasting, campaign};
use crate::{
    publish::LeaderTerm,
    store::{CommitError, Session, Store, StoreError, Write},
};

/// Requests that wait: one of a person, one of the own comparison with others, and some that are sent twice.
pub const REQUESTS_MAX: usize = 4;
/// How long batches in flight may take, and then the hand-over.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the leader to hand over.
pub type Sender = mpsc::Sender<Request>;

/// A request to hand leadership over.
pub struct Request {
    /// The candidate znode of the collector that is to lead; `None`: whoever is the next.
    pub to: Option<String>,
    /// Why, for the log.
    pub why: String,
    /// Told once it is handed over, or why not. `None`: the log is enough.
    pub answer: Option<oneshot::Sender<Result<(), NotHandedOver>>>,
}

impl Request {
    /// True if who asked no longer waits, and must not be surprised.
    fn is_abandoned(&self) -> bool {
        self.answer.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    fn answer(self, result: Result<(), NotHandedOver>) {
        if let Some(answer) = self.answer {
            // Who asked may have gone.
            drop(answer.send(result));
        }
    }
}

/// Why leadership was not handed over.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotHandedOver {
    /// Another collector leads, or none.
    #[error("this collector does not lead")]
    NotLeader,
    /// Nobody else could lead.
    #[error("no other collector is a candidate")]
    NobodyElse,
    /// The collector that is to lead cannot.
    #[error("that collector is no candidate")]
    NoCandidate,
    /// It leads already.
    #[error("that collector leads already")]
    LeadsAlready,
    /// ZooKeeper refused, or did not answer.
    #[error("ZooKeeper: {0}")]
    ZooKeeper(String),
}

/// A request that is carried out.
pub(super) struct Accepted {
    /// The candidates that stand before the one that is to lead.
    before: Vec<String>,
    request: Request,
}

/// The candidates to delete, so that the one that is to lead is the first.
fn before(candidates: &[Candidate], own: &str, to: Option<&str>) -> Result<Vec<String>, NotHandedOver> {
    let alive = candidates.iter().filter(|candidate| !candidate.is_leftover());
    let mut others: Vec<_> = alive.filter(|candidate| candidate.name != own).collect();
    if others.is_empty() {
        return Err(NotHandedOver::NobodyElse);
    }
    let Some(to) = to else { return Ok(Vec::new()) };
    if to == own {
        return Err(NotHandedOver::LeadsAlready);
    }
    others.sort_by_key(|candidate| candidate.order());
    let place = others.iter().position(|candidate| candidate.name == to);
    let place = place.ok_or(NotHandedOver::NoCandidate)?;
    Ok(others[..place]
        .iter()
        .map(|candidate| candidate.name.clone())
        .collect())
}

impl<S: Store> Coordinator<S> {
    /// Looks whether the request can be carried out. If not, it is answered.
    pub(super) async fn accept(
        &self,
        session: &Arc<S::Session>,
        election: &Election,
        request: Request,
    ) -> Option<Accepted> {
        if request.is_abandoned() {
            return None;
        }
        let own = election.node().filter(|_| election.term().is_some());
        let checked = match own {
            None => Err(NotHandedOver::NotLeader),
            Some(own) => match timeout(TIMEOUT, campaign::list(&**session, &self.layout)).await {
                Ok(Ok(Input::Listed(all))) => before(&all, own, request.to.as_deref()),
                Ok(Err(error)) => Err(NotHandedOver::ZooKeeper(chain(&error).to_string())),
                Ok(Ok(_)) | Err(_) => Err(NotHandedOver::ZooKeeper(StoreError::TimedOut.to_string())),
            },
        };
        match checked {
            Ok(before) => Some(Accepted { before, request }),
            Err(error) => {
                tracing::info!("leadership is not handed over ({}): {error}", request.why);
                request.answer(Err(error));
                None
            }
        }
    }

    /// Ends the term, hands over, and says what became of it.
    pub(super) async fn hand_over(
        &self,
        session: &Arc<S::Session>,
        lasting: &mut Lasting,
        publishing: &mut Option<LeaderTerm<S>>,
        (term, accepted): (Term, Option<Accepted>),
        effects: &mut Vec<Effect>,
    ) {
        self.end_term(lasting, publishing).await;
        let (before, request) = accepted.map_or((Vec::new(), None), |a| (a.before, Some(a.request)));
        let why = request.as_ref().map_or("", |request| &request.why);
        let deleted = timeout(
            TIMEOUT,
            self.delete_own(session, &lasting.election, term, &before),
        )
        .await;
        let (result, error) = match deleted {
            Ok(Ok(())) => {
                tracing::info!(epoch = term.epoch.0, why, "leadership handed over");
                (Some(true), None)
            }
            Ok(Err(error @ (CommitError::Operation(..) | CommitError::Fenced))) => (Some(false), Some(error)),
            Ok(Err(error)) => (None, Some(error)),
            Err(_) => (None, Some(StoreError::TimedOut.into())),
        };
        let answer = match error {
            None => Ok(()),
            Some(error) => {
                tracing::warn!(
                    epoch = term.epoch.0,
                    why,
                    "leadership is not handed over: {}",
                    chain(&error)
                );
                Err(NotHandedOver::ZooKeeper(chain(&error).to_string()))
            }
        };
        lasting.election.step(Input::HandedOver(result), effects);
        if let Some(request) = request {
            request.answer(answer);
        }
    }

    /// Hands over because this collector stops.
    pub(super) async fn step_down(
        &self,
        session: &Arc<S::Session>,
        lasting: &mut Lasting,
        publishing: &mut Option<LeaderTerm<S>>,
        term: Option<Term>,
    ) {
        self.end_term(lasting, publishing).await;
        let Some(term) = term else { return };
        match timeout(TIMEOUT, self.delete_own(session, &lasting.election, term, &[])).await {
            Ok(Ok(())) => tracing::info!(epoch = term.epoch.0, "leadership handed over"),
            Ok(Err(e)) => tracing::warn!("leadership ends with the session: {}", chain(&e)),
            Err(_) => tracing::warn!("the hand-over was not confirmed in time; the session's end does it"),
        }
    }

    /// Waits for batches in flight, and publishes no more. The next leader writes what is not acknowledged by then.
    async fn end_term(&self, lasting: &mut Lasting, publishing: &mut Option<LeaderTerm<S>>) {
        if let Some(mut term) = publishing.take() {
            drop(timeout(TIMEOUT, term.finish()).await);
            lasting.follower.put_mirror(term.into_mirror());
        }
        self.tell(|d| {
            (d.lease, d.phase) = (None, "resigned");
            d.leader_hint.clear();
        });
    }

    /// Deletes what makes this collector the leader, and the candidates `before` the one that is to be the next.
    async fn delete_own(
        &self,
        session: &Arc<S::Session>,
        election: &Election,
        term: Term,
        before: &[String],
    ) -> Result<(), CommitError> {
        let own = election.node().map(str::to_owned);
        let candidates = own.iter().chain(before).map(|node| self.layout.candidate(node));
        let deleted = [self.layout.publisher()].into_iter().chain(candidates);
        let writes = deleted.map(Write::Delete).collect();
        session.commit((&self.layout.epoch(), term.token), writes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, owner: i64) -> Candidate {
        Candidate {
            name: name.to_owned(),
            owner,
        }
    }

    #[test]
    fn a_request_counts_as_long_as_somebody_waits_for_the_answer() {
        let request = |answer| Request {
            to: None,
            why: String::new(),
            answer,
        };
        let (answer, answered) = oneshot::channel();
        let asked = request(Some(answer));
        assert!(!asked.is_abandoned() && !request(None).is_abandoned());
        drop(answered);
        assert!(asked.is_abandoned());
        asked.answer(Ok(()));
    }

    #[test]
    fn the_candidates_before_the_next_leader_are_found_or_the_reason_why_it_cannot_lead() {
        let all = [
            "own-n-0000000001",
            "c-n-0000000004",
            "left-n-0000000002",
            "b-n-0000000003",
        ];
        let all = all.map(|name| candidate(name, i64::from(!name.starts_with("left"))));
        let before = |to| before(&all, "own-n-0000000001", to);
        assert_eq!(before(None), Ok(vec![]));
        assert_eq!(before(Some("b-n-0000000003")), Ok(vec![]));
        assert_eq!(
            before(Some("c-n-0000000004")),
            Ok(vec!["b-n-0000000003".to_owned()])
        );
        assert_eq!(before(Some("left-n-0000000002")), Err(NotHandedOver::NoCandidate));
        assert_eq!(before(Some("own-n-0000000001")), Err(NotHandedOver::LeadsAlready));
        let alone = super::before(&all[..1], "own-n-0000000001", None);
        assert_eq!(alone, Err(NotHandedOver::NobodyElse));
    }
}
