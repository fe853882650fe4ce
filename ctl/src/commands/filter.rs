//! Converts the filter options of the command line into the filter of a request, and reports values that match nothing.

use redkeeper_proto::v1;

use super::Asked;
use crate::{args::Filter, client::Client, error::Error, output, unknown_values};

pub(super) fn filter(filter: &Filter) -> Result<v1::InstanceFilter, Error> {
    let state = |text: &String| {
        v1::InstanceState::from_str_name(&format!("INSTANCE_STATE_{}", text.trim().to_uppercase()))
            .filter(|state| *state != v1::InstanceState::Unspecified)
            .map(i32::from)
            .ok_or_else(|| {
                Error::Usage(format!(
                    "--state: {text:?} is none of up, degraded, down, unknown"
                ))
            })
    };
    let reason = |text: &String| {
        let word = text.trim().to_uppercase();
        let word = word.strip_prefix("REASON_").unwrap_or(&word);
        let named = v1::Reason::from_str_name(&format!("REASON_{word}")).map(i32::from);
        // The number of a reason that only a newer version knows by name.
        let number = || word.parse().ok();
        named.or_else(number).filter(|number| *number > 0).ok_or_else(|| {
            let all = (1..=u8::MAX).map_while(|n| v1::Reason::try_from(i32::from(n)).ok());
            let all = all.map(|reason| reason.as_str_name().trim_start_matches("REASON_").to_owned());
            let all = all.collect::<Vec<_>>().join(", ");
            Error::Usage(format!("--reason: {text:?} is not known; there are {all}"))
        })
    };
    Ok(v1::InstanceFilter {
        states: filter.state.iter().map(state).collect::<Result<_, _>>()?,
        reasons: filter.reason.iter().map(reason).collect::<Result<_, _>>()?,
        clusters: filter.cluster.clone(),
        agent_ids: filter.host.clone(),
    })
}

impl Asked {
    /// Reports filter values that match nothing. If that cannot be determined, nothing is reported.
    pub(super) async fn unknown(&self, client: &mut Client, by: &Filter) {
        for note in unknown_values::unknown_values(client, by, self.limit).await {
            output::complain(&format!("note: {note}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_take_words_and_numbers() {
        let by = |state: &str, reason: &str| Filter {
            state: vec![state.to_owned()],
            reason: vec![reason.to_owned()],
            cluster: Vec::new(),
            host: Vec::new(),
        };
        let read = filter(&by("Down", "connection_refused")).unwrap();
        assert_eq!((read.states, read.reasons), (vec![3], vec![2]));
        assert_eq!(filter(&by("up", "REASON_77")).unwrap().reasons, [77]);
        for (state, reason) in [
            ("nope", "OK"),
            ("unspecified", "OK"),
            ("up", "nope"),
            ("up", "-1"),
            ("up", "UNSPECIFIED"),
        ] {
            assert!(
                matches!(filter(&by(state, reason)), Err(Error::Usage(_))),
                "{state} {reason}"
            );
        }
    }
}
