//! How many guesses are worth a step.
//!
//! What a guess costs and what it brings are both counted, not timed, so that the same text takes the same steps anywhere. With a chance `a`
//! that a guess is right, a step with `k` of them brings 1 + a + … + aᵏ tokens. It costs what a step without costs, and for each guess a part of
//! that: the row ([`Costs::row`]; the second one takes [`Costs::second`] more, and each that is the first of more than are read for at once [`Costs::again`]) and the guess
//! itself ([`Costs::draft`]). The `k` with the most tokens for the cost is taken; where that is none, nothing is guessed, but for one guess now and then that may change it; where even guesses that are always right would cost more than
//! they bring, there is none.

/// What guesses cost, in steps of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Guesses of a step at most.
    pub n_most: usize,
    /// One more row.
    pub row: f64,
    /// The second row of a step besides.
    pub second: f64,
    /// Besides, the first row of those that weights are read again for.
    pub again: f64,
    /// Rows that weights are read for at once.
    pub at_once: usize,
    /// One more guess.
    pub draft: f64,
}

/// What was guessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Decoding steps.
    pub n_steps: u64,
    /// Guesses in them.
    pub n_drafted: u64,
    /// Those that became part of the text.
    pub n_kept: u64,
}

impl Counts {
    /// What came since `before`.
    pub fn since(self, before: Counts) -> Counts {
        Counts {
            n_steps: self.n_steps - before.n_steps,
            n_drafted: self.n_drafted - before.n_drafted,
            n_kept: self.n_kept - before.n_kept,
        }
    }
}

/// The chance that is believed in at first.
const FIRST_RATE: f64 = 0.75;
/// Over how many guesses is averaged: of what there were half, within these.
const WINDOW: [u64; 2] = [8, 16];
/// Tokens without a guess after the first wrong one of those that are made now and then, and at most.
const PAUSES: [u32; 2] = [8, 128];

/// How often guesses for one sequence were right, and how many are worth it.
#[derive(Clone, Debug)]
pub struct Adapt {
    costs: Costs,
    /// The exponential average of right (1) and wrong (0).
    rate: f64,
    /// Tokens until the next guess, where none is worth it.
    rest: u32,
    pause: u32,
    counts: Counts,
}

impl Adapt {
    /// Nothing was guessed yet.
    pub fn new(costs: Costs) -> Adapt {
        Adapt { costs, rate: FIRST_RATE, rest: 0, pause: PAUSES[0], counts: Counts::default() }
    }

    /// Guesses for the next step, in which so many sequences have a token.
    pub fn n_drafts(&mut self, n_sequences: usize) -> usize {
        if self.best(1.0, n_sequences) == 0 {
            return 0;
        }
        let best = self.best(self.rate, n_sequences);
        if best > 0 {
            (self.rest, self.pause) = (0, PAUSES[0]);
            return best;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return 0;
        }
        1
    }

    /// A step was made with so many guesses, of which these were right; the next was wrong, or nobody looked at it.
    pub fn judge(&mut self, n_drafted: usize, n_kept: usize, is_wrong: bool) {
        self.counts.n_steps += 1;
        self.counts.n_drafted += n_drafted as u64;
        self.counts.n_kept += n_kept as u64;
        let weight = 1.0 / (self.counts.n_drafted / 2).clamp(WINDOW[0], WINDOW[1]) as f64;
        for _ in 0..n_kept {
            self.rate += weight * (1.0 - self.rate);
        }
        if is_wrong {
            self.rate -= weight * self.rate;
            self.rest = self.pause;
            self.pause = (2 * self.pause).min(PAUSES[1]);
        } else if n_kept > 0 {
            (self.rest, self.pause) = (0, PAUSES[0]);
        }
    }

