//! CUDA C as nvcc compiles it: each `.ptx` here is loaded and run, and what it leaves is compared with the same work in plain
//! Rust. The `.cu` beside each says what it was made of (nvcc 13.5, `-ptx -arch=sm_90a`, some of it with `-std=c++17`).

#![allow(clippy::needless_range_loop, reason = "indices are those of the CUDA kernels beside them")]

#[path = "../common/mod.rs"]
mod common;

mod asynchronous;
mod basic;
mod calls;
mod instructions;
mod matrices;
mod more_calls;
mod others;

use common::bytemuck_like::Plain;
#[allow(unused_imports, reason = "by some tests")]
use softcuda::{Counters, Device, DeviceConfig, Fault, Kernel, Launch, Module};
use std::sync::{Arc, Mutex};

/// A small generator; the seed is in the test.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }
    /// Between -1 and 1.
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }
}

/// A device under the sanitizer with one of the modules, and what its kernels print.
struct Foreign {
    device: Device,
    module: softcuda::LoadedModule,
    kernel: Kernel,
    printed: Arc<Mutex<String>>,
}

impl Foreign {
    /// Loads `name.ptx`; its first kernel is run unless another is chosen.
    fn load(name: &str) -> Foreign {
        let path = format!("{}/tests/foreign/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        // What is run is read kernel by kernel; the other tests run what was read whole.
        let whole = Module::from_ptx(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let module = Module::deferred(&text).unwrap_or_else(|e| panic!("{name}, deferred: {e}"));
        assert!(whole.kernels().eq(module.kernels()), "{name}");
        let device = Device::new(DeviceConfig {
            total_memory: 1 << 28,
            threads: 1,
            instruction_limit: 20_000_000,
            ..DeviceConfig::default()
        });
        device.set_sanitizer(true);
        let printed = Arc::new(Mutex::new(String::new()));
        let sink = printed.clone();
        device.set_output(move |text| sink.lock().unwrap().push_str(text));
        let first = module.kernels().next().expect("a kernel").to_owned();
        let loaded = device.load(&module).unwrap_or_else(|e| panic!("{name}: {e}"));
        for kernel in whole.kernels() {
            loaded.read_kernel(kernel).unwrap_or_else(|e| panic!("{name}, deferred: {e}")).expect("the kernel");
        }
        let kernel = loaded.kernel(&first).expect("the kernel");
        Foreign { device, module: loaded, kernel, printed }
    }

    fn choose(mut self, kernel: &str) -> Foreign {
        self.kernel = self.module.kernel(kernel).unwrap_or_else(|| panic!("no kernel `{kernel}`"));
        self
    }

    fn put<T: Plain>(&self, values: &[T]) -> u64 {
        common::upload(&self.device, values)
    }

    fn get<T: Plain>(&self, address: u64, count: usize) -> Vec<T> {
        common::download(&self.device, address, count)
    }

    /// Launches with arguments, each cut to its parameter's size.
    fn launch(&self, launch: Launch, arguments: &[u64]) -> Result<Counters, Fault> {
        let mut params = vec![0u8; self.kernel.param_bytes()];
        assert_eq!(self.kernel.param_layout().len(), arguments.len());
        for (param, argument) in self.kernel.param_layout().iter().zip(arguments) {
            params[param.offset..param.offset + param.size].copy_from_slice(&argument.to_le_bytes()[..param.size]);
        }
        self.device.launch(&self.kernel, &launch, &params)
    }

    /// As [`Foreign::launch`], for one that must succeed.
    fn run(&self, launch: Launch, arguments: &[u64]) -> Counters {
        self.launch(launch, arguments).unwrap_or_else(|fault| panic!("{fault}"))
    }

    fn printed(&self) -> String {
        self.printed.lock().unwrap().clone()
    }
}

fn grid(blocks: u32, threads: u32) -> Launch {
    common::launch(blocks, threads)
}

fn close(got: f32, expected: f64, tolerance: f64, what: &str) {
    let error = (got as f64 - expected).abs();
    assert!(error <= tolerance * expected.abs().max(1.0), "{what}: {got} instead of {expected}");
}

/// Every module is named by some test, or said not to run.
#[test]
fn every_module_is_run() {
    let folder = format!("{}/tests/foreign", env!("CARGO_MANIFEST_DIR"));
    let sources: String = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "ptx") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(sources.contains(&format!("load(\"{name}\")")), "{name}.ptx is run by no test");
            count += 1;
        }
    }
    assert!(count >= 24, "{count} modules");
}

/// Textures are not executed: their module loads, and the fetch is the fault.
#[test]
fn a_texture_fetch_is_named() {
    let tex = Foreign::load("texture");
    let y = tex.put(&[0f32; 32]);
    let fault = tex.launch(grid(1, 32), &[0, y]).expect_err("a texture");
    assert_eq!(fault.kind(), softcuda::FaultKind::UnknownInstruction);
    assert!(fault.message().contains("`tex`"), "{fault}");
}
