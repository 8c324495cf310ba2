//! Tensor maps over buffers, passed to a kernel.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cuda_std::tensor_map::{Descriptor, Swizzle, TensorMap};
use cuda_std::{Image, Kernel};
use half::f16;
use warp_test::{Device, Launch, TileElement, Tiles, gpu_test};

/// Carries the tile at (x, y) of a matrix to the same place of another; by the maps in parameters, or those at an address.
macro_rules! carries {
    () => {
        "    .shared .align 1024 .b8 tile[8192];
    .shared .align 8 .b8 came[8];
    .reg .pred %p;
    .reg .b32 %tile, %came;
    .reg .b64 %state;
    mov.u32 %tile, tile;
    mov.u32 %came, came;
    mbarrier.init.shared.b64 [%came], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared.b64 %state, [%came], %r1;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%tile], [%rd1, {%r2, %r3}], [%came];
WAIT:
    mbarrier.try_wait.parity.shared.b64 %p, [%came], 0;
    @!%p bra WAIT;
    cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd2, {%r2, %r3}], [%tile];
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
    ret;
"
    };
}

const PTX: &str = concat!(
    "
.version 8.0
.target sm_90
.address_size 64
.visible .entry carry(.param .align 64 .b8 from[128], .param .u32 bytes, .param .align 64 .b8 to[128], .param .u32 x, .param .u32 y) {
    .reg .b64 %rd<4>;
    mov.b64 %rd1, from;
    cvta.param.u64 %rd1, %rd1;
    mov.b64 %rd2, to;
    cvta.param.u64 %rd2, %rd2;
    .reg .b32 %r<4>;
    ld.param.u32 %r1, [bytes]; ld.param.u32 %r2, [x]; ld.param.u32 %r3, [y];
",
    carries!(),
    "}
.visible .entry carry_at(.param .u64 maps, .param .u32 bytes, .param .u32 x, .param .u32 y) {
    .reg .b64 %rd<4>;
    .reg .b32 %r<4>;
    ld.param.u64 %rd1, [maps];
    add.u64 %rd2, %rd1, 128;
    ld.param.u32 %r1, [bytes]; ld.param.u32 %r2, [x]; ld.param.u32 %r3, [y];
",
    carries!(),
    "}"
);

const IMAGE: Image = Image { crate_name: "carry", ptx: PTX };

#[allow(non_upper_case_globals)]
const carry: Kernel<(TensorMap, u32, TensorMap, i32, i32)> =
    Kernel::new("carry", &["from", "bytes", "to", "x", "y"]).in_image(IMAGE);

#[allow(non_upper_case_globals)]
const carry_at: Kernel<(*const Descriptor, u32, i32, i32)> =
    Kernel::new("carry_at", &["maps", "bytes", "x", "y"]).in_image(IMAGE);

/// Tiles of a matrix of 9 rows of 32, each 48 apart, come to the same places of another.
fn tile_arrives<T: TileElement + PartialEq + std::fmt::Debug>(
    device: &Device,
    value: impl Fn(u32) -> T,
    swizzle: Swizzle,
) {
    const ROWS: usize = 9;
    const PITCH: usize = 48;
    const COLUMNS: usize = 32;
    let wide = match swizzle {
        Swizzle::None => 32,
        swizzle => swizzle.span() / size_of::<T>() as u32,
    };
    let values: Vec<T> = (0..(ROWS * PITCH) as u32).map(&value).collect();
    let tiles = Tiles::new(&[COLUMNS as u64, ROWS as u64], &[wide, 4]).strides(&[PITCH as u64]).swizzle(swizzle);
    let (from, to) = (device.upload(&values), device.upload(&[value(7777); ROWS * PITCH]));
    let (source, target) = (from.tensor_map(&tiles), to.tensor_map(&tiles));
    let bytes = wide * 4 * size_of::<T>() as u32;
    for (x, y) in [(0, 0), (16, 7), (16, 3), (96, 2)] {
        to.write(&[value(7777); ROWS * PITCH]);
        // SAFETY: the maps are of matrices with tiles of so many bytes.
        unsafe { device.launch(carry, Launch::new(1, 1), (&source, bytes, &target, x, y)) };
        let check = || {
            for (i, found) in to.read().into_iter().enumerate() {
                let (row, column) = ((i / PITCH) as i32, (i % PITCH) as i32);
                let inside =
                    (x..x + wide as i32).contains(&column) && (y..y + 4).contains(&row) && column < COLUMNS as i32;
                assert_eq!(
                    found,
                    if inside { values[i] } else { value(7777) },
                    "({x}, {y}): row {row} column {column}"
                );
            }
        };
        check();
        let maps = device.upload(&[source.descriptor(), target.descriptor()]);
        to.write(&[value(7777); ROWS * PITCH]);
        // SAFETY: as above; the maps' buffers are there.
        unsafe { device.launch(carry_at, Launch::new(1, 1), (&maps, bytes, x, y)) };
        check();
    }
}

#[gpu_test(carry, carry_at)]
fn tiles_of_every_type_arrive(device: &Device) {
    tile_arrives(device, |i| i as u8, Swizzle::Bytes32);
    tile_arrives(device, |i| i as u16, Swizzle::None);
    tile_arrives(device, |i| i, Swizzle::Bytes64);
    tile_arrives(device, |i| i as i32 - 50, Swizzle::Bytes128);
    tile_arrives(device, |i| u64::from(i) << 40, Swizzle::None);
    tile_arrives(device, |i| -i64::from(i), Swizzle::Bytes128);
    tile_arrives(device, |i| f16::from_f32(i as f32), Swizzle::Bytes128);
    tile_arrives(device, |i| half::bf16::from_f32(i as f32), Swizzle::None);
    tile_arrives(device, |i| i as f32 / 3.0, Swizzle::None);
    tile_arrives(device, |i| f64::from(i) / 3.0, Swizzle::Bytes64);
}

#[test]
fn what_is_no_tensor_of_the_buffer_is_said() {
    let device = Device::soft();
    let buffer = device.alloc::<f32>(1000);
    let cases: [(Tiles, &str); 6] = [
        (Tiles::new(&[100, 11], &[4, 4]), "a tensor of 1100 elements, from first to last, in a buffer of 1000"),
        (Tiles::new(&[10, 3], &[4, 1]).strides(&[496]), "a tensor of 1002 elements"),
        (Tiles::new(&[10, 3], &[4, 1]), "a stride of 40 bytes"),
        (Tiles::new(&[12, 3], &[3, 1]), "a row of a tile has 12 bytes"),
        (Tiles::new(&[12, 3], &[4]), "2 dimensions, 1 strides, a tile of 1 dimensions"),
        (Tiles::new(&[12, 3], &[64, 1]).swizzle(Swizzle::Bytes128), "a row of a tile has 256 bytes"),
    ];
    for (tiles, words) in cases {
        let panic = catch_unwind(AssertUnwindSafe(|| buffer.tensor_map(&tiles))).expect_err(words);
        let text = panic.downcast_ref::<String>().expect("words");
        assert!(text.contains(words), "{words}: {text}");
    }
    drop(buffer);
}
