//! What the kernels' PTX must and must not hold. (`./x lint-ptx` has NVIDIA's assembler judge it too.)

use std::collections::BTreeMap;

use ferrowarp::gpu::image::{IMAGES, KERNELS};

/// Each PTX image's target, and the kernels in it.
fn images() -> Vec<(&'static str, BTreeMap<&'static str, Vec<&'static str>>)> {
    let images: Vec<_> =
        IMAGES.iter().filter_map(|image| Some((image.target, kernels_of(image.ptx()?.leak())))).collect();
    assert_eq!(images.len(), 2);
    images
}

/// Every kernel of every image: the target and the name, and the lines of the body.
fn entries() -> impl Iterator<Item = (&'static str, String, Vec<&'static str>)> {
    let images = images().into_iter();
    images.flat_map(|(target, kernels)| {
        kernels.into_iter().map(move |(name, body)| (name, format!("{name} for {target}"), body))
    })
}

/// Each entry's name and the lines of its body.
fn kernels_of(ptx: &'static str) -> BTreeMap<&'static str, Vec<&'static str>> {
    let entries: BTreeMap<_, _> = ptx
        .split(".entry ")
        .skip(1)
        .map(|text| {
            let name = text.split('(').next().unwrap().trim();
            let body = text.split_once("\n{").expect("a body").1.split("\n}").next().unwrap();
            (name, body.lines().map(str::trim).collect())
        })
        .collect();
    assert_eq!(entries.len(), KERNELS.len(), "the PTX has every kernel");
    entries
}

fn count(body: &[&str], needle: &str) -> usize {
    body.iter().filter(|line| line.contains(needle)).count()
}

/// Inline assembly comes as one line; what follows a predicate or a brace is an instruction too.
fn instructions<'a>(body: &[&'a str]) -> Vec<&'a str> {
    let pieces = body.iter().flat_map(|line| line.split(';')).map(|piece| piece.trim_start_matches(['{', ' ', '\t']));
    pieces
        .map(
            |piece| {
                if piece.starts_with('@') { piece.split_once(char::is_whitespace).map_or("", |p| p.1) } else { piece }
            },
        )
        .map(str::trim)
        .filter(|piece| !piece.is_empty())
        .collect()
}

#[test]
fn no_kernel_uses_local_memory_or_calls_a_function() {
    // Local memory is device memory: an array that was not kept in registers, or a spill.
    for (_, name, body) in entries() {
        for needle in [".local", "ld.local", "st.local", "call"] {
            assert_eq!(count(&body, needle), 0, "{name}: `{needle}` in its PTX");
        }
    }
}

#[test]
fn no_kernel_accesses_memory_generically() {
    // A generic access is resolved by the hardware each time. Shared memory is reached by ld.shared and st.shared only.
    for (_, name, body) in entries() {
        for instruction in instructions(&body) {
            let opcode = instruction.split_whitespace().next().unwrap_or_default();
            let Some((operation, rest)) = opcode.split_once('.') else {
                continue;
            };
            if !["ld", "st", "atom", "red"].contains(&operation) {
                continue;
            }
            let space = rest.split('.').find(|part| ["global", "shared", "param", "const"].contains(part));
            assert!(space.is_some(), "{name}: generic access `{instruction}`");
        }
    }
}

#[test]
fn weights_and_caches_are_read_wide() {
    for (kernel, name, body) in entries() {
        const WAYS: [&str; 7] =
            ["gemv_few_wide_", "gemv_few_", "gemv_many_wide_", "gemv_many_", "gemv_sum_", "gemv_wide_", "gemv_"];
        let format = WAYS.iter().find_map(|way| kernel.strip_prefix(way));
        if let Some(format) = format.filter(|format| !format.starts_with("exact_") && !format.starts_with("stage_")) {
            // In turn the loads of a step's four rows: before the loop those of one or two steps, and in it those of as many. On tensor cores
            // a step has two, and the loop two steps.
            // Each way of taking the activations and each format of a kernel has them. Formats whose largest part is smaller than 16 bytes have
            // loads as wide as that is.
            let widest = match format {
                "iq1_s" | "iq1_m" => "ld.global.nc.v2.b32",
                "tq1_0" => "ld.global.nc.b32",
                _ => "ld.global.nc.L1::no_allocate.L2::128B.v4.b32",
            };
            let loads = count(&body, widest);
            let fewest = if kernel.starts_with("gemv_few_") { 6 } else { 8 };
            assert!(loads >= fewest && loads.is_multiple_of(fewest), "{name}: {loads} wide loads");
            // Several vectors times floats leave no room for them in shared memory.
            let has_several = kernel.starts_with("gemv_many_") || kernel.starts_with("gemv_sum_");
            let is_shared = !(has_several && matches!(format, "f32" | "f16" | "bf16"));
            let activations = if is_shared { "ld.shared.v4.b32" } else { "ld.global.v4.b32" };
            assert!(count(&body, activations) >= 1, "{name}: activations");
        }
        if kernel.starts_with("attention_q8_0") {
            // A lane's eight integers are eight bytes: keys (twice, as below) and values, for each of three numbers of lanes
            // a key. The query is f32.
            assert_eq!(count(&body, "ld.global.b64"), 9, "{name}");
            assert_eq!(count(&body, "ld.global.v4.b32"), 6, "{name}: the query");
        } else if kernel.starts_with("attention_") && !kernel.starts_with("attention_decode") {
            // The query, keys (twice: once more where probabilities are asked for) and values, for each of three numbers of
            // lanes a key.
            assert!(count(&body, "ld.global.v4.b32") >= 12, "{name}");
        }
        if kernel.starts_with("flash_") {
            // Shared memory is read for the tensor cores alone, four 8 × 8 matrices at a time, each product from registers; it is
            // filled beside the computing, 16 bytes at a time.
            let [products, loads] =
                ["mma.sync.aligned.m16n8k16", "ldmatrix.sync.aligned.m8n8.x4"].map(|op| count(&body, op));
            // What is read serves one fragment of rows, or two.
            let of_load = if kernel.ends_with("_wide") { 4 } else { 2 };
            assert!(products > 0 && products == of_load * loads, "{name}: {products} products of {loads} loads");
            assert!(count(&body, "cp.async.cg.shared.global") > 0, "{name}");
            assert_eq!(count(&body, "ld.shared") + count(&body, "st.shared"), 0, "{name}");
        }
        if kernel.starts_with("dequantise_") {
            assert_eq!(count(&body, "st.global.v4.b32"), 1, "{name}");
        }
    }
}

#[test]
fn attention_in_decoding_is_on_tensor_cores_for_16_bit_caches() {
    for (kernel, name, body) in entries() {
        let Some((element, head_dim)) =
            kernel.strip_prefix("attention_decode_").and_then(|shape| shape.rsplit_once('_'))
        else {
            continue;
        };
        let head_dim: usize = head_dim.parse().expect("a head size");
        // For a tile of 16 keys: two products of eight keys for each 16 elements, two pieces of the weights for each 16.
        let products = match element {
            "f16" | "bf16" if head_dim <= 128 => 4 * head_dim.div_ceil(32) + 8 * head_dim.div_ceil(64),
            _ => 0,
        };
        assert_eq!(count(&body, "mma.sync.aligned.m16n8k16"), products, "{name}");
    }
}
