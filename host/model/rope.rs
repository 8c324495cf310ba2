//! Rotary position embedding: the angles (Su et al., arXiv 2104.09864).
//!
//! Pair `i` of a head turns by `position · frequency[i]`, with `frequency[i] = theta^(−2i/n_rot)`. Four things change that:
//!
//! - `rope_freqs.weight` (Llama 3.1): the frequency is divided by the pair's factor.
//! - Linear scaling (position interpolation, arXiv 2306.15595): every frequency is divided by one factor.
//! - LongRoPE (arXiv 2402.13753): frequencies are divided by one set of factors in contexts longer than the original one, and by another in others.
//! - YaRN (arXiv 2309.00071): pairs that turn more than `beta_fast` times over the original context keep their frequency, those that
//!   turn less than `beta_slow` times are interpolated, and a ramp joins them. The rotated vectors are lengthened by
//!   `1 + 0.1·ln(factor)`, which makes attention sharper over the longer context.
//!
//! A frequency is a double: at position 100 000 an angle in single precision would be wrong by a hundredth of a turn.

use super::config::{Rope, RopeScaling};

/// The angles of a model's RoPE.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Radians per position of each pair: `[n_rot/2]`.
    pub frequencies: Vec<f64>,
    /// What the rotated values are multiplied by.
    pub magnitude: f64,
}

impl RopeTable {
    /// Cosine and sine, times the magnitude, of each pair's angle at `position`: `[n_rot/2]`.
    pub fn cos_sin(&self, position: usize) -> impl ExactSizeIterator<Item = (f32, f32)> {
        self.frequencies.iter().map(move |frequency| {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            ((cos * self.magnitude) as f32, (sin * self.magnitude) as f32)
        })
    }
}

impl Rope {
    /// The angles that the model's metadata ask for, in a context of that many positions.
    pub fn table(&self, n_context: usize) -> RopeTable {
        let n_rot = self.n_rot as f64;
        let theta = f64::from(self.theta);
        let factors = match self.scaling {
            RopeScaling::Long { original_context } if n_context > original_context => &self.long_factors,
            _ => &self.factors,
        };
        let divisor = |i: usize| factors.as_ref().map_or(1.0, |f| f64::from(f[i]));
        let unscaled = |i: usize| theta.powf(-2.0 * i as f64 / n_rot) / divisor(i);
        let attention_factor = f64::from(self.attention_factor);
        let pairs = 0..self.n_rot / 2;

        match self.scaling {
            RopeScaling::None | RopeScaling::Long { .. } => {
                RopeTable { frequencies: pairs.map(unscaled).collect(), magnitude: attention_factor }
            }
            RopeScaling::Linear { factor } => RopeTable {
                frequencies: pairs.map(|i| unscaled(i) / f64::from(factor)).collect(),
                magnitude: attention_factor,
            },
            RopeScaling::Yarn { factor, original_context, ext_factor, beta_fast, beta_slow } => {
                let factor = f64::from(factor);
                // The pair that turns `turns` times over the original context.
                let pair_of = |turns: f32| {
                    let wavelength = original_context as f64 / (f64::from(turns) * std::f64::consts::TAU);
                    n_rot * wavelength.ln() / (2.0 * theta.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(n_rot - 1.0);
                // 1 where a pair keeps its frequency, 0 where it is interpolated.
                let keep = |i: usize| {
                    let ramp = (i as f64 - low) / (high - low).max(0.001);
                    (1.0 - ramp.clamp(0.0, 1.0)) * f64::from(ext_factor)
                };
                let stretch = if ext_factor == 0.0 { 1.0 } else { 1.0 + 0.1 * factor.ln() };
                RopeTable {
                    frequencies: pairs.map(|i| unscaled(i) * (keep(i) + (1.0 - keep(i)) / factor)).collect(),
                    magnitude: attention_factor * stretch,
                }
            }
        }
    }
}
