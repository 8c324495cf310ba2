//! Gated delta net (arXiv 2412.06464), as Qwen3.5 has it in place of most layers' attention: linear attention whose state of fixed size
//! decays, and is corrected towards each new value.

use super::{Matrix, Op, Piece, ValueId, decoder::Drawing};
use crate::model::layer::DeltaNet;

/// `[n_embd]` to `[n_embd]`.
pub(super) fn delta_net(d: &mut Drawing, shape: &DeltaNet, h: ValueId) -> ValueId {
    let DeltaNet { n_key_heads, n_value_heads, head_dim, kernel } = *shape;
    let (n_embd, epsilon) = (d.config.n_embd, d.config.rms_epsilon);
    let (key_len, value_len) = (n_key_heads * head_dim, n_value_heads * head_dim);
    let channels = 2 * key_len + value_len;
    let b = &mut *d.b;

    // Queries, keys and values of a token, and of the few before it.
    let [w_qkv, w_z] = b.stack([("attn_qkv.weight", channels), ("attn_gate.weight", value_len)], n_embd);
    let mixed = b.product("linear_attn_qkv_mixed", h, &w_qkv); // [channels]
    let z = b.product("z", h, &w_z); // [value_len]
    let weight = b.vector("ssm_conv1d.weight", [kernel, channels, 1]);
    let state = b.state((kernel - 1) * channels);
    let conv = b.convolve("conv_output_silu", mixed, weight, kernel, state); // [channels]
    let heads = [n_key_heads, head_dim];
    let qkv = b.unit_heads(conv, heads, epsilon); // [channels]
    b.part("q_conv_predelta", qkv, 0, &heads);
    b.part("k_conv_predelta", qkv, key_len, &heads);

    // How strongly a value is written, and how much of the state is kept.
    let [w_beta, w_alpha] = beta_alpha(d, shape);
    let b = &mut *d.b;
    let beta = b.product("", h, &w_beta); // [n_value_heads]
    let alpha = b.product("", h, &w_alpha); // [n_value_heads]
    let bias = b.vector("ssm_dt.bias", [n_value_heads, 1, 1]);
    let a = b.vector("ssm_a", [n_value_heads, 1, 1]);
    let [keep, strength] = b.delta_gates(beta, alpha, bias, a);

    let state = b.state(n_value_heads * head_dim * head_dim);
    let op = Op::DeltaRule { qkv, n_key_heads, strength, keep, state, grouped: d.family.delta_grouped };
    let out = b.delta_rule("attn_output", [n_value_heads, head_dim], op);
    let weight = b.vector("ssm_norm.weight", [head_dim, 1, 1]);
    let out = b.gated_norm("final_output", out, z, weight, epsilon); // [value_len]
    let [w_out] = b.stack([("ssm_out.weight", n_embd)], value_len);
    b.product("linear_attn_out", out, &w_out)
}

/// Projections to the writing strength and to the decay: two tensors, or one with each key head's rows of both together.
fn beta_alpha(d: &mut Drawing, shape: &DeltaNet) -> [Matrix; 2] {
    let (n_embd, n) = (d.config.n_embd, shape.n_value_heads);
    if !d.b.has("ssm_ba.weight") {
        return d.b.stack([("ssm_beta.weight", n), ("ssm_alpha.weight", n)], n_embd);
    }
    let tensor = d.b.rows_of("ssm_ba.weight", n_embd, 2 * n);
    let group = n / shape.n_key_heads;
    let every_other = |first| Piece { tensor, first, group, stride: 2 * group, n_groups: shape.n_key_heads };
    d.b.stack_of([every_other(0), every_other(group)], n_embd, 1)
}
