//! What a shape is: hyperparameters, and the metadata that a file of them holds.

use super::shapes::SHAPES;
use crate::gguf::{Array, Value};

/// The hyperparameters of a model.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // named and explained as in `model::Config`
pub struct Shape {
    /// What `--shape` calls it.
    pub name: &'static str,
    pub architecture: &'static str,
    pub n_layers: u64,
    pub n_embd: u64,
    pub n_heads: u64,
    pub n_kv_heads: u64,
    pub head_dim: u64,
    pub n_ff: u64,
    pub vocab_size: u64,
    pub context_length: u64,
    pub rope_theta: f32,
    /// What the rotation's frequencies are divided by.
    pub divisors: Divisors,
    pub rms_epsilon: f32,
    pub tied_output: bool,
    pub experts: Option<ShapeExperts>,
    /// What the family's files say besides, or otherwise than the fields above.
    pub keys: &'static [(&'static str, Key)],
    /// Tensors, by the ends of their names, that the family's files may be without and this model's have.
    pub optional: &'static [&'static str],
    /// The layers that have values of their own, where the others' are their keys.
    pub values_in: Option<&'static [bool]>,
}

/// What `rope_freqs.weight` holds.
#[derive(Clone, Copy, Debug)]
pub enum Divisors {
    /// There is none.
    None,
    /// Llama 3.1's stretching of low frequencies, by this factor at most.
    Stretching(f64),
    /// Gemma 4's: so many pairs turn, the others stand still.
    Turning(u64),
}

/// A value in metadata.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // as the format calls them
pub enum Key {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    /// One for each layer.
    Numbers(&'static [u32]),
    /// One for each layer.
    Flags(&'static [bool]),
}

impl Key {
    fn value(self) -> Value {
        match self {
            Key::U32(number) => Value::U32(number),
            Key::F32(number) => Value::F32(number),
            Key::Bool(flag) => Value::Bool(flag),
            Key::Text(text) => Value::String(text.into()),
            Key::Numbers(numbers) => Value::Array(Array::U32(numbers.to_vec())),
            Key::Flags(flags) => Value::Array(Array::Bool(flags.to_vec())),
        }
    }
}

/// The experts of a shape.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // as above
pub struct ShapeExperts {
    pub n_experts: u64,
    pub n_used: u64,
    /// Values between the matrices of one expert.
    pub n_ff: u64,
}

impl Shape {
    /// The shape of that name.
    pub fn find(name: &str) -> Option<&'static Shape> {
        SHAPES.iter().find(|shape| shape.name == name)
    }

    /// Metadata under the architecture's name.
    pub(super) fn metadata(&self) -> Vec<(String, Value)> {
        let numbers = [
            ("context_length", self.context_length),
            ("embedding_length", self.n_embd),
            ("block_count", self.n_layers),
            ("feed_forward_length", self.n_ff),
            ("attention.head_count", self.n_heads),
            ("attention.head_count_kv", self.n_kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
            ("vocab_size", self.vocab_size),
        ];
        let experts = self.experts.map(|experts| {
            [
                ("expert_count", experts.n_experts),
                ("expert_used_count", experts.n_used),
                ("expert_feed_forward_length", experts.n_ff),
            ]
        });
        let numbers = numbers.into_iter().chain(experts.into_iter().flatten());
        let numbers = numbers.map(|(key, number)| (key, Value::U32(number as u32)));
        let floats = [("rope.freq_base", self.rope_theta), ("attention.layer_norm_rms_epsilon", self.rms_epsilon)];
        let floats = floats.map(|(key, number)| (key, Value::F32(number)));
        let prefixed = |(key, value)| (format!("{}.{key}", self.architecture), value);
        let is_said_otherwise = |key: &str| self.keys.iter().any(|(name, _)| *name == key);
        let usual = numbers.chain(floats).filter(|(key, _)| !is_said_otherwise(key));
        usual.chain(self.keys.iter().map(|(key, value)| (*key, value.value()))).map(prefixed).collect()
    }

    /// Whether a file of this shape has a tensor that the figure may be without.
    pub(super) fn has(&self, name: &str) -> bool {
        match name {
            "rope_freqs.weight" => !matches!(self.divisors, Divisors::None),
            "output.weight" => !self.tied_output,
            _ if name.ends_with("attn_v.weight") && self.values_in.is_some() => {
                let layer = name.split('.').nth(1).and_then(|layer| layer.parse::<usize>().ok());
                layer.zip(self.values_in).is_some_and(|(layer, layers)| layers[layer])
            }
            _ => self.optional.iter().any(|end| name.ends_with(end)),
        }
    }

    /// The content of `rope_freqs.weight`, `[head_dim/2]`. Llama 3.1's: wavelengths below a quarter of the first training's 8192 positions
    /// stay, those above all of it are stretched by the whole factor, and a ramp joins them.
    pub(super) fn rope_factors(&self) -> Vec<f32> {
        let divisor = |pair: u64| {
            let factor = match self.divisors {
                Divisors::None => return 1.0,
                Divisors::Turning(n) => return if pair < n { 1.0 } else { 1e30 },
                Divisors::Stretching(factor) => factor,
            };
            let exponent = 2.0 * pair as f64 / self.head_dim as f64;
            let wavelength = std::f64::consts::TAU * f64::from(self.rope_theta).powf(exponent);
            let turns = 8192.0 / wavelength;
            let keep = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
            (1.0 / ((1.0 - keep) / factor + keep)) as f32
        };
        (0..self.head_dim / 2).map(divisor).collect()
    }
}
