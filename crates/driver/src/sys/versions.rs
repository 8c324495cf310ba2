//! Which version of a function a program gets that asks by name: `cuGetProcAddress`.
//!
//! A function whose signature changed has a symbol for each version: `cuMemAlloc`, `cuMemAlloc_v2`. A program asks for the
//! name without the suffix and says which CUDA release it was written for.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::OnceLock;

/// Functions of several versions, each with the releases (1000 * major + 10 * minor) that brought them.
#[rustfmt::skip]
const VERSIONS: &[(&str, &[u32])] = &[
    ("cuArray3DCreate", &[2000, 3020]),
    ("cuArray3DGetDescriptor", &[2000, 3020]),
    ("cuArrayCreate", &[2000, 3020]),
    ("cuArrayGetDescriptor", &[2000, 3020]),
    ("cuCtxCreate", &[2000, 3020, 11040, 12050]),
    ("cuCtxDestroy", &[2000, 4000]),
    ("cuCtxGetDevice", &[2000, 13000]),
    ("cuCtxPopCurrent", &[2000, 4000]),
    ("cuCtxPushCurrent", &[2000, 4000]),
    ("cuCtxSynchronize", &[2000, 13000]),
    ("cuDeviceGetUuid", &[9020, 11040]),
    ("cuDevicePrimaryCtxRelease", &[7000, 11000]),
    ("cuDevicePrimaryCtxReset", &[7000, 11000]),
    ("cuDevicePrimaryCtxSetFlags", &[7000, 11000]),
    ("cuDeviceTotalMem", &[2000, 3020]),
    ("cuEventDestroy", &[2000, 4000]),
    ("cuEventElapsedTime", &[2000, 12080]),
    ("cuGetProcAddress", &[11030, 12000]),
    ("cuGraphAddDependencies", &[10000, 12030]),
    ("cuGraphAddKernelNode", &[10000, 12000]),
    ("cuGraphAddNode", &[12020, 12030, 13040]),
    ("cuGraphExecKernelNodeSetParams", &[10010, 12000]),
    ("cuGraphExecUpdate", &[10020, 12000]),
    ("cuGraphGetEdges", &[10000, 12030]),
    ("cuGraphInstantiate", &[10000, 11000]),
    ("cuGraphKernelNodeGetParams", &[10000, 12000]),
    ("cuGraphKernelNodeSetParams", &[10000, 12000]),
    ("cuGraphNodeGetDependencies", &[10000, 12030]),
    ("cuGraphNodeGetDependentNodes", &[10000, 12030]),
    ("cuGraphNodeSetParams", &[12020, 13040]),
    ("cuGraphRemoveDependencies", &[10000, 12030]),
    ("cuGraphicsResourceGetMappedPointer", &[3000, 3020]),
    ("cuGraphicsResourceSetMapFlags", &[3000, 6050]),
    ("cuIpcOpenMemHandle", &[4010, 11000]),
    ("cuLaunchHostFunc", &[10000, 13010]),
    ("cuLinkAddData", &[5050, 6050]),
    ("cuLinkAddFile", &[5050, 6050]),
    ("cuLinkCreate", &[5050, 6050]),
    ("cuMemAdvise", &[8000, 12020]),
    ("cuMemAlloc", &[2000, 3020]),
    ("cuMemAllocHost", &[2000, 3020]),
    ("cuMemAllocPitch", &[2000, 3020]),
    ("cuMemFree", &[2000, 3020]),
    ("cuMemGetAddressRange", &[2000, 3020]),
    ("cuMemGetInfo", &[2000, 3020]),
    ("cuMemHostGetDevicePointer", &[2020, 3020]),
    ("cuMemHostRegister", &[4000, 6050]),
    ("cuMemPrefetchAsync", &[8000, 12020]),
    ("cuMemcpy2D", &[2000, 3020]),
    ("cuMemcpy2DAsync", &[2000, 3020]),
    ("cuMemcpy2DUnaligned", &[2000, 3020]),
    ("cuMemcpy3D", &[2000, 3020]),
    ("cuMemcpy3DAsync", &[2000, 3020]),
    ("cuMemcpy3DBatchAsync", &[12080, 13000]),
    ("cuMemcpyAtoA", &[2000, 3020]),
    ("cuMemcpyAtoD", &[2000, 3020]),
    ("cuMemcpyAtoH", &[2000, 3020]),
    ("cuMemcpyAtoHAsync", &[2000, 3020]),
    ("cuMemcpyBatchAsync", &[12080, 13000]),
    ("cuMemcpyDtoA", &[2000, 3020]),
    ("cuMemcpyDtoD", &[2000, 3020]),
    ("cuMemcpyDtoDAsync", &[3000, 3020]),
    ("cuMemcpyDtoH", &[2000, 3020]),
    ("cuMemcpyDtoHAsync", &[2000, 3020]),
    ("cuMemcpyHtoA", &[2000, 3020]),
    ("cuMemcpyHtoAAsync", &[2000, 3020]),
    ("cuMemcpyHtoD", &[2000, 3020]),
    ("cuMemcpyHtoDAsync", &[2000, 3020]),
    ("cuMemsetD16", &[2000, 3020]),
    ("cuMemsetD2D16", &[2000, 3020]),
    ("cuMemsetD2D32", &[2000, 3020]),
    ("cuMemsetD2D8", &[2000, 3020]),
    ("cuMemsetD32", &[2000, 3020]),
    ("cuMemsetD8", &[2000, 3020]),
    ("cuModuleGetGlobal", &[2000, 3020]),
    ("cuMulticastBindAddr", &[12010, 13010]),
    ("cuMulticastBindMem", &[12010, 13010]),
    ("cuStreamBatchMemOp", &[8000, 11070]),
    ("cuStreamBeginCapture", &[10000, 10010]),
    ("cuStreamDestroy", &[2000, 4000]),
    ("cuStreamGetCaptureInfo", &[10010, 11030, 12030]),
    ("cuStreamGetCtx", &[9020, 12050]),
    ("cuStreamUpdateCaptureDependencies", &[11030, 12030]),
    ("cuStreamWaitValue32", &[8000, 11070]),
    ("cuStreamWaitValue64", &[9000, 11070]),
    ("cuStreamWriteValue32", &[8000, 11070]),
    ("cuStreamWriteValue64", &[9000, 11070]),
    ("cuTexRefGetAddress", &[2000, 3020]),
    ("cuTexRefSetAddress", &[2000, 3020]),
    ("cuTexRefSetAddress2D", &[2020, 3020, 4010]),
];

