//! top_k(row) = the row's largest values with their indices, in descending order.

use ferrowarp::gpu::kernels::{MAX_TOP_K, TopKScratch};

use crate::support::*;

/// What a value is compared and written as: one NaN stands for all, above +∞.
fn plain(value: f32) -> f32 {
    if value.is_nan() { f32::from_bits(0x7fff_ffff) } else { value + 0.0 }
}

/// [index, bits] of the `k` largest.
fn reference(row: &[f32], k: usize) -> Vec<u32> {
    let mut pairs: Vec<(u32, f32)> = (0..).zip(row.iter().map(|value| plain(*value))).collect();
    pairs.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    pairs[..k].iter().flat_map(|(index, value)| [*index, value.to_bits()]).collect()
}

#[track_caller]
fn check(gpu: &TestGpu, scratch: &TopKScratch, what: &str, row: &[f32], n: usize, k: usize) {
    let values = gpu.upload("values", row).unwrap();
    let out = Output::new(gpu, 2 * k);
    gpu.top_k(scratch, &values, &out, 1, n, n, k).unwrap();
    assert_eq!(out.read(gpu), reference(&row[..n], k), "{what}: the {k} largest of {n} in {}", row.len());
}

#[test]
fn top_k_is_a_sort_cut_short() {
    let gpu = gpu();
    let mut random = Random::new();
    let scratch = TopKScratch::new(&gpu, 1, 151_936).unwrap();
    for (n, k) in [
        (1, 1),
        (2, 2),
        (31, 7),
        (33, 33),
        (512, 41),
        (512, MAX_TOP_K),
        (1031, 105),
        (4095, 41),
        (4097, 1),
        (9001, MAX_TOP_K),
        (32_000, 105),
        (151_643, 41),
    ] {
        // The padding behind the row is larger than all of it.
        let mut row = random.values(n, 10.0);
        row.resize(n + n % 3, 100.0);
        check(&gpu, &scratch, "random", &row, n, k);
    }
}

/// More values in one thread's share than are expected there, or all of them equal.
#[test]
fn top_k_finds_large_values_wherever_they_lie() {
    let gpu = gpu();
    let mut random = Random::new();
    let n = 20_000;
    let scratch = TopKScratch::new(&gpu, 1, n).unwrap();
    let background = random.values(n, 1.0);
    for (what, first, count) in [("at the start", 0, 1500), ("at the end", n - 2000, 2000), ("in a line", 6400, 128)] {
        let mut row = background.clone();
        for value in &mut row[first..first + count] {
            *value = 5.0 + random.value();
        }
        for k in [1, 41, MAX_TOP_K] {
            check(&gpu, &scratch, what, &row, n, k);
        }
    }
    check(&gpu, &scratch, "equal", &vec![-2.5; n], n, MAX_TOP_K);
    let few: Vec<f32> = (0..n).map(|_| random.below(4) as f32 - 2.0).collect();
    check(&gpu, &scratch, "of four values", &few, n, 300);
}

#[test]
fn top_k_of_infinities_nan_and_zeros_is_in_order() {
    let gpu = gpu();
    let scratch = TopKScratch::new(&gpu, 1, 6000).unwrap();
    let mut row = vec![f32::NAN; 6000];
    let special = [-0.0, 0.0, f32::INFINITY, f32::MIN, f32::NEG_INFINITY, 1e-45, -1e-45, f32::INFINITY, f32::MAX];
    for (index, value) in special.into_iter().enumerate() {
        row[5 + 600 * index] = value;
    }
    row[17] = -f32::NAN;
    check(&gpu, &scratch, "special values among NaN", &row, 6000, 40);
    let numbers: Vec<f32> = row.iter().map(|value| if value.is_nan() { -7.0 } else { *value }).collect();
    check(&gpu, &scratch, "special values", &numbers, 6000, 40);
    for index in [0, 31, 2999, 5999] {
        let mut row = numbers.clone();
        row[index] = -f32::NAN;
        check(&gpu, &scratch, "one NaN", &row, 6000, 40);
    }
    check(&gpu, &scratch, "NaN", &[f32::NAN; 50], 50, 50);
}

#[test]
fn top_k_leaves_its_scratch_as_it_was() {
    let gpu = gpu();
    let mut random = Random::new();
    let scratch = TopKScratch::new(&gpu, 1, 30_000).unwrap();
    for n in [30_000, 100, 30_000] {
        check(&gpu, &scratch, "again", &random.values(n, 3.0), n, 50);
    }
}

/// Rows together are what each is alone, with padding between them.
#[test]
fn top_k_of_several_rows() {
    let gpu = gpu();
    let mut random = Random::new();
    let (rows, n, stride, k) = (3, 4097, 4104, 41);
    let scratch = TopKScratch::new(&gpu, rows, n).unwrap();
    let values = random.values(rows * stride, 10.0);
    let on_device = gpu.upload("values", &values).unwrap();
    for _ in 0..2 {
        let out = Output::new(&gpu, 2 * rows * k);
        gpu.top_k(&scratch, &on_device, &out, rows, n, stride, k).unwrap();
        for (row, got) in out.read(&gpu).chunks(2 * k).enumerate() {
            assert_eq!(got, reference(&values[row * stride..][..n], k), "row {row}");
        }
    }
}
