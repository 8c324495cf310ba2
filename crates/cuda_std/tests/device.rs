//! What cuda_std has, compiled for the device and run on softcuda, against the same in plain Rust.

use cuda_builder::{CudaBuilder, NvvmArch};
use softcuda::{Device, DeviceConfig, FaultKind, Launch, LoadedModule, Module};
use std::sync::{Arc, LazyLock, Mutex};

mod tiles;

struct Soft {
    device: Device,
    module: LoadedModule,
    printed: Arc<Mutex<String>>,
}

/// The PTX of the device crate.
fn ptx(arch: NvvmArch) -> String {
    let out = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("device.{}.ptx", arch.target_cpu()));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/device");
    CudaBuilder::new(source).arch(arch).copy_to(&out).build().unwrap_or_else(|e| panic!("{e}"));
    std::fs::read_to_string(out).unwrap()
}

impl Soft {
    fn new() -> Soft {
        static TEXT: LazyLock<String> = LazyLock::new(|| ptx(NvvmArch::Compute90a));
        let text = &*TEXT;
        let module = Module::from_ptx(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(module.unknown_instructions(), []);
        // What waits in vain is found at once.
        let instruction_limit = 1 << 20;
        let config = DeviceConfig { total_memory: 1 << 24, threads: 1, instruction_limit, ..DeviceConfig::default() };
        let device = Device::new(config);
        device.set_sanitizer(true);
        let printed = Arc::new(Mutex::new(String::new()));
        let sink = printed.clone();
        device.set_output(move |text| sink.lock().unwrap().push_str(text));
        let module = device.load(&module).unwrap();
        Soft { device, module, printed }
    }

    fn put(&self, words: &[u32]) -> u64 {
        let address = self.device.alloc(4 * words.len()).unwrap();
        self.device.write(address, &words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>()).unwrap();
        address
    }

    fn get(&self, address: u64, count: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * count];
        self.device.read(address, &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn launch(&self, kernel: &str, launch: Launch, arguments: &[u64]) -> Result<(), softcuda::Fault> {
        self.launch_clusters(kernel, launch, [1; 3], arguments)
    }

    fn launch_clusters(
        &self,
        kernel: &str,
        launch: Launch,
        cluster: [u32; 3],
        arguments: &[u64],
    ) -> Result<(), softcuda::Fault> {
        let arguments: Vec<Vec<u8>> = arguments.iter().map(|argument| argument.to_le_bytes().to_vec()).collect();
        self.launch_with(kernel, launch, cluster, &arguments)
    }

    /// With the bytes of each argument.
    fn launch_with(
        &self,
        kernel: &str,
        launch: Launch,
        cluster: [u32; 3],
        arguments: &[Vec<u8>],
    ) -> Result<(), softcuda::Fault> {
        let kernel = self.module.kernel(kernel).expect("the kernel");
        let mut params = vec![0u8; kernel.param_bytes()];
        for (param, argument) in kernel.param_layout().iter().zip(arguments) {
            params[param.offset..param.offset + param.size].copy_from_slice(&argument[..param.size]);
        }
        self.device.launch_clusters(&kernel, &launch, cluster, &params).map(|_| ())
    }
}

fn shape(blocks: u32, block: [u32; 3]) -> Launch {
    Launch { grid: [blocks, 1, 1], block, dynamic_shared: 0, cooperative: false, early: false }
}

#[test]
fn what_a_kernel_author_reaches_for() {
    let soft = Soft::new();
    let x: Vec<u32> = (0..32u32).map(|i| i * 37 % 100).collect();
    let (dx, dy) = (soft.put(&x), soft.put(&[0; 14 * 32]));
    soft.launch("warps", shape(1, [32, 1, 1]), &[dx, dy]).unwrap();
    let y = soft.get(dy, 14 * 32);
    let mask = |is: &dyn Fn(u32) -> bool| (0..32).fold(0u32, |m, l| m | (is(x[l]) as u32) << l);
    for l in 0..32usize {
        let expected = [
            x[5],
            x[l ^ 3],
            if l >= 2 { x[l - 2] } else { x[l] },
            if l < 28 { x[l + 4] } else { x[l] },
            mask(&|v| v & 1 != 0),
            x.iter().any(|&v| v > 90) as u32 + 2,
            mask(&|v| v & 7 == x[l] & 7),
            x.iter().sum(),
            *x.iter().min().unwrap(),
            *x.iter().max().unwrap(),
            50 - x.iter().min().unwrap(),
            x.iter().fold(0, |a, b| a ^ b),
            x[9] << 1,
            0,
        ];
        assert_eq!(y[14 * l..14 * l + 14], expected, "lane {l}");
    }

    let big = f32::MAX.to_bits();
    let (counts, sums) = (soft.put(&[0; 3]), soft.put(&[0, big, big | 1 << 31]));
    let wide = soft.put(&[0; 2]);
    soft.launch("atomics", shape(1, [8, 2, 4]), &[counts, sums, wide]).unwrap();
    assert_eq!(soft.get(counts, 3), [128, 63, u32::MAX]);
    assert_eq!(soft.get(sums, 3).into_iter().map(f32::from_bits).collect::<Vec<_>>(), [16.0, -3.0, 28.5]);
    assert_eq!(soft.get(wide, 2), [0, 64 << 8]);

    let out = soft.put(&[0; 2]);
    let arguments = [200, -3i8 as u8 as u64, 60000, -500i16 as u16 as u64, -7i64 as u64, 0.5f64.to_bits(), out];
    soft.launch("parameters", shape(1, [1, 1, 1]), &arguments).unwrap();
    let bits = soft.get(out, 2);
    let expected = 200.0 - 6.0 + 180_000.0 - 2000.0 - 7.0 + 0.5;
    assert_eq!(f64::from_bits(bits[0] as u64 | (bits[1] as u64) << 32), expected);

    soft.launch("prints", shape(1, [32, 1, 1]), &[2, 1.25f32.to_bits() as u64, 1 << 40]).unwrap();
    let text = std::mem::take(&mut *soft.printed.lock().unwrap());
    assert_eq!(text, "thread 0 of a block: 0.00 1099511627776\nthread 1 of a block: 1.25 1099511627776\n");

    let fault = soft.launch("panics", shape(1, [32, 1, 1]), &[dx, 90]).expect_err("a panic");
    assert_eq!(fault.kind(), FaultKind::Assertion);
    let source = include_str!("device/src/lib.rs");
    let line = 1 + source.lines().position(|line| line.contains("assert!(v < n")).unwrap();
    assert!(fault.message().contains("a value is too large"), "{fault}");
    assert!(fault.message().contains(&format!("lib.rs:{line}")), "{fault}");
    let first = x.iter().position(|&v| v >= 90).unwrap() as u32;
    assert_eq!(fault.location().unwrap().thread, [first, 0, 0]);

    let (acc, seen) = (soft.put(&[0]), soft.put(&[0; 6]));
    soft.launch("meets", Launch { cooperative: true, ..shape(6, [64, 1, 1]) }, &[acc, seen]).unwrap();
    assert_eq!(soft.get(seen, 6), [6 * 63 * 32; 6]);
    let fault = soft.launch("meets", shape(6, [64, 1, 1]), &[acc, seen]).expect_err("not cooperative");
    assert!(fault.message().contains("not launched cooperatively"), "{fault}");

    let values: Vec<u32> = [1.0f32, -448.0, 500.0, 0.3, 17.0, 1e-9, 3.0, -0.07].map(f32::to_bits).to_vec();
    let (from, to, wide) = (soft.put(&values), soft.put(&[0; 8]), soft.put(&[0; 8]));
    soft.launch("eight_bits", shape(1, [4, 1, 1]), &[from, to, wide]).unwrap();
    let back: Vec<f32> = soft.get(to, 8).into_iter().map(f32::from_bits).collect();
    assert_eq!(back, [1.0, -448.0, 448.0, 0.3125, 16.0, 0.0, 3.0, -0.0703125]);
    let back: Vec<f32> = soft.get(wide, 8).into_iter().map(f32::from_bits).collect();
    assert_eq!(back, [1.0, -448.0, 512.0, 0.3125, 16.0, 0.0, 3.0, -0.0625]);
}

#[test]
fn threads_know_their_places() {
    let soft = Soft::new();
    let (grid, block) = ([2, 3, 2], [4, 2, 3]);
    let count = 2 * 3 * 2 * 4 * 2 * 3;
    let out = soft.put(&vec![0; 12 * count]);
    soft.launch("axes", Launch { grid, ..shape(1, block) }, &[out]).unwrap();
    let words = soft.get(out, 12 * count);
    for at in 0..count as u32 {
        let (thread, number) = (at % 24, at / 24);
        let places = [thread % 4, thread / 4 % 2, thread / 8, 4, 2, 3, number % 2, number / 2 % 3, number / 6, 2, 3, 2];
        assert_eq!(words[12 * at as usize..][..12], places, "thread {thread} of block {number}");
    }
}

#[test]
fn the_rest_of_warps_and_atomics() {
    let soft = Soft::new();
    let x: Vec<u32> = (0..32u32).map(|i| i * 37 % 100).collect();
    let (dx, dy) = (soft.put(&x), soft.put(&[0; 14 * 32]));
    soft.launch("more_warps", shape(1, [32, 1, 1]), &[dx, dy]).unwrap();
    let y = soft.get(dy, 14 * 32);
    let sum: u32 = x.iter().sum();
    let (or, and) = (x.iter().fold(0, |a, b| a | b), x.iter().fold(!0, |a, b| a & (b | 0x100)));
    for l in 0..32usize {
        let expected = [
            x[5],
            x[l ^ 3],
            if l >= 2 { x[l - 2] } else { x[l] },
            if l < 28 { x[l + 4] } else { x[l] },
            x.iter().min().unwrap().wrapping_sub(50),
            and,
            or,
            sum,
            *x.iter().max().unwrap(),
            x[l / 8 * 8..][..8].iter().sum(),
            sum * (l as u32 % 4 + 1),
            x[0],
            x.iter().filter(|&v| v & 1 != 0).count() as u32,
            0,
        ];
        assert_eq!(y[14 * l..14 * l + 14], expected, "lane {l}");
    }

    let words = soft.put(&[7, 9, 0, -1000i32 as u32, !0, 0, 0, 4, 5, 0]);
    let halves =
        |values: [f64; 3]| values.iter().flat_map(|v| [v.to_bits() as u32, (v.to_bits() >> 32) as u32]).collect();
    let doubles: Vec<u32> = halves([0.0, f64::NAN, f64::NEG_INFINITY]);
    let (doubles, wide) = (soft.put(&doubles), soft.put(&[0, 0, 0, 2]));
    soft.launch("more_atomics", shape(1, [16, 1, 1]), &[words, doubles, wide]).unwrap();
    let got = soft.get(words, 10);
    let xor = (0..16).fold(0u32, |all, i| all ^ 3 << i);
    // What was in word 7 at first and all numbers but the last one are in word 6.
    assert_eq!(got[..6], [7u32.wrapping_sub(16), 0, -15i32 as u32, -85i32 as u32, !0xffff, xor]);
    assert_eq!((got[6] + got[7], got[8], got[9]), (4 + 120, 77, 6));
    assert_eq!(soft.get(doubles, 6), halves([8.0, -3.5, 11.5]) as Vec<u32>);
    assert_eq!(soft.get(wide, 4), [0, 1 << 8, 0, 4]);
}

#[test]
fn slices_come_with_their_lengths() {
    let soft = Soft::new();
    let n = 100u64;
    let x: Vec<u32> = (0..n).map(|i| (i as f32).to_bits()).collect();
    let (dx, out) = (soft.put(&x), soft.put(&vec![0; n as usize]));
    let steps = soft.put(&[10, 0, 20, 0, 30, 0]);
    let (a, b) = (half::f16::from_f32(0.5).to_bits() as u64, half::bf16::from_f32(2.0).to_bits() as u64);
    soft.launch("slices", shape(2, [64, 1, 1]), &[a, dx, n, out, n, b, steps, 3]).unwrap();
    let got: Vec<f32> = soft.get(out, n as usize).into_iter().map(f32::from_bits).collect();
    (0..n as usize).for_each(|i| assert_eq!(got[i], 0.5 * i as f32 + [20.0, 40.0, 60.0][i % 3]));
    // An index past the end of a slice is a panic at its line, before anything is read there.
    let fault =
        soft.launch("slices", shape(2, [64, 1, 1]), &[a, dx, n - 1, out, n, b, steps, 3]).expect_err("too short");
    assert_eq!(fault.kind(), FaultKind::Assertion);
    let line = 1 + include_str!("device/src/lib.rs").lines().position(|line| line.contains("(*out)[i] =")).unwrap();
    assert!(fault.message().contains(&format!("lib.rs:{line}")), "{fault}");
    assert_eq!(fault.location().unwrap().thread, [99 - 64, 0, 0]);
}

#[test]
fn shared_arrays_hold_what_they_say() {
    let soft = Soft::new();
    let (out, offsets) = (soft.put(&[0; 128]), soft.put(&[1; 2]));
    soft.launch("elements", shape(1, [64, 1, 1]), &[out, offsets]).unwrap();
    let words = soft.get(out, 128);
    for i in 0..64 {
        let j = ((i + 1) % 64) as f64;
        let got = f64::from_bits(words[2 * i] as u64 | (words[2 * i + 1] as u64) << 32);
        assert_eq!(got, j - 1e3 * j + j * (1u64 << 40) as f64 + 0.25 * j + 0.5 * j);
    }
    assert_eq!(soft.get(offsets, 2), [0, 0], "arrays are aligned as they say");
}

/// A whole cluster of blocks agrees on where each of them is.
#[test]
fn clusters_know_their_places() {
    let soft = Soft::new();
    let out = soft.put(&[0; 14 * 32]);
    let launch = Launch { grid: [8, 4, 1], ..shape(1, [1, 1, 1]) };
    soft.launch_clusters("places", launch, [4, 2, 1], &[out]).unwrap();
    let words = soft.get(out, 14 * 32);
    for block in 0..32 {
        let (x, y) = (block % 8, block / 8);
        let expected = [x % 4, y % 2, 0, 4, 2, 1, x / 4, y / 2, 0, 2, 2, 1, x % 4 + 4 * (y % 2), 8];
        assert_eq!(words[14 * block as usize..][..14], expected, "block {block}");
    }
    let fault = soft.launch_clusters("places", launch, [3, 1, 1], &[out]).expect_err("not whole clusters");
    assert_eq!(fault.kind(), FaultKind::InvalidLaunch);
}

#[test]
fn blocks_of_a_cluster_share_their_memory() {
    let soft = Soft::new();
    for size in [1usize, 4] {
        let out = soft.put(&[0; 8 * 68]);
        soft.launch_clusters("distributed", shape(8, [64, 1, 1]), [size as u32, 1, 1], &[out]).unwrap();
        let words = soft.get(out, 8 * 68);
        for block in 0..8 {
            let (rank, size) = (block as u32 % size as u32, size as u32);
            let (next, before) = ((rank + 1) % size, (rank + size - 1) % size);
            let block = &words[68 * block..][..68];
            (0..64).for_each(|i| assert_eq!(block[i], 1000 * next + i as u32));
            assert_eq!(block[64..], [77 + before, 5000 + size - 1, 32 * size, 63 + before], "rank {rank} of {size}");
        }
    }
}

#[test]
fn bulk_copies_bring_send_and_add() {
    let soft = Soft::new();
    let tiles = 5;
    let x: Vec<u32> = (0..256 * tiles).map(|i| (i as f32).to_bits()).collect();
    let zeros = vec![0; x.len()];
    let (from, to, total) = (soft.put(&x), soft.put(&zeros), soft.put(&[0; 256]));
    soft.launch("double_tiles", shape(1, [256, 1, 1]), &[from, to, total, tiles as u64, 1]).unwrap();
    let floats = |words: Vec<u32>| words.into_iter().map(f32::from_bits).collect::<Vec<_>>();
    let doubled = floats(soft.get(to, x.len()));
    (0..x.len()).for_each(|i| assert_eq!(doubled[i], 2.0 * i as f32));
    let sums = floats(soft.get(total, 256));
    (0..256).for_each(|i| assert_eq!(sums[i], (0..tiles).map(|t| 2.0 * (256 * t + i) as f32).sum::<f32>()));
    // The canary: nobody waits for the first tile.
    let fault = soft.launch("double_tiles", shape(1, [256, 1, 1]), &[from, to, total, 1, 0]).expect_err("no wait");
    assert!(matches!(fault.kind(), FaultKind::Race | FaultKind::Uninitialised), "{fault}");
}

#[test]
fn bulk_copies_reach_other_blocks() {
    let soft = Soft::new();
    let x: Vec<u32> = (0..64).map(|i| i * i).collect();
    let (from, out) = (soft.put(&x), soft.put(&[0; 8 * 128]));
    soft.launch_clusters("spread", shape(8, [64, 1, 1]), [4, 1, 1], &[from, out]).unwrap();
    let words = soft.get(out, 8 * 128);
    (0..8 * 128).for_each(|i| assert_eq!(words[i], x[i % 64], "{i}"));
}

#[test]
fn barriers_count_arrivals() {
    let soft = Soft::new();
    for n in [1, 2, 7] {
        let out = soft.put(&[0; 64]);
        soft.launch("rounds", shape(1, [64, 1, 1]), &[out, n]).unwrap();
        let sums = soft.get(out, 64);
        let rounds = (n * (n + 1) / 2) as u32;
        (0..64).for_each(|i| assert_eq!(sums[i as usize], (i + 1) % 64 * rounds));
    }
}

/// Small values, whose products and sums are exact.
#[test]
fn warp_groups_multiply() {
    let soft = Soft::new();
    let half = |v: i32| half::f16::from_f32(v as f32 / 4.0);
    let brain = |v: i32| half::bf16::from_f32(v as f32 / 4.0);
    let cases: [(&str, usize, usize, &str, bool); 10] = [
        ("product_f16_8", 8, 32, "f16", false),
        ("product_f16_64", 64, 64, "f16", false),
        ("product_f16_64_across", 64, 64, "f16", true),
        ("product_f16_16_across", 16, 32, "f16", true),
        ("product_bf16_32", 32, 64, "bf16", false),
        ("product_bf16_128_across", 128, 32, "bf16", true),
        ("product_i8_16", 16, 64, "i8", false),
        ("product_u8_32", 32, 128, "u8", false),
        ("product_f16_32_of_registers", 32, 64, "f16", false),
        ("product_i8_8_of_registers", 8, 64, "i8", false),
    ];
    let mut state = 7u64;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as i32
    };
    for (name, n, k, kind, across) in cases {
        let mut value = || if kind == "u8" { random() % 256 } else { random() % 17 - 8 };
        let a: Vec<i32> = (0..64 * k).map(|_| value()).collect();
        let b: Vec<i32> = (0..n * k).map(|_| value()).collect();
        let words = |values: &[i32]| -> Vec<u32> {
            let bytes: Vec<u8> = match kind {
                "f16" => values.iter().flat_map(|&v| half(v).to_le_bytes()).collect(),
                "bf16" => values.iter().flat_map(|&v| brain(v).to_le_bytes()).collect(),
                _ => values.iter().map(|&v| v as u8).collect(),
            };
            bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
        };
        for keeps in [0, 1] {
            let (da, db, dd) = (soft.put(&words(&a)), soft.put(&words(&b)), soft.put(&vec![0; 64 * n]));
            let size = if kind.contains("16") { 2 } else { 1 };
            let launch = Launch { dynamic_shared: (size * k * (64 + n)) as u32, ..shape(1, [128, 1, 1]) };
            soft.launch(name, launch, &[da, db, dd, keeps]).unwrap_or_else(|fault| panic!("{name}: {fault}"));
            let out = soft.get(dd, 64 * n);
            for (row, column) in (0..64).flat_map(|row| (0..n).map(move |column| (row, column))) {
                let of_b = |at: usize| if across { b[at * n + column] } else { b[column * k + at] };
                let sum: i32 = (0..k).map(|at| a[row * k + at] * of_b(at)).sum();
                let got = match size {
                    1 => f64::from(out[row * n + column] as i32),
                    _ => f64::from(f32::from_bits(out[row * n + column])) * 16.0,
                };
                let kept = if size == 1 { 2.0 } else { 32.0 } * keeps as f64;
                assert_eq!(got, f64::from(sum) + kept, "{name} row {row} column {column}");
            }
        }
    }
}

/// An image for older GPUs is made of the same crate, without what only Hopper has.
#[test]
fn an_older_gpu_gets_what_it_can_have() {
    let old = ptx(NvvmArch::Compute80);
    let entries = |text: &str| text.matches(".entry ").count();
    assert!(entries(&old) >= 7 && !old.contains("cluster") && !old.contains("wgmma"), "{old}");
    assert!(entries(&ptx(NvvmArch::Compute90a)) > entries(&old));
}

/// A barrier, or an exchange, that all threads reach stays one instruction where a condition is asked before and behind it: a copy for
/// each answer would be reached by some threads, who wait for the others at theirs.
#[test]
fn what_all_reach_together_is_not_copied() {
    let text = ptx(NvvmArch::Compute90a);
    for (kernel, instruction) in [
        ("asks_beside_a_barrier", "bar.sync"),
        ("asks_beside_a_count", "bar.red.popc"),
        ("asks_beside_a_warp_barrier", "bar.warp.sync"),
        ("asks_beside_a_shuffle", "shfl.sync"),
        ("asks_beside_a_ballot", "vote.sync"),
        ("asks_beside_a_vote", "vote.sync"),
        ("asks_beside_a_match", "match.any.sync"),
        ("asks_beside_a_sum", "redux.sync"),
        ("asks_beside_a_cluster_barrier", "barrier.cluster.wait"),
    ] {
        let start = text.find(&format!(".entry {kernel}(")).unwrap_or_else(|| panic!("no {kernel}"));
        let body = &text[start..start + text[start..].find("\n}").expect("its end")];
        assert_eq!(body.matches(instruction).count(), 1, "{body}");
    }
}
