//! What cuda_std has, compiled for the device and run on softcuda, against the same in plain Rust.

use cuda_builder::{CudaBuilder, NvvmArch};
use softcuda::{Device, DeviceConfig, FaultKind, Launch, LoadedModule, Module};
use std::sync::{Arc, Mutex};

struct Soft {
    device: Device,
    module: LoadedModule,
    printed: Arc<Mutex<String>>,
}

impl Soft {
    fn new() -> Soft {
        let out = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("device.ptx");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/device");
        CudaBuilder::new(source).arch(NvvmArch::Compute90a).copy_to(&out).build().unwrap_or_else(|e| panic!("{e}"));
        let text = std::fs::read_to_string(out).unwrap();
        let module = Module::from_ptx(&text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(module.unknown_instructions(), []);
        let device = Device::new(DeviceConfig { total_memory: 1 << 24, threads: 1, ..DeviceConfig::default() });
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
        let kernel = self.module.kernel(kernel).expect("the kernel");
        let mut params = vec![0u8; kernel.param_bytes()];
        for (param, argument) in kernel.param_layout().iter().zip(arguments) {
            params[param.offset..param.offset + param.size].copy_from_slice(&argument.to_le_bytes()[..param.size]);
        }
        self.device.launch(&kernel, &launch, &params).map(|_| ())
    }
}

fn shape(blocks: u32, block: [u32; 3]) -> Launch {
    Launch { grid: [blocks, 1, 1], block, dynamic_shared: 0, cooperative: false, early: false }
}

/// One build of the device crate for all of them.
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
    let (from, to) = (soft.put(&values), soft.put(&[0; 8]));
    soft.launch("eight_bits", shape(1, [4, 1, 1]), &[from, to]).unwrap();
    let back: Vec<f32> = soft.get(to, 8).into_iter().map(f32::from_bits).collect();
    assert_eq!(back, [1.0, -448.0, 448.0, 0.3125, 16.0, 0.0, 3.0, -0.0703125]);
}
