//! out = W · x, with what may stand around it.

use ferrowarp::{
    gguf::TensorType,
    gpu::{
        Activations, Gpu, Weights,
        kernels::{self, Gemv, GemvParts, Input, quantised_len},
        parts,
    },
};

use crate::{
    blocks::{blocks, quantised},
    support::*,
};

/// The product and, for the tolerance, the sum of the products' magnitudes.
fn reference(weights: &[f64], x: &[f64]) -> Vec<(f64, f64)> {
    let row = |row: &[f64]| {
        let products = row.iter().zip(x).map(|(w, x)| w * x);
        products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()))
    };
    weights.chunks(x.len()).map(row).collect()
}

/// What activations stand for to a product, and by how much each may differ from that: an activation that lies between two
/// integers may become either, since the kernel scales in `f32`.
struct Staged {
    values: Vec<f64>,
    doubts: Vec<f64>,
}

impl Staged {
    fn exact(x: &[f64]) -> Self {
        Self { values: x.to_vec(), doubts: vec![0.0; x.len()] }
    }

    /// In 8 bits: the nearest multiples of a run's largest magnitude / 127.
    fn in_eight_bits(x: &[f64]) -> Self {
        let mut staged = Self { values: Vec::new(), doubts: Vec::new() };
        for run in x.chunks(16) {
            let step = run.iter().fold(0f64, |largest, value| largest.max(value.abs())) / 127.0;
            for value in run {
                let steps = if step == 0.0 { 0.0 } else { value / step };
                staged.values.push(steps.round_ties_even() * step);
                // Up to 127 steps, after a product, a quotient and a product in `f32`: 127 · 4 · 2^-24.
                let between = ((steps - steps.floor()) - 0.5).abs() < 127.0 * 4.0 * 2f64.powi(-24);
                staged.doubts.push(if between { step } else { 0.0 });
            }
        }
        staged
    }

    /// In 16 bits: 8 bits, and what they leave in 8 more. What is between two integers of the first is made up for by the second.
    fn in_sixteen_bits(x: &[f64]) -> Self {
        let high = Self::in_eight_bits(x);
        let left: Vec<f64> = x.iter().zip(&high.values).map(|(value, high)| value - high).collect();
        let low = Self::in_eight_bits(&left);
        let values = high.values.iter().zip(&low.values).map(|(high, low)| high + low).collect();
        Self { values, doubts: low.doubts }
    }

    /// By how much each row's product may differ for the doubts.
    fn doubts(&self, weights: &[f64]) -> Vec<f64> {
        reference(weights, &self.doubts).into_iter().map(|(_, size)| size).collect()
    }
}

/// Weights of any type and their values.
fn matrix(gpu: &Gpu, random: &mut Random, tensor_type: TensorType, n_out: usize, n_in: usize) -> (Weights, Vec<f64>) {
    if tensor_type.is_quantised() {
        let (weights, values) = blocks(gpu, random, tensor_type, n_out, n_in);
        (weights, as_f64(&values))
    } else {
        weights(gpu, random, tensor_type, n_out, n_in)
    }
}

