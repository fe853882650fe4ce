//! What is to be published of an instance.

use std::sync::Arc;

use redkeeper_core::{
    fleet::message_order::Origin,
    publish::Record,
    status::{Reason, Status},
};

/// The record to publish of a status; `None` while nothing is known yet, so that what is published stays.
pub(super) fn publishable(status: &Arc<Status>, origin: Origin) -> Option<Record> {
    (status.verdict.reason != Reason::NotProbed).then(|| Record::of(status, origin))
}
