//! Compiles `kernels/` to the images that `host/gpu/image.rs` embeds: PTX for each generation of GPU that gets code of
//! its own.

use std::{env, fs, path::PathBuf, process::exit, thread};

use cuda_builder::{BuildError, CudaBuilder, NvvmArch};

/// `sm_80` runs on that and everything after it; `sm_90a` on Hopper alone, with the instructions that only Hopper has.
const ARCHS: [NvvmArch; 2] = [NvvmArch::Compute80, NvvmArch::Compute90a];

fn main() {
    if let Err(error) = build() {
        eprintln!("error: {error}");
        exit(1);
    }
}

fn build() -> Result<(), BuildError> {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let compile = |arch: NvvmArch| {
        let ptx = out.join(format!("kernels.{}.ptx", arch.target_cpu()));
        CudaBuilder::new("kernels").arch(arch).copy_to(ptx).kernels(kernels::all()).build()
    };
    let compiled = thread::scope(|scope| {
        let threads = ARCHS.map(|arch| scope.spawn(move || compile(arch)));
        threads.map(|thread| thread.join().expect("the build of one architecture does not panic"))
    });
    let mut images = String::new();
    for (arch, ptx) in ARCHS.into_iter().zip(compiled) {
        let (target, ptx) = (arch.target_cpu(), ptx?);
        images += &format!("    Image {{ target: {target:?}, code: Code::Ptx(include_str!({ptx:?})) }},\n");
    }
    let list = out.join("images.rs");
    fs::write(&list, format!("&[\n{images}]\n")).map_err(|source| BuildError::File { path: list, source })
}
