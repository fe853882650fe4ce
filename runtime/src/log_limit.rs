//! Limits log lines of one kind, so that a thousand causes of one fault do not hide all else. What is left out is counted
//! and told with the next line.

use std::time::{Duration, Instant};

/// Lines of one kind.
#[derive(Clone, Copy, Debug)]
pub struct LogLimit {
    lines_max: u32,
    interval: Duration,
    begun: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl LogLimit {
    /// At most `lines_max` lines in each `interval`, which begins with a line.
    pub const fn new(lines_max: u32, interval: Duration) -> Self {
        Self {
            lines_max,
            interval,
            begun: None,
            lines: 0,
            left_out: 0,
        }
    }

    /// Whether a line may be written now, and how many were left out since the last one, if any were.
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
}
