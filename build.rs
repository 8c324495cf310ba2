//! Compiles `kernels/` to the images that `host/gpu/image.rs` embeds: PTX for each generation of GPU that gets code of
//! its own, and, where NVIDIA's `ptxas` is found, machine code as well, so that no program start waits for a driver's
//! compiler. They are compressed, PTX all together and its line tables apart from it: one generation's is much like another's. So is the model
//! that the program has with it. And it lists what is there to be found: the kernels in the images, and the modules of their launchers.

use std::{
    env, fs, io,
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, exit},
    thread,
};

use cuda_builder::{
    Assembler, Bounds, BuildError, CudaBuilder, NvvmArch, lines_apart, numbers_as_differences, read_entries,
};

/// `sm_80` runs on that and everything after it; `sm_90a` on Hopper alone, with the instructions that only Hopper has.
const ARCHS: [NvvmArch; 2] = [NvvmArch::Compute80, NvvmArch::Compute90a];

/// zstd's, while kernels are written, and in what is handed out: a fifth smaller, and half a minute longer. It takes as long to unpack.
const COMPRESSION_LEVELS: [i32; 2] = [9, 19];

/// 2^27 bytes: as far back as zstd looks for what it has seen, which must be one generation's PTX.
const WINDOW_LOG: u32 = 27;

/// What `host/cli/model.rs` embeds.
const MODEL: &str = "models/haiku/haiku.gguf";

#[allow(clippy::print_stderr)] // cargo shows it where the build fails
fn main() {
    if let Err(error) = build() {
        eprintln!("error: {error}");
        exit(1);
    }
}

