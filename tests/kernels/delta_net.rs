//! The gated delta rule's steps, each by its definition, and a sequence in pieces.

use ferrowarp::gpu::kernels::{DeltaNetShape, KeyHeads};

use crate::support::*;

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Outputs `[n_tokens][n_channels]` and the last n_taps − 1 rows, which are also those before the first.
fn convolve(x: &[f32], weight: &[f32], state: &[f32], n_channels: usize, n_taps: usize) -> (Vec<f64>, Vec<f32>) {
    let rows = [state, x].concat();
    let n_tokens = x.len() / n_channels;
    let out = (0..n_tokens * n_channels)
        .map(|index| {
            let (token, channel) = (index / n_channels, index % n_channels);
            let product = |tap: usize| {
                f64::from(weight[channel * n_taps + tap]) * f64::from(rows[(token + tap) * n_channels + channel])
            };
            silu((0..n_taps).map(product).sum())
        })
        .collect();
    (out, rows[n_tokens * n_channels..].to_vec())
}

#[test]
fn channels_are_convolved_over_the_tokens() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_tokens, n_channels, n_taps) in
        [(1, 7, 4), (2, 130, 4), (3, 64, 4), (16, 5, 4), (17, 257, 4), (50, 33, 4), (3, 20, 1), (40, 9, 17), (2, 9, 17)]
    {
        let (x, weight) = (random.values(n_tokens * n_channels, 3.0), random.values(n_channels * n_taps, 1.0));
        let before = random.values((n_taps - 1) * n_channels, 3.0);
        let state = gpu.upload("state", &[before.clone(), vec![7.0]].concat()).unwrap();
        let out = Output::new(&gpu, n_tokens * n_channels);
        let (device_x, device_weight) = (gpu.upload("x", &x).unwrap(), gpu.upload("weight", &weight).unwrap());
        gpu.delta_net_convolve(&device_x, &device_weight, &state, &out, n_tokens, n_channels, n_taps).unwrap();
        let (want, after) = convolve(&x, &weight, &before, n_channels, n_taps);
        let what = format!("{n_tokens}×{n_channels}, {n_taps} taps");
        // Sums of up to 17 products below 3; SiLU's slope is at most 1.1.
        assert_close(&what, &out.read(&gpu), &want, 1e-5, 2e-6);
        assert_eq!(gpu.read(&state).unwrap(), [after, vec![7.0]].concat(), "{what}: state");
    }
}

/// Shapes with heads of each size, tiled and grouped.
fn shapes(n_tokens: usize) -> impl Iterator<Item = DeltaNetShape> {
    let sizes = [(1, 1, 32), (2, 4, 64), (3, 3, 32), (2, 6, 128), (1, 2, 256)];
    sizes.into_iter().flat_map(move |(n_k_heads, n_v_heads, head_dim)| {
        [KeyHeads::Tiled, KeyHeads::Grouped].map(|key_heads| DeltaNetShape {
            n_tokens,
            n_k_heads,
            n_v_heads,
            head_dim,
            key_heads,
        })
    })
}

#[test]
fn queries_and_keys_become_unit_vectors_and_values_stay() {
    let gpu = gpu();
    let mut random = Random::new();
    for shape in shapes(3) {
        for scale in [1e-3, 2.0] {
            let mut x = random.values(3 * shape.n_channels(), scale);
            x[..shape.head_dim].fill(0.0);
            let device = gpu.upload("qkv", &x).unwrap();
            gpu.delta_net_normalise(shape, &device, 1e-6).unwrap();
            let heads = x.chunks(shape.head_dim).enumerate();
            let want: Vec<f64> = heads
                .flat_map(|(head, values)| {
                    let squares: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
                    let norm = (squares + f64::from(1e-6f32)).sqrt();
                    let divisor = match head % (2 * shape.n_k_heads + shape.n_v_heads) {
                        head if head < shape.n_k_heads => norm * (shape.head_dim as f64).sqrt(),
                        head if head < 2 * shape.n_k_heads => norm,
                        _ => 1.0,
                    };
                    values.iter().map(move |x| f64::from(*x) / divisor).collect::<Vec<_>>()
                })
                .collect();
            assert_close(&format!("{shape:?} scale {scale}"), &gpu.read(&device).unwrap(), &want, 0.0, 1e-6);
        }
    }
}