    /// What was guessed so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The number of guesses with the most tokens for what they cost, where each is right with that chance.
    fn best(&self, rate: f64, n_sequences: usize) -> usize {
        let Costs { n_most, row, second, again, at_once, draft } = self.costs;
        let step = |n_rows: usize| {
            let n_more = n_rows - 1;
            let together = if n_more > 0 { second } else { 0.0 };
            1.0 + together + row * n_more as f64 + again * (n_more / at_once) as f64
        };
        // A sequence's part of a step with a token of each.
        let n_sequences = n_sequences.max(1);
        let alone = step(n_sequences) / n_sequences as f64;
        let (mut best, mut most) = (0, 1.0 / alone);
        let (mut tokens, mut chance) = (1.0, 1.0);
        for n in 1..=n_most {
            chance *= rate;
            tokens += chance;
            let more = step(n_sequences + n) - step(n_sequences);
            let gain = tokens / (alone + more + draft * n as f64);
            if gain > most {
                (best, most) = (n, gain);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Costs = Costs { n_most: 8, row: 0.1, second: 0.0, again: 0.0, at_once: 8, draft: 0.0 };
    const DEAR: Costs = Costs { row: 0.5, ..CHEAP };

    /// Steps in which each guess is right where `is_right` says so, until so many tokens are there.
    fn run(adapt: &mut Adapt, n_tokens: usize, mut is_right: impl FnMut() -> bool) -> Vec<usize> {
        let (mut n, mut lengths) = (0, Vec::new());
        while n < n_tokens {
            let k = adapt.n_drafts(1);
            let n_kept = (0..k).take_while(|_| is_right()).count();
            adapt.judge(k, n_kept, n_kept < k);
            lengths.push(k);
            n += n_kept + 1;
        }
        lengths
    }

    #[test]
    fn right_guesses_make_drafts_longer_up_to_the_most() {
        let mut adapt = Adapt::new(CHEAP);
        let lengths = run(&mut adapt, 200, || true);
        assert!(lengths.is_sorted() && lengths[0] < 8 && lengths.last() == Some(&8), "{lengths:?}");
        assert_eq!(adapt.counts().n_drafted, adapt.counts().n_kept);
        // A dear row is worth it less often.
        assert!(run(&mut Adapt::new(DEAR), 200, || true)[0] < lengths[0]);
    }

    #[test]
    fn wrong_guesses_end_it_but_for_one_now_and_then() {
        for costs in [CHEAP, DEAR] {
            let mut adapt = Adapt::new(costs);
            let before = run(&mut adapt, 64, || false).iter().sum::<usize>();
            assert!((1..64).contains(&before), "{before}");
            let lengths = run(&mut adapt, 1000, || false);
            let made = lengths.iter().sum::<usize>();
            assert!((5..=40).contains(&made) && lengths.iter().all(|n| *n <= 1), "{lengths:?}");
            // And begins again where they are right.
            let lengths = run(&mut adapt, 1000, || true);
            let first = lengths.iter().position(|n| *n > 1).expect("drafts again");
            assert!(first <= 128 + 40, "{lengths:?}");
        }
    }

    #[test]
    fn drafts_are_as_long_as_their_cost_allows() {
        // By hand: of a = 0.75 and 0.1 a row, 3.2880 / 1.5 is the largest of (1 − aᵏ⁺¹) / (1 − a) / (1 + 0.1 k).
        assert_eq!(Adapt::new(CHEAP).n_drafts(1), 5);
        // 1.75 / 1.5 is more than 2.3125 / 2 and than 1.
        assert_eq!(Adapt::new(DEAR).n_drafts(1), 1);
        // 2.3125 / 2.3 is more than 1 and than 1.75 / 1.8: one guess does not pay for the second row, two do. Beside another
        // sequence that row is there anyway.
        let steep = Costs { second: 0.3, ..DEAR };
        assert_eq!(Adapt::new(steep).n_drafts(1), 2);
        assert_eq!(Adapt::new(steep).best(FIRST_RATE, 2), Adapt::new(DEAR).best(FIRST_RATE, 2));
        // A ninth row that costs as much as the first eight is not worth a guess, however right it would be.
        let eights = Costs { n_most: 16, row: 0.01, again: 0.8, ..CHEAP };
        assert_eq!((Adapt::new(eights).best(0.9, 1), Adapt::new(eights).best(1.0, 1)), (7, 15));
        // A model as large as the one it drafts for is worth nothing, however right it is.
        let lengths = run(&mut Adapt::new(Costs { draft: 1.0, ..CHEAP }), 100, || true);
        assert_eq!(lengths, [0; 100]);
        // A step that many share leaves less to gain.
        assert_eq!(Adapt::new(DEAR).best(FIRST_RATE, 8), 0);
        assert!(Adapt::new(CHEAP).best(FIRST_RATE, 8) < 5);
        assert_eq!(Adapt::new(Costs { n_most: 0, ..CHEAP }).n_drafts(1), 0);
    }

    /// Whatever the chance is, the average comes near it, and the drafts to the length that it is worth.
    #[test]
    fn the_average_follows_the_chance() {
        for percent in [10u64, 40, 70, 90] {
            let mut adapt = Adapt::new(CHEAP);
            let mut draw = percent;
            let mut rates = Vec::new();
            for _ in 0..400 {
                run(&mut adapt, 20, || {
                    draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (draw >> 33) % 100 < percent
                });
                rates.push(adapt.rate);
            }
            let mean = rates.iter().sum::<f64>() / rates.len() as f64;
            // The average of an average over sixteen guesses; drafts that stop at the first wrong guess end with a wrong one.
            assert!((mean - percent as f64 / 100.0).abs() < 0.1, "{percent} %: {mean}");
        }
    }
}
