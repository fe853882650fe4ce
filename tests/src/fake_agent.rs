//! Builds messages of an agent that does not exist, with the content that a test needs.

use redkeeper_proto::v1::{
    self, InstanceReport, ReportStatusRequest, Snapshot, report_status_request::Message,
};

/// Builds one message.
pub fn message(sequence: u64, message: Message) -> ReportStatusRequest {
    ReportStatusRequest {
        sequence,
        message: Some(message),
    }
}

/// Builds the first message of a stream.
pub fn hello(agent: &str, boot: u8) -> Message {
    Message::Hello(v1::Hello {
        agent_id: agent.to_owned(),
        boot_id: format!("{boot:032x}"),
        ..Default::default()
    })
}

/// Builds the messages of a stream that tells these reports: a Hello of boot 1 and a snapshot in parts of 64.
pub fn snapshot(agent: &str, reports: &[InstanceReport]) -> Vec<ReportStatusRequest> {
    let parts = reports.chunks(64).map(|part| Snapshot {
        instances: part.to_vec(),
        last: part.last() == reports.last(),
    });
    let messages = [hello(agent, 1)].into_iter().chain(parts.map(Message::Snapshot));
    (1..).zip(messages).map(|(n, m)| message(n, m)).collect()
}

/// Builds the report on the instance with this number, which is also its handle.
pub fn report(agent: &str, number: u32, reason: v1::Reason) -> InstanceReport {
    InstanceReport {
        handle: number,
        id: format!("{agent}:{number}"),
        address: format!("127.0.0.1:{number}"),
        verdict: Some(v1::Verdict {
            reason: reason.into(),
            ..Default::default()
        }),
        probe_age: Some(Default::default()),
        freshness_limit: Some(pbjson_types::Duration {
            seconds: 600,
            nanos: 0,
        }),
        ..Default::default()
    }
}