#[test]
fn gates_are_a_sigmoid_and_a_decay() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_tokens, n_v_heads) in [(1, 1), (3, 32), (5, 51)] {
        for scale in [0.1, 5.0, 60.0] {
            let n = n_tokens * n_v_heads;
            let (beta, alpha) = (random.values(n, scale), random.values(n, scale));
            // As the models have them: negative, from slow to fast.
            let a: Vec<f32> = random.values(n_v_heads, 4.0).iter().map(|a| -a.exp()).collect();
            let bias = random.values(n_v_heads, 3.0);
            let upload = |values: &[f32]| gpu.upload("values", values).unwrap();
            let (device_beta, device_alpha) = (upload(&beta), upload(&alpha));
            let decay = Output::new(&gpu, n);
            gpu.delta_net_gates(&device_beta, &device_alpha, &upload(&a), &upload(&bias), &decay, n_tokens, n_v_heads)
                .unwrap();
            let sigma: Vec<f64> = beta.iter().map(|b| 1.0 / (1.0 + (-f64::from(*b)).exp())).collect();
            assert_close(&format!("beta, scale {scale}"), &gpu.read(&device_beta).unwrap(), &sigma, 0.0, 2e-6);
            let exponent = |index: usize| {
                // The sum is rounded to f32, which the exponential passes on.
                let head = index % n_v_heads;
                f64::from(a[head]) * f64::from(alpha[index] + bias[head]).exp().ln_1p()
            };
            let want: Vec<f64> = (0..n).map(|index| exponent(index).exp()).collect();
            let got = decay.read(&gpu);
            assert_close(&format!("decay, scale {scale}"), &got, &want, 1e-6, 1e-6);
            // What a slow decay loses of 1 is right too, as far as f32 near 1 can say it.
            for (index, (got, want)) in got.iter().zip(&want).enumerate().filter(|(index, _)| exponent(*index) > -1e-3)
            {
                assert!((f64::from(*got) - want).abs() < 1.3e-7, "decay {index}: {got} for {want}");
            }
        }
    }
}

/// Inputs as they are at work: unit keys, queries by 1/√d, gates between 0 and 1.
struct Inputs {
    qkv: Vec<f32>,
    beta: Vec<f32>,
    decay: Vec<f32>,
    state: Vec<f32>,
}

impl Inputs {
    fn new(random: &mut Random, shape: DeltaNetShape) -> Inputs {
        let DeltaNetShape { n_tokens, n_k_heads, n_v_heads, head_dim, .. } = shape;
        let mut qkv = random.values(n_tokens * shape.n_channels(), 1.0);
        for (head, values) in qkv.chunks_mut(head_dim).enumerate() {
            let head = head % (2 * n_k_heads + n_v_heads);
            let norm = values.iter().map(|x| x * x).sum::<f32>().sqrt();
            let divisor = if head < n_k_heads { norm * (head_dim as f32).sqrt() } else { norm };
            if head < 2 * n_k_heads {
                values.iter_mut().for_each(|x| *x /= divisor);
            }
        }
        let mut between = |from: f32| -> Vec<f32> {
            random.values(n_tokens * n_v_heads, 1.0).iter().map(|x| from + (1.0 - from) * x.abs()).collect()
        };
        let (beta, decay) = (between(0.0), between(0.7));
        let state = random.values(shape.state_len(), 0.5);
        Inputs { qkv, beta, decay, state }
    }

    /// The outputs, and the state after.
    fn reference(&self, shape: DeltaNetShape) -> (Vec<f64>, Vec<f64>) {
        let DeltaNetShape { n_tokens, n_k_heads, n_v_heads, head_dim: d, key_heads } = shape;
        let mut out = vec![0.0; n_tokens * n_v_heads * d];
        let mut state = as_f64(&self.state);
        for token in 0..n_tokens {
            let row = as_f64(&self.qkv[token * shape.n_channels()..][..shape.n_channels()]);
            for head in 0..n_v_heads {
                let k_head = match key_heads {
                    KeyHeads::Tiled => head % n_k_heads,
                    KeyHeads::Grouped => head / (n_v_heads / n_k_heads),
                };
                let (q, k) = (&row[k_head * d..][..d], &row[(n_k_heads + k_head) * d..][..d]);
                let v = &row[(2 * n_k_heads + head) * d..][..d];
                let gate = |gates: &[f32]| f64::from(gates[token * n_v_heads + head]);
                for j in 0..d {
                    let column = &mut state[(head * d + j) * d..][..d];
                    column.iter_mut().for_each(|s| *s *= gate(&self.decay));
                    let seen: f64 = column.iter().zip(k).map(|(s, k)| s * k).sum();
                    let delta = gate(&self.beta) * (v[j] - seen);
                    column.iter_mut().zip(k).for_each(|(s, k)| *s += k * delta);
                    out[(token * n_v_heads + head) * d + j] = column.iter().zip(q).map(|(s, q)| s * q).sum();
                }
            }
        }
        (out, state)
    }
}

