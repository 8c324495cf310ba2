//! What the compiler emits, whole: ordinary Rust run here and on the host, with the same bits expected.
//!
//! `ptx/*.ptx` are outputs of rustc's NVPTX backend for sm_80; `ptx/language.rs` is the source of the larger one.

mod common;
use common::*;
use proptest::prelude::*;
use softcuda::{AllocationReads, Module};

const ADD: &str = include_str!("ptx/add.ptx");
const LANGUAGE: &str = include_str!("ptx/language.ptx");

#[path = "ptx/language.rs"]
#[allow(clippy::all, reason = "written to exercise the compiler")]
mod language;

#[test]
fn vector_addition() {
    for (threads, wide) in [(1, true), (2, true), (1, false)] {
        let device = device(threads, wide);
        let n = 1000u32;
        let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let y: Vec<f32> = (0..n).map(|i| 0.5 * i as f32).collect();
        let (dx, dy) = (upload(&device, &x), upload(&device, &y));
        let kernel = kernel(&device, ADD);
        assert_eq!(
            kernel.param_layout().iter().map(|p| (p.offset, p.size)).collect::<Vec<_>>(),
            [(0, 8), (8, 8), (16, 4)]
        );
        let mut params = pack(&[dx, dy]);
        params.extend(n.to_le_bytes());
        device.set_sanitizer(!wide);
        device.set_recording(true);
        let counters = device.launch(&kernel, &launch(4, 256), &params).unwrap();
        let got = download::<f32>(&device, dy, n as usize);
        assert!((0..n as usize).all(|i| got[i] == 1.5 * i as f32));
        assert_eq!(counters.global_load_bytes, 2 * 4 * n as u64);
        assert_eq!(counters.global_store_sectors, (4 * n as u64).div_ceil(32));
        let reads = [dx, dy].map(|address| AllocationReads { address, sectors: (4 * n as u64).div_ceil(32) });
        assert_eq!(device.records()[0].reads, reads);
        // 1000 is in the middle of a warp, the only one that diverges.
        assert_eq!(counters.divergent_branches, 1);
    }
}

#[test]
fn ordinary_rust_gives_the_same_bits() {
    let operand = || {
        prop_oneof![
            any::<u32>(),
            0u32..200,
            any::<f32>().prop_map(f32::to_bits),
            (-300f32..300.0).prop_map(f32::to_bits)
        ]
    };
    let column = || prop::collection::vec(operand(), 64);
    let module = Module::from_ptx(LANGUAGE).unwrap_or_else(|e| panic!("{e}"));
    for wide in [true, false] {
        let device = device(1, wide);
        let loaded = device.load(&module).unwrap();
        device.set_sanitizer(true);
        let buffers = [device.alloc(256).unwrap(), device.alloc(256).unwrap(), device.alloc(512).unwrap()];
        proptest!(ProptestConfig::with_cases(32), |(v in column(), w in column())| {
            for (column, at) in [&v, &w].into_iter().zip(buffers) {
                device.write(at, &column.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
            }
            let run = |name: &str| {
                device.launch(&loaded.kernel(name).unwrap(), &launch(2, 32), &pack(&buffers)).unwrap_or_else(|f| panic!("{f}"));
                download::<u64>(&device, buffers[2], 64)
            };
            let (integers, conversions, floats) = (run("integers"), run("conversions"), run("floats"));
            for l in 0..64 {
                prop_assert_eq!(integers[l], language::integers(v[l], w[l]), "integers {:#x} {:#x}", v[l], w[l]);
                let (x, y) = (f32::from_bits(v[l]), f32::from_bits(w[l]));
                prop_assert_eq!(conversions[l], language::conversions(x), "conversions {}", x);
                let (got, want) = (f32::from_bits(floats[l] as u32), language::floats(x, y));
                prop_assert!(got == want || (got.is_nan() && want.is_nan()), "floats {} {}: {}, expected {}", x, y, got, want);
            }
        });
    }
}
