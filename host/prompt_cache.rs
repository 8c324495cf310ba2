//! A sequence's keys and values in a file, so that a long prompt is computed once.
//!
//! A cache is good only for the very model and cache type that made it, so both are in the file and compared. Of a cache that
//! fits, the beginning that its tokens share with the new prompt is used.
//!
//! # Format
//!
//! All numbers are little-endian.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `FWKVC001` |
//! | 8 | the model's [`fingerprint`] |
//! | 4 + n | length and text of the model's name |
//! | 4 + n | length and text of the cache type |
//! | 4 + 4·n | number of tokens, and their ids |
//! | 8 + n | length and bytes of the cache, laid out as [`Engine::save_cache`](crate::forward::Engine::save_cache) says |
//! | 8 | hash of everything before |

use std::path::Path;

use rayon::prelude::*;

use crate::{
    atomic_file,
    forward::EngineError,
    gguf::Gguf,
    session::{Session, common_prefix},
};

const MAGIC: &[u8; 8] = b"FWKVC001";

/// Why a cache was not read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's text is its documentation
pub enum PromptCacheError {
    #[error("{file}: cannot {action} the prompt cache: {source}")]
    Io { file: String, action: &'static str, source: std::io::Error },
    #[error("{file}: found {found}, expected a prompt cache that ferrowarp wrote; delete the file to start anew")]
    Format { file: String, found: &'static str },
    #[error(
        "{file}: found a prompt cache of {found}, expected one of {expected}; choose another file with --prompt-cache, \
         or delete this one"
    )]
    Other { file: String, found: String, expected: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Brings what the cache at `path` and `prompt` share into the session. A file that is not there or empty is an empty cache.
/// Returns the number of tokens that the session now has.
///
/// # Errors
/// [`PromptCacheError`]: the file is no cache, or one of another model or cache type.
pub fn load(path: &Path, gguf: &Gguf, session: &mut Session, prompt: &[u32]) -> Result<usize, PromptCacheError> {
    let file = path.display().to_string();
    let bytes = match read_file(path) {
        Ok(bytes) if bytes.is_empty() => return Ok(0),
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(source) => {
            return Err(PromptCacheError::Io { file, action: "read", source });
        }
    };
    let format = |found| PromptCacheError::Format { file: file.clone(), found };
    if !bytes.starts_with(MAGIC) {
        return Err(format("another kind of file"));
    }
    let Some((content, sum)) = bytes.split_last_chunk::<8>() else {
        return Err(format("a truncated file"));
    };
    if u64::from_le_bytes(*sum) != hash(content) {
        return Err(format("a truncated or damaged file"));
    }
    let saved = Saved::read(content).ok_or_else(|| format("a damaged file"))?;

    let cache_type = session.engine().cache_type().to_string();
    let model = fingerprint(gguf);
    if saved.model != model {
        return Err(PromptCacheError::Other {
            found: format!("the model {} ({:016x})", saved.name, saved.model),
            expected: format!("{} ({model:016x})", gguf.name()),
            file,
        });
    }
    if saved.cache_type != cache_type {
        return Err(PromptCacheError::Other {
            found: format!("type {}", saved.cache_type),
            expected: format!("type {cache_type} (--cache-type)"),
            file,
        });
    }
    if saved.cache.len() != session.engine().saved_bytes(saved.ids.len()) {
        return Err(format("a cache of another size"));
    }
    let n = common_prefix(&saved.ids, prompt).min(session.n_context());
    session.restore(&saved.ids, saved.cache, n)?;
    Ok(session.ids().len())
}

/// Reads a file, and nothing that may never end.
fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    std::fs::read(path)
}

/// Saves the session's sequence. The file is replaced as a whole, so that one who reads it never sees half of it.
///
/// # Errors
/// [`PromptCacheError`]: the device failed, or the file cannot be written.
pub fn save(path: &Path, gguf: &Gguf, session: &mut Session) -> Result<(), PromptCacheError> {
    let cache = session.save()?;
    let cache_type = session.engine().cache_type().to_string();
    let mut bytes = Vec::with_capacity(cache.len() + 4096);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&fingerprint(gguf).to_le_bytes());
    for text in [gguf.name(), &cache_type] {
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.extend_from_slice(&(session.ids().len() as u32).to_le_bytes());
    bytes.extend(session.ids().iter().flat_map(|id| id.to_le_bytes()));
    bytes.extend_from_slice(&(cache.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&cache);
    bytes.extend_from_slice(&hash(&bytes).to_le_bytes());
    atomic_file::replace(path, &bytes).map_err(|source| PromptCacheError::Io {
        file: path.display().to_string(),
        action: "write",
        source,
    })
}

/// What a file holds.
struct Saved<'a> {
    model: u64,
    name: &'a str,
    cache_type: &'a str,
    ids: Vec<u32>,
    cache: &'a [u8],
}

impl<'a> Saved<'a> {
    /// `None` where the content does not end where it should.
    fn read(content: &'a [u8]) -> Option<Saved<'a>> {
        let mut rest = &content[MAGIC.len()..];
        let mut take = |n: usize| -> Option<&'a [u8]> {
            let (bytes, after) = rest.split_at_checked(n)?;
            rest = after;
            Some(bytes)
        };
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        let model = u64::from_le_bytes(take(8)?.try_into().ok()?);
        let n = word(take(4)?) as usize;
        let name = std::str::from_utf8(take(n)?).ok()?;
        let n = word(take(4)?) as usize;
        let cache_type = std::str::from_utf8(take(n)?).ok()?;
        let n = word(take(4)?) as usize;
        let ids = take(n.checked_mul(4)?)?.chunks_exact(4).map(word).collect();
        let n = u64::from_le_bytes(take(8)?.try_into().ok()?);
        let cache = take(usize::try_from(n).ok()?)?;
        rest.is_empty().then_some(Saved { model, name, cache_type, ids, cache })
    }
}

/// A number that tells models apart: over the metadata and every tensor's name, type, shape and bytes. Not the file's path.
pub fn fingerprint(gguf: &Gguf) -> u64 {
    let mut sums = Vec::new();
    for (key, value) in gguf.metadata().iter() {
        sums.push(hash(format!("{key} = {value:?}").as_bytes()));
    }
    for tensor in gguf.tensors() {
        let about = format!("{} {:?} {:?}", tensor.name, tensor.dims, tensor.tensor_type);
        sums.push(hash(about.as_bytes()));
        sums.push(hash(gguf.data(tensor)));
    }
    hash(bytemuck::cast_slice(&sums))
}

/// A 64-bit hash against accidents, not against malice: a mebibyte at a time in parallel, each byte sequence as words that are
/// multiplied and rotated in, the sums of all pieces and the length combined in the same way.
fn hash(bytes: &[u8]) -> u64 {
    let pieces: Vec<u64> = bytes.par_chunks(1 << 20).map(hash_piece).collect();
    pieces.into_iter().fold(bytes.len() as u64, mix)
}

fn hash_piece(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sum = words.iter().fold(bytes.len() as u64, |sum, word| mix(sum, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    sum = mix(sum, u64::from_le_bytes(last));
    sum
}

/// Both steps can be undone, so that one changed word always changes the sum.
fn mix(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_changes_the_hash() {
        let bytes: Vec<u8> = (0..(1 << 20) + 13).map(|i| (i * 31 % 251) as u8).collect();
        let sum = hash(&bytes);
        for at in [0, 7, 8, 1 << 19, (1 << 20) - 1, 1 << 20, (1 << 20) + 12] {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_ne!(hash(&changed), sum, "bit {bit} of byte {at}");
            }
        }
        assert_ne!(hash(&bytes[..bytes.len() - 1]), sum);
        assert_ne!(hash(&[]), hash(&[0]));
    }
}
