//! Copies that say neither from where nor to where, copies of rows and boxes, and fills of rows.

use std::ffi::{c_uchar, c_uint, c_ushort, c_void};
use std::ptr;

use softcuda::Device;

use super::work::{Pattern, Work};
use super::{Failure, Outcome, host, memory, stream};
use crate::sys::*;

/// The default stream, which the calls without a stream are for.
const LEGACY: CUstream = ptr::null_mut();

/// Planes of rows of bytes, in two places. Each place is a device's memory or the host's, which its address says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    to: Place,
    from: Place,
    /// Bytes of a row.
    width: usize,
    /// Rows of a plane.
    height: usize,
    planes: usize,
}

/// Where the first row begins, and how far the next row and plane are from there, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    address: u64,
    pitch: usize,
    plane: usize,
}

impl Place {
    fn row(&self, plane: usize, row: usize) -> u64 {
        self.address + (plane * self.plane + row * self.pitch) as u64
    }
}

impl Rows {
    fn line(to: u64, from: u64, bytes: usize) -> Rows {
        let place = |address| Place { address, pitch: 0, plane: 0 };
        Rows { to: place(to), from: place(from), width: bytes, height: 1, planes: 1 }
    }

    /// Copies row by row.
    ///
    /// # Safety
    /// - What lies on the host is valid for what is read or written there.
    pub unsafe fn run(&self) -> Outcome {
        for plane in 0..self.planes {
            for row in 0..self.height {
                // SAFETY: the caller's promise.
                unsafe { copy_now(self.to.row(plane, row), self.from.row(plane, row), self.width) }?;
            }
        }
        Ok(())
    }

