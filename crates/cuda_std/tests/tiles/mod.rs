//! Copies of tiles by tensor maps, against the same in plain Rust.

use crate::{Soft, shape};
use softcuda::{Element, Fault, FaultKind, TensorMap};

/// A tensor and one of its tiles.
struct Case {
    element: Element,
    sizes: Vec<u64>,
    /// Bytes.
    strides: Vec<u64>,
    tile: Vec<u32>,
    steps: Vec<u32>,
    swizzle: u8,
    fill_nan: bool,
    start: Vec<i32>,
}

/// An element of the tile: where it lies in shared memory, and its bytes' place in the tensor, if it is in that.
struct Piece {
    shared: usize,
    global: Option<usize>,
}

impl Case {
    fn map(&self, address: u64) -> Vec<u8> {
        let (sizes, strides) = (&self.sizes, &self.strides);
        let map = TensorMap::tiled(
            self.element,
            address,
            sizes,
            strides,
            &self.tile,
            &self.steps,
            self.swizzle,
            self.fill_nan,
        );
        map.unwrap_or_else(|problem| panic!("{problem}")).pack().to_vec()
    }

    fn counts(&self) -> Vec<usize> {
        // Every element along the innermost dimension, whatever its step.
        let count = |d: usize| if d == 0 { self.tile[0] } else { self.tile[d].div_ceil(self.steps[d]) };
        (0..self.tile.len()).map(|d| count(d) as usize).collect()
    }

    fn tile_bytes(&self) -> usize {
        self.counts().iter().product::<usize>() * self.element.bytes()
    }

    fn tensor_bytes(&self) -> usize {
        let row = self.sizes[0] as usize * self.element.bytes();
        let rest =
            self.sizes[1..].iter().zip(&self.strides).map(|(size, stride)| (size - 1) as usize * *stride as usize);
        row + rest.sum::<usize>()
    }

    fn pieces(&self) -> Vec<Piece> {
        let (counts, bytes) = (self.counts(), self.element.bytes());
        let piece = |number: usize| {
            let (mut rest, mut global) = (number, Some(0usize));
            for (d, count) in counts.iter().enumerate() {
                let step = if d == 0 { 1 } else { self.steps[d] as i64 };
                let at = self.start[d] as i64 + (rest % count) as i64 * step;
                rest /= count;
                let stride = if d == 0 { bytes } else { self.strides[d - 1] as usize };
                let inside = (0..self.sizes[d] as i64).contains(&at);
                global = global.filter(|_| inside).map(|global| global + at as usize * stride);
            }
            // Of each line of 128 bytes the pieces of 16 change places with those whose number differs by the line's.
            let (line, inner) = (number * bytes / 128, number * bytes % 128);
            let lines = [1, 2, 4, 8][self.swizzle as usize];
            Piece { shared: 128 * line + ((inner / 16) ^ (line % lines)) * 16 + inner % 16, global }
        };
        (0..counts.iter().product()).map(piece).collect()
    }
}

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    fn case(&mut self, rank: usize, element: Element) -> Case {
        let bytes = element.bytes() as u64;
        let sizes: Vec<u64> = (0..rank).map(|_| 1 + self.below(20)).collect();
        let mut strides = Vec::new();
        let mut stride = (sizes[0] * bytes).next_multiple_of(16);
        for size in &sizes[1..] {
            stride += 16 * self.below(2);
            strides.push(stride);
            stride *= size;
        }
        let swizzle = self.below(4) as u8;
        // A row of a swizzled tile is a span.
        let row = if swizzle == 0 { 16 * (1 + self.below(8)) } else { 16 << swizzle };
        let mut tile = vec![(row / bytes) as u32];
        let mut left = 128;
        for _ in 1..rank {
            tile.push(1 + self.below(left.min(7)) as u32);
            left /= u64::from(*tile.last().unwrap());
        }
        let steps =
            (0..rank).map(|_| 1 + self.below(3).saturating_sub(1) as u32 * (1 + self.below(3)) as u32).collect();
        // Only what is loaded may begin before the tensor, and a row's beginning is at a multiple of 16 bytes.
        let before = self.below(2) == 0;
        let mut start: Vec<i32> = (sizes.iter().zip(&tile))
            .map(|(&size, &tile)| {
                let before = if before { tile } else { 0 };
                self.below(size + u64::from(tile + before)) as i32 - before as i32
            })
            .collect();
        let aligned = 16 / bytes as i32;
        start[0] = start[0].div_euclid(aligned) * aligned;
        let fill_nan = element == Element::F32 && self.below(2) == 0;
        Case { element, sizes, strides, tile, steps, swizzle, fill_nan, start }
    }
}

/// What becomes of a tile: the kernels' numbers.
const STORED: u32 = 0;
const ADDED: u32 = 1;
const KEPT: u32 = 2;

