//! `list` prints the instances that match, page by page.

use redkeeper_proto::v1;

use super::{Asked, PAGE, filter::filter};
use crate::{args::Filter, error::Error, output};

impl Asked {
    pub(super) async fn list(&self, by: Filter, most: usize) -> Result<(), Error> {
        let mut request = v1::ListInstancesRequest {
            page_size: i32::try_from(most).map_or(PAGE, |most| most.clamp(1, PAGE)),
            page_token: String::new(),
            filter: Some(filter(&by)?),
        };
        let asked = &request;
        let (mut client, mut page) = self
            .first(async |client| client.list_instances(asked.clone()).await)
            .await?;
        // Each page is printed when it arrives, so that a list of a million instances needs little memory.
        let mut list = output::List::new(self.json);
        loop {
            page.instances.truncate(most - list.printed());
            list.print(&page.instances)?;
            if page.next_page_token.is_empty() || list.printed() >= most {
                break;
            }
            request.page_token = std::mem::take(&mut page.next_page_token);
            page = self.within(client.list_instances(request.clone())).await?;
        }
        list.end(page.total_size, page.header.as_ref())?;
        self.unknown(&mut client, &by).await;
        Ok(())
    }
}