    /// As [`Work::check_for_graph`].
    pub fn check_for_graph(&self) -> Outcome {
        for plane in 0..self.planes {
            for row in 0..self.height {
                for address in [self.to.row(plane, row), self.from.row(plane, row)] {
                    match Device::ordinal_of(address) {
                        Some(_) => memory::expect_on_device(address, self.width)?,
                        None => host::expect_page_locked(address as usize, self.width)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// # Safety
    /// - As for [`Rows::run`], now and, where the stream captures, whenever the graph is launched.
    unsafe fn submit(self, stream: CUstream) -> Outcome {
        // SAFETY: the caller's promise.
        unsafe { stream::submit(stream, Work::CopyRows(self)) }
    }
}

/// # Safety
/// - What lies on the host is valid for what is read or written there.
unsafe fn copy_now(to: u64, from: u64, bytes: usize) -> Outcome {
    let on_device = |address| Device::ordinal_of(address).is_some();
    let pointer = |address: u64| ptr::with_exposed_provenance_mut::<c_void>(address as usize);
    match (on_device(to), on_device(from)) {
        (true, true) => memory::copy_on_device_now(to, from, bytes),
        // SAFETY: the caller's promise for what is not a device's.
        (true, false) => unsafe { memory::copy_to_device(to, pointer(from), bytes) },
        // SAFETY: as above.
        (false, true) => unsafe { memory::copy_to_host(pointer(to), from, bytes) },
        (false, false) if bytes == 0 => Ok(()),
        (false, false) if to == 0 || from == 0 => Err(Failure::invalid_value("an address of the copy is null")),
        (false, false) => {
            // SAFETY: as above; `copy` allows overlap.
            unsafe { ptr::copy(pointer(from).cast::<u8>(), pointer(to).cast::<u8>(), bytes) };
            Ok(())
        }
    }
}

pub(crate) unsafe fn copy(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { copy_async(to, from, bytes, LEGACY) }
}

pub(crate) unsafe fn copy_async(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { Rows::line(to, from, bytes).submit(stream) }
}

/// The first row of one side of a copy, from what its structure says.
fn place(
    kind: c_uint,
    on_host: *const c_void,
    on_device: CUdeviceptr,
    [x, y, z]: [usize; 3],
    pitch: usize,
    height: usize,
) -> Result<Place, Failure> {
    const HOST: c_uint = 1;
    const DEVICE: c_uint = 2;
    const ARRAY: c_uint = 3;
    const UNIFIED: c_uint = 4;
    let start = match kind {
        HOST => on_host.addr() as u64,
        DEVICE | UNIFIED => on_device,
        ARRAY => return Err(Failure::new(CUDA_ERROR_NOT_SUPPORTED, "softcuda has no CUDA arrays")),
        _ => return Err(Failure::invalid_value(format!("memory type {kind}; expected 1, 2 or 4"))),
    };
    let too_far = || Failure::invalid_value("the copy's offsets are larger than memory");
    let plane = pitch.checked_mul(height).ok_or_else(too_far)?;
    let offset = z.checked_mul(plane).zip(y.checked_mul(pitch)).and_then(|(z, y)| z.checked_add(y)?.checked_add(x));
    let address = offset.and_then(|offset| start.checked_add(offset as u64)).ok_or_else(too_far)?;
    Ok(Place { address, pitch, plane })
}

/// A structure that the caller gives.
///
/// # Safety
/// - `from` is null or valid for a read.
unsafe fn read<T: Copy>(from: *const T) -> Result<T, Failure> {
    match from.is_null() {
        true => Err(Failure::invalid_value("the pointer to the copy's description is null")),
        // SAFETY: not null; the caller promises the rest.
        false => Ok(unsafe { from.read_unaligned() }),
    }
}

/// Refuses rows that would overlap.
fn check_pitch(place: &Place, width: usize, height: usize, planes: usize) -> Outcome {
    if (height > 1 && place.pitch < width) || (planes > 1 && place.plane < place.pitch * height) {
        return Err(Failure::invalid_value(format!(
            "rows {} bytes apart and planes {} bytes apart, for {height} rows of {width} bytes",
            place.pitch, place.plane
        )));
    }
    Ok(())
}

pub(crate) unsafe fn rows(copy: *const CUDA_MEMCPY2D) -> Outcome {
    // SAFETY: the caller's structure.
    unsafe { rows_async(copy, LEGACY) }
}

pub(crate) unsafe fn rows_async(copy: *const CUDA_MEMCPY2D, stream: CUstream) -> Outcome {
    // SAFETY: the caller's structure.
    let copy = unsafe { read(copy) }?;
    let (width, height) = (copy.WidthInBytes, copy.Height);
    let (from, to) = (copy.src, copy.dst);
    // A pitch of 0 stands for rows without a gap.
    let pitch = |given: usize| if given == 0 { width } else { given };
    let from = place(from.memoryType, from.host, from.device, [from.xInBytes, from.y, 0], pitch(from.pitch), height)?;
    let to = place(to.memoryType, to.host, to.device, [to.xInBytes, to.y, 0], pitch(to.pitch), height)?;
    for place in [&from, &to] {
        check_pitch(place, width, height, 1)?;
    }
    // SAFETY: the caller's promise.
    unsafe { Rows { to, from, width, height, planes: 1 }.submit(stream) }
}

pub(crate) unsafe fn planes(copy: *const CUDA_MEMCPY3D) -> Outcome {
    // SAFETY: the caller's structure.
    unsafe { planes_async(copy, LEGACY) }
}

/// The structure of a copy between devices is the same, with contexts, which the addresses make superfluous.
pub(crate) unsafe fn planes_async(copy: *const CUDA_MEMCPY3D, stream: CUstream) -> Outcome {
    // SAFETY: the caller's structure.
    let copy = unsafe { read(copy) }?;
    let (width, height, planes) = (copy.WidthInBytes, copy.Height, copy.Depth);
    let place = |side: CUDA_MEMCPY3D_SIDE| {
        let pitch = if side.pitch == 0 { width } else { side.pitch };
        let rows = if side.height == 0 { height } else { side.height };
        let place = place(side.memoryType, side.host, side.device, [side.xInBytes, side.y, side.z], pitch, rows)?;
        check_pitch(&place, width, height, planes)?;
        Ok::<Place, Failure>(place)
    };
    let (from, to) = (place(copy.src)?, place(copy.dst)?);
    // SAFETY: the caller's promise.
    unsafe { Rows { to, from, width, height, planes }.submit(stream) }
}

/// Rows of values to be written.
#[derive(Clone, Copy)]
pub(crate) struct Fill {
    address: CUdeviceptr,
    pitch: usize,
    pattern: Pattern,
    width: usize,
    height: usize,
}

impl Fill {
    fn row(&self, row: usize) -> CUdeviceptr {
        self.address + (row * self.pitch) as u64
    }

    /// Fills row by row.
    pub fn run(&self) -> Outcome {
        (0..self.height).try_for_each(|row| memory::fill(self.row(row), self.pattern, self.width))
    }

    /// As [`Work::check_for_graph`].
    pub fn check_for_graph(&self) -> Outcome {
        let bytes = self.width.saturating_mul(self.pattern.width());
        (0..self.height).try_for_each(|row| memory::expect_on_device(self.row(row), bytes))
    }

    fn submit(self, stream: CUstream) -> Outcome {
        let bytes = self.width.saturating_mul(self.pattern.width());
        if self.height > 1 && self.pitch < bytes {
            let text = format!("rows {} bytes apart, for {} rows of {bytes} bytes", self.pitch, self.height);
            return Err(Failure::invalid_value(text));
        }
        // SAFETY: no host memory is touched but what is mapped.
        unsafe { stream::submit(stream, Work::FillRows(self)) }
    }
}

macro_rules! fills {
    ($($name:ident, $name_async:ident, $value:ty, $pattern:expr;)*) => {$(
        pub(crate) fn $name(
            address: CUdeviceptr,
            pitch: usize,
            value: $value,
            width: usize,
            height: usize,
        ) -> Outcome {
            $name_async(address, pitch, value, width, height, LEGACY)
        }

        pub(crate) fn $name_async(
            address: CUdeviceptr,
            pitch: usize,
            value: $value,
            width: usize,
            height: usize,
            stream: CUstream,
        ) -> Outcome {
            Fill { address, pitch, pattern: $pattern(value.to_le_bytes()), width, height }.submit(stream)
        }
    )*};
}

fills! {
    fill_rows_8, fill_rows_8_async, c_uchar, Pattern::Bytes1;
    fill_rows_16, fill_rows_16_async, c_ushort, Pattern::Bytes2;
    fill_rows_32, fill_rows_32_async, c_uint, Pattern::Bytes4;
}
