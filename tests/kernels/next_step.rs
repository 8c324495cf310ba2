//! A step's input becomes that of the step behind it.

use ferrowarp::gpu::{Gpu, kernels::NO_CHOICE};

use crate::support::*;

#[test]
fn rows_go_on_with_their_choices_a_position_further() {
    let gpu = gpu();
    let mut random = Random::new();
    let n_vocab = 1000;
    for [n_before, n, n_all] in [
        [1, 1, 1],
        [2, 1, 1],
        [31, 31, 31],
        [32, 9, 10],
        [33, 32, 32],
        [40, 37, 40],
        [64, 64, 64],
        [96, 37, 128],
        [1024, 1024, 1024],
        [1025, 700, 704],
    ] {
        let mut best = random.indices(n_before, n_vocab);
        best[n_before / 2] = NO_CHOICE;
        // Some of the rows, in their order.
        let mut left: Vec<u32> = (0..n_before as u32).collect();
        while left.len() > n {
            left.remove(random.below(left.len()));
        }
        let places = (n < n_before).then(|| gpu.upload("places", &left).unwrap());
        let [tokens, positions, sequences] = [n_vocab, 40_000, 2000].map(|below| random.indices(n_before, below));
        let rows = || (0..n_all).map(|row| left[row.min(n - 1)] as usize);
        let want: Vec<u32> = rows()
            .map(|place| best[place].min(n_vocab as u32 - 1))
            .chain(rows().map(|place| positions[place] + 1))
            .chain(rows().map(|place| sequences[place]))
            .collect();
        let mut input = [tokens, positions, sequences].concat();
        input.resize(3 * n_before.max(n_all) + 5, 7);
        let device_input = gpu.upload("input", &input).unwrap();
        let device_best = gpu.upload("best", &best).unwrap();
        let choices = Output::new(&gpu, n);
        gpu.next_step(&device_best, places.as_deref(), &device_input, &choices, n_vocab, [n_before, n, n_all]).unwrap();
        let chosen: Vec<u32> = left.iter().map(|place| best[*place as usize]).collect();
        assert_eq!(choices.read(&gpu), chosen, "choices of {n} of {n_before} rows");
        let got = gpu.read(&device_input).unwrap();
        assert_eq!(got[..3 * n_all], want, "{n} of {n_before} rows, {n_all} of the next");
        assert_eq!(got[3 * n_all..], input[3 * n_all..], "behind {n_all} rows");
    }
}

#[test]
#[should_panic(expected = "3 rows behind 2")]
fn a_row_follows_one_that_is_there() {
    let gpu = gpu();
    let input = gpu.upload("input", &[0; 9]).unwrap();
    let _ = gpu.next_step(&input, None, &input, &input, 10, [2, 3, 3]);
}

#[test]
fn there_is_room_for_the_rows_of_a_large_step() {
    const { assert!(Gpu::MOST_NEXT_ROWS >= 512) };
}
