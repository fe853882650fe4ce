//! `get` prints one instance.

use redkeeper_proto::v1;

use super::Asked;
use crate::{client::Client, error::Error, output};

impl Asked {
    pub(super) async fn get(&self, id: String) -> Result<(), Error> {
        let request = v1::GetInstanceRequest { id };
        let get = async |client: &mut Client| client.get_instance(request.clone()).await;
        let (_, answer) = self.first(get).await?;
        if self.json {
            output::json(&answer)?;
        } else {
            output::get(&answer.instance.unwrap_or_default(), answer.header.as_ref())?;
        }
        Ok(())
    }
}