/// What the search for a name gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The function.
    Function(*const c_void),
    /// There is none of that name.
    Unknown,
    /// There is one for later releases only.
    TooOld,
}

/// The function of softcuda's that a name means for a program written for a release. With `per_thread`, a null stream is the
/// thread's own default stream. `more` knows symbols beyond this crate's.
pub fn find(name: &str, release: u32, per_thread: bool, more: impl Fn(&str) -> Option<*const c_void>) -> Found {
    let get = |symbol: &str| address_of(symbol).or_else(|| more(symbol));
    let variant = |symbol: &str| {
        let suffixes: &[&str] = if per_thread { &["_ptsz", "_ptds", ""] } else { &[""] };
        suffixes.iter().find_map(|suffix| get(&format!("{symbol}{suffix}")))
    };
    let Ok(known) = VERSIONS.binary_search_by_key(&name, |&(base, _)| base) else {
        return variant(name).map_or(Found::Unknown, Found::Function);
    };
    let (_, releases) = VERSIONS[known];
    let count = releases.partition_point(|&since| since <= release);
    let symbol = |index: usize| match index {
        0 => name.to_owned(),
        _ => format!("{name}_v{}", index + 1),
    };
    // The newest that the program can know, where it is served: what is older has another signature.
    match count.checked_sub(1).and_then(|index| variant(&symbol(index))) {
        Some(function) => Found::Function(function),
        None if (count..releases.len()).any(|index| get(&symbol(index)).is_some()) => Found::TooOld,
        None => Found::Unknown,
    }
}

/// The function of a symbol.
fn address_of(symbol: &str) -> Option<*const c_void> {
    static EXPORTS: OnceLock<HashMap<&str, usize>> = OnceLock::new();
    let exports = EXPORTS.get_or_init(|| {
        let all = super::table::exports().into_iter().chain(super::foreign::exports());
        all.map(|(name, function)| (name, function.expose_provenance())).collect()
    });
    exports.get(symbol).map(|&function| std::ptr::with_exposed_provenance(function))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(name: &str, release: u32, per_thread: bool) -> String {
        match find(name, release, per_thread, |_| None) {
            Found::Function(function) => {
                let all = crate::sys::table::exports().into_iter().chain(crate::sys::foreign::exports());
                all.into_iter().find(|&(_, known)| known == function).expect("an export").0.to_owned()
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_name_gives_the_newest_version_that_a_program_can_know() {
        for (name, release, per_thread, expected) in [
            ("cuInit", 2000, false, "cuInit"),
            ("cuMemAlloc", 12000, false, "cuMemAlloc_v2"),
            ("cuMemAlloc", 3020, false, "cuMemAlloc_v2"),
            ("cuMemAlloc", 2000, false, "TooOld"),
            ("cuCtxCreate", 11030, false, "cuCtxCreate_v2"),
            ("cuCtxCreate", 11040, false, "cuCtxCreate_v3"),
            ("cuCtxCreate", 13000, false, "cuCtxCreate_v4"),
            ("cuStreamGetCtx", 9020, false, "cuStreamGetCtx"),
            ("cuStreamGetCtx", 12050, false, "cuStreamGetCtx_v2"),
            ("cuLaunchKernel", 12000, false, "cuLaunchKernel"),
            ("cuLaunchKernel", 12000, true, "cuLaunchKernel_ptsz"),
            ("cuMemcpyHtoD", 12000, true, "cuMemcpyHtoD_v2_ptds"),
            ("cuMemAlloc", 12000, true, "cuMemAlloc_v2"),
            ("cuGetProcAddresses", 12000, false, "Unknown"),
        ] {
            assert_eq!(symbol(name, release, per_thread), expected, "{name} {release} {per_thread}");
        }
    }

    #[test]
    fn the_list_of_versions_is_sorted() {
        assert!(VERSIONS.is_sorted_by_key(|&(name, _)| name));
        assert!(VERSIONS.iter().all(|(_, releases)| releases.len() > 1 && releases.is_sorted()));
    }
}
