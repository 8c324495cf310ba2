//! A profile from end to end: a kernel on softcuda, its counts by line, the table, the page and the JSON.

use std::fs;
use std::path::{Path, PathBuf};

use softcuda::{Device, DeviceConfig, Launch, Module};
use warp_profile::{Limiter, Report, card, page, table};

/// The source that the lines below speak of.
const SOURCE: &str = "\
pub fn turn(input: &[f32], out: &mut [f32]) {
    let lane = thread();
    tile.set(lane * 32, input[lane]);
    barrier();
    out[lane] = tile.get(lane) * 2.0 + 1.0;
    if lane < 4 { out[lane * 64] = 0.0; }
}
";

/// A column of a tile of rows of 32 words is written, which is one bank; `get` is inlined from another crate.
const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.shared .align 16 .b8 tile[4096];
.visible .entry turn(.param .u64 input, .param .u64 out) {
    .reg .pred %p<2>; .reg .b32 %r<8>; .reg .b64 %d<8>; .reg .f32 %f<4>;
    .loc 1 2 5
    ld.param.u64 %d1, [input]; ld.param.u64 %d2, [out];
    mov.u32 %r1, %tid.x;
    .loc 1 3 5
    mul.wide.u32 %d3, %r1, 4;
    add.u64 %d4, %d1, %d3;
    ld.global.f32 %f1, [%d4];
    mov.u32 %r2, tile;
    shl.b32 %r3, %r1, 7;
    add.u32 %r4, %r2, %r3;
    st.shared.f32 [%r4], %f1;
    .loc 1 4 5
    bar.sync 0;
    .loc 1 5 17
    .loc 2 9 9, function_name $L__names, inlined_at 1 5 17
    ld.shared.f32 %f2, [%r4];
    .loc 1 5 5
    fma.rn.f32 %f3, %f2, 0f40000000, 0f3F800000;
    add.u64 %d5, %d2, %d3;
    st.global.f32 [%d5], %f3;
    .loc 1 6 5
    setp.gt.u32 %p1, %r1, 3;
    @%p1 bra L;
    mul.wide.u32 %d6, %r1, 256;
    add.u64 %d7, %d2, %d6;
    st.global.f32 [%d7], 0f00000000;
L:  ret;
}
.file 1 \"src/turn.rs\"
.file 2 \"crates/cuda_std/src/shared.rs\"
.section .debug_str
{
$L__names: .b8 103,101,116,0
}
";

/// What the kernel counts in two launches of two warps, and the folder with it and the source.
fn report(root: &Path) -> Report {
    fs::create_dir_all(root.join("src")).unwrap();
    fs::write(root.join("src/turn.rs"), SOURCE).unwrap();
    let folder = root.join("counts");
    softcuda::set_profile(Some(&folder));
    let device = Device::new(DeviceConfig { total_memory: 1 << 24, ..DeviceConfig::default() });
    let kernel = device.load(&Module::from_ptx(PTX).unwrap()).unwrap().kernel("turn").unwrap();
    let (input, out) = (device.alloc(4096).unwrap(), device.alloc(4096).unwrap());
    device.fill(input, [0u8; 4], 1024).unwrap();
    let parameters = [input.to_le_bytes(), out.to_le_bytes()].concat();
    let launch = Launch { grid: [2, 1, 1], block: [32, 1, 1], dynamic_shared: 0, cooperative: false, early: false };
    for _ in 0..2 {
        device.launch(&kernel, &launch, &parameters).unwrap();
    }
    softcuda::write_profile().unwrap();
    softcuda::set_profile(None);
    fs::write(folder.join("1.times"), "turn 12.5\nturn 10\nother 3\nturn 11\n").unwrap();
    let mut report = Report::read(&folder, card("h100").unwrap(), &[PathBuf::from(root)]).unwrap();
    report.assemble(None);
    report
}

#[test]
fn a_kernel_is_shown_by_line_with_its_causes() {
    let root = tempfile::tempdir().unwrap();
    let report = report(root.path());
    let [kernel] = &report.kernels[..] else { panic!("{} kernels", report.kernels.len()) };
    assert_eq!((kernel.name.as_str(), kernel.launches[0].count), ("turn", 2));

    let line = |number: u32| kernel.lines.iter().find(|line| line.line == number).unwrap();
    // The costliest first: the line with the conflict.
    assert_eq!((kernel.lines[0].file.as_str(), kernel.lines[0].line), ("src/turn.rs", 3));
    assert_eq!(kernel.lines[0].text.as_deref(), Some("    tile.set(lane * 32, input[lane]);"));
    let store = &line(3).numbers;
    assert_eq!((store.shared_conflicts, store.shared_ways, store.shared_bytes), (4 * 31, 32, 4 * 128));
    assert_eq!((store.requests, store.sectors, store.load_bytes), (4, 16, 4 * 128));
    assert!(line(3).advice[0].starts_with("32-way conflict: stride 32 words"), "{:?}", line(3).advice);
    // What was inlined from `cuda_std` counts where it was called.
    assert_eq!(line(5).numbers.shared_conflicts, 4 * 31);
    assert_eq!(line(5).numbers.operations, 4 * 64);
    assert!(kernel.lines.iter().all(|line| !line.file.contains("cuda_std")));
    // Four lanes of 32, each in a sector of its own.
    let ends = line(6);
    assert_eq!((ends.numbers.divergent_branches, ends.numbers.sectors), (4, 16));
    assert!(ends.advice.iter().any(|advice| advice.starts_with("divergence: 4 times")), "{:?}", ends.advice);
    assert_eq!(kernel.numbers.instructions, kernel.lines.iter().map(|line| line.numbers.instructions).sum::<u64>());

    let occupancy = kernel.occupancy.unwrap();
    assert_eq!((occupancy.blocks, occupancy.limiter), (32, Limiter::Blocks));
    let time = kernel.time.as_ref().unwrap();
    assert_eq!((time.launches, time.least, time.median), (3, 10.0, 11.0));

    let text = table(&report);
    for part in [
        "turn: 2 launches, mostly 2×1×1 blocks of 32×1×1 threads",
        "registers unknown (there is no ptxas)",
        "32 blocks, 32 of 64 warps on a multiprocessor (50%), limited by blocks",
        "src/turn.rs:3  tile.set(lane * 32, input[lane]);",
        "- 32-way conflict: stride 32 words; rows of 33 words instead would have none",
        "measured: 10.0 µs at least",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(json["kernels"][0]["lines"][0]["numbers"]["shared_ways"], 32);
    assert_eq!(json["card"]["id"], "h100");

    let page = page(&report, "turn <all>");
    for part in [
        "<title>turn &lt;all&gt;</title>",
        "32-way conflict: stride 32 words",
        "tile.set(lane * 32",
        "<circle",
        "</html>",
    ] {
        assert!(page.contains(part), "{part:?} is missing:\n{page}");
    }
}
