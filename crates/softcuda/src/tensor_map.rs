//! Tensor maps: what `cuTensorMapEncodeTiled` writes and copies of tiles read.
//!
//! The 128 bytes are opaque; here they hold the arguments as they were given.

use crate::exec::bulk::Reduction;
use crate::numeric::{from_bfloat, from_half, to_bfloat, to_half};

/// The type of a tensor's elements, in the order of `CUtensorMapDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
#[repr(u8)]
pub enum Element {
    U8,
    U16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F32,
    F64,
    Bf16,
    F32Ftz,
    Tf32,
    Tf32Ftz,
}

const ELEMENTS: [Element; 13] = [
    Element::U8,
    Element::U16,
    Element::U32,
    Element::S32,
    Element::U64,
    Element::S64,
    Element::F16,
    Element::F32,
    Element::F64,
    Element::Bf16,
    Element::F32Ftz,
    Element::Tf32,
    Element::Tf32Ftz,
];

impl Element {
    /// By number of `CUtensorMapDataType`.
    pub fn from_number(number: u32) -> Option<Element> {
        ELEMENTS.get(number as usize).copied()
    }

    /// Bytes in memory.
    pub fn bytes(self) -> usize {
        match self {
            Element::U8 => 1,
            Element::U16 | Element::F16 | Element::Bf16 => 2,
            Element::U64 | Element::S64 | Element::F64 => 8,
            _ => 4,
        }
    }

    fn is_integer(self) -> bool {
        matches!(self, Element::U8 | Element::U16 | Element::U32 | Element::S32 | Element::U64 | Element::S64)
    }

    /// Combines two values, little-endian.
    pub(crate) fn reduce(self, how: Reduction, old: &[u8], value: &[u8]) -> [u8; 8] {
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, &byte| n << 8 | byte as u64);
        let (a, b) = (number(old), number(value));
        let signed = |x: u64| if self == Element::S32 { x as i32 as i64 } else { x as i64 };
        let float = |x: u64| match self {
            Element::F16 => from_half(x as u16) as f64,
            Element::Bf16 => from_bfloat(x as u16) as f64,
            Element::F64 => f64::from_bits(x),
            _ => f32::from_bits(x as u32) as f64,
        };
        let back = |x: f64| match self {
            Element::F16 => to_half(x as f32) as u64,
            Element::Bf16 => to_bfloat(x as f32) as u64,
            Element::F64 => x.to_bits(),
            _ => (x as f32).to_bits() as u64,
        };
        let is_float = !self.is_integer();
        let is_signed = matches!(self, Element::S32 | Element::S64);
        let result = match how {
            Reduction::Add if is_float => back(float(a) + float(b)),
            Reduction::Min if is_float => back(float(a).min(float(b))),
            Reduction::Max if is_float => back(float(a).max(float(b))),
            Reduction::Add => a.wrapping_add(b),
            Reduction::Min if is_signed => signed(a).min(signed(b)) as u64,
            Reduction::Max if is_signed => signed(a).max(signed(b)) as u64,
            Reduction::Min => a.min(b),
            Reduction::Max => a.max(b),
            Reduction::Inc => {
                if a >= b {
                    0
                } else {
                    a + 1
                }
            }
            Reduction::Dec => {
                if a == 0 || a > b {
                    b
                } else {
                    a - 1
                }
            }
            Reduction::And => a & b,
            Reduction::Or => a | b,
            Reduction::Xor => a ^ b,
        };
        result.to_le_bytes()
    }
}

/// A tensor in global memory and the tile that one copy moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    element: Element,
    address: u64,
    /// Elements, innermost dimension first.
    sizes: Vec<u64>,
    /// Bytes from one index to the next, of all dimensions but the innermost.
    strides: Vec<u64>,
    /// Elements of a tile.
    tile: Vec<u32>,
    /// Every how many elements one is taken; along the innermost dimension each is.
    steps: Vec<u32>,
    /// 0 none, 1 of 32 bytes, 2 of 64, 3 of 128, as `CUtensorMapSwizzle`.
    swizzle: u8,
    /// Elements outside are NaN rather than 0.
    fill_nan: bool,
}

/// One row of a tile along the innermost dimension.
pub(crate) struct Row {
    /// Of the first element that lies in the tensor.
    pub(crate) address: u64,
    /// Bytes that lie in the tensor, and before and after them those that do not.
    pub(crate) bytes: u64,
    pub(crate) skipped: u64,
    pub(crate) missing: u64,
    /// Offset in shared memory, before swizzling.
    pub(crate) shared: u64,
}

const MAGIC: u32 = 0x5443_4d01;