#[test]
fn the_delta_rule_agrees_with_its_definition() {
    let gpu = gpu();
    let mut random = Random::new();
    for n_tokens in [1, 2, 13] {
        for shape in shapes(n_tokens) {
            let inputs = Inputs::new(&mut random, shape);
            let (want, want_state) = inputs.reference(shape);
            let upload = |values: &[f32]| gpu.upload("values", values).unwrap();
            let (qkv, beta, decay) = (upload(&inputs.qkv), upload(&inputs.beta), upload(&inputs.decay));
            let state = upload(&inputs.state);
            let out = Output::new(&gpu, want.len());
            gpu.delta_net(shape, &qkv, &beta, &decay, &state, &out).unwrap();
            // The rule forgets what it overwrites, and errors with it: they do not grow with the tokens.
            assert_close(&format!("{shape:?}"), &out.read(&gpu), &want, 1e-6, 2e-6);
            assert_close(&format!("{shape:?}: state"), &gpu.read(&state).unwrap(), &want_state, 2e-6, 2e-6);
        }
    }
}

#[test]
fn a_sequence_in_pieces_is_the_same_bits_as_in_one() {
    let gpu = gpu();
    let mut random = Random::new();
    let shape = DeltaNetShape { n_tokens: 37, n_k_heads: 2, n_v_heads: 4, head_dim: 64, key_heads: KeyHeads::Grouped };
    let (n_channels, n_taps, n_v_heads) = (shape.n_channels(), 4, shape.n_v_heads);
    let x = gpu.upload("x", &random.values(37 * n_channels, 1.0)).unwrap();
    let weight = gpu.upload("weight", &random.values(n_channels * n_taps, 1.0)).unwrap();
    let (beta, alpha) = (random.values(37 * n_v_heads, 2.0), random.values(37 * n_v_heads, 2.0));
    let (a, bias) = (gpu.upload("a", &[-0.1, -1.0, -3.0, -8.0]).unwrap(), gpu.upload("bias", &[0.5; 4]).unwrap());
    let run = |pieces: &[usize]| {
        let rows = gpu.upload("the convolution's rows", &vec![0.0f32; (n_taps - 1) * n_channels]).unwrap();
        let state = gpu.upload("state", &vec![0.0f32; shape.state_len()]).unwrap();
        let (beta, alpha) = (gpu.upload("beta", &beta).unwrap(), gpu.upload("alpha", &alpha).unwrap());
        let mut all = Vec::new();
        let mut first = 0;
        for n_tokens in pieces.iter().copied() {
            let shape = DeltaNetShape { n_tokens, ..shape };
            let end = first + n_tokens;
            let x = x.slice(first * n_channels..end * n_channels);
            let gates = first * n_v_heads..end * n_v_heads;
            let (beta, alpha) = (beta.slice(gates.clone()), alpha.slice(gates));
            let qkv = Output::<f32>::new(&gpu, n_tokens * n_channels);
            let out = Output::<f32>::new(&gpu, n_tokens * n_v_heads * shape.head_dim);
            gpu.delta_net_convolve(&x, &weight, &rows, &qkv, n_tokens, n_channels, n_taps).unwrap();
            gpu.delta_net_normalise(shape, &qkv, 1e-6).unwrap();
            gpu.delta_net_gates(&beta, &alpha, &a, &bias, &alpha, n_tokens, n_v_heads).unwrap();
            gpu.delta_net(shape, &qkv, &beta, &alpha, &state, &out).unwrap();
            all.extend(out.read(&gpu));
            first = end;
        }
        (all, gpu.read(&rows).unwrap(), gpu.read(&state).unwrap())
    };
    let whole = run(&[37]);
    assert!(whole.0.iter().all(|value| value.is_finite()));
    for pieces in [&[1, 36][..], &[20, 2, 1, 1, 13], &[1; 37]] {
        assert!(run(pieces) == whole, "in pieces of {pieces:?}");
    }
}

#[test]
fn outputs_are_normalised_and_gated_by_head() {
    let gpu = gpu();
    let mut random = Random::new();
    for (rows, head_dim) in [(1, 1), (5, 64), (6, 128), (3, 100)] {
        let (x, z) = (random.values(rows * head_dim, 0.1), random.values(rows * head_dim, 10.0));
        let weight = random.values(head_dim, 2.0);
        let want: Vec<f64> = crate::rmsnorm::reference(&x, &weight, 1e-6)
            .iter()
            .zip(&z)
            .map(|(normed, z)| normed * silu(f64::from(*z)))
            .collect();
        let (device_x, device_z) = (gpu.upload("x", &x).unwrap(), gpu.upload("z", &z).unwrap());
        let device_weight = gpu.upload("weight", &weight).unwrap();
        let out = Output::new(&gpu, rows * head_dim);
        gpu.delta_net_gate(&device_x, &device_weight, &device_z, &out, rows, 1e-6).unwrap();
        assert_close(&format!("{rows}×{head_dim}"), &out.read(&gpu), &want, 1e-9, 4e-6);
        gpu.delta_net_gate(&device_x, &device_weight, &device_z, &device_x, rows, 1e-6).unwrap();
        assert_eq!(gpu.read(&device_x).unwrap(), out.read(&gpu), "in place");
    }
}
