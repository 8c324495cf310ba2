//! What cards can do, from NVIDIA's data sheets and programming guide.

use serde::Serialize;

use crate::ProfileError;
use crate::kernel::{Numbers, SECTOR};

/// A GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Card {
    /// What it is asked for by.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The target that `ptxas` assembles for.
    pub target: &'static str,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Clock of the multiprocessors, MHz, boosted.
    pub megahertz: f64,
    /// Memory, GB/s.
    pub bandwidth: f64,
    /// f32 without tensor cores, TFLOP/s.
    pub float: f64,
    /// f16 on tensor cores with sums in f32, dense, TFLOP/s.
    pub tensor: f64,
    /// The most warps that a multiprocessor holds.
    pub warps: u32,
    /// The most blocks.
    pub blocks: u32,
    /// Shared memory of a multiprocessor, KiB.
    pub shared: u32,
}

/// The cards that are known.
pub const CARDS: [Card; 7] = [
    card_of("a100", "A100 80 GB SXM", "sm_80", 108, 1410.0, 2039.0, [19.5, 312.0], [64, 32, 164]),
    card_of("rtx3090", "GeForce RTX 3090", "sm_86", 82, 1695.0, 936.0, [35.6, 71.0], [48, 16, 100]),
    card_of("rtx4090", "GeForce RTX 4090", "sm_89", 128, 2520.0, 1008.0, [82.6, 165.2], [48, 24, 100]),
    card_of("l4", "L4", "sm_89", 58, 2040.0, 300.0, [30.3, 121.0], [48, 24, 100]),
    card_of("l40s", "L40S", "sm_89", 142, 2520.0, 864.0, [91.6, 362.0], [48, 24, 100]),
    card_of("h100", "H100 SXM", "sm_90a", 132, 1980.0, 3350.0, [66.9, 989.0], [64, 32, 228]),
    card_of("h200", "H200", "sm_90a", 132, 1980.0, 4800.0, [66.9, 989.0], [64, 32, 228]),
];

#[expect(clippy::too_many_arguments, reason = "a row of the table above")]
const fn card_of(
    id: &'static str,
    name: &'static str,
    target: &'static str,
    multiprocessors: u32,
    megahertz: f64,
    bandwidth: f64,
    [float, tensor]: [f64; 2],
    [warps, blocks, shared]: [u32; 3],
) -> Card {
    Card { id, name, target, multiprocessors, megahertz, bandwidth, float, tensor, warps, blocks, shared }
}

/// The card of that name.
///
/// # Errors
/// There is none; the error says which there are.
pub fn card(name: &str) -> Result<Card, ProfileError> {
    let known = || CARDS.map(|card| card.id).join(", ");
    let found = CARDS.into_iter().find(|card| card.id == name.to_lowercase());
    found.ok_or_else(|| ProfileError::Card { name: name.into(), known: known() })
}

/// What keeps more blocks off a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Limiter {
    /// Its registers.
    Registers,
    /// Its shared memory.
    SharedMemory,
    /// The warps that it holds.
    Warps,
    /// The blocks that it holds.
    Blocks,
}

impl std::fmt::Display for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Limiter::Registers => "registers",
            Limiter::SharedMemory => "shared memory",
            Limiter::Warps => "warps",
            Limiter::Blocks => "blocks",
        })
    }
}

/// How much of a multiprocessor the blocks of a launch fill.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Occupancy {
    /// Blocks that fit.
    pub blocks: u32,
    /// Warps that these are.
    pub warps: u32,
    /// Of the warps that a multiprocessor holds, in per cent.
    pub percent: f64,
    /// What keeps more off.
    pub limiter: Limiter,
}

impl Occupancy {
    /// Blocks of `threads` threads with so many registers each, where that is known, and so many bytes of shared memory.
    pub fn new(card: &Card, threads: u32, registers: Option<u32>, shared: u32) -> Occupancy {
        /// Registers of a multiprocessor; a warp gets them by 256.
        const REGISTERS: u32 = 65536;
        const UNIT: u32 = 256;
        /// Shared memory that each block takes beyond its own, bytes; it is given by 128.
        const RESERVED: u32 = 1024;
        let warps = threads.div_ceil(32).max(1);
        let by_registers = registers.map_or(u32::MAX, |registers| {
            let of_warp = (registers.max(1) * 32).next_multiple_of(UNIT);
            // A quarter of a multiprocessor has a quarter of the registers.
            let warps_that_fit = REGISTERS / 4 / of_warp * 4;
            warps_that_fit / warps
        });
        let by_shared = (card.shared << 10) / (shared.next_multiple_of(128) + RESERVED);
        let limits = [
            (card.warps / warps, Limiter::Warps),
            (card.blocks, Limiter::Blocks),
            (by_registers, Limiter::Registers),
            (by_shared, Limiter::SharedMemory),
        ];
        // Of equal limits the first: warps are what there cannot be more of.
        let (blocks, limiter) = limits.into_iter().min_by_key(|limit| limit.0).unwrap_or((0, Limiter::Warps));
        let resident = blocks * warps;
        Occupancy { blocks, warps: resident, percent: 100.0 * f64::from(resident) / f64::from(card.warps), limiter }
    }
}

