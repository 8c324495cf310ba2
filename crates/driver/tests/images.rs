//! What modules are loaded from: PTX text, fat binaries, compressed ones, what the linker made; and what is refused in words.
#![allow(clippy::undocumented_unsafe_blocks, reason = "the same for all: softcuda looks up every handle and address")]

mod common;

use std::ffi::{CString, c_void};
use std::ptr;

use driver::DeviceChoice;
use driver::sys::*;

const PTX: &str = include_str!("common/kernels.ptx");

#[track_caller]
fn ok(result: CUresult) {
    assert_eq!(result, CUDA_SUCCESS, "{:?}", driver::last_error());
}

#[track_caller]
fn refused(result: CUresult, expected: CUresult, words: &[&str]) {
    let text = driver::last_error().unwrap_or_default();
    assert_eq!(result, expected, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

/// How an entry of a fat binary is stored.
#[derive(Clone, Copy, Debug)]
enum Packing {
    Plain,
    Lz4,
    Zstd,
}

/// An entry as NVIDIA's `fatbinary` lays it out.
fn entry(kind: u16, architecture: u32, content: &[u8], packing: Packing) -> Vec<u8> {
    let (mut payload, flags) = match packing {
        Packing::Plain => (content.to_vec(), 0x11u64),
        Packing::Lz4 => (lz4_flex::block::compress(content), 0x2011),
        Packing::Zstd => (zstd::bulk::compress(content, 3).unwrap(), 0x8011),
    };
    let packed = payload.len();
    payload.resize(packed.next_multiple_of(8), 0);
    let mut out = vec![0u8; 64];
    out[0..2].copy_from_slice(&kind.to_le_bytes());
    out[2..4].copy_from_slice(&0x101u16.to_le_bytes());
    out[4..8].copy_from_slice(&64u32.to_le_bytes());
    out[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    if !matches!(packing, Packing::Plain) {
        out[16..20].copy_from_slice(&(packed as u32).to_le_bytes());
        out[56..64].copy_from_slice(&(content.len() as u64).to_le_bytes());
    }
    out[28..32].copy_from_slice(&architecture.to_le_bytes());
    out[40..48].copy_from_slice(&flags.to_le_bytes());
    out.extend(payload);
    out
}

fn fatbin(entries: &[Vec<u8>]) -> Vec<u8> {
    let entries = entries.concat();
    let mut out = 0xba55_ed50u32.to_le_bytes().to_vec();
    out.extend([1, 0, 16, 0]);
    out.extend((entries.len() as u64).to_le_bytes());
    out.extend(entries);
    out
}

fn load(image: &[u8]) -> (CUresult, CUmodule) {
    let mut module = ptr::null_mut();
    let result = unsafe { cuModuleLoadData(&mut module, image.as_ptr().cast()) };
    (result, module)
}

fn has(module: CUmodule, kernel: &str) -> bool {
    let (name, mut function) = (CString::new(kernel).unwrap(), ptr::null_mut());
    unsafe { cuModuleGetFunction(&mut function, module, name.as_ptr()) == CUDA_SUCCESS }
}

/// A text with one kernel of this name.
fn with_kernel(name: &str, architecture: u32) -> String {
    format!(".version 8.0\n.target sm_{architecture}\n.address_size 64\n.visible .entry {name}() {{\n    ret;\n}}\n")
}

#[test]
fn a_fat_binary_gives_its_ptx_however_it_is_packed() {
    let _turn = common::turn_on(DeviceChoice::Soft);
    for packing in [Packing::Plain, Packing::Lz4, Packing::Zstd] {
        let image = fatbin(&[
            entry(2, 80, b"\x7fELF machine code", Packing::Plain),
            entry(1, 80, with_kernel("older", 80).as_bytes(), packing),
            entry(1, 90, PTX.as_bytes(), packing),
            entry(1, 120, with_kernel("newer", 90).as_bytes(), packing),
        ]);
        let (result, module) = load(&image);
        ok(result);
        assert!(has(module, "write_at"), "{packing:?}: the newest that compute capability 9.0 includes");
        assert!(!has(module, "older") && !has(module, "newer"));

        // As nvcc embeds it: behind a pointer.
        let wrapper = [0x1_4662_43b1u64, image.as_ptr().expose_provenance() as u64, 0];
        let mut wrapped = ptr::null_mut();
        ok(unsafe { cuModuleLoadFatBinary(&mut wrapped, wrapper.as_ptr().cast()) });
        assert!(has(wrapped, "write_at"));

        // Damage may be seen or, in the text itself, read as another text; it never ends the process.
        for at in (0..image.len()).step_by(97) {
            let mut damaged = image.clone();
            damaged[at] ^= 0xff;
            let (result, module) = load(&damaged);
            assert_eq!(result == CUDA_SUCCESS, !module.is_null(), "byte {at}");
        }
    }
}

/// `common/kernels.ptx`, packed by NVIDIA's own library (`nvidia-nvfatbin` 13.4) in each of its ways.
#[test]
fn nvidias_fat_binaries_are_read() {
    let _turn = common::turn_on(DeviceChoice::Soft);
    for image in [
        &include_bytes!("common/kernels.plain.fatbin")[..],
        include_bytes!("common/kernels.lz4.fatbin"),
        include_bytes!("common/kernels.zstd.fatbin"),
    ] {
        let (result, module) = load(image);
        ok(result);
        for kernel in ["scaled_add", "write_at", "reverse_blocks"] {
            assert!(has(module, kernel), "{kernel}");
        }
    }
}

#[test]
fn machine_code_is_refused_in_words() {
    let _turn = common::turn_on(DeviceChoice::Soft);
    let (result, _) = load(b"\x7fELF\x02\x01\x01\0\0\0\0\0");
    refused(result, CUDA_ERROR_NO_BINARY_FOR_GPU, &["machine code", "cubin", "softcuda runs PTX"]);
    let only_code = fatbin(&[entry(2, 80, b"\x7fELF", Packing::Plain), entry(2, 90, b"\x7fELF", Packing::Plain)]);
    let (result, _) = load(&only_code);
    refused(result, CUDA_ERROR_NO_BINARY_FOR_GPU, &["sm_80, sm_90", "no PTX", "code=compute_90"]);
    let cut = &mut fatbin(&[entry(1, 90, PTX.as_bytes(), Packing::Lz4)]);
    cut[16 + 8] = 255;
    cut[16 + 11] = 255;
    let (result, _) = load(cut);
    refused(result, CUDA_ERROR_INVALID_IMAGE, &["the fat binary is damaged"]);
    let (result, _) = load(&fatbin(&[]));
    refused(result, CUDA_ERROR_NO_BINARY_FOR_GPU, &["no PTX"]);
    let (result, _) = load(b"\xff\xfe\0");
    refused(result, CUDA_ERROR_INVALID_IMAGE, &["neither PTX text nor binary"]);
}

#[test]
fn the_linker_makes_one_module_of_several_texts() {
    let _turn = common::turn_on(DeviceChoice::Soft);
    let mut log = [0u8; 400];
    // An error log and its capacity, which stands in the pointer's place.
    let mut names = [5, 6];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), ptr::without_provenance_mut(log.len())];
    let mut state = ptr::null_mut();
    let add = |state: CUlinkState, kind: u32, data: &mut [u8]| unsafe {
        cuLinkAddData_v2(
            state,
            kind,
            data.as_mut_ptr().cast(),
            data.len(),
            c"a".as_ptr(),
            0,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    let mut caller = "
.version 8.0
.target sm_90
.address_size 64
.extern .func (.param .b32 out) plus_one(.param .b32 in);
.visible .entry calls(.param .u64 to) {
    .reg .b32 %r<3>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [to];
    ld.global.u32 %r1, [%rd1];
    { .param .b32 in; .param .b32 out;
      st.param.b32 [in], %r1;
      call (out), plus_one, (in);
      ld.param.b32 %r2, [out]; }
    st.global.u32 [%rd1], %r2;
    ret;
}\0"
    .as_bytes()
    .to_vec();
    let callee = "
.version 8.0
.target sm_90
.address_size 64
.visible .func (.param .b32 out) plus_one(.param .b32 in) {
    .reg .b32 %r<3>;
    ld.param.u32 %r1, [in];
    add.u32 %r2, %r1, 1;
    st.param.b32 [out], %r2;
    ret;
}"
    .to_owned();
    unsafe {
        ok(cuLinkCreate_v2(2, names.as_mut_ptr(), values.as_mut_ptr(), &mut state));
        ok(add(state, 1, &mut caller));
        ok(add(state, 2, &mut fatbin(&[entry(1, 90, callee.as_bytes(), Packing::Zstd)])));
        let (mut image, mut bytes, mut module) = (ptr::null_mut(), 0, ptr::null_mut());
        ok(cuLinkComplete(state, &mut image, &mut bytes));
        ok(cuModuleLoadData(&mut module, image));
        ok(cuLinkDestroy(state));
        let (mut function, mut buffer, mut value) = (ptr::null_mut(), 0, 41u32);
        ok(cuModuleGetFunction(&mut function, module, c"calls".as_ptr()));
        ok(cuMemAlloc_v2(&mut buffer, 4));
        ok(cuMemcpyHtoD_v2(buffer, (&raw const value).cast(), 4));
        // The parameters as a buffer, which some programs give rather than pointers.
        let mut size = 8usize;
        let mut extra: [*mut c_void; 5] = [
            ptr::without_provenance_mut(1),
            (&raw mut buffer).cast(),
            ptr::without_provenance_mut(2),
            (&raw mut size).cast(),
            ptr::null_mut(),
        ];
        let none = ptr::null_mut();
        ok(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, ptr::null_mut(), none, extra.as_mut_ptr()));
        ok(cuMemcpyDtoH_v2((&raw mut value).cast(), buffer, 4));
        assert_eq!(value, 42);
        (&raw mut size).write(7);
        let short = cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, ptr::null_mut(), none, extra.as_mut_ptr());
        refused(short, CUDA_ERROR_INVALID_VALUE, &["7 bytes of parameters", "expected 8"]);

        // What cannot be linked says so, also in the caller's log, whose capacity the first link has replaced by a length.
        values[1] = ptr::without_provenance_mut(log.len());
        ok(cuLinkCreate_v2(2, names.as_mut_ptr(), values.as_mut_ptr(), &mut state));
        refused(
            add(state, 0, b"\x7fELF".to_vec().as_mut_slice()),
            CUDA_ERROR_NO_BINARY_FOR_GPU,
            &["a cubin", "links PTX"],
        );
        ok(cuLinkDestroy(state));
    }
    let text = String::from_utf8_lossy(&log);
    assert!(text.contains("softcuda links PTX"), "{text}");
}

#[test]
fn a_library_serves_every_context() {
    let turn = common::turn_on(DeviceChoice::Soft);
    let text = CString::new(PTX).unwrap();
    let (mut library, mut kernel, mut count) = (ptr::null_mut(), ptr::null_mut(), 0);
    let none = ptr::null_mut::<c_void>();
    unsafe {
        ok(cuLibraryLoadData(
            &mut library,
            text.as_ptr().cast(),
            none.cast(),
            none.cast(),
            0,
            none.cast(),
            none.cast(),
            0,
        ));
        ok(cuLibraryGetKernelCount(&mut count, library));
        assert_eq!(count, 3);
        ok(cuLibraryGetKernel(&mut kernel, library, c"write_at".as_ptr()));
        refused(
            cuLibraryGetKernel(&mut kernel, library, c"absent".as_ptr()),
            CUDA_ERROR_NOT_FOUND,
            &["no kernel named absent"],
        );
        // 64 KiB of dynamic shared memory, set before any context has the kernel.
        ok(cuKernelSetAttribute(8, 64 << 10, kernel, 0));
        let (mut function, mut other, mut limit) = (ptr::null_mut(), ptr::null_mut(), 0);
        ok(cuKernelGetFunction(&mut function, kernel));
        ok(cuFuncGetAttribute(&mut limit, 8, function));
        assert_eq!(limit, 64 << 10);
        let (mut context, mut buffer) = (ptr::null_mut(), 0);
        ok(cuCtxCreate_v2(&mut context, 0, 0));
        ok(cuKernelGetFunction(&mut other, kernel));
        assert_ne!(function, other, "a context has a function of its own");
        ok(cuMemAlloc_v2(&mut buffer, 256));
        let (mut index, mut value) = (3u64, 5u32);
        let mut parameters: [*mut c_void; 3] =
            [(&raw mut buffer).cast(), (&raw mut index).cast(), (&raw mut value).cast()];
        let launched =
            cuLaunchKernel(kernel, 2, 1, 1, 32, 1, 1, 60 << 10, ptr::null_mut(), parameters.as_mut_ptr(), none.cast());
        ok(launched);
        ok(cuMemcpyDtoH_v2((&raw mut value).cast(), buffer + 12, 4));
        assert_eq!(value, 5);
        ok(cuCtxDestroy_v2(context));
        ok(cuLibraryUnload(library));
        refused(cuKernelGetFunction(&mut other, kernel), CUDA_ERROR_INVALID_HANDLE, &["library's kernel"]);
    }
    drop(turn);
}
