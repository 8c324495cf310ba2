//! The profiler's numbers, by instruction. In a process of its own: profiling is a setting of the process.

mod common;
use common::{HEADER, device, kernel, launch, pack, upload};

const PTX: &str = "
.shared .align 16 .b8 tile[4096];
.visible .entry k(.param .u64 out) {
    .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %d<4>;
    .loc 1 10 5
    ld.param.u64 %d1, [out];
    mov.u32 %r1, %tid.x;
    .loc 1 11 5
    mul.lo.u32 %r2, %r1, 128;
    mov.u32 %r3, tile;
    add.u32 %r4, %r3, %r2;
    .loc 1 12 5
    st.shared.u32 [%r4], %r1;
    .loc 1 13 5
    mul.wide.u32 %d2, %r1, 32;
    add.u64 %d3, %d1, %d2;
    ld.global.u32 %r5, [%d3];
    .loc 1 14 5
    setp.lt.u32 %p1, %r1, 8;
    @%p1 bra L;
    add.u32 %r6, %r5, 1;
L:  ret;
}
.file 1 \"src/lib.rs\"
";

#[test]
fn counts_are_given_by_instruction_with_lines_and_strides() {
    let folder = std::env::temp_dir().join(format!("softcuda-profile-{}", std::process::id()));
    softcuda::set_profile(Some(&folder));
    let device = device(1, true);
    let kernel = kernel(&device, &format!("{HEADER}{PTX}"));
    let out = upload(&device, &[0u32; 256]);
    for _ in 0..3 {
        device.launch(&kernel, &launch(2, 32), &pack(&[out])).unwrap();
    }
    softcuda::write_profile().unwrap();
    softcuda::set_profile(None);
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    let read = |end: &str| {
        let file = files.iter().find(|file| file.to_string_lossy().ends_with(end)).expect(end);
        std::fs::read_to_string(file).unwrap()
    };
    let json = read(".json");
    assert!(read(".ptx").contains(PTX));
    for part in [
        r#""name": "k""#,
        r#""launches": [{"grid": [2, 1, 1], "block": [32, 1, 1], "dynamic_shared": 0, "count": 3}]"#,
        // Six warps, each store 32 words in one bank: 31 wavefronts more than one.
        r#""text": "st.shared.u32 [%r4], %r1;", "class": "SharedStore", "source": [{"file": "src/lib.rs", "line": 12, "column": 5, "function": "k"}], "issued": 6, "acted": 6, "lanes": 192, "shared_store_bytes": 768, "conflicts": 186, "ways": 32, "stride": 128"#,
        // Each lane in a sector of its own.
        r#""line": 13, "column": 5, "function": "k"}], "issued": 6, "acted": 6, "lanes": 192, "load_sectors": 192, "load_bytes": 768, "stride": 32"#,
        r#""text": "@%p1 bra L;", "class": "Control", "source": [{"file": "src/lib.rs", "line": 14, "column": 5, "function": "k"}], "issued": 6, "acted": 6, "lanes": 48, "divergent": 6"#,
        // Once the lanes have parted, 24 of them.
        r#""text": "add.u32 %r6, %r5, 1;", "class": "Integer", "source": [{"file": "src/lib.rs", "line": 14, "column": 5, "function": "k"}], "issued": 6, "acted": 6, "lanes": 144"#,
    ] {
        assert!(json.contains(part), "{part} is missing:\n{json}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