fn build() -> Result<(), BuildError> {
    pack_relocations();
    cuda_builder::write_modules("host/gpu/kernels", &["mod"], "launchers.rs", |name, file| {
        format!("#[path = {file:?}]\nmod {name};\n")
    })?;
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let level = COMPRESSION_LEVELS[usize::from(release)];
    if is_for_clippy() {
        write(&out.join("images.rs"), "&[]\n")?;
        write(&out.join("kernels.rs"), "&[]\n")?;
        return pack_model(&out, level);
    }
    let assembler = if release || asked_for_machine_code() { Assembler::find()? } else { None };
    let build_one = |arch: NvvmArch| {
        let ptx = out.join(format!("kernels.{}.ptx", arch.target_cpu()));
        // The loops of the products ask again and again whether there is more to load, and what is loaded must not be copied from register to
        // register for it. Every kernel has as many barriers and exchanges as without.
        CudaBuilder::new("kernels").arch(arch).copy_to(&ptx).bounds(bounded(arch)).thread_jumps().build()?;
        let names = names(&ptx)?;
        let mut cubins = String::new();
        if let Some(assembler) = &assembler {
            let target = arch.target_cpu();
            let cubin = out.join(format!("kernels.{target}.cubin"));
            assembler.assemble(&ptx, target, &cubin)?;
            let archive = pack(&[&cubin], &cubin, level)?;
            let bytes = fs::metadata(&cubin).map_err(failed(&cubin))?.len();
            cubins += &image(target, &format!("Cubin({})", self::packed(&archive, 0..bytes)));
        }
        Ok((names, ptx, cubins))
    };
    let build_one = &build_one;
    let archs = wanted_archs();
    let built: Result<Vec<(Vec<String>, PathBuf, String)>, BuildError> = thread::scope(|scope| {
        let threads: Vec<_> = archs.iter().map(|arch| scope.spawn(move || build_one(*arch))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the build of one target does not panic")).collect()
    });
    let built = built?;
    let names = &built[0].0;
    assert!(built.iter().all(|(other, ..)| other == names), "the images have different kernels: {built:#?}");
    // The newest first: it is the one that most devices, and softcuda, get.
    let texts: Vec<(&str, &Path)> =
        archs.iter().map(|arch| arch.target_cpu()).zip(built.iter().map(|(_, ptx, _)| ptx.as_path())).rev().collect();
    let mut images = if release { pack_together(&out, &texts, level)? } else { pack_alone(&texts, level)? };
    images.extend(built.iter().map(|(.., cubins)| cubins.as_str()));
    write(&out.join("images.rs"), format!("&[\n{images}]\n"))?;
    write(&out.join("kernels.rs"), format!("&{names:#?}\n"))?;
    pack_model(&out, level)
}

/// The images of PTX as they are handed out: all texts in one archive, small for being together, with the numbers in names as differences and line
/// tables apart.
fn pack_together(out: &Path, texts: &[(&str, &Path)], level: i32) -> Result<String, BuildError> {
    let (mut files, mut places, mut end) = (Vec::new(), Vec::new(), 0);
    for (target, ptx) in texts {
        let (text, lines) = lines_apart(&fs::read_to_string(ptx).map_err(failed(ptx))?);
        // By its line table the program knows that numbers are differences.
        assert!(!lines.is_empty(), "{}: PTX without lines", ptx.display());
        let text = numbers_as_differences(&text);
        let (of_text, of_lines) = (ptx.with_extension("text"), ptx.with_extension("lines"));
        write(&of_lines, &lines)?;
        write(&of_text, &text)?;
        let packed_lines = pack(&[&of_lines], &of_lines, level)?;
        let start = end;
        end += text.len() as u64;
        places.push((target, start..end, packed_lines, lines.len() as u64));
        files.push(of_text);
    }
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let packed_texts = pack(&files, &out.join("kernels"), level)?;
    let images = places.into_iter().map(|(target, text, packed_lines, n_lines)| {
        let (text, lines) = (packed(&packed_texts, text), packed(&packed_lines, 0..n_lines));
        image(target, &format!("Ptx {{ text: {text}, lines: {lines} }}"))
    });
    Ok(images.collect())
}

/// The images of PTX as they are tested: soon unpacked for being alone and in one piece, as each test of the command line does.
fn pack_alone(texts: &[(&str, &Path)], level: i32) -> Result<String, BuildError> {
    let images = texts.iter().map(|(target, ptx)| {
        let archive = pack(&[ptx], ptx, level)?;
        let bytes = fs::metadata(ptx).map_err(failed(ptx))?.len();
        let (text, lines) = (packed(&archive, 0..bytes), packed(&archive, 0..0));
        Ok(image(target, &format!("Ptx {{ text: {text}, lines: {lines} }}")))
    });
    images.collect()
}

/// Whether clippy reads what the build makes. Nothing of that is run, and cargo keeps a folder of its own for it, where the kernels would be
/// compiled a second time.
fn is_for_clippy() -> bool {
    #[allow(clippy::print_stdout)] // to cargo
    {
        println!("cargo::rerun-if-env-changed=CLIPPY_ARGS");
    }
    env::var_os("CLIPPY_ARGS").is_some()
}

fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<(), BuildError> {
    fs::write(path, text).map_err(failed(path))
}

/// The kernels in a PTX file, sorted.
fn names(ptx: &Path) -> Result<Vec<String>, BuildError> {
    let text = fs::read_to_string(ptx).map_err(failed(ptx))?;
    let mut names: Vec<String> = read_entries(&text).into_iter().map(|entry| entry.name).collect();
    names.sort();
    Ok(names)
}

/// Whether `FERROWARP_PTXAS` names an assembler. Only then are tests built with machine code, which takes minutes: softcuda runs PTX.
fn asked_for_machine_code() -> bool {
    #[allow(clippy::print_stdout)] // to cargo
    {
        println!("cargo::rerun-if-env-changed=FERROWARP_PTXAS");
    }
    env::var_os("FERROWARP_PTXAS").is_some()
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

/// Compresses files, one behind the other, into one: `name` with another ending.
fn pack(files: &[&Path], name: &Path, level: i32) -> Result<PathBuf, BuildError> {
    let mut packed = name.as_os_str().to_owned();
    packed.push(".zst");
    let packed = PathBuf::from(packed);
    let write = || {
        let mut encoder = zstd::Encoder::new(fs::File::create(&packed)?, level)?;
        encoder.long_distance_matching(true)?;
        encoder.window_log(WINDOW_LOG)?;
        let mut bytes = 0;
        for file in files {
            bytes += fs::metadata(file)?.len();
        }
        encoder.set_pledged_src_size(Some(bytes))?;
        for file in files {
            io::copy(&mut fs::File::open(file)?, &mut encoder)?;
        }
        encoder.finish()
    };
    write().map_err(failed(&packed))?;
    Ok(packed)
}

/// Has the linker write where a loader puts addresses as bits, 0.6 MB less: where the program is to run on this system, whose loader must know
/// of that, which glibc's does from 2.36 on.
fn pack_relocations() {
    let is_known = || {
        let answer = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?.stdout;
        let (major, minor) = str::from_utf8(&answer).ok()?.trim().strip_prefix("glibc ")?.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?) >= (2, 36))
    };
    if env::var("HOST") == env::var("TARGET") && is_known() == Some(true) {
        #[allow(clippy::print_stdout)] // to cargo
        {
            println!("cargo::rustc-link-arg-bin=ferrowarp=-Wl,-z,pack-relative-relocs");
        }
    }
}

/// The Rust expression that embeds those bytes of what was compressed.
fn packed(archive: &Path, bytes: Range<u64>) -> String {
    format!("Packed {{ archive: include_bytes!({archive:?}), start: {}, end: {} }}", bytes.start, bytes.end)
}

/// The Rust expression of an image.
fn image(target: &str, code: &str) -> String {
    format!("    Image {{ target: {target:?}, code: Code::{code} }},\n")
}

/// Compresses the model that the program has with it: first every even byte of it, then every odd one. Its weights are numbers of two bytes,
/// of which one has the sign and the exponent, that repeat, and the other nothing that does.
fn pack_model(out: &Path, level: i32) -> Result<(), BuildError> {
    #[allow(clippy::print_stdout)] // to cargo
    {
        println!("cargo::rerun-if-changed={MODEL}");
    }
    let model = fs::read(MODEL).map_err(failed(Path::new(MODEL)))?;
    let halves: Vec<u8> = model.iter().step_by(2).chain(model.iter().skip(1).step_by(2)).copied().collect();
    let name = out.join("haiku.halves");
    fs::write(&name, halves).map_err(failed(&name))?;
    pack(&[&name], &name, level)?;
    Ok(())
}

/// What became of a file.
fn failed(path: &Path) -> impl FnOnce(io::Error) -> BuildError + use<> {
    let path = path.to_owned();
    move |source| BuildError::File { path, source }
}
