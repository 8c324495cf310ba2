//! Reading reads every word, and copying copies every word.

use crate::support::*;

/// Words of a buffer shorter than the grid, and of ones that end inside the loop's step.
const LENGTHS: [usize; 4] = [4, 4 * 1000, 4 * 300_001, 4 * 400_000];

#[test]
fn bandwidth_read_reads_every_word() {
    let gpu = gpu();
    let mut random = Random::new();
    for len in LENGTHS {
        let words: Vec<u32> = (0..len).map(|_| random.bits() as u32).collect();
        let parts = Output::<u32>::new(&gpu, gpu.bandwidth_parts());
        gpu.bandwidth_read(&gpu.upload("words", &words).unwrap(), &parts).unwrap();
        let got = parts.read(&gpu).into_iter().fold(0, |all, part| all ^ part);
        let want = words.into_iter().fold(0, |all, word| all ^ word);
        assert_eq!(got, want, "{len} words");
    }
}

#[test]
fn bandwidth_copy_copies_every_word() {
    let gpu = gpu();
    let mut random = Random::new();
    for len in LENGTHS {
        let words: Vec<u32> = (0..len).map(|_| random.bits() as u32).collect();
        let out = Output::<u32>::new(&gpu, len);
        gpu.bandwidth_copy(&gpu.upload("words", &words).unwrap(), &out).unwrap();
        assert_eq!(out.read(&gpu), words, "{len} words");
    }
}
