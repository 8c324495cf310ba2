//! Logit bias, and the penalties on tokens seen lately.

use std::collections::{HashMap, VecDeque};

use super::candidates::Candidates;
use super::options::SamplerOptions;

/// Adds each bias to its token's logit. −∞ bans the token.
///
/// `biases` holds (token id, bias) pairs; the biases of a token named twice add up.
pub fn apply_logit_bias(candidates: &mut Candidates, biases: &[(u32, f32)]) {
    for &(id, bias) in biases {
        if let Some(candidate) = candidates.get_mut(id) {
            candidate.set_logit(candidate.logit + bias);
        }
    }
    if !biases.is_empty() {
        candidates.logits_changed();
    }
}

/// Repeat, presence and frequency penalties over the last tokens.
///
/// The repeat penalty is that of CTRL (Keskar et al., 2019, arXiv:1909.05858, section 4.1), with its known correction:
/// dividing would raise a negative logit, so that one is multiplied. The other two are OpenAI's: a token seen `count`
/// times in the window loses `count · frequency + presence`.
#[derive(Clone)]
pub struct Penalties {
    repeat: f32,
    presence: f32,
    frequency: f32,
    /// How many tokens back the window reaches.
    last_n: usize,
    /// The window, oldest first.
    window: VecDeque<u32>,
    /// How often each token is in the window; never zero.
    counts: HashMap<u32, u32>,
}

impl Penalties {
    /// The penalties these options ask for, `None` when they ask for none.
    pub fn new(options: &SamplerOptions) -> Option<Self> {
        let idle = options.repeat_penalty == 1.0 && options.presence_penalty == 0.0 && options.frequency_penalty == 0.0;
        (options.repeat_last_n > 0 && !idle).then(|| Self {
            repeat: options.repeat_penalty,
            presence: options.presence_penalty,
            frequency: options.frequency_penalty,
            last_n: options.repeat_last_n as usize,
            window: VecDeque::new(),
            counts: HashMap::new(),
        })
    }

    /// Takes `token` into the window, and the oldest one out when it is full.
    pub fn accept(&mut self, token: u32) {
        *self.counts.entry(token).or_insert(0) += 1;
        self.window.push_back(token);
        if self.window.len() > self.last_n
            && let Some(oldest) = self.window.pop_front()
            && let Some(count) = self.counts.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
    }

    /// Forgets all tokens.
    pub fn reset(&mut self) {
        self.window.clear();
        self.counts.clear();
    }

    /// Lowers the logits of the tokens in the window.
    pub fn apply(&self, candidates: &mut Candidates) {
        for (&id, &count) in &self.counts {
            if let Some(candidate) = candidates.get_mut(id) {
                let scaled =
                    if candidate.logit <= 0.0 { candidate.logit * self.repeat } else { candidate.logit / self.repeat };
                candidate.set_logit(scaled - (count as f32 * self.frequency + self.presence));
            }
        }
        candidates.logits_changed();
    }
}

#[cfg(test)]
mod tests {
    use super::super::candidates::tests::from_logits;
    use super::*;

    fn logits(candidates: &Candidates) -> Vec<f32> {
        candidates.entries.iter().map(|entry| entry.logit).collect()
    }

    #[test]
    fn biases_add_up_and_ban() {
        let mut candidates = from_logits(&[1.0, 2.0, 3.0, f32::NEG_INFINITY]);
        apply_logit_bias(&mut candidates, &[(0, 0.5), (0, 1.0), (2, f32::NEG_INFINITY), (3, f32::INFINITY), (9, 1.0)]);
        // −∞ + ∞ is no number, so token 3 stays excluded; token 9 does not exist.
        assert_eq!(logits(&candidates), [2.5, 2.0, f32::NEG_INFINITY, f32::NEG_INFINITY]);
    }

    #[test]
    fn penalties_by_hand() {
        let options = SamplerOptions {
            repeat_penalty: 2.0,
            presence_penalty: 0.25,
            frequency_penalty: 0.5,
            repeat_last_n: 3,
            ..SamplerOptions::default()
        };
        let mut penalties = Penalties::new(&options).unwrap();
        // Token 3 has left the window of three when the logits come; tokens 0 and 1 are in it, 0 twice.
        for token in [3, 0, 1, 0] {
            penalties.accept(token);
        }
        let mut candidates = from_logits(&[4.0, -4.0, 4.0, 4.0]);
        penalties.apply(&mut candidates);
        assert_eq!(logits(&candidates), [4.0 / 2.0 - 1.25, -4.0 * 2.0 - 0.75, 4.0, 4.0]);

        penalties.reset();
        let mut candidates = from_logits(&[4.0; 4]);
        penalties.apply(&mut candidates);
        assert_eq!(logits(&candidates), [4.0; 4]);
    }

    #[test]
    fn idle_penalties_are_none() {
        assert!(Penalties::new(&SamplerOptions::default()).is_none());
        let no_window = SamplerOptions { repeat_penalty: 1.5, repeat_last_n: 0, ..SamplerOptions::default() };
        assert!(Penalties::new(&no_window).is_none());
    }
}
