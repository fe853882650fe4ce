//! `leader` changes which collector leads.

use std::time::{Duration, Instant};

use redkeeper_proto::v1::{self, admin_service_client::AdminServiceClient};
use tonic::transport::Endpoint;

use super::Asked;
use crate::{args::LeaderCommand, client::Client, error::Error, output};

/// Time between two looks at who leads.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

impl Asked {
    pub(super) async fn leader(&self, command: LeaderCommand) -> Result<(), Error> {
        match command {
            LeaderCommand::StepDown { to } => self.step_down(to).await,
        }
    }

    async fn step_down(&self, to: Option<String>) -> Result<(), Error> {
        let start = Instant::now();
        let (mut any, mut cluster) = self.first(status).await?;
        // Right after a change of the leader, a collector may not know the next one yet.
        let leader = loop {
            if let Some(leader) = cluster.members.into_iter().find(|member| member.leader) {
                break leader;
            }
            if start.elapsed() > self.limit {
                return Err(Error::NoLeader);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
            cluster = self.within(status(&mut any)).await?;
        };
        let endpoint = Endpoint::from_shared(format!("http://{}", leader.address));
        let endpoint = endpoint.map_err(|e| Error::Usage(format!("{}: {e}", leader.address)))?;
        let channel = tokio::time::timeout(self.limit, endpoint.connect()).await;
        let channel = channel.map_err(|_| Error::Timeout(self.limit))?.map_err(|e| {
            Error::Unreachable(format!("the leader, {} at {}: {e}", leader.id, leader.address))
        })?;
        let request = v1::StepDownRequest {
            to_collector_id: to.unwrap_or_default(),
        };
        let former = self
            .within(AdminServiceClient::new(channel).step_down(request))
            .await?;
        let next = loop {
            let header = self.within(status(&mut any)).await?.header.unwrap_or_default();
            if header.epoch > former.epoch && !header.leader.is_empty() {
                break header;
            }
            if start.elapsed() > self.limit {
                return Err(Error::Timeout(self.limit));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        if self.json {
            output::json(&next)?;
        } else {
            output::text(&format!(
                "{} leads (term {}); {} has stepped down (term {})\n",
                next.leader, next.epoch, former.served_by, former.epoch
            ))?;
        }
        Ok(())
    }
}

async fn status(client: &mut Client) -> Result<tonic::Response<v1::GetClusterStatusResponse>, tonic::Status> {
    client.get_cluster_status(v1::GetClusterStatusRequest {}).await
}
