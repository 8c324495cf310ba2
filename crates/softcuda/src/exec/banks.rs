//! Bank conflicts: what of a request to shared memory cannot be served at once.

use crate::space::lanes_of;

/// The bytes of shared memory that a lane takes of a wavefront, as a power of two: whole words, on which the access is aligned. A
/// wavefront has 128 bytes, so with [`lanes_of_wavefront`] such units there are as many places for them as lanes.
fn unit_log(bytes: u64) -> u32 {
    bytes.max(4).trailing_zeros()
}

fn lanes_of_wavefront(bytes: u64) -> usize {
    128 >> unit_log(bytes)
}

/// [`conflicts`] of accesses by all lanes that go up (or down) by equal steps, other than 0. `None`: steps within a word.
fn conflicts_of_steps(stride: u64, bytes: u64) -> Option<(u64, u64)> {
    let most = lanes_of_wavefront(bytes) as u64;
    // Every 2^n-th place only is taken, n being how often the step in units is even.
    let even = stride.trailing_zeros().checked_sub(unit_log(bytes))?;
    let ways = most.min(1 << even.min(5));
    Some(((ways - 1) * (32 / most), ways))
}

/// [`conflicts`] of accesses by all lanes, the first at `first`, that go up by equal steps, other than 0.
pub(super) fn conflicts_of_row(first: u64, stride: u64, bytes: u64) -> (u64, u64) {
    conflicts_of_steps(stride, bytes)
        .unwrap_or_else(|| conflicts(&std::array::from_fn(|l| first + l as u64 * stride), u32::MAX, bytes))
}

/// Wavefronts of shared memory beyond one per 128 bytes' worth of lanes, and the most that one such part took.
pub(super) fn conflicts(addresses: &[u64; 32], mask: u32, bytes: u64) -> (u64, u64) {
    const NONE: u8 = u8::MAX;
    let (log, group) = (unit_log(bytes), lanes_of_wavefront(bytes));
    let (mut extra, mut ways) = (0, 1);
    for start in (0..32).step_by(group) {
        let part = &addresses[start..start + group];
        let active = mask >> start & (u32::MAX >> (32 - group));
        if active == u32::MAX >> (32 - group) {
            let stride = part[1].wrapping_sub(part[0]);
            let apart = part.windows(2).fold(0, |apart, pair| apart | (pair[1].wrapping_sub(pair[0]) ^ stride));
            if apart == 0 && stride == 0 {
                continue;
            }
            if apart == 0
                && let Some((of_all, most)) = conflicts_of_steps(stride, bytes)
            {
                extra += of_all / (32 / group) as u64;
                ways = ways.max(most);
                continue;
            }
        }
        // Of each place the units, one pointing to that before it.
        let (mut all, mut before, mut used) = ([0u64; 32], [NONE; 32], 0u8);
        let (mut last, mut per_place, mut most) = ([NONE; 32], [0u8; 32], 1);
        for l in lanes_of(active) {
            let unit = part[l] >> log;
            let place = unit as usize & (group - 1);
            let mut at = last[place];
            while at != NONE && all[at as usize & 31] != unit {
                at = before[at as usize & 31];
            }
            if at == NONE {
                all[used as usize & 31] = unit;
                before[used as usize & 31] = std::mem::replace(&mut last[place], used);
                used += 1;
                per_place[place] += 1;
                most = most.max(per_place[place]);
            }
        }
        extra += most as u64 - 1;
        ways = ways.max(most as u64);
    }
    (extra, ways)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Word by word, as the counters' documentation says it.
    fn by_words(addresses: &[u64; 32], mask: u32, bytes: u64) -> (u64, u64) {
        let (mut extra, mut ways) = (0, 1);
        for start in (0..32).step_by(lanes_of_wavefront(bytes)) {
            let lanes = lanes_of(mask).filter(|l| (start..start + lanes_of_wavefront(bytes)).contains(l));
            let mut words: Vec<u64> =
                lanes.flat_map(|l| (0..bytes.div_ceil(4)).map(move |k| addresses[l] / 4 + k)).collect();
            words.sort_unstable();
            words.dedup();
            let of_bank = |bank: u64| words.iter().filter(|&&word| word % 32 == bank).count() as u64;
            let most = (0..32).map(of_bank).max().unwrap_or(0).max(1);
            extra += most - 1;
            ways = ways.max(most);
        }
        (extra, ways)
    }

    #[test]
    fn conflicts_are_those_of_a_count_word_by_word() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mut of_steps, mut with_conflicts) = (0, 0);
        for round in 0..20_000 {
            let bytes = 1 << random(5);
            let stride = bytes * random(80);
            let first = bytes * random(1 << 10) + 31 * stride;
            let last = random(32);
            let addresses: [u64; 32] = std::array::from_fn(|l| match round % 4 {
                // Steps, up or down; steps up to a lane and from there on the same place; few places; any.
                0 if round % 8 == 0 => first + l as u64 * stride,
                0 => first - l as u64 * stride,
                1 => first + (l as u64).min(last) * stride,
                2 => first + bytes * random(8),
                _ => bytes * random(1 << 10),
            });
            let mask = if round % 3 == 0 { random(u64::from(u32::MAX)) as u32 | 1 } else { u32::MAX };
            let want = by_words(&addresses, mask, bytes);
            let case = format!("round {round}, {bytes} bytes, lanes {mask:#x}, {addresses:?}");
            assert_eq!(conflicts(&addresses, mask, bytes), want, "{case}");
            with_conflicts += u32::from(want.0 > 0);
            if round % 4 == 0 && mask == u32::MAX && stride != 0 {
                let up_or_down = addresses[1].wrapping_sub(addresses[0]);
                if let Some(got) = conflicts_of_steps(up_or_down, bytes) {
                    assert_eq!(got, want, "{case}");
                    of_steps += 1;
                }
            }
        }
        assert!(of_steps > 1000 && with_conflicts > 1000, "{of_steps}, {with_conflicts}");
    }
}
