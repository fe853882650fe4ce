//! `cluster` prints the leader, the collectors and the counts. It fails if a collector reports a fault.

use redkeeper_proto::v1;

use super::Asked;
use crate::{client::Client, error::Error, output};

impl Asked {
    pub(super) async fn cluster(&self) -> Result<(), Error> {
        let get = async |client: &mut Client| client.get_cluster_status(v1::GetClusterStatusRequest {}).await;
        let (_, answer) = self.first(get).await?;
        if self.json {
            output::json(&answer)?;
        } else {
            output::cluster(&answer)?;
        }
        match answer.warnings.len() {
            0 => Ok(()),
            faults => Err(Error::Faults(faults)),
        }
    }
}
