//! A model's predictions in a file, and how far another's are from them.
//!
//! # Format
//!
//! All numbers are little-endian.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `FWKLB001` |
//! | 4 | `n_vocab` |
//! | 4 | `n_context`, tokens of a window |
//! | 4 | `n_windows` |
//! | 4 · n_windows · n_context | the windows' tokens |
//! | 4 · n_windows · n_scored · n_vocab | log probabilities as f32, a row for each scored position |
//!
//! Rows are kept whole and in f32, so that a model compared with itself has a divergence of exactly zero. For a vocabulary of
//! 150 000 tokens that is 153 MB for a window of 512.

use std::{
    fs::File,
    io::{BufReader, Read, Write},
    path::{Path, PathBuf},
};

use super::{Mean, Windows};
use crate::atomic_file::AtomicFile;

const MAGIC: &[u8; 8] = b"FWKLB001";
/// Bytes before the tokens.
const HEADER: u64 = 20;

/// Why a base was not read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's text is its documentation
pub enum BaseError {
    #[error("{file}: cannot {action} the base of predictions: {source}")]
    Io { file: String, action: &'static str, source: std::io::Error },
    #[error("{file}: found {found}, expected {expected}; write a base with --kl-save")]
    Format { file: String, found: String, expected: String },
}

/// Writes a base.
pub struct BaseWriter {
    file: AtomicFile,
    path: PathBuf,
}

impl BaseWriter {
    /// Starts a file for the predictions of a model of `n_vocab` tokens about these windows.
    ///
    /// # Errors
    /// [`BaseError::Io`].
    pub fn create(path: &Path, n_vocab: usize, windows: &Windows) -> Result<BaseWriter, BaseError> {
        let file = AtomicFile::create(path).map_err(|source| io(path, "write", source))?;
        let mut writer = BaseWriter { file, path: path.to_owned() };
        let sizes = [n_vocab, windows.n_context, windows.iter().len()];
        writer.write(MAGIC)?;
        for size in sizes {
            writer.write(&(size as u32).to_le_bytes())?;
        }
        for id in &windows.ids {
            writer.write(&id.to_le_bytes())?;
        }
        Ok(writer)
    }

