//! argmax(row) = the lowest index of the row's largest value.

use ferrowarp::gpu::kernels::ArgmaxScratch;

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
        gpu.argmax(&ArgmaxScratch::new(&gpu, rows).unwrap(), &device_logits, &out, None, rows, n, stride).unwrap();
        assert_eq!(out.read(&gpu), want, "{rows} rows of {n} in {stride}");
    }
}

#[test]
fn argmax_of_infinities_and_nan_is_a_valid_index() {
    let gpu = gpu();
    let rows = [[f32::NEG_INFINITY; 3], [f32::NAN; 3], [f32::NAN, -1.0, f32::NEG_INFINITY]];
    let logits = gpu.upload("logits", rows.as_flattened()).unwrap();
    let out = Output::new(&gpu, 3);
    gpu.argmax(&ArgmaxScratch::new(&gpu, 3).unwrap(), &logits, &out, None, 3, 3, 3).unwrap();
    assert_eq!(out.read(&gpu), [0, 0, 1]);
}

#[test]
fn argmax_moves_the_position_on_and_leaves_its_scratch_as_it_was() {
    let gpu = gpu();
    let mut logits = vec![0.0f32; 20_000];
    logits[17_000] = 1.0;
    let logits = gpu.upload("logits", &logits).unwrap();
    let scratch = ArgmaxScratch::new(&gpu, 1).unwrap();
    let position = gpu.upload("position", &[41u32]).unwrap();
    for step in 0..3 {
        let out = Output::new(&gpu, 1);
        gpu.argmax(&scratch, &logits, &out, Some(&position), 1, 20_000, 20_000).unwrap();
        assert_eq!((out.read(&gpu), gpu.read(&position).unwrap()), (vec![17_000], vec![42 + step]));
    }
}
