//! Samples and what is said of them.

use std::time::Duration;

/// Values in the order in which they were measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    /// Takes a duration in milliseconds.
    pub(crate) fn push_ms(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1_000.0);
    }

    /// Takes a value.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The smallest value below which this share of all lies (nearest rank); `None` without samples.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let sorted = self.sorted();
        let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted.get(rank - 1).copied()
    }

    pub(crate) fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let half = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            n if n % 2 == 1 => sorted.get(half).copied(),
            _ => Some((sorted[half - 1] + sorted[half]) / 2.0),
        }
    }

    pub(crate) fn p99(&self) -> Option<f64> {
        self.quantile(0.99)
    }

    pub(crate) fn min(&self) -> Option<f64> {
        self.quantile(0.0)
    }

    pub(crate) fn max(&self) -> Option<f64> {
        self.quantile(1.0)
    }

    /// The ratios of the pairs that were measured side by side.
    pub(crate) fn ratios(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0).filter(|(_, b)| **b > 0.0);
        Self(pairs.map(|(a, b)| a / b).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let samples = Samples((1..=100).rev().map(f64::from).collect());
        assert_eq!((samples.min(), samples.max()), (Some(1.0), Some(100.0)));
        assert_eq!((samples.median(), samples.p99()), (Some(50.5), Some(99.0)));
        assert_eq!(Samples::default().median(), None);
        let double = Samples(samples.0.iter().map(|x| x * 2.0).collect());
        assert_eq!(double.ratios(&samples).median(), Some(2.0));
    }
}