    /// The next row.
    ///
    /// # Errors
    /// [`BaseError::Io`].
    pub fn row(&mut self, log_probabilities: &[f32]) -> Result<(), BaseError> {
        log_probabilities.iter().try_for_each(|value| self.write(&value.to_le_bytes()))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// [`BaseError::Io`].
    pub fn finish(self) -> Result<(), BaseError> {
        let BaseWriter { file, path } = self;
        file.finish().map_err(|source| io(&path, "write", source))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BaseError> {
        self.file.write_all(bytes).map_err(|source| io(&self.path, "write", source))
    }
}

/// Reads a base.
pub struct BaseReader {
    file: BufReader<File>,
    path: PathBuf,
    windows: Windows,
    bytes: Vec<u8>,
}

impl BaseReader {
    /// Opens the base that a model of `n_vocab` tokens is to be compared with.
    ///
    /// # Errors
    /// [`BaseError`]: it cannot be read, is no base, is cut off, or has another vocabulary.
    pub fn open(path: &Path, n_vocab: usize) -> Result<BaseReader, BaseError> {
        let read = |source| io(path, "read", source);
        let wrong =
            |found: String, expected: String| BaseError::Format { file: path.display().to_string(), found, expected };
        let file = File::open(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        let mut file = BufReader::new(file);
        let mut header = [0; HEADER as usize];
        let is_base = length >= HEADER && {
            file.read_exact(&mut header).map_err(read)?;
            header.starts_with(MAGIC)
        };
        if !is_base {
            return Err(wrong("another kind of file".into(), "a base of predictions".into()));
        }
        let [found_vocab, n_context, n_windows] = [8, 12, 16].map(|at| {
            let bytes = header[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(bytes)
        });
        if found_vocab as usize != n_vocab {
            return Err(wrong(
                format!("a base for a vocabulary of {found_vocab} tokens"),
                format!("one of {n_vocab}, as this model's"),
            ));
        }
        let n_scored = u128::from(n_context).saturating_sub(1 + u128::from(n_context / 2));
        let n_values = u128::from(n_context) + n_scored * u128::from(found_vocab);
        let expected = u128::from(HEADER) + 4 * u128::from(n_windows) * n_values;
        if u128::from(length) != expected || n_scored == 0 || n_windows == 0 {
            return Err(wrong(
                format!("{length} bytes"),
                format!("{expected}, for {n_windows} windows of {n_context} tokens"),
            ));
        }
        let mut bytes = vec![0; 4 * n_context as usize * n_windows as usize];
        file.read_exact(&mut bytes).map_err(read)?;
        let windows = Windows {
            n_context: n_context as usize,
            ids: bytes.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)).collect(),
        };
        Ok(BaseReader { file, path: path.to_owned(), windows, bytes: vec![0; 4 * n_vocab] })
    }

    /// The text that the predictions are about.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// The next row.
    ///
    /// # Errors
    /// [`BaseError::Io`], past the last row too; [`BaseError::Format`] for a row with NaN.
    pub fn row(&mut self, log_probabilities: &mut Vec<f32>) -> Result<(), BaseError> {
        self.file.read_exact(&mut self.bytes).map_err(|source| io(&self.path, "read", source))?;
        log_probabilities.clear();
        let values = self.bytes.as_chunks::<4>().0.iter();
        log_probabilities.extend(values.map(|value| f32::from_le_bytes(*value)));
        if log_probabilities.iter().any(|value| value.is_nan()) {
            return Err(BaseError::Format {
                file: self.path.display().to_string(),
                found: "NaN for a prediction".into(),
                expected: "numbers: write the base again with --kl-save".into(),
            });
        }
        Ok(())
    }
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> BaseError {
    BaseError::Io { file: path.display().to_string(), action, source }
}

/// How far predictions are from the base's.
#[derive(Clone, Debug, Default)]
pub struct Divergence {
    /// Negative log probabilities of the text by the base.
    pub base: Mean,
    /// Kullback–Leibler divergences of the predictions from the base's, in nats.
    pub kl: Mean,
    /// Each of them.
    values: Vec<f64>,
    /// Whether both hold the same token for the likeliest: 1 or 0.
    pub same_top: Mean,
}

impl Divergence {
    /// One more prediction: log probabilities of the base and of the model, and the token that came.
    pub fn add(&mut self, base: &[f32], model: &[f32], next: u32) {
        let kl: f64 = base
            .iter()
            .zip(model)
            .filter(|(base, _)| **base > f32::NEG_INFINITY)
            .map(|(base, model)| f64::from(*base).exp() * (f64::from(*base) - f64::from(*model)))
            .sum();
        self.base.add(-f64::from(base[next as usize]));
        self.kl.add(kl);
        self.values.push(kl);
        let same = likeliest(base) == likeliest(model);
        self.same_top.add(f64::from(u8::from(same)));
    }

    /// The divergence that this share of the predictions stays under or reaches: 0.5 for the median, 1 for the largest.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((share * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
    }
}

/// The first of the largest.
fn likeliest(row: &[f32]) -> usize {
    (0..row.len()).reduce(|best, i| if row[i] > row[best] { i } else { best }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perplexity::log_softmax;

    fn log_probabilities(logits: &[f32]) -> Vec<f32> {
        let mut row = Vec::new();
        log_softmax(logits, &mut row).unwrap();
        row
    }

    #[test]
    fn a_base_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base");
        let windows = Windows::new(&[0, 1, 2, 0, 1, 2, 0, 1, 2], 4, None).unwrap();
        let mut writer = BaseWriter::create(&path, 3, &windows).unwrap();
        let rows: Vec<Vec<f32>> = (0..2).map(|i| log_probabilities(&[i as f32, 0.5, -1.0])).collect();
        rows.iter().for_each(|row| writer.row(row).unwrap());
        writer.finish().unwrap();

        let mut reader = BaseReader::open(&path, 3).unwrap();
        assert_eq!(reader.windows(), &windows);
        let mut row = Vec::new();
        for want in &rows {
            reader.row(&mut row).unwrap();
            assert_eq!(&row, want);
        }
        assert!(matches!(reader.row(&mut row), Err(BaseError::Io { .. })));
        let other = BaseReader::open(&path, 4).err().unwrap().to_string();
        assert!(other.contains("vocabulary of 3 tokens, expected one of 4"), "{other}");
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(BaseReader::open(&path, 3).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn divergence_is_zero_from_itself_and_known_for_two_tokens() {
        let even = log_probabilities(&[0.0, 0.0]);
        let odd = log_probabilities(&[0.0, 3f32.ln()]);
        let mut divergence = Divergence::default();
        divergence.add(&even, &even, 0);
        divergence.add(&even, &odd, 1);
        // ½ ln(½ ÷ ¼) + ½ ln(½ ÷ ¾)
        let want = 0.5 * 2f64.ln() + 0.5 * (2.0 / 3.0f64).ln();
        assert_eq!(divergence.quantile(0.0), 0.0);
        assert!((divergence.quantile(1.0) - want).abs() < 1e-6);
        assert!((divergence.kl.mean() - want / 2.0).abs() < 1e-6);
        assert_eq!(divergence.same_top.mean(), 0.5);
    }
}