/// The least time that a launch can take on a card, by each of its resources, in microseconds.
///
/// Every sector is taken to come from memory: a cache makes it less.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Roofline {
    /// Floating-point operations for each byte of global memory.
    pub intensity: f64,
    /// Bytes of the sectors over the memory's bandwidth.
    pub memory: f64,
    /// Operations over the peak: tensor cores' where the kernel uses them.
    pub arithmetic: f64,
    /// Instructions over four a clock and multiprocessor.
    pub issue: f64,
    /// The longest of the three.
    pub bound: &'static str,
    /// The peak that `arithmetic` is of, TFLOP/s.
    pub peak: f64,
}

impl Roofline {
    pub(crate) fn new(card: &Card, numbers: &Numbers, launches: u64) -> Roofline {
        let each = |count: u64| count as f64 / launches as f64;
        let bytes = each(numbers.sectors * SECTOR);
        let operations = each(numbers.operations);
        let peak =
            if numbers.by_class.get("Tensor").is_some_and(|count| *count > 0) { card.tensor } else { card.float };
        let memory = bytes / card.bandwidth / 1e3;
        let arithmetic = operations / peak / 1e6;
        let slots = f64::from(card.multiprocessors) * 4.0 * card.megahertz;
        let issue = (each(numbers.instructions) + each(numbers.shared_conflicts)) / slots;
        let bound = [("memory", memory), ("arithmetic", arithmetic), ("issue", issue)]
            .into_iter()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .map_or("memory", |longest| longest.0);
        let intensity = if bytes > 0.0 { operations / bytes } else { 0.0 };
        Roofline { intensity, memory, arithmetic, issue, bound, peak }
    }

    /// The least time, in microseconds.
    pub fn least(&self) -> f64 {
        self.memory.max(self.arithmetic).max(self.issue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_is_that_of_the_programming_guide() {
        let (h100, rtx4090) = (card("H100").unwrap(), card("rtx4090").unwrap());
        for (card, threads, registers, shared, blocks, limiter) in [
            (&h100, 256, Some(32), 0, 8, Limiter::Warps),
            // 128 registers: 4096 a warp, 16 warps.
            (&h100, 256, Some(128), 0, 2, Limiter::Registers),
            (&h100, 256, Some(255), 0, 1, Limiter::Registers),
            (&h100, 128, Some(32), 48 << 10, 4, Limiter::SharedMemory),
            (&h100, 32, Some(16), 0, 32, Limiter::Blocks),
            (&h100, 1024, None, 0, 2, Limiter::Warps),
            (&rtx4090, 1024, Some(32), 0, 1, Limiter::Warps),
            (&rtx4090, 256, Some(40), 0, 6, Limiter::Warps),
        ] {
            let found = Occupancy::new(card, threads, registers, shared);
            assert_eq!((found.blocks, found.limiter), (blocks, limiter), "{threads} threads, {registers:?}, {shared}");
        }
    }

    #[test]
    fn an_unknown_card_names_the_known_ones() {
        assert!(card("voodoo").unwrap_err().to_string().contains("h100, h200"));
    }

    #[test]
    fn the_longest_time_is_the_bound() {
        let h200 = card("h200").unwrap();
        let numbers = Numbers { sectors: 300_000_000, instructions: 1000, operations: 9600, ..Numbers::default() };
        let roofline = Roofline::new(&h200, &numbers, 2);
        assert_eq!(roofline.bound, "memory");
        // 4.8 GB at 4800 GB/s.
        assert!((roofline.memory - 1000.0).abs() < 1e-6, "{roofline:?}");
        assert!((roofline.intensity - 1e-6).abs() < 1e-12);
    }
}
