//! Launches the kernel in `kernels/next_step.rs`.

use kernels::next_step::{MAX_ROWS, next_step};

use super::{count, expect_len};
use crate::gpu::{Gpu, GpuError, Slice, launch::Launch};

impl Gpu {
    /// The most rows of [`Gpu::next_step`].
    pub const MOST_NEXT_ROWS: usize = MAX_ROWS as usize;

    /// Makes of a step's input, `[3][n_before]` (tokens, positions, sequences), that of the step behind it, `[3][n_all]`: row `i` of `n` follows row
    /// `places[i]`, which are all in their order without `places`, and what is behind these follows the last. Its token is that row's choice in `best`, or
    /// `n_vocab − 1` where there is none; `choices` gets the `n` choices.
    ///
    /// # Panics
    /// Where there are more rows than before, or than [`Gpu::MOST_NEXT_ROWS`].
    pub fn next_step(
        &self,
        best: &Slice<u32>,
        places: Option<&Slice<u32>>,
        input: &Slice<u32>,
        choices: &Slice<u32>,
        n_vocab: usize,
        [n_before, n, n_all]: [usize; 3],
    ) -> Result<(), GpuError> {
        assert!((1..=n_before).contains(&n), "{n} rows behind {n_before}");
        assert!((n..=Gpu::MOST_NEXT_ROWS).contains(&n_all), "{n} rows in room for {n_all}");
        expect_len("best", best, n_before);
        expect_len("input", input, 3 * n_before.max(n_all));
        expect_len("choices", choices, n);
        if let Some(places) = places {
            expect_len("places", places, n);
        }
        let launch = Launch::new([1; 3], count(n_all.next_multiple_of(32))).early();
        let [last_token, n_before, n, n_all] = [n_vocab - 1, n_before, n, n_all].map(count);
        let arguments = (best, places, input, choices, last_token, n_before, n, n_all);
        // SAFETY: the slices hold what the contract asks for; the places are the caller's promise.
        unsafe { self.launch_as(next_step, launch, arguments) }
    }
}
