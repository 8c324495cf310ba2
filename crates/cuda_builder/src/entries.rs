//! The kernels that a PTX text holds, and whether they are the ones that the host will launch.

use std::path::Path;

use cuda_std::{Bounds, KernelInfo};

use crate::BuildError;

/// A `.entry` of the PTX: its name and the size in bytes of each parameter.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    sizes: Vec<usize>,
}

/// Fails when the PTX has no kernel, or when its kernels and `expected` are not the same with the same parameters.
pub fn check(path: &Path, ptx: &str, expected: Option<&[KernelInfo]>) -> Result<(), BuildError> {
    let entries = parse(ptx);
    if entries.is_empty() {
        return Err(BuildError::Empty { path: path.to_owned() });
    }
    let Some(expected) = expected else {
        return Ok(());
    };
    let fail = |kernel: &str, problem: String| {
        Err(BuildError::Entry { path: path.to_owned(), kernel: kernel.to_owned(), problem })
    };
    for kernel in expected {
        let Some(entry) = entries.iter().find(|entry| entry.name == kernel.name) else {
            return fail(kernel.name, "is registered but has no .entry in the PTX".into());
        };
        if entry.sizes != kernel.sizes {
            return fail(
                kernel.name,
                format!(
                    "its host handle has parameters {:?} of {:?} bytes, its .entry has {:?} bytes",
                    kernel.parameters, kernel.sizes, entry.sizes
                ),
            );
        }
    }
    match entries.iter().find(|entry| !expected.iter().any(|kernel| kernel.name == entry.name)) {
        Some(entry) => fail(&entry.name, "is in the PTX but not registered: add it to the crate's KERNELS".into()),
        None => Ok(()),
    }
}

/// The text with the bounds of those kernels that have any: `.maxntid` and `.minnctapersm` between an entry's parameters and
/// its body, where rustc has no way to put them.
pub fn with_bounds(ptx: &str, kernels: &[KernelInfo]) -> String {
    let mut bounded = String::with_capacity(ptx.len());
    for (index, definition) in ptx.split(".entry ").enumerate() {
        if index > 0 {
            bounded += ".entry ";
        }
        let name = definition.split('(').next().unwrap_or_default().trim();
        let bounds = kernels.iter().find(|kernel| index > 0 && kernel.name == name).and_then(|kernel| kernel.bounds);
        match (bounds, definition.split_once(')')) {
            (Some(Bounds { threads, blocks }), Some((parameters, body))) => {
                bounded += &format!("{parameters})\n.maxntid {threads}, 1, 1\n.minnctapersm {blocks}{body}");
            }
            _ => bounded += definition,
        }
    }
    bounded
}

/// Reads `.entry NAME( .param .u64 .ptr .align 1 NAME_param_0, … )` for every entry.
fn parse(ptx: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for definition in ptx.split(".entry ").skip(1) {
        let Some((name, rest)) = definition.split_once('(') else {
            continue;
        };
        let Some((parameters, _)) = rest.split_once(')') else {
            continue;
        };
        let sizes = parameters.split(',').filter_map(parameter_size).collect();
        entries.push(Entry { name: name.trim().to_owned(), sizes });
    }
    entries
}

fn parameter_size(parameter: &str) -> Option<usize> {
    let bits = parameter.split_whitespace().find_map(|word| {
        let kind = word.strip_prefix('.')?;
        kind.strip_prefix(['u', 's', 'b', 'f'])?.parse::<usize>().ok()
    })?;
    Some(bits / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "
.visible .entry scale(
	.param .u64 .ptr .align 1 scale_param_0,
	.param .b32 scale_param_1
)
{
	ret;
}
.visible .entry nothing()
{
	ret;
}";

    const SCALE: KernelInfo = KernelInfo { name: "scale", parameters: &["x", "n"], sizes: &[8, 4], bounds: None };
    const NOTHING: KernelInfo = KernelInfo { name: "nothing", parameters: &[], sizes: &[], bounds: None };

    fn checked(ptx: &str, kernels: &[KernelInfo]) -> Result<(), String> {
        check(Path::new("k.ptx"), ptx, Some(kernels)).map_err(|error| error.to_string())
    }

    #[test]
    fn equal_sets_pass() {
        assert_eq!(checked(PTX, &[NOTHING, SCALE]), Ok(()));
    }

    #[test]
    fn bounds_go_between_the_parameters_and_the_body() {
        let bounds = Some(Bounds { threads: 64, blocks: 3 });
        let want = PTX.replace("_param_1\n)\n", "_param_1\n)\n.maxntid 64, 1, 1\n.minnctapersm 3\n");
        assert_eq!(with_bounds(PTX, &[NOTHING, KernelInfo { bounds, ..SCALE }]), want);
        assert_eq!(with_bounds(PTX, &[NOTHING, SCALE]), PTX);
    }

    #[test]
    fn every_disagreement_is_an_error_that_names_the_kernel() {
        let other = KernelInfo { sizes: &[8, 8], ..SCALE };
        let missing = KernelInfo { name: "absent", ..SCALE };
        for (ptx, kernels, expected) in [
            ("", &[SCALE, NOTHING][..], "wrote no kernel"),
            (PTX, &[SCALE], "`nothing`: is in the PTX but not registered"),
            (PTX, &[other, NOTHING], "`scale`: its host handle has parameters"),
            (PTX, &[SCALE, NOTHING, missing], "`absent`: is registered but has no .entry"),
        ] {
            let error = checked(ptx, kernels).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }
}