#[test]
fn gemv_agrees_with_its_definition() {
    let gpu = gpu();
    let mut random = Random::new();
    // Columns that are not whole vectors, fewer than a warp's, a step and a bit, and real models' widths; rows that fill
    // neither the last warp nor the last block.
    let shapes = [(5, 1), (7, 3), (9, 40), (6, 257), (33, 512), (9, 896), (18, 1024), (6, 4864), (5, 1100), (130, 64)];
    for tensor_type in FLOATS {
        for (n_out, n_in) in shapes {
            let (matrix, exact) = weights(&gpu, &mut random, tensor_type, n_out, n_in);
            let (x, bias, residual) =
                (random.values(n_in, 2.0), random.values(n_out, 30.0), random.values(n_out, 100.0));
            let device_x = gpu.upload("x", &x).unwrap();
            let device_bias = gpu.upload("bias", &bias).unwrap();
            let device_residual = gpu.upload("residual", &residual).unwrap();
            let products = reference(&exact, &as_f64(&x));
            for (with_bias, with_residual) in [(false, false), (true, false), (false, true), (true, true)] {
                let out = Output::new(&gpu, n_out);
                gpu.gemv(&Gemv {
                    bias: with_bias.then_some(&*device_bias),
                    residual: with_residual.then_some(&*device_residual),
                    ..Gemv::new(matrix.all(), &device_x, &out)
                })
                .unwrap();
                let added = |row: usize| {
                    f64::from(if with_bias { bias[row] } else { 0.0 })
                        + f64::from(if with_residual { residual[row] } else { 0.0 })
                };
                let got = out.read(&gpu);
                for (row, (product, size)) in products.iter().enumerate() {
                    let want = product + added(row);
                    // A lane adds at most n_in / 32 + 8 products in sequence, then trees of 5 levels and the warps of a
                    // split, bias and residual: each rounding is 2^-24 of a partial sum, itself at most the sum of
                    // magnitudes.
                    let roundings = (n_in / 32 + 8 + 5 + 8 + 2) as f64;
                    let tolerance = roundings * 2f64.powi(-24) * (size + added(row).abs() + 130.0);
                    let error = (f64::from(got[row]) - want).abs();
                    assert!(
                        error <= tolerance,
                        "{tensor_type:?} {n_out}×{n_in} bias {with_bias} residual {with_residual}: row {row}: got {}, \
                         want {want}, error {error:e} > {tolerance:e}",
                        got[row]
                    );
                }
            }
        }
    }
}

#[test]
fn gemv_adds_to_its_own_output() {
    let gpu = gpu();
    let mut random = Random::new();
    let (matrix, exact) = weights(&gpu, &mut random, TensorType::F16, 6, 64);
    let x = random.values(64, 1.0);
    let out = gpu.upload("out", &[10.0f32; 6]).unwrap();
    let device_x = gpu.upload("x", &x).unwrap();
    gpu.gemv(&Gemv { residual: Some(&out), ..Gemv::new(matrix.all(), &device_x, &out) }).unwrap();
    let want: Vec<f64> = reference(&exact, &as_f64(&x)).iter().map(|(product, _)| 10.0 + product).collect();
    assert_close("out += W·x", &gpu.read(&out).unwrap(), &want, 1e-5, 1e-6);
}

