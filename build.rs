//! Compiles `kernels/` to the images that `host/gpu/image.rs` embeds: PTX for each generation of GPU that gets code of
//! its own, and, where NVIDIA's `ptxas` is found, machine code as well, so that no program start waits for a driver's
//! compiler. Each is compressed: PTX to a tenth of its size. And it lists what is there to be found: the kernels in the
//! images, and the modules of their launchers.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::exit,
    thread,
};

use cuda_builder::{Assembler, Bounds, BuildError, CudaBuilder, NvvmArch, read_entries};

/// `sm_80` runs on that and everything after it; `sm_90a` on Hopper alone, with the instructions that only Hopper has.
const ARCHS: [NvvmArch; 2] = [NvvmArch::Compute80, NvvmArch::Compute90a];

/// More machine code from the `sm_80` PTX, in release builds: Ampere's and Ada's other chips run `sm_80`'s too, but its
/// instructions are ordered for an A100. About a second each.
const RELEASE_TARGETS: [&str; 2] = ["sm_86", "sm_89"];

/// zstd's: what higher ones save is little, and a build with another kernel waits for it.
const COMPRESSION_LEVEL: i32 = 9;

#[allow(clippy::print_stderr)] // cargo shows it where the build fails
fn main() {
    if let Err(error) = build() {
        eprintln!("error: {error}");
        exit(1);
    }
}

fn build() -> Result<(), BuildError> {
    cuda_builder::write_modules("host/gpu/kernels", &["mod"], "launchers.rs", |name, file| {
        format!("#[path = {file:?}]\nmod {name};\n")
    })?;
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let assembler = Assembler::find()?;
    let build_one = |arch: NvvmArch| {
        let ptx = out.join(format!("kernels.{}.ptx", arch.target_cpu()));
        // The loops of the products ask again and again whether there is more to load, and what is loaded must not be copied from register to
        // register for it. Every kernel has as many barriers and exchanges as without.
        CudaBuilder::new("kernels").arch(arch).copy_to(&ptx).bounds(bounded(arch)).thread_jumps().build()?;
        let names = names(&ptx)?;
        let mut images = image(arch.target_cpu(), "Ptx", &ptx)?;
        let Some(assembler) = &assembler else {
            return Ok((names, images));
        };
        let more = if release && arch == NvvmArch::Compute80 { &RELEASE_TARGETS[..] } else { &[] };
        for target in [arch.target_cpu()].iter().chain(more) {
            let cubin = out.join(format!("kernels.{target}.cubin"));
            assembler.assemble(&ptx, target, &cubin)?;
            images += &image(target, "Cubin", &cubin)?;
        }
        Ok((names, images))
    };
    let build_one = &build_one;
    let archs = wanted_archs();
    let built: Result<Vec<(Vec<String>, String)>, BuildError> = thread::scope(|scope| {
        let threads: Vec<_> = archs.into_iter().map(|arch| scope.spawn(move || build_one(arch))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the build of one target does not panic")).collect()
    });
    let (names, images): (Vec<_>, Vec<_>) = built?.into_iter().unzip();
    assert!(names.iter().all(|other| *other == names[0]), "the images have different kernels: {names:#?}");
    write(&out.join("images.rs"), format!("&[\n{}]\n", images.concat()))?;
    write(&out.join("kernels.rs"), format!("&{:#?}\n", names[0]))
}

fn write(path: &Path, text: String) -> Result<(), BuildError> {
    fs::write(path, text).map_err(|source| BuildError::File { path: path.to_owned(), source })
}

/// The kernels in a PTX file, sorted.
fn names(ptx: &Path) -> Result<Vec<String>, BuildError> {
    let text = fs::read_to_string(ptx).map_err(|source| BuildError::File { path: ptx.to_owned(), source })?;
    let mut names: Vec<String> = read_entries(&text).into_iter().map(|entry| entry.name).collect();
    names.sort();
    Ok(names)
}

/// All of `ARCHS`, or those that `FERROWARP_ARCHS` names, with commas between: for a shorter wait while a kernel is written.
fn wanted_archs() -> Vec<NvvmArch> {
    #[allow(clippy::print_stdout)] // to cargo
    {
        println!("cargo::rerun-if-env-changed=FERROWARP_ARCHS");
    }
    let Some(wanted) = env::var("FERROWARP_ARCHS").ok().filter(|wanted| !wanted.is_empty()) else {
        return ARCHS.to_vec();
    };
    let arch = |name: &str| ARCHS.into_iter().find(|arch| arch.target_cpu() == name);
    let known = ARCHS.map(NvvmArch::target_cpu).join(", ");
    wanted
        .split(',')
        .map(|name| arch(name).unwrap_or_else(|| panic!("FERROWARP_ARCHS={wanted}: {name:?} is none of {known}")))
        .collect()
}

/// A kernel's bounds on an architecture: before Hopper a few of the products need some registers more than fit two blocks of
/// theirs, and would spill.
fn bounded(arch: NvvmArch) -> impl Fn(&str, Bounds) -> Bounds {
    let is_tight = |kernel: &str| kernel.starts_with("gemv_") || kernel.starts_with("gemm_") && kernel.ends_with("_16");
    move |kernel, bounds| match arch {
        NvvmArch::Compute80 if is_tight(kernel) => Bounds { blocks: 1, ..bounds },
        _ => bounds,
    }
}

/// Compresses an image; the Rust expression that embeds it.
fn image(target: &str, code: &str, file: &Path) -> Result<String, BuildError> {
    let failed = |source| BuildError::File { path: file.to_owned(), source };
    let bytes = fs::read(file).map_err(failed)?;
    let mut packed = file.as_os_str().to_owned();
    packed.push(".zst");
    zstd::encode_all(bytes.as_slice(), COMPRESSION_LEVEL)
        .and_then(|bytes| fs::write(&packed, bytes))
        .map_err(failed)?;
    Ok(format!("    Image {{ target: {target:?}, code: Code::{code}(include_bytes!({packed:?})) }},\n"))
}