impl TensorMap {
    /// A map of `sizes.len()` dimensions, 1 to 5; `strides` has one fewer.
    ///
    /// # Errors
    /// What is wrong with the arguments, as `cuTensorMapEncodeTiled` would refuse them.
    #[expect(clippy::too_many_arguments, reason = "those of cuTensorMapEncodeTiled")]
    pub fn tiled(
        element: Element,
        address: u64,
        sizes: &[u64],
        strides: &[u64],
        tile: &[u32],
        steps: &[u32],
        swizzle: u8,
        fill_nan: bool,
    ) -> Result<TensorMap, String> {
        let rank = sizes.len();
        if !(1..=5).contains(&rank) || strides.len() + 1 != rank || tile.len() != rank || steps.len() != rank {
            return Err(format!(
                "{rank} dimensions with {} strides, {} sizes of a tile and {} steps",
                strides.len(),
                tile.len(),
                steps.len()
            ));
        }
        if !address.is_multiple_of(16) {
            return Err(format!("the tensor's address {address:#x} is not a multiple of 16"));
        }
        if let Some(size) = sizes.iter().find(|&&size| size == 0 || size > 1 << 32) {
            return Err(format!("a dimension of {size} elements; expected 1 to 2^32"));
        }
        if let Some(stride) = strides.iter().find(|&&stride| stride % 16 != 0 || stride >= 1 << 40) {
            return Err(format!("a stride of {stride} bytes; expected a multiple of 16 below 2^40"));
        }
        if let Some(size) = tile.iter().find(|&&size| size == 0 || size > 256) {
            return Err(format!("a tile of {size} elements along a dimension; expected 1 to 256"));
        }
        if let Some(step) = steps.iter().find(|&&step| step == 0 || step > 8) {
            return Err(format!("a step of {step} elements; expected 1 to 8"));
        }
        if fill_nan && element.is_integer() {
            return Err(format!("elements outside of a tensor of {element:?} cannot be NaN"));
        }
        let inner = tile[0] as usize * element.bytes();
        let span = [usize::MAX, 32, 64, 128].get(swizzle as usize).copied().ok_or(format!("swizzle {swizzle}"))?;
        if !inner.is_multiple_of(16) || inner > span {
            return Err(format!(
                "a row of a tile has {inner} bytes; expected a multiple of 16, at most the swizzle's span"
            ));
        }
        let (sizes, strides, tile, mut steps) = (sizes.to_vec(), strides.to_vec(), tile.to_vec(), steps.to_vec());
        // Hardware has none along this dimension and does not look at what is asked for.
        steps[0] = 1;
        Ok(TensorMap { element, address, sizes, strides, tile, steps, swizzle, fill_nan })
    }

    /// The 128 bytes of a `CUtensorMap`.
    pub fn pack(&self) -> [u8; 128] {
        let mut out = Vec::with_capacity(128);
        out.extend(MAGIC.to_le_bytes());
        out.extend([self.element as u8, self.sizes.len() as u8, self.swizzle, self.fill_nan as u8]);
        out.extend(self.address.to_le_bytes());
        let pad =
            |values: &[u64], count: usize| (0..count).map(|i| values.get(i).copied().unwrap_or(0)).collect::<Vec<_>>();
        // A size of 2^32 is kept as one less.
        pad(&self.sizes, 5).iter().for_each(|&size| out.extend((size.saturating_sub(1) as u32).to_le_bytes()));
        pad(&self.strides, 4).iter().for_each(|stride| out.extend(stride.to_le_bytes()));
        for i in 0..5 {
            out.extend((self.tile.get(i).copied().unwrap_or(0) as u16).to_le_bytes());
            out.push(self.steps.get(i).copied().unwrap_or(0) as u8);
        }
        out.resize(128, 0);
        out.try_into().unwrap_or([0; 128])
    }

    /// The map in 128 bytes; none if they were not written by [`TensorMap::pack`].
    pub fn unpack(bytes: &[u8]) -> Option<TensorMap> {
        let number = |at: usize, count: usize| {
            bytes.get(at..at + count).map(|part| part.iter().rev().fold(0u64, |n, &byte| n << 8 | byte as u64))
        };
        if number(0, 4)? != MAGIC as u64 {
            return None;
        }
        let rank = number(5, 1)? as usize;
        let all = |count: usize, f: &dyn Fn(usize) -> Option<u64>| (0..count).map(f).collect::<Option<Vec<u64>>>();
        let narrow = |values: Vec<u64>| values.into_iter().map(|value| value as u32).collect();
        Some(TensorMap {
            element: Element::from_number(number(4, 1)? as u32)?,
            swizzle: number(6, 1)? as u8,
            fill_nan: number(7, 1)? != 0,
            address: number(8, 8)?,
            sizes: all(rank, &|i| Some(number(16 + 4 * i, 4)? + 1))?,
            strides: all(rank.checked_sub(1)?, &|i| number(36 + 8 * i, 8))?,
            tile: narrow(all(rank, &|i| number(68 + 3 * i, 2))?),
            steps: narrow(all(rank, &|i| number(70 + 3 * i, 1))?),
        })
    }