/// Every type, with 8-bit activations and without: RMSNorm before and SwiGLU behind the product, separately and together, on
/// part of a matrix's rows.
#[test]
fn what_stands_around_a_product_agrees_with_its_definition() {
    let gpu = gpu();
    let mut random = Random::new();
    let epsilon = 1e-5f32;
    for tensor_type in quantised().chain(FLOATS) {
        let elements = tensor_type.block_elements() as usize;
        for (n_out, n_in) in [(10, 3 * elements.max(32)), (6, 896usize.next_multiple_of(elements)), (70, 256)] {
            let (matrix, exact) = matrix(&gpu, &mut random, tensor_type, n_out, n_in);
            let (x, norm) = (random.values(n_in, 3.0), random.values(n_in, 2.0));
            let (device_x, device_norm) = (gpu.upload("x", &x).unwrap(), gpu.upload("norm", &norm).unwrap());
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n_in as f64;
            let factor = 1.0 / (mean + f64::from(epsilon)).sqrt();
            for (with_norm, swiglu, activations) in [
                (false, false, Activations::Q8),
                (true, false, Activations::Q8),
                (true, true, Activations::Q8),
                (true, true, Activations::F32),
                (false, false, Activations::Q16),
                (true, true, Activations::Q16),
            ] {
                // As the kernel does: the norm's weights first, its factor on the sum.
                let weighted =
                    x.iter().zip(&norm).map(|(x, w)| if with_norm { f64::from(x * w) } else { f64::from(*x) });
                let weighted: Vec<f64> = weighted.collect();
                let staged = match activations {
                    Activations::Q8 if tensor_type.is_quantised() => Staged::in_eight_bits(&weighted),
                    Activations::Q16 if tensor_type.is_quantised() => Staged::in_sixteen_bits(&weighted),
                    _ => Staged::exact(&weighted),
                };
                let factor = if with_norm { factor } else { 1.0 };
                // The gate's rows above the up projection's; without SwiGLU, all rows but the first two.
                let rows = if swiglu { 0..n_out } else { 2..n_out };
                // Each with what it may be away from that: roundings of f32, and the doubts.
                let products: Vec<(f64, f64)> = reference(&exact[rows.start * n_in..], &staged.values)
                    .iter()
                    .zip(staged.doubts(&exact[rows.start * n_in..]))
                    .map(|((sum, size), doubts)| (sum * factor, (size * 4e-6 + doubts) * factor))
                    .collect();
                let half = n_out / 2;
                let want: Vec<(f64, f64)> = if swiglu {
                    let pairs = products[..half].iter().zip(&products[half..]);
                    // The silu's slope is at most 1.1.
                    let silu = |gate: f64| gate / (1.0 + (-gate).exp());
                    pairs
                        .map(|((g, gs), (u, us))| {
                            (silu(*g) * u, 1.1 * gs * u.abs() + silu(*g).abs() * us + 1.1 * gs * us)
                        })
                        .collect()
                } else {
                    products
                };
                let out = Output::new(&gpu, want.len());
                gpu.gemv(&Gemv {
                    norm: with_norm.then_some((&*device_norm, epsilon)),
                    swiglu,
                    ..Gemv::new(matrix.rows(rows), &device_x, &out).activations(activations)
                })
                .unwrap();
                let what = format!("{tensor_type} {n_out}×{n_in} norm {with_norm} swiglu {swiglu} {activations:?}");
                for (row, (got, (want, size))) in out.read(&gpu).iter().zip(want).enumerate() {
                    let tolerance = size + 1e-6;
                    let error = (f64::from(*got) - want).abs();
                    assert!(error <= tolerance, "{what} row {row}: got {got}, want {want}, {error:e} > {tolerance:e}");
                }
            }
        }
    }
}

/// A matrix with rows of two types, one above the other, with its values.
fn two_types(gpu: &Gpu, random: &mut Random, matrices: [(TensorType, usize); 2], n_in: usize) -> (Weights, Vec<f64>) {
    let (parts, bytes) = parts(&matrices, n_in, 1);
    let data = gpu.alloc("blocks", bytes).unwrap();
    gpu.fill(&data, 0).unwrap();
    let mut exact = Vec::new();
    for (part, (tensor_type, n_out)) in parts.iter().zip(matrices) {
        let (weights, values) = matrix(gpu, random, tensor_type, n_out, n_in);
        let bytes = gpu.read(&weights.data).unwrap();
        gpu.write(&data.slice(part.start..part.start + part.bytes), &bytes).unwrap();
        exact.extend(values);
    }
    let n_out = matrices[0].1 + matrices[1].1;
    (Weights { data, parts, n_matrices: 1, n_out, n_in }, exact)
}

