//! Tensor maps: what the driver refuses, and what a kernel reads by those that it makes.

mod common;

use std::ptr;

use common::turn_on;
use driver::DeviceChoice;
use driver::sys::*;

/// The arguments of `cuTensorMapEncodeTiled`.
#[derive(Clone)]
struct Arguments {
    element: u32,
    rank: u32,
    address: u64,
    sizes: Vec<u64>,
    strides: Vec<u64>,
    tile: Vec<u32>,
    steps: Vec<u32>,
    interleave: u32,
    swizzle: u32,
    promotion: u32,
    fill: u32,
}

const FLOAT32: u32 = 7;

impl Arguments {
    fn good() -> Arguments {
        Arguments {
            element: FLOAT32,
            rank: 3,
            address: 1 << 20,
            sizes: vec![100, 50, 3],
            strides: vec![416, 20800],
            tile: vec![32, 8, 2],
            steps: vec![1, 1, 1],
            interleave: 0,
            swizzle: 3,
            promotion: 2,
            fill: 1,
        }
    }

    fn encode(&self) -> (CUresult, CUtensorMap) {
        let mut map = CUtensorMap { opaque: [0; 16] };
        // SAFETY: the map is written; the lists are as long as the rank says, where it is one.
        let result = unsafe {
            cuTensorMapEncodeTiled(
                &mut map,
                self.element,
                self.rank,
                ptr::without_provenance_mut(self.address as usize),
                self.sizes.as_ptr(),
                self.strides.as_ptr(),
                self.tile.as_ptr(),
                self.steps.as_ptr(),
                self.interleave,
                self.swizzle,
                self.promotion,
                self.fill,
            )
        };
        (result, map)
    }
}

#[test]
fn what_no_tensor_map_can_be_is_refused_in_words() {
    let _turn = turn_on(DeviceChoice::Soft);
    assert_eq!(Arguments::good().encode().0, CUDA_SUCCESS, "{:?}", driver::last_error());
    type Change = fn(&mut Arguments);
    let invalid: &[(&str, Change)] = &[
        ("0 dimensions", |a| a.rank = 0),
        ("6 dimensions", |a| a.rank = 6),
        ("is not a multiple of 16", |a| a.address += 8),
        ("a dimension of 0", |a| a.sizes[1] = 0),
        ("a dimension of 4294967297", |a| a.sizes[2] = (1 << 32) + 1),
        ("a stride of 408", |a| a.strides[0] = 408),
        ("a stride of 1099511627776", |a| a.strides[1] = 1 << 40),
        ("a tile of 257", |a| a.tile[1] = 257),
        ("a tile of 0", |a| a.tile[2] = 0),
        ("a step of 9", |a| a.steps[1] = 9),
        ("a step of 0", |a| a.steps[1] = 0),
        ("a row of a tile has 120 bytes", |a| a.tile[0] = 30),
        ("a row of a tile has 128 bytes", |a| a.swizzle = 2),
        ("element type 16", |a| a.element = 16),
        ("interleave 3", |a| a.interleave = 3),
        ("swizzle 7", |a| a.swizzle = 7),
        ("promotion to L2 4", |a| a.promotion = 4),
        ("fill 2", |a| a.fill = 2),
        ("cannot be NaN", |a| a.element = 3),
    ];
    let unsupported: &[(&str, Change)] = &[
        ("less than a byte", |a| a.element = 13),
        ("interleave 1", |a| a.interleave = 1),
        ("swizzle 4", |a| a.swizzle = 4),
    ];
    let all = invalid.iter().map(|case| (case, CUDA_ERROR_INVALID_VALUE));
    let all = all.chain(unsupported.iter().map(|case| (case, CUDA_ERROR_NOT_SUPPORTED)));
    for (&(words, change), expected) in all {
        let mut arguments = Arguments::good();
        change(&mut arguments);
        let (result, map) = arguments.encode();
        let text = driver::last_error().unwrap_or_default();
        assert!(result == expected && text.contains(words), "{words}: {result:?}: {text}");
        assert_eq!(map.opaque, [0; 16], "{words}: the map was written");
    }
    // Each of these is allowed.
    let allowed: &[Change] = &[
        |a| a.sizes[2] = 1 << 32,
        |a| a.strides[1] = (1 << 40) - 16,
        |a| a.tile[1] = 256,
        |a| a.steps[1] = 8,
        // Along the innermost dimension every element is taken.
        |a| a.steps[0] = 2,
        |a| (a.swizzle, a.tile[0]) = (0, 256),
    ];
    for (number, change) in allowed.iter().enumerate() {
        let mut arguments = Arguments::good();
        change(&mut arguments);
        assert_eq!(arguments.encode().0, CUDA_SUCCESS, "{number}: {:?}", driver::last_error());
    }
    // SAFETY: nothing is read or written where a pointer is null or askew.
    unsafe {
        let (sizes, tile, one) = ([64u64], [64u32], [1u32]);
        let mut map = CUtensorMap { opaque: [0; 16] };
        // A tensor of one dimension needs no strides.
        let encode = |map, sizes: *const u64| {
            let (null, tile, one) = (ptr::null_mut(), tile.as_ptr(), one.as_ptr());
            cuTensorMapEncodeTiled(map, FLOAT32, 1, null, sizes, ptr::null(), tile, one, 0, 0, 0, 0)
        };
        assert_eq!(encode(&mut map, sizes.as_ptr()), CUDA_SUCCESS, "{:?}", driver::last_error());
        assert_eq!(encode(ptr::null_mut(), sizes.as_ptr()), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(encode((&raw mut map).byte_add(32), sizes.as_ptr()), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(encode(&mut map, ptr::null()), CUDA_ERROR_INVALID_VALUE);
    }
}

#[test]
fn a_map_is_moved_to_another_tensor() {
    let _turn = turn_on(DeviceChoice::Soft);
    let (_, mut map) = Arguments::good().encode();
    let (_, elsewhere) = Arguments { address: 3 << 20, ..Arguments::good() }.encode();
    // SAFETY: the map is one.
    unsafe {
        let address = |address: usize| ptr::without_provenance_mut(address);
        assert_eq!(cuTensorMapReplaceAddress(&mut map, address((3 << 20) + 8)), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(cuTensorMapReplaceAddress(&mut map, address(3 << 20)), CUDA_SUCCESS);
        assert_eq!(map, elsewhere);
        let mut nothing = CUtensorMap { opaque: [0; 16] };
        assert_eq!(cuTensorMapReplaceAddress(&mut nothing, address(3 << 20)), CUDA_ERROR_INVALID_VALUE);
        assert!(driver::last_error().is_some_and(|text| text.contains("are no tensor map")));
    }
}
