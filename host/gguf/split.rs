//! Models split over several files.
//!
//! llama.cpp names the parts `NAME-00001-of-00003.gguf`. The first part holds the metadata; every part says its number (`split.no`,
//! from 0), how many there are (`split.count`) and how many tensors they hold together (`split.tensors.count`).

use std::path::{Path, PathBuf};

use super::error::{GgufError, Rule};
use super::{Bytes, Gguf};

/// The most parts a name can count.
const MAX_PARTS: u64 = 99_999;

/// Opens the other parts of a split model, if `first` is the first of several.
pub(super) fn join(first: Gguf, path: &Path) -> Result<Gguf, GgufError> {
    let count = parts(&first)?;
    if count <= 1 {
        return Ok(first);
    }
    let reject = |rule, field: &str, found: String, expected: String| {
        GgufError::rejected(&first.name, rule, field, found, expected)
    };
    if number(&first)? != 0 {
        let found = format!("part {} of {count}", number(&first)? + 1);
        return Err(reject(Rule::SplitFirst, "metadata key split.no", found, "the first part".into()));
    }
    let suffix = format!("-00001-of-{count:05}.gguf");
    let file_name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let Some(stem) = file_name.strip_suffix(&suffix) else {
        let found = format!("{file_name:?} for the first of {count} parts");
        return Err(reject(Rule::SplitName, "file name", found, format!("a name ending in {suffix}")));
    };
    let promised = first.metadata.opt_u64("split.tensors.count").map_err(|e| wrong_key(&first, &e))?;
    let part_path = |no: u64| -> PathBuf { path.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", no + 1)) };

    let mut whole = first;
    for no in 1..count {
        let path = part_path(no);
        let part = Gguf::single(Bytes::map(&path)?, &path.display().to_string())?;
        append(&mut whole, part, no, count)?;
    }
    match promised {
        Some(promised) if promised != (whole.tensors.len() + whole.foreign.len()) as u64 => Err(GgufError::rejected(
            &whole.name,
            Rule::SplitTensors,
            "metadata key split.tensors.count",
            format!("{} tensors in {count} parts", whole.tensors.len()),
            promised,
        )),
        _ => Ok(whole),
    }
}

/// A split model cannot be read from one piece of memory.
pub(super) fn refuse(gguf: Gguf) -> Result<Gguf, GgufError> {
    match parts(&gguf)? {
        0 | 1 => Ok(gguf),
        count => Err(GgufError::rejected(
            &gguf.name,
            Rule::SplitName,
            "metadata key split.count",
            format!("one of {count} parts"),
            "a whole model, or a path beside which the other parts lie",
        )),
    }
}

fn append(whole: &mut Gguf, part: Gguf, no: u64, count: u64) -> Result<(), GgufError> {
    if (number(&part)?, parts(&part)?) != (no, count) {
        let found = format!("part {} of {}", number(&part)?.saturating_add(1), parts(&part)?);
        let expected = format!("part {} of {count}, as its name says", no + 1);
        return Err(GgufError::rejected(&part.name, Rule::SplitPart, "metadata key split.no", found, expected));
    }
    for mut tensor in part.tensors {
        if whole.by_name.contains_key(&tensor.name) {
            let field = format!("tensor {}", tensor.name);
            return Err(GgufError::rejected(&part.name, Rule::DuplicateTensor, field, "it in two parts", "it once"));
        }
        tensor.part = no as usize;
        whole.by_name.insert(tensor.name.clone(), whole.tensors.len());
        whole.tensors.push(tensor);
    }
    whole.foreign.extend(part.foreign);
    whole.parts.extend(part.parts);
    Ok(())
}

fn number(gguf: &Gguf) -> Result<u64, GgufError> {
    Ok(gguf.metadata.opt_u64("split.no").map_err(|e| wrong_key(gguf, &e))?.unwrap_or(0))
}

/// 0 when the file says nothing of parts.
fn parts(gguf: &Gguf) -> Result<u64, GgufError> {
    let count = gguf.metadata.opt_u64("split.count").map_err(|e| wrong_key(gguf, &e))?.unwrap_or(0);
    if count > MAX_PARTS {
        let expected = format!("at most {MAX_PARTS}");
        return Err(GgufError::rejected(&gguf.name, Rule::SplitPart, "metadata key split.count", count, expected));
    }
    Ok(count)
}

fn wrong_key(gguf: &Gguf, error: &super::MetadataError) -> GgufError {
    GgufError::rejected(&gguf.name, Rule::SplitPart, "metadata key split.*", error, "integers")
}