/// Carries the case's tile; gives what was in shared memory, and the second tensor, of bytes 0xa5 before.
fn carry(soft: &Soft, case: &Case, from: &[u8], expected: usize, waits: bool, end: u32) -> Result<[Vec<u8>; 2], Fault> {
    let put = |bytes: &[u8]| {
        let address = soft.device.alloc(bytes.len()).unwrap();
        soft.device.write(address, bytes).unwrap();
        address
    };
    let before = vec![if end == ADDED { 1 } else { 0xa5 }; from.len()];
    let (source, target, raw) = (put(from), put(&before), put(&vec![0; case.tile_bytes()]));
    let mut arguments = vec![
        (case.tile_bytes() as u32 / 4).to_le_bytes().to_vec(),
        case.map(source),
        raw.to_le_bytes().to_vec(),
        case.map(target),
        (expected as u32).to_le_bytes().to_vec(),
        u32::from(waits).to_le_bytes().to_vec(),
        end.to_le_bytes().to_vec(),
    ];
    arguments.extend(case.start.iter().map(|at| at.to_le_bytes().to_vec()));
    let name = format!("carry_{}", case.sizes.len());
    let result = soft.launch_with(&name, shape(1, [64, 1, 1]), [1; 3], &arguments);
    let read = |address: u64, count: usize| {
        let mut bytes = vec![0; count];
        soft.device.read(address, &mut bytes).unwrap();
        bytes
    };
    let out = [read(raw, case.tile_bytes()), read(target, from.len())];
    [source, target, raw].into_iter().for_each(|address| soft.device.free(address).unwrap());
    result.map(|()| out)
}

#[test]
fn tiles_are_carried_whole_in_every_shape() {
    let soft = Soft::new();
    let elements = [Element::U8, Element::U16, Element::F32, Element::S32, Element::F64, Element::Bf16];
    let mut n_stored = 0;
    for seed in 0..100u64 {
        let mut random = Random(seed);
        let case = random.case(1 + seed as usize % 5, elements[random.0 as usize % elements.len()]);
        let from: Vec<u8> = (0..case.tensor_bytes()).map(|_| random.below(256) as u8).collect();
        let is_stored = case.start.iter().all(|at| *at >= 0);
        n_stored += usize::from(is_stored);
        let end = if is_stored { STORED } else { KEPT };
        let [raw, to] = carry(&soft, &case, &from, case.tile_bytes(), true, end)
            .unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        let (bytes, mut want) = (case.element.bytes(), vec![0xa5; from.len()]);
        for (number, Piece { shared, global }) in case.pieces().into_iter().enumerate() {
            let found = &raw[shared..shared + bytes];
            match global {
                Some(at) => {
                    assert_eq!(found, &from[at..at + bytes], "seed {seed}, element {number}");
                    if is_stored {
                        want[at..at + bytes].copy_from_slice(found);
                    }
                }
                None if case.fill_nan => assert!(f32::from_le_bytes(found.try_into().unwrap()).is_nan(), "seed {seed}"),
                None => assert_eq!(found, vec![0; bytes], "seed {seed}, element {number} outside"),
            }
        }
        assert!(to == want, "seed {seed}: what was stored");
    }
    assert!((20..80).contains(&n_stored), "{n_stored} of 100 tiles are stored");
}

/// A matrix of `[7][12]` whose tile of `[4][8]` ends behind it.
fn corner(element: Element) -> Case {
    let stride = 12 * element.bytes() as u64;
    let (sizes, strides, tile, steps) = (vec![12, 7], vec![stride], vec![8, 4], vec![1, 1]);
    Case { element, sizes, strides, tile, steps, swizzle: 0, fill_nan: false, start: vec![8, 5] }
}

#[test]
fn tiles_are_added_to_what_is_there() {
    let soft = Soft::new();
    let case = corner(Element::S32);
    let from: Vec<u8> = (0..case.tensor_bytes() / 4).flat_map(|i| (1000 * i as i32).to_le_bytes()).collect();
    let [_, to] = carry(&soft, &case, &from, case.tile_bytes(), true, ADDED).unwrap();
    for (i, word) in to.chunks_exact(4).enumerate() {
        let (row, column) = (i / 12, i % 12);
        let added = if row >= 5 && column >= 8 { 1000 * i as i32 } else { 0 };
        assert_eq!(i32::from_le_bytes(word.try_into().unwrap()), 0x0101_0101 + added, "row {row} column {column}");
    }
}

