//! Multi-head latent attention (arXiv 2405.04434), with the matrices that make keys and values of what is kept moved to the other side:
//! queries come to what is kept, whose average then becomes each head's value. So the cache has one vector for all heads.

use super::{Cache, ValueId, decoder::Drawing};
use crate::model::layer::LatentAttention;

/// `[n_embd]` to `[n_embd]`.
pub(super) fn latent(d: &mut Drawing, shape: &LatentAttention, h: ValueId) -> ValueId {
    let LatentAttention { n_heads, query_rank, rank, head_dim, n_rot, value_dim, scale } = *shape;
    let (n_embd, epsilon) = (d.config.n_embd, d.config.rms_epsilon);
    let rope = d.ropes[0];
    let b = &mut *d.b;

    // Queries, by way of a short vector where there is one: of each head a part that is not rotated, and one that is.
    let key_dim = head_dim + n_rot;
    let q = match query_rank {
        None => {
            let [wq] = b.stack([("attn_q.weight", n_heads * key_dim)], n_embd);
            b.product("", h, &wq)
        }
        Some(query_rank) => {
            let [down] = b.stack([("attn_q_a.weight", query_rank)], n_embd);
            let q = b.product("", h, &down);
            let weight = b.vector("attn_q_a_norm.weight", [query_rank, 1, 1]);
            let q = b.rms_norm("", q, Some(weight), epsilon);
            let [up] = b.stack([("attn_q_b.weight", n_heads * key_dim)], query_rank);
            b.product("", q, &up)
        }
    };
    let q = b.reshape("", q, &[n_heads, key_dim]);
    let still = b.columns("", q, 0..head_dim); // [n_heads][head_dim]
    let turning = b.columns("", q, head_dim..key_dim); // [n_heads][n_rot]
    let turning = b.rotate("", turning, rope);

    // What is kept, and the key that all heads share.
    let [down] = b.stack([("attn_kv_a_mqa.weight", rank + n_rot)], n_embd);
    let kept = b.product("", h, &down);
    let kept = b.reshape("", kept, &[1, rank + n_rot]);
    let shared = b.columns("", kept, rank..rank + n_rot); // [1][n_rot]
    let shared = b.rotate("", shared, rope);
    let kept = b.columns("", kept, 0..rank); // [1][rank]
    let weight = b.vector("attn_kv_a_norm.weight", [rank, 1, 1]);
    let kept = b.rms_norm("Vcur", kept, Some(weight), epsilon);
    let k = b.join("Kcur", kept, shared); // [1][rank + n_rot]

    let every = b.every(n_heads);
    let [to_kept] = b.expert_stack([("attn_k_b.weight", rank)], head_dim, n_heads);
    let still = b.expert_product("", still, &to_kept, every); // [n_heads][rank]
    let q = b.join("Qcur", still, turning); // [n_heads][rank + n_rot]

    let cache = b.cache(Cache { n_kv_heads: 1, head_dim: rank + n_rot, window: None, value_dim: Some(rank) });
    // The rotation's length does not go into the keys: only a part of them is rotated.
    let attended = b.attend("", q, [Some(k), None], cache, None, scale, None, None); // [n_heads · rank]
    let attended = b.reshape("", attended, &[n_heads, rank]);
    let [to_values] = b.expert_stack([("attn_v_b.weight", value_dim)], rank, n_heads);
    let out = b.expert_product("", attended, &to_values, every); // [n_heads][value_dim]
    let out = b.reshape("kqv_out", out, &[n_heads * value_dim]);
    let [wo] = b.stack([("attn_output.weight", n_embd)], n_heads * value_dim);
    b.product(d.family.names.attn_out, out, &wo)
}
