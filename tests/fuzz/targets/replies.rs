//! Any bytes from a server: cut into answers, read, and judged as the agent does. Nothing panics, and no verdict
//! grows beyond its bounds.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use redkeeper_core::{
    limits::{ADDRESS_BYTES_MAX, EVIDENCE_BYTES_MAX, RUN_ID_BYTES_MAX, VERSION_BYTES_MAX},
    probe::{Effect, Input, ProbeConfig, Prober},
    redis::{
        info,
        reply::Reply,
        resp::{Decoded, Decoder},
        restrictions,
    },
    time::{Mono, WallMs},
};

fn config(authenticate: bool) -> ProbeConfig {
    ProbeConfig {
        interval: Duration::from_millis(100),
        phase: Duration::ZERO,
        connect_timeout: Duration::from_secs(1),
        hang_after: Duration::from_secs(1),
        info_interval: Duration::from_millis(200),
        connect_interval: Duration::from_secs(1),
        successes_before_up: 2,
        failures_before_down: 3,
        authenticate,
        spread: Default::default(),
        tls: false,
        vanished: false,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let (mut now, mut out) = (Mono(1_000_000), Vec::new());
    let mut prober = Prober::new(now, WallMs(0), config(first & 1 == 1));
    let mut step = |input: Input, now: Mono| {
        prober.step(now, WallMs(1), input, &mut out);
        for effect in out.drain(..) {
            if let Effect::Verdict(verdict) = effect {
                assert!(verdict.evidence.len() <= EVIDENCE_BYTES_MAX);
                assert!(verdict.run_id.to_string().len() <= RUN_ID_BYTES_MAX);
                assert!(verdict.server_version.len() <= VERSION_BYTES_MAX);
                assert!(verdict.master_address.len() <= ADDRESS_BYTES_MAX);
            }
        }
        prober.next_deadline()
    };
    step(Input::Tick, now);
    step(Input::Connected, now);
    // In pieces of some size, so that answers are cut anywhere.
    let mut pieces = rest.chunks(usize::from(first / 4).max(1));
    let (mut decoder, mut came) = (Decoder::default(), &rest[..0]);
    // More answers than that are no longer of one round.
    for n in 0..64 {
        match decoder.next(came) {
            Decoded::Reply(reply) => {
                if let Reply::Text(text) = &reply {
                    restrictions::judge(&info::parse(text), Some(text), Default::default());
                }
                now = now + Duration::from_millis(7 * n);
                let next = step(Input::Replied(reply), now);
                if first & 2 == 2 {
                    now = now.max(next);
                    step(Input::Tick, now);
                }
                came = &[];
            }
            Decoded::Incomplete => match pieces.next() {
                Some(piece) => came = piece,
                None => break,
            },
            Decoded::Invalid(_) => {
                step(Input::Garbage("x".to_owned()), now);
                break;
            }
        }
    }
});
