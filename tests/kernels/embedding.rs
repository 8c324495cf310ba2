//! out[token] = table[tokens[token]], exactly.

use crate::support::*;

#[test]
fn embedding_rows_are_the_tables_rows() {
    let gpu = gpu();
    let mut random = Random::new();
    for tensor_type in FLOATS {
        for (n_vocab, n_embd, n_tokens) in [(7, 1, 2), (11, 33, 5), (40, 896, 3), (5, 257, 2)] {
            let (table, exact) = weights(&gpu, &mut random, tensor_type, n_vocab, n_embd);
            let mut tokens = random.indices(n_tokens, n_vocab);
            tokens[0] = n_vocab as u32 - 1;
            let want: Vec<f64> =
                tokens.iter().flat_map(|token| exact[*token as usize * n_embd..][..n_embd].to_vec()).collect();
            let out = Output::new(&gpu, n_tokens * n_embd);
            gpu.embedding(table.all(), &gpu.upload("tokens", &tokens).unwrap(), &out, n_tokens).unwrap();
            // Every 16-bit float is an f32: no tolerance.
            assert_close(&format!("{tensor_type:?} {n_vocab}×{n_embd}"), &out.read(&gpu), &want, 0.0, 0.0);
        }
    }
}