/// Every type above and below another, and the pairs of published files: in one launch where they fit together.
#[test]
fn a_product_with_rows_of_two_types_agrees_with_its_definition() {
    use TensorType::{F16, IQ4_NL, Q2_K, Q3_K, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    let gpu = gpu();
    let mut random = Random::new();
    let epsilon = 1e-5f32;
    let all: Vec<TensorType> = quantised().collect();
    let neighbours = all.iter().copied().zip(all.iter().copied().cycle().skip(1));
    let published = [(Q4_K, Q6_K), (Q5_K, Q6_K), (Q4_K, Q5_K), (Q3_K, Q5_K), (Q2_K, Q4_K), (Q5_0, Q8_0), (Q5_1, Q8_0)];
    let with_floats = [(F16, Q8_0), (Q5_0, F16)];
    let pairs: Vec<_> = neighbours.chain(published).chain([(IQ4_NL, Q5_1)]).chain(with_floats).collect();
    for (index, (first, second)) in pairs.into_iter().enumerate() {
        // Short rows that share a block among the warps, and long ones that share a row.
        let (n_first, n_second, n_in) = [(42, 7, 256), (6, 70, 2560), (1, 3, 512)][index % 3];
        let (weights, exact) = two_types(&gpu, &mut random, [(first, n_first), (second, n_second)], n_in);
        let n_out = n_first + n_second;
        let (x, norm, bias) = (random.values(n_in, 3.0), random.values(n_in, 2.0), random.values(n_out, 5.0));
        let [device_x, device_norm, device_bias] =
            [&x, &norm, &bias].map(|values| gpu.upload("a vector", values).unwrap());
        for (with_norm, with_bias) in [(true, true), (false, false)] {
            let out = Output::new(&gpu, n_out);
            gpu.gemv_parts(&GemvParts {
                weights: &weights,
                x: &device_x,
                norm: with_norm.then_some((&*device_norm, epsilon)),
                bias: with_bias.then_some(&*device_bias),
                out: &out,
                activations: Activations::Q8,
            })
            .unwrap();
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n_in as f64;
            let factor = if with_norm { 1.0 / (mean + f64::from(epsilon)).sqrt() } else { 1.0 };
            let weighted = x.iter().zip(&norm).map(|(x, w)| f64::from(if with_norm { x * w } else { *x }));
            let weighted: Vec<f64> = weighted.collect();
            let got = out.read(&gpu);
            for (part, tensor_type) in [(0..n_first, first), (n_first..n_out, second)] {
                let staged = if tensor_type.is_quantised() {
                    Staged::in_eight_bits(&weighted)
                } else {
                    Staged::exact(&weighted)
                };
                let rows = &exact[part.start * n_in..part.end * n_in];
                let products = reference(rows, &staged.values).into_iter().zip(staged.doubts(rows));
                for (row, ((sum, size), doubts)) in part.zip(products) {
                    let added = if with_bias { f64::from(bias[row]) } else { 0.0 };
                    let want = sum * factor + added;
                    let tolerance = (size * 4e-6 + doubts) * factor + added.abs() * 1e-6 + 1e-6;
                    let error = (f64::from(got[row]) - want).abs();
                    assert!(
                        error <= tolerance,
                        "{first} above {second} {n_first}+{n_second}×{n_in} norm {with_norm}: row {row}: got {}, want {want}",
                        got[row]
                    );
                }
            }
        }
    }
}

/// SwiGLU's output handed on in 8 bits gives what the next product makes of it when it quantises it itself.
#[test]
fn a_product_takes_what_another_quantised() {
    let gpu = gpu();
    let mut random = Random::new();
    for (tensor_type, n_ff, n_in) in [
        (TensorType::Q8_0, 96, 64),
        (TensorType::Q4_K, 4864usize.next_multiple_of(256), 256),
        (TensorType::Q5_0, 1504, 896),
    ] {
        let (gate_up, _) = matrix(&gpu, &mut random, tensor_type, 2 * n_ff, n_in);
        let (down, _) = matrix(&gpu, &mut random, tensor_type, 10, n_ff);
        let x = gpu.upload("x", &random.values(n_in, 1.0)).unwrap();
        let between = Output::<f32>::new(&gpu, n_ff);
        let swiglu = Gemv { swiglu: true, ..Gemv::new(gate_up.all(), &x, &between) };
        gpu.gemv(&swiglu).unwrap();
        let outs = [Output::<f32>::new(&gpu, 10), Output::<f32>::new(&gpu, 10)];
        gpu.gemv(&Gemv::new(down.all(), &between, &outs[0])).unwrap();
        let quantised = Output::<u32>::new(&gpu, quantised_len(n_ff));
        gpu.gemv(&Gemv { out: kernels::Output::Quantised(&quantised), ..swiglu }).unwrap();
        quantised.read(&gpu);
        let product = Gemv { x: Input::Quantised(&quantised), ..Gemv::new(down.all(), &between, &outs[1]) };
        gpu.gemv(&product).unwrap();
        let [own, taken] = outs.map(|out| out.read(&gpu));
        assert!(own.iter().all(|value| value.is_finite()));
        assert_eq!(own, taken, "{tensor_type}");
    }
}
