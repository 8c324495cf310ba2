//! What llama.cpp's trace names and a fused launch hides: computed again for the recorder, from what the launch had.

use half::f16;

use super::{
    super::{Engine, EngineError, probabilities, record},
    Matrix, Prefill,
};
use crate::{
    gpu::{
        Buffer, Gpu, GpuError, Product, Slice,
        kernels::{AttentionShape, CacheType, NormAndRope, Qkv},
    },
    trace::Recorder,
};

/// Records the first values of a slice, which are `scale` times those that the name means.
pub fn record_f16(
    recorder: &mut Recorder,
    gpu: &Gpu,
    stem: &str,
    il: usize,
    slice: &Slice<f16>,
    scale: f32,
    shape: &[usize],
) -> Result<(), GpuError> {
    if !recorder.is_on() {
        return Ok(());
    }
    let values = gpu.read(&slice.slice(0..shape.iter().product()))?;
    let values: Vec<f32> = values.iter().map(|half| half.to_f32() / scale).collect();
    recorder.layer(stem, il, shape, &values);
    Ok(())
}

/// Queries, keys and values in f32, a row a token.
struct Rows {
    q: Buffer<f32>,
    k: Buffer<f32>,
    v: Buffer<f32>,
}

impl Engine {
    /// The steps from the product to queries, keys and values, and attention's probabilities.
    pub(super) fn trace_attention(
        &self,
        fused: &Qkv,
        il: usize,
        n: usize,
        trace: &mut Recorder,
    ) -> Result<(), EngineError> {
        let Engine { gpu, config, weights, cache, scratch: s, .. } = self;
        let (n_heads, n_kv_heads, head_dim) = (config.n_heads, config.n_kv_heads, config.head_dim);
        let alloc = |heads: usize| gpu.alloc("a trace", n * heads * head_dim);
        let shape = AttentionShape { n_context: 0, ..fused.shape };
        let of_head = fused.norm_and_rope;
        // Some of the steps, with keys and values as the cache would get them.
        let steps = |bias: bool, norms: bool, n_rot: usize, magnitude: f32| -> Result<Rows, GpuError> {
            let rows = Rows { q: alloc(n_heads)?, k: alloc(n_kv_heads)?, v: alloc(n_kv_heads)? };
            gpu.qkv(&Qkv {
                shape,
                bias: fused.bias.filter(|_| bias),
                norm_and_rope: NormAndRope {
                    q_norm: of_head.q_norm.filter(|_| norms),
                    k_norm: of_head.k_norm.filter(|_| norms),
                    n_rot,
                    magnitude,
                    ..of_head
                },
                q_scale: 1.0,
                q: &rows.q.cast(),
                keys: &rows.k.cast(),
                values: &rows.v.cast(),
                element: CacheType::F32,
                ..*fused
            })?;
            Ok(rows)
        };
        let raw = steps(false, false, 0, 1.0)?;
        let biased = steps(true, false, 0, 1.0)?;
        let normed = steps(true, true, 0, 1.0)?;
        let turned = steps(true, true, of_head.n_rot, of_head.magnitude)?;
        let flat = |heads: usize| [n, heads * head_dim];
        let shaped = |heads: usize| [n, heads, head_dim];
        for (name, heads, select) in [
            ("Qcur", n_heads, (|rows| &rows.q) as fn(&Rows) -> &Buffer<f32>),
            ("Kcur", n_kv_heads, |rows| &rows.k),
            ("Vcur", n_kv_heads, |rows| &rows.v),
        ] {
            let mut step = |stem: &str, rows: &Rows, shape: &[usize], factor: f32| -> Result<(), GpuError> {
                let values = gpu.read(&select(rows).slice(0..shape.iter().product()))?;
                trace.layer(stem, il, shape, &values.iter().map(|value| value * factor).collect::<Vec<f32>>());
                Ok(())
            };
            if fused.bias.is_some() {
                step(name, &raw, &flat(heads), 1.0)?;
            }
            step(name, &biased, &flat(heads), 1.0)?;
            step(name, &biased, &shaped(heads), 1.0)?;
            if name == "Vcur" {
                continue;
            }
            let norm = if name == "Qcur" { of_head.q_norm } else { of_head.k_norm };
            if norm.is_some() {
                step(&format!("{name}_normed"), &normed, &shaped(heads), 1.0)?;
            }
            // llama.cpp's keys have RoPE's magnitude; for the cache they are divided by it.
            step(name, &turned, &shaped(heads), if name == "Kcur" { of_head.magnitude } else { 1.0 })?;
        }

        if let Some((buffer, stride)) = probabilities(trace, gpu, n_heads, n, self.n_past + n)? {
            let (keys, values) = (cache.keys(il), cache.values(il));
            let scale = config.attention_scale * weights.rope_magnitude;
            let found = Some((&*buffer, stride));
            let out = alloc(n_heads)?;
            let (cache_type, positions) = (cache.cache_type, &s.positions);
            let shape = self.attention_shape(n);
            gpu.attention(shape, &turned.q, &keys, &values, cache_type, positions, &out, found, scale)?;
            record(trace, gpu, "kq_soft_max", Some(il), &buffer, &[n_heads, n, stride])?;
        }
        Ok(())
    }

    /// A product that is otherwise added to the residual stream, by itself.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn trace_product(
        &self,
        name: &str,
        p: &Prefill,
        il: usize,
        matrix: Matrix,
        x: &Slice<f16>,
        scale: f32,
        bias: Option<&Slice<f32>>,
        n: usize,
        trace: &mut Recorder,
    ) -> Result<(), EngineError> {
        let Engine { gpu, config, weights, .. } = self;
        let out = gpu.alloc("a trace", n * config.n_embd)?;
        p.multiply(gpu, &weights.layers[il], matrix, x, Product::F32(&out), (scale.recip(), 0.0), n)?;
        if bias.is_some() {
            gpu.matmul_epilogue(&out, None, bias, None, &out, n, config.n_embd)?;
        }
        Ok(record(trace, gpu, name, Some(il), &out, &[n, config.n_embd])?)
    }

    /// Gate and up projection, which lie in one buffer.
    pub(super) fn trace_gate_up(
        &self,
        p: &Prefill,
        il: usize,
        n: usize,
        trace: &mut Recorder,
    ) -> Result<(), EngineError> {
        let n_ff = self.config.n_ff;
        let rows = self.gpu.read(&p.gate_up.slice(0..n * 2 * n_ff))?;
        for (name, range) in [("ffn_up", n_ff..2 * n_ff), ("ffn_gate", 0..n_ff)] {
            let halves = rows.chunks_exact(2 * n_ff).flat_map(|row| &row[range.clone()]);
            let values: Vec<f32> = halves.map(|half| half.to_f32() / p.scales[il].gate_up).collect();
            trace.layer(name, il, &[n, n_ff], &values);
        }
        Ok(())
    }
}