#[test]
fn what_is_wrong_with_a_tile_is_a_fault() {
    let soft = Soft::new();
    let case = corner(Element::F32);
    let from = vec![0; case.tensor_bytes()];
    carry(&soft, &case, &from, case.tile_bytes(), true, STORED).expect("nothing is wrong");
    let fault = carry(&soft, &case, &from, case.tile_bytes(), false, STORED).expect_err("nobody waits");
    assert!(matches!(fault.kind(), FaultKind::Race | FaultKind::Uninitialised), "{fault}");
    // The bytes outside of the tensor are counted: 4 columns of 2 rows are not what comes.
    let fault =
        carry(&soft, &case, &from, 4 * 4 * 2, true, STORED).expect_err("the phase is not over when all has come");
    assert_eq!(fault.kind(), FaultKind::Timeout, "{fault}");
    let short = Case { sizes: vec![12, 8], ..corner(Element::F32) };
    let low = Case { start: vec![0, 5], ..short };
    let fault = carry(&soft, &low, &from, low.tile_bytes(), true, STORED).expect_err("a row that is not there");
    assert_eq!(fault.kind(), FaultKind::OutOfBounds, "{fault}");
    let large = Case { tile: vec![32, 129], ..corner(Element::F32) };
    let fault = carry(&soft, &large, &from, large.tile_bytes(), true, STORED).expect_err("past the shared array");
    assert_eq!(fault.kind(), FaultKind::OutOfBounds, "{fault}");
    let narrow = Case { swizzle: 3, ..corner(Element::F32) };
    let fault =
        carry(&soft, &narrow, &from, narrow.tile_bytes(), true, STORED).expect_err("32 of the span's 128 bytes");
    assert_eq!(fault.kind(), FaultKind::UnknownInstruction, "{fault}");
    // What a GPU takes for no instruction.
    let askew = Case { start: vec![6, 5], ..corner(Element::F32) };
    let fault = carry(&soft, &askew, &from, askew.tile_bytes(), true, KEPT).expect_err("24 bytes along a row");
    assert_eq!(fault.kind(), FaultKind::Misaligned, "{fault}");
    for start in [vec![-4, 0], vec![0, -1]] {
        let early = Case { start, ..corner(Element::F32) };
        carry(&soft, &early, &from, early.tile_bytes(), true, KEPT).expect("a load may begin before the tensor");
        for end in [STORED, ADDED] {
            let fault = carry(&soft, &early, &from, early.tile_bytes(), true, end).expect_err("a store may not");
            assert_eq!(fault.kind(), FaultKind::InvalidOperand, "{fault}");
        }
    }
    let flat = Case { sizes: vec![12], strides: vec![], tile: vec![8], steps: vec![1], ..corner(Element::F32) };
    let fault = carry_as(&soft, "carry_2", &flat, &from).expect_err("two coordinates for one dimension");
    assert!(fault.message().contains("2 coordinates for a tensor of 1 dimensions"), "{fault}");
}

/// With the kernel of another number of dimensions.
fn carry_as(soft: &Soft, kernel: &str, case: &Case, from: &[u8]) -> Result<(), Fault> {
    let address = soft.device.alloc(from.len()).unwrap();
    soft.device.write(address, from).unwrap();
    let word = |value: u32| value.to_le_bytes().to_vec();
    let map = case.map(address);
    let pointer = address.to_le_bytes().to_vec();
    let arguments = [word(1), map.clone(), pointer, map, word(16), word(1), word(0), word(0), word(0)];
    soft.launch_with(kernel, shape(1, [64, 1, 1]), [1; 3], &arguments)
}

#[test]
fn maps_lie_in_global_memory_too() {
    let soft = Soft::new();
    let case = corner(Element::U32);
    let from: Vec<u32> = (1..=7 * 12).collect();
    let (source, target, raw) = (soft.put(&from), soft.put(&[7; 7 * 12]), soft.put(&[0; 32]));
    let maps = soft.device.alloc(256).unwrap();
    soft.device.write(maps, &[case.map(source), case.map(target)].concat()).unwrap();
    let [x, y] = [8u64, 5];
    soft.launch("carry_by_pointer", shape(1, [32, 1, 1]), &[maps, raw, 32, x, y]).unwrap();
    for (i, word) in soft.get(target, 7 * 12).into_iter().enumerate() {
        assert_eq!(word, if i / 12 >= 5 && i % 12 >= 8 { i as u32 + 1 } else { 7 }, "word {i}");
    }
    let tile: Vec<u32> =
        (0..32).map(|i| if i / 8 < 2 && i % 8 < 4 { (5 + i / 8) * 12 + 8 + i % 8 + 1 } else { 0 }).collect();
    assert_eq!(soft.get(raw, 32), tile);
    let fault = soft.launch("carry_by_pointer", shape(1, [32, 1, 1]), &[maps + 32, raw, 32, x, y]).expect_err("askew");
    assert_eq!(fault.kind(), FaultKind::Misaligned, "{fault}");
    let fault = soft.launch("carry_by_pointer", shape(1, [32, 1, 1]), &[source, raw, 32, x, y]).expect_err("no map");
    assert!(fault.message().contains("are no tensor map"), "{fault}");
}

#[test]
fn tiles_reach_every_block_of_a_cluster() {
    let soft = Soft::new();
    let case = Case { tile: vec![16, 4], start: vec![-4, 5], ..corner(Element::U32) };
    let from: Vec<u32> = (1..=7 * 12).collect();
    let (source, out) = (soft.put(&from), soft.put(&[0; 8 * 64]));
    let word = |value: i32| value.to_le_bytes().to_vec();
    let arguments = [case.map(source), out.to_le_bytes().to_vec(), word(-4), word(5)];
    soft.launch_with("spread_tile", shape(8, [64, 1, 1]), [4, 1, 1], &arguments).unwrap();
    let words = soft.get(out, 8 * 64);
    for block in words.chunks_exact(64) {
        for Piece { shared, global } in case.pieces() {
            assert_eq!(block[shared / 4], global.map_or(0, |at| from[at / 4]));
        }
    }
}
