//! Model files of published shapes with random weights.
//!
//! Speed and memory depend on a model's shape and its weights' types, not on what the weights say. So a file with the
//! hyperparameters, tensors and mix of types of a published model is all that a benchmark or a test needs, and nobody has
//! to fetch it. What such a model writes is noise.
//!
//! The data section is a sequence of pieces: up to a mebibyte of one tensor, or the padding after one. Each piece comes
//! from a random stream of its own, so that threads fill pieces in any order and the file only depends on shape, mix and
//! seed. While one batch of pieces is written, the next is filled: two batches is all the memory there is.
//!
//! A measurement does not even need the file: [`Synth::without_matrices`] has all but the matrices, which are then made on
//! the device.

mod device;
mod file;
mod gemma4;
mod mix;
pub(crate) mod random;
mod shape;
mod shapes;
mod vocabulary;

use std::io::{self, Write};

use memmap2::MmapOptions;
use rayon::prelude::*;

use crate::{
    gguf::{Gguf, GgufError, TensorType, Value, Writer},
    model::{Config, Figure},
};
pub use device::{fill_on_device, random_matrices};
pub use file::{SynthError, create};
pub use mix::{FileType, ModelFacts};
use random::{Random, fill_matrix, fill_vector};
pub use shape::{Divisors, Key, Shape, ShapeExperts};
pub use shapes::SHAPES;

/// Blocks of a piece at most: a piece is never part of a block.
const PIECE_BLOCKS: u64 = 4096;
/// Bytes of pieces that are filled together, and held together.
const BATCH_BYTES: usize = 16 << 20;

/// A file that could be written.
pub struct Synth {
    shape: &'static Shape,
    file_type: FileType,
    seed: u64,
    header: Vec<u8>,
    tensors: Vec<Tensor>,
}

struct Tensor {
    name: String,
    /// The contiguous dimension.
    columns: u64,
    tensor_type: TensorType,
    bytes: u64,
    /// Bytes after it, up to the next tensor.
    padding: u64,
    /// Whether it is a norm, a bias or the like: small, and of F32.
    is_vector: bool,
}

const ROPE_FACTORS: &str = "rope_freqs.weight";
/// The decay of recurrent states, which is negative.
const DECAY: &str = "ssm_a";

impl Tensor {
    /// Centre and spread of a vector's values: factors are about 1, what is added about 0.
    fn spread(&self) -> (f32, f32) {
        match self.name.rsplit('.').next() {
            Some(DECAY) => (-0.5, 0.4),
            Some("bias") => (0.0, 0.2),
            _ if self.name.contains("sinks") || self.name.contains("conv1d") => (0.0, 0.5),
            _ => (1.0, 0.2),
        }
    }
}

/// The standard deviation of a matrix of so many columns: a product with it keeps the size of its input.
pub fn matrix_deviation(columns: u64) -> f64 {
    1.0 / (columns as f64).sqrt()
}

/// Names and dimensions of all tensors, `dims[0]` being contiguous, and whether they are vectors: those of the figure that this metadata
/// gives.
fn tensors(shape: &Shape, metadata: &[(String, Value)]) -> Vec<(String, Vec<u64>, bool)> {
    // A model of nothing but its vocabulary's matrices, which were never touched.
    let mut writer = Writer::default();
    writer.metadata("general.architecture", &Value::String(shape.architecture.to_owned()));
    for (key, value) in metadata {
        writer.metadata(key, value);
    }
    for name in
        ["token_embd.weight", "output.weight"].iter().filter(|name| **name != "output.weight" || shape.has(name))
    {
        writer.tensor(name, &[shape.n_embd, shape.vocab_size], TensorType::F32);
    }
    let header = writer.header();
    let gguf = anonymous(&header, header.len() as u64 + writer.data_bytes()).and_then(|mut map| {
        map[..header.len()].copy_from_slice(&header);
        Gguf::from_map(map, shape.name)
    });
    let gguf = gguf.unwrap_or_else(|error| panic!("a file's header: {error}"));
    let config = Config::from_gguf(&gguf).unwrap_or_else(|error| panic!("a published shape: {error}"));
    let dims = |dims: [usize; 3]| {
        let n = dims.iter().rposition(|dim| *dim != 1).map_or(1, |last| last + 1);
        dims[..n].iter().map(|dim| *dim as u64).collect()
    };
    Figure::new(&config, &|name| shape.has(name))
        .tensors
        .into_iter()
        .map(|t| (t.name, dims(t.dims), t.is_vector))
        .collect()
}

/// Memory of that many bytes, of which none is taken before it is touched.
fn anonymous(header: &[u8], bytes: u64) -> Result<memmap2::MmapMut, GgufError> {
    let map = usize::try_from(bytes).map_err(io::Error::other);
    let map = map.and_then(|bytes| MmapOptions::new().len(bytes.max(header.len())).no_reserve_swap().map_anon());
    map.map_err(|source| GgufError::Open { file: "a model without a file".into(), source })
}

/// A part of the data section.
struct Piece<'a> {
    content: Content<'a>,
    bytes: usize,
}

enum Content<'a> {
    Padding,
    /// Bytes of a tensor from `start`, by their own random stream.
    Part {
        tensor: &'a Tensor,
        start: u64,
        stream: u64,
    },
}