    /// The same map of a tensor that lies elsewhere.
    ///
    /// # Errors
    /// The address is no multiple of 16.
    pub fn at(self, address: u64) -> Result<TensorMap, String> {
        if !address.is_multiple_of(16) {
            return Err(format!("the tensor's address {address:#x} is not a multiple of 16"));
        }
        Ok(TensorMap { address, ..self })
    }

    pub(crate) fn rank(&self) -> usize {
        self.sizes.len()
    }

    pub(crate) fn element(&self) -> Element {
        self.element
    }

    /// Elements that a tile has along a dimension.
    fn count(&self, dimension: usize) -> u64 {
        self.tile[dimension].div_ceil(self.steps[dimension]) as u64
    }

    pub(crate) fn tile_bytes(&self) -> u64 {
        (0..self.rank()).map(|d| self.count(d)).product::<u64>() * self.element.bytes() as u64
    }

    /// Of a swizzled tile whose rows are narrower than the swizzle's span, the bytes of both.
    pub(crate) fn narrower_than_its_span(&self) -> Option<(u64, u64)> {
        let (row, span) = (self.count(0) * self.element.bytes() as u64, 16 << self.swizzle);
        (self.swizzle != 0 && row < span).then_some((row, span))
    }

    /// Bytes for elements outside the tensor.
    pub(crate) fn fill(&self, bytes: usize) -> Vec<u8> {
        let pattern: Vec<u8> = match (self.fill_nan, self.element) {
            (false, element) => vec![0; element.bytes()],
            (true, Element::F16 | Element::Bf16) => 0x7fffu16.to_le_bytes().to_vec(),
            (true, Element::F64) => f64::NAN.to_bits().to_le_bytes().to_vec(),
            (true, element) => 0x7fff_ffffu32.to_le_bytes()[..element.bytes().min(4)].to_vec(),
        };
        pattern.into_iter().cycle().take(bytes).collect()
    }

    /// The rows of the tile that begins at these coordinates, and lies at an offset of shared memory.
    pub(crate) fn rows(&self, start: &[i64], shared: u64) -> Vec<Row> {
        let (rank, size) = (self.rank(), self.element.bytes() as u64);
        let (along, first) = (self.count(0), start[0]);
        let mut rows = Vec::new();
        for index in 0..(1..rank).map(|d| self.count(d)).product::<u64>() {
            let (mut rest, mut inside, mut address) = (index, true, self.address);
            for (d, &first) in start.iter().enumerate().skip(1) {
                let at = first + (rest % self.count(d) * self.steps[d] as u64) as i64;
                rest /= self.count(d);
                inside &= at >= 0 && (at as u64) < self.sizes[d];
                address = address.wrapping_add_signed(at.wrapping_mul(self.strides[d - 1] as i64));
            }
            let end = first + along as i64;
            let (low, high) = (first.clamp(0, self.sizes[0] as i64), end.clamp(0, self.sizes[0] as i64));
            let bytes = if inside { (high - low).max(0) as u64 * size } else { 0 };
            let skipped = if bytes == 0 { 0 } else { (low - first) as u64 * size };
            rows.push(Row {
                address: address.wrapping_add(low as u64 * size),
                bytes,
                skipped,
                missing: along * size - bytes - skipped,
                shared: shared + index * along * size,
            });
        }
        rows
    }

    /// Where a byte of the tile lies once swizzled: pieces of 16 bytes change places.
    fn swizzle(&self, offset: u64) -> u64 {
        let bits = [0, 1, 3, 7][self.swizzle as usize & 3];
        offset ^ (offset >> 7 & bits) << 4
    }

    /// Where `bytes` bytes from an offset lie once swizzled, piece by piece.
    pub(crate) fn swizzled_places(&self, offset: u64, bytes: u64) -> Vec<(u64, u64)> {
        if self.swizzle == 0 {
            return vec![(offset, bytes)];
        }
        let end = offset + bytes;
        let mut places = Vec::new();
        let mut at = offset;
        while at < end {
            let next = (at / 16 * 16 + 16).min(end);
            places.push((self.swizzle(at), next - at));
            at = next;
        }
        places
    }

    /// Data for an offset, cut to where its pieces lie.
    pub(crate) fn swizzled(&self, offset: u64, data: Vec<u8>) -> Vec<(u64, Vec<u8>)> {
        let mut rest = data.as_slice();
        let places = self.swizzled_places(offset, data.len() as u64).into_iter();
        places
            .map(|(at, count)| {
                let (piece, tail) = rest.split_at(count as usize);
                rest = tail;
                (at, piece.to_vec())
            })
            .collect()
    }
}
