//! Limits log lines of one kind, so that a thousand causes of one fault do not hide everything else. Suppressed lines
//! are counted, and the count is reported with the next line.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Limit for all lines of one kind.
#[derive(Clone, Copy, Debug)]
pub struct LogLimit {
    lines_max: u32,
    interval: Duration,
    begun: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl LogLimit {
    /// Allows at most `lines_max` lines in each `interval`. An interval begins with a line.
    pub const fn new(lines_max: u32, interval: Duration) -> Self {
        Self {
            lines_max,
            interval,
            begun: None,
            lines: 0,
            left_out: 0,
        }
    }

    /// Returns `Some` if a line may be written now, with the number of lines suppressed since the last one, if any.
    pub fn line(&mut self, now: Instant) -> Option<Option<u64>> {
        if self
            .begun
            .is_none_or(|at| now.saturating_duration_since(at) >= self.interval)
        {
            (self.begun, self.lines) = (Some(now), 0);
        }
        if self.lines >= self.lines_max {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.lines += 1;
        Some(Some(std::mem::take(&mut self.left_out)).filter(|n| *n > 0))
    }
}

/// Maximum number of different texts that a [`RepeatLimit`] remembers; beyond that, the oldest is forgotten.
const TEXTS_MAX: usize = 256;

/// Limit for lines that are caused repeatedly: each text is written once per interval.
#[derive(Clone, Debug)]
pub struct RepeatLimit {
    interval: Duration,
    texts: BTreeMap<String, (Instant, u64)>,
}

impl RepeatLimit {
    /// Allows each text once per `interval`.
    pub const fn new(interval: Duration) -> Self {
        Self {
            interval,
            texts: BTreeMap::new(),
        }
    }

    /// Returns `Some` if this text may be written now, with the number of times it was suppressed since, if any.
    pub fn line(&mut self, text: &str, now: Instant) -> Option<Option<u64>> {
        if let Some((written, left_out)) = self.texts.get_mut(text) {
            if now.saturating_duration_since(*written) < self.interval {
                *left_out = left_out.saturating_add(1);
                return None;
            }
            *written = now;
            return Some(Some(std::mem::take(left_out)).filter(|n| *n > 0));
        }
        if self.texts.len() >= TEXTS_MAX {
            let oldest = self.texts.iter().min_by_key(|(_, (written, _))| *written);
            if let Some(oldest) = oldest.map(|(text, _)| text.clone()) {
                self.texts.remove(&oldest);
            }
        }
        self.texts.insert(text.to_owned(), (now, 0));
        Some(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted_and_told_later() {
        let interval = Duration::from_secs(10);
        let (mut limit, start) = (LogLimit::new(2, interval), Instant::now());
        assert_eq!([limit.line(start), limit.line(start)], [Some(None), Some(None)]);
        for n in 1..10 {
            assert_eq!(limit.line(start + Duration::from_secs(n)), None);
        }
        assert_eq!(limit.line(start + interval), Some(Some(9)));
        assert_eq!(limit.line(start + interval), Some(None));
        assert_eq!(limit.line(start + interval), None);
        assert_eq!(limit.line(start + interval * 3), Some(Some(1)));
    }

    #[test]
    fn the_same_text_is_written_once_in_an_interval() {
        let interval = Duration::from_secs(600);
        let (mut limit, start) = (RepeatLimit::new(interval), Instant::now());
        assert_eq!(
            [limit.line("a", start), limit.line("b", start)],
            [Some(None), Some(None)]
        );
        for n in 1..600 {
            assert_eq!(limit.line("a", start + Duration::from_secs(n)), None);
        }
        assert_eq!(limit.line("a", start + interval), Some(Some(599)));
        // The number of remembered texts is bounded, and the newest are kept.
        for n in 0..2 * TEXTS_MAX {
            let at = start + interval + Duration::from_millis(n as u64);
            assert_eq!(limit.line(&format!("text {n}"), at), Some(None));
            assert_eq!(limit.line(&format!("text {n}"), at), None);
        }
        assert_eq!(limit.texts.len(), TEXTS_MAX);
    }
}
