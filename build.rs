//! Compiles `kernels/` to PTX, which `host/gpu` embeds.

use std::{env, path::PathBuf, process::exit};

use cuda_builder::{CudaBuilder, NvvmArch};

fn main() {
    let ptx = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("kernels.ptx");
    let built = CudaBuilder::new("kernels").arch(NvvmArch::Compute80).copy_to(ptx).kernels(kernels::all()).build();
    if let Err(error) = built {
        eprintln!("error: {error}");
        exit(1);
    }
}