impl Synth {
    /// Lays the file out.
    pub fn new(shape: &'static Shape, file_type: FileType, seed: u64) -> Synth {
        let facts = ModelFacts {
            n_layers: shape.n_layers,
            n_experts: shape.experts.map_or(0, |experts| experts.n_experts),
            heads_per_kv_head: shape.n_heads / shape.n_kv_heads,
            tied_output: shape.tied_output,
        };
        let mut writer = Writer::default();
        let text = |text: &str| Value::String(text.to_owned());
        writer.metadata("general.architecture", &text(shape.architecture));
        writer.metadata("general.type", &text("model"));
        let name = format!("{} {}, random weights", shape.name, file_type.name());
        writer.metadata("general.name", &text(&name));
        writer.metadata("general.file_type", &Value::U32(file_type.number()));
        writer.metadata("general.quantization_version", &Value::U32(2));
        let vocabulary = vocabulary::metadata(shape.architecture, shape.vocab_size);
        let metadata: Vec<(String, Value)> = shape.metadata().into_iter().chain(vocabulary).collect();
        for (key, value) in &metadata {
            writer.metadata(key, value);
        }
        let tensors = tensors(shape, &metadata).into_iter().map(|(name, dims, is_vector)| {
            let tensor_type = if is_vector { TensorType::F32 } else { file_type.tensor_type(facts, &name, &dims) };
            let start = writer.tensor(&name, &dims, tensor_type);
            let row = tensor_type.row_bytes(dims[0]).expect("the mix fits the rows");
            let bytes = row * dims[1..].iter().product::<u64>();
            Tensor {
                name,
                columns: dims[0],
                tensor_type,
                bytes,
                padding: writer.data_bytes() - start - bytes,
                is_vector,
            }
        });
        let tensors = tensors.collect();
        Synth { shape, file_type, seed, header: writer.header(), tensors }
    }

    /// The size of the file.
    pub fn bytes(&self) -> u64 {
        let data = self.tensors.iter().map(|tensor| tensor.bytes + tensor.padding);
        self.header.len() as u64 + data.sum::<u64>()
    }

    /// How many values the tensors hold.
    pub fn parameters(&self) -> u64 {
        let of = |tensor: &Tensor| {
            let t = tensor.tensor_type;
            tensor.bytes / t.block_bytes() * t.block_elements()
        };
        self.tensors.iter().map(of).sum()
    }

    /// Writes the file, front to back. `progress` is told the bytes written so far.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut (impl Write + Send), progress: &mut dyn FnMut(u64)) -> io::Result<()> {
        out.write_all(&self.header)?;
        let mut done = self.header.len() as u64;
        let mut pieces = self.pieces().peekable();
        let (mut full, mut empty) = (Vec::new(), Vec::new());
        while pieces.peek().is_some() || !full.is_empty() {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while bytes < BATCH_BYTES
                && let Some(piece) = pieces.next()
            {
                bytes += piece.bytes;
                batch.push(piece);
            }
            empty.resize(bytes, 0);
            let (written, ()) = rayon::join(|| out.write_all(&full), || self.fill(&batch, &mut empty));
            written?;
            done += full.len() as u64;
            progress(done);
            std::mem::swap(&mut full, &mut empty);
        }
        Ok(())
    }

    /// The model without a file: header, norms and biases as [`Synth::write`] writes them, and in the matrices' places memory
    /// that was never touched. An engine has [`random_matrices`] made on the device in their place.
    ///
    /// # Errors
    /// The system has no address space of that size.
    pub fn without_matrices(&self) -> Result<Gguf, GgufError> {
        let name = format!("{} {}", self.shape.name, self.file_type.name());
        let mut map = anonymous(&self.header, self.bytes())?;
        let (header, mut data) = map.split_at_mut(self.header.len());
        header.copy_from_slice(&self.header);
        for piece in self.pieces() {
            let (bytes, rest) = data.split_at_mut(piece.bytes);
            if matches!(piece.content, Content::Part { tensor, .. } if tensor.is_vector) {
                self.fill_piece(&piece, bytes);
            }
            data = rest;
        }
        Gguf::from_map(map, &name)
    }

    /// The data section.
    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let mut streams = 0..;
        let mut next_stream = move || streams.next().unwrap_or(u64::MAX);
        self.tensors.iter().flat_map(move |tensor| {
            let piece_bytes = PIECE_BLOCKS * tensor.tensor_type.block_bytes();
            let mut pieces = Vec::new();
            for start in (0..tensor.bytes).step_by(piece_bytes as usize) {
                pieces.push(Piece {
                    content: Content::Part { tensor, start, stream: next_stream() },
                    bytes: piece_bytes.min(tensor.bytes - start) as usize,
                });
            }
            pieces.push(Piece { content: Content::Padding, bytes: tensor.padding as usize });
            pieces
        })
    }

    fn fill(&self, batch: &[Piece], mut bytes: &mut [u8]) {
        let mut parts = Vec::new();
        for piece in batch {
            let (part, rest) = bytes.split_at_mut(piece.bytes);
            parts.push((piece, part));
            bytes = rest;
        }
        parts.into_par_iter().for_each(|(piece, bytes)| self.fill_piece(piece, bytes));
    }

    fn fill_piece(&self, piece: &Piece, bytes: &mut [u8]) {
        let Content::Part { tensor, start, stream } = piece.content else {
            bytes.fill(0);
            return;
        };
        let mut random = Random::new(self.seed, stream);
        match tensor.name.as_str() {
            ROPE_FACTORS => {
                let factors = self.shape.rope_factors();
                let factors: &[u8] = bytemuck::cast_slice(&factors);
                bytes.copy_from_slice(&factors[start as usize..][..bytes.len()]);
            }
            _ if tensor.is_vector => {
                let (centre, spread) = tensor.spread();
                fill_vector(centre, spread, &mut random, bytes);
            }
            _ => fill_matrix(tensor.tensor_type, matrix_deviation(tensor.columns), &mut random, bytes),
        }
    }
}
