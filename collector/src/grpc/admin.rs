//! Carries out what administrators ask for.

use std::time::Duration;

use redkeeper_core::{ids::CollectorId, status::cut};
use redkeeper_proto::v1::{StepDownRequest, StepDownResponse, admin_service_server::AdminService};
use redkeeper_runtime::clock::Clock;
use tokio::{sync::oneshot, time::timeout};
use tonic::{Request, Response, Status};

use super::errors::Failure;
use crate::{
    leader::{
        hand_over::{self, NotHandedOver},
        leadership,
    },
    peers,
};

/// How long a hand-over may take; it usually takes some milliseconds. Less than a unary call may take.
const TIMEOUT: Duration = Duration::from_secs(8);

/// The service.
#[derive(Clone)]
pub struct Admin {
    /// Id of this collector.
    pub id: String,
    /// What is known of leadership.
    pub leadership: leadership::Reader,
    /// The other collectors.
    pub peers: peers::Reader,
    /// Asks the coordinator to hand over.
    pub hand_over: hand_over::Sender,
    /// Clock.
    pub clock: Clock,
}

impl Admin {
    /// The candidate znode of a collector.
    fn candidate(&self, id: &str) -> Result<String, Failure> {
        let not_found = || Failure::CollectorNotFound(cut(id, 128).to_owned());
        let id = CollectorId::new(id).map_err(|_| not_found())?;
        if id.as_str() == self.id {
            return Ok(self.leadership.borrow().candidate.clone());
        }
        let peers = self.peers.borrow();
        let peer = peers.peers.get(id.as_str()).ok_or_else(not_found)?;
        let candidate = peer.link.candidate().filter(|_| peer.is_linked());
        let candidate = candidate.ok_or(Failure::NotHandedOver(NotHandedOver::NoCandidate))?;
        Ok(candidate.to_owned())
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn step_down(
        &self,
        request: Request<StepDownRequest>,
    ) -> Result<Response<StepDownResponse>, Status> {
        let from = request.remote_addr();
        let to = request.into_inner().to_collector_id;
        let (leader, epoch) = {
            let leadership = self.leadership.borrow();
            (leadership.leader(self.clock.now()).to_owned(), leadership.epoch)
        };
        if leader != self.id {
            return Err(Failure::NotLeader(leader).into());
        }
        let candidate = match to.is_empty() {
            true => None,
            false => Some(self.candidate(&to)?),
        };
        let from = from.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        let (answer, answered) = oneshot::channel();
        let request = hand_over::Request {
            to: candidate,
            why: format!("asked by {from}"),
            answer: Some(answer),
        };
        self.hand_over
            .try_send(request)
            .map_err(|_| Failure::Full("leadership is being handed over already"))?;
        match timeout(TIMEOUT, answered).await {
            Ok(Ok(Ok(()))) => Ok(Response::new(StepDownResponse {
                served_by: self.id.clone(),
                epoch,
            })),
            Ok(Ok(Err(NotHandedOver::NotLeader))) => Err(Failure::NotLeader(String::new()).into()),
            Ok(Ok(Err(error))) => Err(Failure::NotHandedOver(error).into()),
            // The session has ended, or ZooKeeper does not answer: the election goes on by itself.
            Ok(Err(_)) | Err(_) => {
                let error = NotHandedOver::ZooKeeper("no answer in time; see who leads".to_owned());
                Err(Failure::NotHandedOver(error).into())
            }
        }
    }
}
