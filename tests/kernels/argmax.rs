//! argmax(row) = the lowest index of the row's largest value.

use ferrowarp::gpu::kernels::{ArgmaxScratch, NO_CHOICE};

use crate::support::*;

fn reference(row: &[f32]) -> u32 {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best as u32
}

#[test]
fn argmax_is_the_first_largest_of_the_known_tokens() {
    let gpu = gpu();
    let mut random = Random::new();
    for (rows, n, stride) in [
        (2, 1, 1),
        (3, 31, 32),
        (2, 1000, 1031),
        (2, 1024, 1024),
        (2, 5003, 5120),
        (2, 3001, 3001),
        (1, 151_643, 151_936),
    ] {
        let mut logits = random.values(rows * stride, 10.0);
        for row in logits.chunks_mut(stride) {
            // The largest value three times, so that a tie has to go to the first; more than that in the padding.
            for _ in 0..3 {
                let index = random.below(n);
                row[index] = 11.0;
            }
            row[n..].fill(100.0);
        }
        let want: Vec<u32> = logits.chunks(stride).map(|row| reference(&row[..n])).collect();
        let device_logits = gpu.upload("logits", &logits).unwrap();
        let out = Output::new(&gpu, rows);
        gpu.argmax(&ArgmaxScratch::new(&gpu, rows).unwrap(), &device_logits, &out, rows, n, stride).unwrap();
        assert_eq!(out.read(&gpu), want, "{rows} rows of {n} in {stride}");
    }
}

#[test]
fn a_row_with_nan_or_nothing_above_minus_infinity_has_no_choice() {
    let gpu = gpu();
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    let rows =
        [[-infinity; 3], [nan; 3], [nan, -1.0, -infinity], [-1.0, infinity, -nan], [-infinity, infinity, infinity]];
    let logits = gpu.upload("logits", rows.as_flattened()).unwrap();
    let out = Output::new(&gpu, rows.len());
    gpu.argmax(&ArgmaxScratch::new(&gpu, rows.len()).unwrap(), &logits, &out, rows.len(), 3, 3).unwrap();
    assert_eq!(out.read(&gpu), [NO_CHOICE, NO_CHOICE, NO_CHOICE, NO_CHOICE, 1]);
}

#[test]
fn one_nan_is_found_wherever_it_stands_but_in_the_padding() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n, stride) in [(1, 1), (31, 32), (1031, 1031), (5003, 5120), (151_643, 151_936)] {
        let mut row = random.values(stride, 10.0);
        row[n..].fill(f32::NAN);
        let scratch = ArgmaxScratch::new(&gpu, 1).unwrap();
        let chosen = |row: &[f32]| {
            let logits = gpu.upload("logits", row).unwrap();
            let out = Output::new(&gpu, 1);
            gpu.argmax(&scratch, &logits, &out, 1, n, stride).unwrap();
            out.read(&gpu)[0]
        };
        assert_eq!(chosen(&row), reference(&row[..n]), "{n} in {stride}");
        for index in [0, n / 2, n - 1, random.below(n)] {
            let before = std::mem::replace(&mut row[index], if index % 2 == 0 { f32::NAN } else { -f32::NAN });
            assert_eq!(chosen(&row), NO_CHOICE, "{index} of {n} in {stride}");
            row[index] = before;
        }
    }
}

#[test]
fn argmax_leaves_its_scratch_as_it_was() {
    let gpu = gpu();
    let mut logits = vec![0.0f32; 20_000];
    logits[17_000] = 1.0;
    let logits = gpu.upload("logits", &logits).unwrap();
    let scratch = ArgmaxScratch::new(&gpu, 1).unwrap();
    for _ in 0..3 {
        let out = Output::new(&gpu, 1);
        gpu.argmax(&scratch, &logits, &out, 1, 20_000, 20_000).unwrap();
        assert_eq!(out.read(&gpu), [17_000]);
    }
}
