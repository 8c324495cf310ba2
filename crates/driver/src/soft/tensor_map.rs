//! Tensor maps.

use std::ffi::{c_uint, c_void};

use softcuda::{Element, TensorMap};

use super::{Failure, Outcome};
use crate::sys::{CUDA_ERROR_NOT_SUPPORTED, CUtensorMap};

/// What the driver API numbers beyond those that softcuda has.
const ELEMENTS: c_uint = 16;
const SWIZZLES: c_uint = 7;
const INTERLEAVES: c_uint = 3;
const PROMOTIONS: c_uint = 4;

fn unsupported(text: String) -> Failure {
    Failure::new(CUDA_ERROR_NOT_SUPPORTED, text)
}

/// Values of a list that the caller passes by its address.
///
/// # Safety
/// - The list is null or holds `count` values.
unsafe fn list<T: Copy>(values: *const T, count: usize, name: &str) -> Result<Vec<T>, Failure> {
    if values.is_null() && count > 0 {
        return Err(Failure::invalid_value(format!("{name} is a null pointer")));
    }
    // SAFETY: the caller's promise; the alignment is not promised.
    Ok((0..count).map(|i| unsafe { values.add(i).read_unaligned() }).collect())
}

/// # Safety
/// - `map` is null or can be read and written.
unsafe fn checked(map: *mut CUtensorMap) -> Result<*mut CUtensorMap, Failure> {
    if map.is_null() || !map.addr().is_multiple_of(64) {
        return Err(Failure::invalid_value(format!(
            "the tensor map is at {map:p}; expected a multiple of 64 that is not 0"
        )));
    }
    Ok(map)
}

/// # Safety
/// - `map` is null or valid for a write; the lists are null or hold `rank` values, `strides` one fewer.
#[expect(clippy::too_many_arguments, reason = "those of cuTensorMapEncodeTiled")]
pub(crate) unsafe fn encode_tiled(
    map: *mut CUtensorMap,
    element: c_uint,
    rank: c_uint,
    address: *mut c_void,
    sizes: *const u64,
    strides: *const u64,
    tile: *const c_uint,
    steps: *const c_uint,
    interleave: c_uint,
    swizzle: c_uint,
    promotion: c_uint,
    fill: c_uint,
) -> Outcome {
    // SAFETY: the caller's promise.
    let map = unsafe { checked(map) }?;
    if !(1..=5).contains(&rank) {
        return Err(Failure::invalid_value(format!("a tensor of {rank} dimensions; expected 1 to 5")));
    }
    for (name, value, count) in [
        ("element type", element, ELEMENTS),
        ("interleave", interleave, INTERLEAVES),
        ("swizzle", swizzle, SWIZZLES),
        ("promotion to L2", promotion, PROMOTIONS),
        ("fill", fill, 2),
    ] {
        if value >= count {
            return Err(Failure::invalid_value(format!("{name} {value}; expected less than {count}")));
        }
    }
    let Some(element) = Element::from_number(element) else {
        return Err(unsupported(format!("elements of less than a byte (type {element})")));
    };
    if interleave != 0 {
        return Err(unsupported(format!("interleave {interleave}; softcuda has none only")));
    }
    if swizzle > 3 {
        return Err(unsupported(format!("swizzle {swizzle}, which swaps other pieces than those of 16 bytes")));
    }
    let rank = rank as usize;
    // SAFETY: the caller's promise.
    let (sizes, strides, tile, steps) = unsafe {
        (
            list(sizes, rank, "globalDim")?,
            list(strides, rank - 1, "globalStrides")?,
            list(tile, rank, "boxDim")?,
            list(steps, rank, "elementStrides")?,
        )
    };
    let made =
        TensorMap::tiled(element, address.addr() as u64, &sizes, &strides, &tile, &steps, swizzle as u8, fill == 1);
    // SAFETY: not null, aligned, and the caller promises the rest.
    unsafe { map.write(CUtensorMap::from_bytes(made.map_err(Failure::invalid_value)?.pack())) };
    Ok(())
}

/// # Safety
/// - `map` is null or a tensor map.
pub(crate) unsafe fn replace_address(map: *mut CUtensorMap, address: *mut c_void) -> Outcome {
    // SAFETY: the caller's promise.
    let map = unsafe { checked(map) }?;
    // SAFETY: as above.
    let known = TensorMap::unpack(&unsafe { map.read() }.to_bytes())
        .ok_or_else(|| Failure::invalid_value("the 128 bytes are no tensor map"))?;
    let moved = known.at(address.addr() as u64).map_err(Failure::invalid_value)?;
    // SAFETY: as above.
    unsafe { map.write(CUtensorMap::from_bytes(moved.pack())) };
    Ok(())
}
