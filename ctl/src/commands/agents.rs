//! `agents` prints all agents in one table.

use redkeeper_proto::v1;

use super::{Asked, PAGE};
use crate::{error::Error, output};

impl Asked {
    pub(super) async fn agents(&self) -> Result<(), Error> {
        let mut request = v1::ListAgentsRequest {
            page_size: PAGE,
            page_token: String::new(),
        };
        let asked = &request;
        let (mut client, mut all) = self
            .first(async |client| client.list_agents(asked.clone()).await)
            .await?;
        while !all.next_page_token.is_empty() {
            request.page_token = std::mem::take(&mut all.next_page_token);
            let page = self.within(client.list_agents(request.clone())).await?;
            all.agents.extend(page.agents);
            (all.header, all.next_page_token) = (page.header, page.next_page_token);
        }
        if self.json {
            output::json(&all)?;
        } else {
            output::agents(&all.agents, all.header.as_ref())?;
        }
        Ok(())
    }
}
