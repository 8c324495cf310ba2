//! out = W · x (+ bias) (+ residual).

use crate::support::*;

/// The product and, for the tolerance, the sum of the products' magnitudes.
fn reference(weights: &[f64], x: &[f32]) -> Vec<(f64, f64)> {
    let row = |row: &[f64]| {
        let products = row.iter().zip(x).map(|(w, x)| w * f64::from(*x));
        products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()))
    };
    weights.chunks(x.len()).map(row).collect()
}

#[test]
fn gemv_agrees_with_its_definition() {
    let gpu = gpu();
    let mut random = Random::new();
    // Columns that are not whole vectors, fewer than a warp's, exactly the unrolled step, and real models' widths;
    // rows that do not fill the last block.
    let shapes = [(5, 1), (7, 3), (9, 40), (6, 257), (33, 512), (9, 896), (18, 1024), (6, 4864), (5, 1100)];
    for tensor_type in FLOATS {
        for (n_out, n_in) in shapes {
            let (matrix, exact) = weights(&gpu, &mut random, tensor_type, n_out, n_in);
            let (x, bias, residual) =
                (random.values(n_in, 2.0), random.values(n_out, 30.0), random.values(n_out, 100.0));
            let device_x = gpu.upload("x", &x).unwrap();
            let device_bias = gpu.upload("bias", &bias).unwrap();
            let device_residual = gpu.upload("residual", &residual).unwrap();
            let products = reference(&exact, &x);
            for (with_bias, with_residual) in [(false, false), (true, false), (false, true), (true, true)] {
                let out = Output::new(&gpu, n_out);
                gpu.gemv(
                    &matrix,
                    &device_x,
                    with_bias.then_some(&*device_bias),
                    with_residual.then_some(&*device_residual),
                    &out,
                )
                .unwrap();
                let added = |row: usize| {
                    f64::from(if with_bias { bias[row] } else { 0.0 })
                        + f64::from(if with_residual { residual[row] } else { 0.0 })
                };
                let got = out.read(&gpu);
                for (row, (product, size)) in products.iter().enumerate() {
                    let want = product + added(row);
                    // A lane adds at most n_in / 32 / 4 + 8 products in sequence, then trees of 2 + 5 levels, bias and
                    // residual: each rounding is 2^-24 of a partial sum, itself at most the sum of magnitudes.
                    let roundings = (n_in / 128 + 8 + 7 + 2) as f64;
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
    let (matrix, exact) = weights(&gpu, &mut random, ferrowarp::gguf::TensorType::F16, 6, 64);
    let x = random.values(64, 1.0);
    let out = gpu.upload("out", &[10.0f32; 6]).unwrap();
    gpu.gemv(&matrix, &gpu.upload("x", &x).unwrap(), None, Some(&out), &out).unwrap();
    let want: Vec<f64> = reference(&exact, &x).iter().map(|(product, _)| 10.0 + product).collect();
    assert_close("out += W·x", &gpu.read(&out).unwrap(), &want, 1e-5, 1e-6);
}
