//! Sectors: the 32 bytes in which global memory is read and written.

#![expect(clippy::needless_range_loop, reason = "a lane number indexes several rows")]

/// Distinct 32-byte sectors; an aligned access lies in one.
#[inline(always)]
pub(super) fn count_sectors(addresses: &[u64; 32]) -> u64 {
    // Mostly they lie near one another: a bit for each of the 64 around the first.
    let lowest = (addresses[0] >> 5).wrapping_sub(32);
    let (mut seen, mut beyond) = (0u64, 0u64);
    for l in 0..32 {
        let at = (addresses[l] >> 5).wrapping_sub(lowest);
        seen |= 1 << (at & 63);
        beyond |= at;
    }
    if beyond < 64 { seen.count_ones() as u64 } else { count_far_sectors(addresses) }
}

/// [`count_sectors`] of any addresses.
#[inline(never)]
fn count_far_sectors(addresses: &[u64; 32]) -> u64 {
    let mut sectors = [0u64; 32];
    for l in 0..32 {
        sectors[l] = addresses[l] >> 5;
    }
    let (mut changes, mut descents) = (0, 0);
    for l in 0..31 {
        changes += (sectors[l + 1] != sectors[l]) as u64;
        descents |= sectors[l + 1].wrapping_sub(sectors[l]);
    }
    // A difference of two sectors is negative or below 2^59.
    if descents >> 63 == 0 {
        return 1 + changes;
    }
    let (mut low, mut high) = (sectors[0], sectors[0]);
    for sector in sectors {
        (low, high) = (low.min(sector), high.max(sector));
    }
    if high - low < 1024 {
        let mut seen = [0u64; 16];
        for sector in sectors {
            let at = sector - low;
            seen[(at >> 6) as usize & 15] |= 1 << (at & 63);
        }
        return seen.iter().map(|word| word.count_ones() as u64).sum();
    }
    sectors.sort_unstable();
    1 + sectors.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_are_those_of_a_set() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for round in 0..20_000 {
            // Around the first, within what has a table, beyond it, anywhere; the last bytes of the address space are there too.
            let reach = [40, 64 * 32, 1024 * 32, 1 << 20, 1 << 31][round % 5];
            let first = [1 << 20, 0x7000_0000_0000, u64::MAX - 2 * reach][round % 3];
            let mut addresses: [u64; 32] = std::array::from_fn(|_| first + random(reach));
            if round % 7 == 0 {
                addresses.sort_unstable();
            }
            let set: std::collections::BTreeSet<u64> = addresses.iter().map(|address| address / 32).collect();
            assert_eq!(count_sectors(&addresses), set.len() as u64, "round {round}: {addresses:x?}");
        }
    }
}
