//! Launches of attention over many tokens: from projections to the cache, and over it.

use std::f32::consts::LOG2_E;

use super::{
    super::lower::{AttentionHeads, Local, QkvParts, ScaleId, has_flash, query_type},
    Part, Recorder,
};
use crate::{
    gpu::{
        Buffer, GpuError,
        kernels::{Attention, AttentionShape, CacheType, FlashRows, FlashScores, LatentAttention, Qkv},
    },
    model::figure::VectorId,
    trace::POSITION_PADDING,
};

impl Part<'_, '_> {
    /// Keys and values into the cache, where there are some, then attention over it, a token at a time.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attention(
        &self,
        q: Local,
        kv: [Option<Local>; 2],
        out: Local,
        heads: &AttentionHeads,
        (sinks, soft_cap): (Option<VectorId>, Option<f32>),
        name: &str,
        trace: &mut Recorder,
    ) -> Result<(), GpuError> {
        let gpu = self.gpu;
        let (keys, values) = (self.cache.keys(heads.cache), self.cache.values(heads.cache));
        let (shape, cache_type, magnitude) = (self.shape(heads), self.cache.cache_type, self.magnitude(heads));
        let pages = self.pages(heads);
        let (positions, pages) = (self.positions, pages.get());
        if let [Some(k), Some(v)] = kv {
            self.store(k, v, heads)?;
        }
        let softmax = self.probabilities(heads.n_heads, trace)?;
        gpu.attention(&Attention {
            shape,
            q: &self.f32(q),
            keys: &keys,
            values: &values,
            cache_type,
            positions,
            pages,
            out: &self.f32(out),
            probabilities: softmax.as_ref().map(|(buffer, stride)| (&**buffer, *stride)),
            scale: heads.scale * magnitude,
            soft_cap,
            sinks: sinks.map(|sinks| &**self.weights.vector(sinks)),
        })?;
        if let Some((buffer, stride)) = softmax {
            trace.record(name, &[heads.n_heads, self.n(), stride], &gpu.read(&buffer)?);
        }
        Ok(())
    }

    /// Queries that are in memory, to what [`Part::flash`] takes.
    pub(super) fn queries(&self, x: Local, heads: &AttentionHeads, q: Local) -> Result<(), GpuError> {
        let no_keys = AttentionShape { n_kv_heads: 0, n_pages: 0, ..self.shape(heads) };
        let nothing = QkvParts { q_norm: None, k_norm: None, epsilon: 0.0, temperature: None };
        let q = self.bytes(q);
        self.gpu.qkv(&Qkv {
            shape: no_keys,
            product: &self.f32(x),
            bias: None,
            norm_and_rope: self.norm_and_rope(&nothing, &AttentionHeads { rope: None, ..*heads }),
            q_scale: heads.scale * self.magnitude(heads) * LOG2_E,
            positions: self.positions,
            pages: None,
            q: &q,
            keys: &q.slice(0..0),
            values: &q.slice(0..0),
            element: query_type(self.cache.cache_type),
        })
    }

    /// Keys and values that are in memory into the cache.
    pub(super) fn store(&self, k: Local, v: Local, heads: &AttentionHeads) -> Result<(), GpuError> {
        let (gpu, cache_type, shape) = (self.gpu, self.cache.cache_type, self.shape(heads));
        let (keys, values) = (self.cache.keys(heads.cache), self.cache.values(heads.cache));
        let (positions, pages) = (self.positions, self.pages(heads));
        // RoPE's magnitude belongs to the scores.
        let factor = self.magnitude(heads).recip();
        gpu.cache_store(shape, &self.f32(k), positions, pages.get(), &keys, cache_type, factor)?;
        gpu.cache_store(shape, &self.f32(v), positions, pages.get(), &values, cache_type, 1.0)
    }

    pub(super) fn flash(
        &self,
        q: Local,
        heads: &AttentionHeads,
        (sinks, soft_cap): (Option<VectorId>, Option<f32>),
        out: Local,
        scale: ScaleId,
    ) -> Result<(), GpuError> {
        let (shape, cache_type) = (self.shape(heads), self.cache.cache_type);
        let (keys, values) = (self.cache.keys(heads.cache), self.cache.values(heads.cache));
        let scores = FlashScores { sinks: sinks.map(|sinks| &**self.weights.vector(sinks)), soft_cap };
        let chunks = self.chunks.expect("a pass over chunks");
        let rows = match chunks.n() {
            1 => FlashRows::choose(shape, scores, self.n_past, cache_type, self.gpu.multiprocessors()),
            // Which of the two it is, is for long ones.
            _ => FlashRows::One,
        };
        let (q, out, scale) = (self.bytes(q), self.f16(out), self.scale_of(scale));
        let (positions, pages) = (self.positions, self.pages(heads));
        let (q, pages) = (q.cast(), pages.get());
        self.gpu.flash(shape, &q, &keys, &values, cache_type, positions, pages, chunks, &out, scale, scores, rows)
    }

    pub(super) fn attention_many(
        &self,
        q: Local,
        heads: &AttentionHeads,
        (sinks, soft_cap): (Option<VectorId>, Option<f32>),
        exact: Local,
        out: Local,
        scale: ScaleId,
    ) -> Result<(), GpuError> {
        let (shape, cache_type) = (self.shape(heads), self.cache.cache_type);
        self.gpu.attention(&Attention {
            shape,
            q: &self.bytes(q).cast(),
            keys: &self.cache.keys(heads.cache),
            values: &self.cache.values(heads.cache),
            cache_type,
            positions: self.positions,
            pages: self.pages(heads).get(),
            out: &self.f32(exact),
            probabilities: None,
            scale: heads.scale * self.magnitude(heads),
            soft_cap,
            sinks: sinks.map(|sinks| &**self.weights.vector(sinks)),
        })?;
        let scale = self.scale_of(scale);
        self.gpu.range_to_f16_f32(&self.f32(exact), &self.f16(out), scale, self.n() * self.width(out))
    }

    /// Vectors into the cache, then attention over them.
    pub(super) fn latent_attention(
        &self,
        q: Local,
        k: Local,
        out: Local,
        heads: &AttentionHeads,
        name: &str,
        trace: &mut Recorder,
    ) -> Result<(), GpuError> {
        let (gpu, shape, cache, cache_type) =
            (self.gpu, self.shape(heads), self.cache.keys(heads.cache), self.cache.cache_type);
        let pages = self.pages(heads);
        gpu.cache_store(shape, &self.f32(k), self.positions, pages.get(), &cache, cache_type, 1.0)?;
        let softmax = self.probabilities(heads.n_heads, trace)?;
        gpu.latent_attention(&LatentAttention {
            n_tokens: self.n(),
            n_heads: heads.n_heads,
            dim: shape.head_dim,
            value_dim: self.width(out) / heads.n_heads,
            n_pages: shape.n_pages,
            pages: pages.get(),
            q: &self.f32(q),
            cache: &cache,
            cache_type,
            positions: self.positions,
            out: &self.f32(out),
            probabilities: softmax.as_ref().map(|(buffer, stride)| (&**buffer, *stride)),
            scale: heads.scale,
        })?;
        if let Some((buffer, stride)) = softmax {
            trace.record(name, &[heads.n_heads, self.n(), stride], &gpu.read(&buffer)?);
        }
        Ok(())
    }

    pub(super) fn qkv(
        &self,
        product: Local,
        bias: Option<VectorId>,
        parts: &QkvParts,
        heads: &AttentionHeads,
        q: Local,
        kv: Option<[Local; 2]>,
    ) -> Result<(), GpuError> {
        let (gpu, cache_type, shape) = (self.gpu, self.cache.cache_type, self.shape(heads));
        let (keys, values) = (self.cache.keys(heads.cache), self.cache.values(heads.cache));
        let (magnitude, pages) = (self.magnitude(heads), self.pages(heads));
        let element = if kv.is_some() { CacheType::F32 } else { query_type(cache_type) };
        let packed = kv.map(|kv| kv.map(|local| self.f32(local)));
        gpu.qkv(&Qkv {
            shape,
            product: &self.f32(product),
            bias: bias.map(|bias| &**self.weights.vector(bias)),
            norm_and_rope: self.norm_and_rope(parts, heads),
            // Flash attention takes powers of two.
            q_scale: if element == cache_type && has_flash(cache_type) {
                heads.scale * magnitude * LOG2_E
            } else {
                1.0
            },
            positions: self.positions,
            pages: if packed.is_some() { None } else { Some(pages.get()) },
            q: &self.bytes(q),
            keys: packed.as_ref().map(|[k, _]| k.cast()).as_deref().unwrap_or(&keys),
            values: packed.as_ref().map(|[_, v]| v.cast()).as_deref().unwrap_or(&values),
            element,
        })?;
        if let Some([k, v]) = packed {
            gpu.cache_store(shape, &k, self.positions, pages.get(), &keys, cache_type, 1.0)?;
            gpu.cache_store(shape, &v, self.positions, pages.get(), &values, cache_type, 1.0)?;
        }
        Ok(())
    }

    /// A zeroed buffer for attention probabilities, `[n_heads][n_tokens][stride]`, and its stride, when recording.
    fn probabilities(&self, n_heads: usize, trace: &Recorder) -> Result<Option<(Buffer<f32>, usize)>, GpuError> {
        if !trace.is_on() {
            return Ok(None);
        }
        let stride = (self.n_past + self.n_tokens).next_multiple_of(POSITION_PADDING);
        let buffer = self.gpu.alloc("attention probabilities", n_heads * self.n() * stride)?;
        self.gpu.fill(&buffer, 0)?;
        Ok(Some((buffer, stride)))
    }
}
