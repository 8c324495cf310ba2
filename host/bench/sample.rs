//! A quantity measured several times.

use serde::{Serialize, Serializer};

/// The values of the repetitions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample(pub Vec<f64>);

impl Sample {
    /// The mean; 0 of nothing.
    pub fn mean(&self) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.iter().sum::<f64>() / self.0.len() as f64 }
    }

    /// The standard deviation of a single value, by what the values differ from their mean; 0 for fewer than two.
    pub fn deviation(&self) -> f64 {
        if self.0.len() < 2 {
            return 0.0;
        }
        let mean = self.mean();
        let squares = self.0.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        (squares / (self.0.len() - 1) as f64).sqrt()
    }

    /// The same of a function of each value.
    pub fn map(&self, function: impl Fn(f64) -> f64) -> Sample {
        Sample(self.0.iter().map(|value| function(*value)).collect())
    }
}

impl Serialize for Sample {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation_are_those_of_a_sample() {
        let sample = Sample(vec![2.0, 4.0, 6.0]);
        assert_eq!((sample.mean(), sample.deviation()), (4.0, 2.0));
        assert_eq!(sample.map(|value| value / 2.0), Sample(vec![1.0, 2.0, 3.0]));
        assert_eq!((Sample(vec![5.0]).deviation(), Sample::default().mean()), (0.0, 0.0));
    }
}
