//! Matrix products against a sum in f64, on the device that `FERROWARP_DEVICE` names (softcuda where unset).

mod common;

use cust::memory::{CopyDestination, DeviceBuffer};
use cust::stream::{Stream, StreamFlags};
use driver::calls;
use driver::cublas::{Element, Handle, Matrix};
use half::{bf16, f16};

/// (n_tokens, n_out, n_in): never two alike, with single rows, odd sizes, and products that go over several
/// cores in pieces, the last one smaller.
/// The short inner extents tell f32 from anything shorter (see `tolerance`).
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 2, 3),
    (2, 1, 7),
    (1, 300, 64),
    (5, 3, 1),
    (3, 17, 11),
    (7, 64, 33),
    (33, 65, 127),
    (16, 48, 896),
    (130, 257, 511),
    (3, 700, 896),
    (2, 1100, 5),
];

/// Values in a type, as bytes for the device and as the exact f64 that they stand for.
fn encode(element: Element, values: &[f32]) -> (Vec<u8>, Vec<f64>) {
    let of = |value: &f32| -> (Vec<u8>, f64) {
        match element {
            Element::F32 => (value.to_le_bytes().to_vec(), f64::from(*value)),
            Element::F16 => {
                let value = f16::from_f32(*value);
                (value.to_le_bytes().to_vec(), f64::from(value))
            }
            Element::Bf16 => {
                let value = bf16::from_f32(*value);
                (value.to_le_bytes().to_vec(), f64::from(value))
            }
        }
    };
    let (bytes, exact): (Vec<_>, Vec<_>) = values.iter().map(of).unzip();
    (bytes.concat(), exact)
}

/// How far an f32 sum of `terms` products may lie from the exact one: each product and each addition rounds by at most
/// half a unit in the last place, 2⁻²⁴ of its result, and every partial result is at most the sum of magnitudes
/// (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). For few terms this is below the error of a
/// product whose inputs were cut to TF32's 10 bits.
fn tolerance(terms: usize, magnitudes: f64) -> f64 {
    let roundings = (terms + 1) as f64 * 2f64.powi(-24);
    roundings / (1.0 - roundings) * magnitudes
}

fn check(element: Element, alpha: f32, beta: f32, seed: u64) {
    let mut random = common::Random::new(seed);
    let handle = Handle::new().unwrap();
    for &(n_tokens, n_out, n_in) in SHAPES {
        let (w_bytes, w) = encode(element, &random.values(n_out * n_in));
        let (x_bytes, x) = encode(element, &random.values(n_tokens * n_in));
        // Without accumulation the old values must not be read, so they are poison; past the end nothing is written.
        let old = match beta == 0.0 {
            true => vec![f32::NAN; n_tokens * n_out + 9],
            false => random.values(n_tokens * n_out + 9),
        };
        let w_device = DeviceBuffer::from_slice(&w_bytes).unwrap();
        let x_device = DeviceBuffer::from_slice(&x_bytes).unwrap();
        let out_device = DeviceBuffer::from_slice(&old).unwrap();
        let matrix = |address, element, rows, columns| Matrix { address, element, rows, columns };
        // SAFETY: each buffer was made with these extents; only this thread uses them.
        unsafe {
            handle.matmul(
                matrix(w_device.as_device_ptr().as_raw(), element, n_out, n_in),
                matrix(x_device.as_device_ptr().as_raw(), element, n_tokens, n_in),
                matrix(out_device.as_device_ptr().as_raw(), Element::F32, n_tokens, n_out),
                alpha,
                beta,
            )
        }
        .unwrap();
        let out = out_device.as_host_vec().unwrap();
        for token in 0..n_tokens {
            for row in 0..n_out {
                let before = if beta == 0.0 { 0.0 } else { f64::from(beta) * f64::from(old[token * n_out + row]) };
                let products = (0..n_in).map(|i| f64::from(alpha) * x[token * n_in + i] * w[row * n_in + i]);
                let (want, magnitudes) = products.fold((before, before.abs()), |(sum, magnitudes), product| {
                    (sum + product, magnitudes + product.abs())
                });
                let got = f64::from(out[token * n_out + row]);
                // beta adds a product and an addition.
                let allowed = tolerance(n_in + 2, magnitudes);
                assert!(
                    (got - want).abs() <= allowed,
                    "{element:?} {n_tokens}×{n_out}×{n_in}, beta {beta}, out[{token}][{row}]: got {got}, want {want} ± {allowed}"
                );
            }
        }
        let untouched =
            |range: std::ops::Range<usize>| range.into_iter().all(|index| out[index].to_bits() == old[index].to_bits());
        assert!(untouched(n_tokens * n_out..old.len()), "{element:?} {n_tokens}×{n_out}×{n_in} wrote past the end");
    }
}

#[test]
fn f32_products_are_in_full_precision() {
    let _turn = common::turn();
    check(Element::F32, 1.0, 0.0, 0x5eed_1001);
}

#[test]
fn f16_products_are_summed_in_f32() {
    let _turn = common::turn();
    check(Element::F16, 1.0, 0.0, 0x5eed_1002);
}

#[test]
fn bf16_products_are_summed_in_f32() {
    let _turn = common::turn();
    check(Element::Bf16, 1.0, 0.0, 0x5eed_1003);
}

#[test]
fn a_product_can_be_added_to_the_output() {
    let _turn = common::turn();
    check(Element::F32, 1.0, 1.0, 0x5eed_1004);
    check(Element::F16, 4.0, 1.0, 0x5eed_1005);
    check(Element::Bf16, 1.0, -0.75, 0x5eed_1006);
}

/// An f16 output is the f32 sum, rounded once; nothing is written past its end.
#[test]
fn an_f16_output_is_rounded_at_the_end() {
    let _turn = common::turn();
    let mut random = common::Random::new(0x5eed_1007);
    let handle = Handle::new().unwrap();
    for (&(n_tokens, n_out, n_in), beta) in SHAPES.iter().zip([0.0f32, 1.0, -0.5].into_iter().cycle()) {
        let (w_bytes, w) = encode(Element::F16, &random.values(n_out * n_in));
        let (x_bytes, x) = encode(Element::F16, &random.values(n_tokens * n_in));
        let old = match beta == 0.0 {
            true => vec![f16::NAN.to_bits(); n_tokens * n_out + 9],
            false => random.values(n_tokens * n_out + 9).iter().map(|value| f16::from_f32(*value).to_bits()).collect(),
        };
        let w_device = DeviceBuffer::from_slice(&w_bytes).unwrap();
        let x_device = DeviceBuffer::from_slice(&x_bytes).unwrap();
        let out_device = DeviceBuffer::from_slice(&old).unwrap();
        let matrix = |address, rows, columns| Matrix { address, element: Element::F16, rows, columns };
        let alpha = 0.25;
        // SAFETY: each buffer was made with these extents; only this thread uses them.
        unsafe {
            handle.matmul(
                matrix(w_device.as_device_ptr().as_raw(), n_out, n_in),
                matrix(x_device.as_device_ptr().as_raw(), n_tokens, n_in),
                matrix(out_device.as_device_ptr().as_raw(), n_tokens, n_out),
                alpha,
                beta,
            )
        }
        .unwrap();
        let out = out_device.as_host_vec().unwrap();
        for (index, got) in out[..n_tokens * n_out].iter().enumerate() {
            let (token, row) = (index / n_out, index % n_out);
            let before = if beta == 0.0 { 0.0 } else { f64::from(beta) * f16::from_bits(old[index]).to_f64() };
            let products = (0..n_in).map(|i| f64::from(alpha) * x[token * n_in + i] * w[row * n_in + i]);
            let (want, magnitudes) =
                products.fold((before, before.abs()), |(sum, size), product| (sum + product, size + product.abs()));
            let allowed = tolerance(n_in + 2, magnitudes) + want.abs() * 2f64.powi(-11) + 2f64.powi(-25);
            let got = f16::from_bits(*got).to_f64();
            assert!(
                (got - want).abs() <= allowed,
                "{n_tokens}×{n_out}×{n_in}, beta {beta}: {got} for {want} ± {allowed}"
            );
        }
        assert_eq!(out[n_tokens * n_out..], old[n_tokens * n_out..], "{n_tokens}×{n_out}×{n_in} wrote past the end");
    }
}

/// f16 sums overflow past 65504; sums of f16 products in f32 do not.
#[test]
fn sums_past_the_range_of_f16_are_kept() {
    let _turn = common::turn();
    let handle = Handle::new().unwrap();
    let (n_out, n_in) = (3usize, 40usize);
    let w = DeviceBuffer::from_slice(&vec![f16::from_f32(2000.0).to_bits(); n_out * n_in]).unwrap();
    let x = DeviceBuffer::from_slice(&vec![f16::from_f32(1000.0).to_bits(); n_in]).unwrap();
    let out = DeviceBuffer::from_slice(&vec![0.0f32; n_out]).unwrap();
    let f16_matrix = |buffer: &DeviceBuffer<u16>, rows| Matrix {
        address: buffer.as_device_ptr().as_raw(),
        element: Element::F16,
        rows,
        columns: n_in,
    };
    let output = Matrix { address: out.as_device_ptr().as_raw(), element: Element::F32, rows: 1, columns: n_out };
    // SAFETY: the buffers hold these extents; only this thread uses them.
    unsafe { handle.matmul(f16_matrix(&w, n_out), f16_matrix(&x, 1), output, 1.0, 0.0) }.unwrap();
    // Every partial sum is a whole number of millions below 2²⁴ units: exact.
    assert_eq!(out.as_host_vec().unwrap(), [8e7; 3]);
}

#[test]
fn a_product_on_a_stream_allocates_nothing_of_ours() {
    let _turn = common::turn();
    let stream = Stream::new(StreamFlags::DEFAULT, None).unwrap();
    let handle = Handle::new().unwrap();
    let workspace = DeviceBuffer::<u8>::zeroed(32 << 20).unwrap();
    // SAFETY: stream and workspace outlive the handle's use of them.
    unsafe {
        handle.set_stream(stream.as_inner().cast()).unwrap();
        handle.set_workspace(workspace.as_device_ptr().as_raw(), workspace.len()).unwrap();
    }
    assert!(!handle.library().is_empty());
    let ones = DeviceBuffer::from_slice(&[1.0f32; 12]).unwrap();
    let out = DeviceBuffer::from_slice(&[0.0f32; 12]).unwrap();
    let matrix = |buffer: &DeviceBuffer<f32>, rows, columns| Matrix {
        address: buffer.as_device_ptr().as_raw(),
        element: Element::F32,
        rows,
        columns,
    };
    let before = calls::counts();
    for _ in 0..3 {
        // SAFETY: the buffers hold these extents; the stream orders their use.
        unsafe { handle.matmul(matrix(&ones, 3, 4), matrix(&ones, 2, 4), matrix(&out, 2, 3), 1.0, 1.0) }.unwrap();
    }
    let counts = calls::counts().since(&before);
    assert_eq!((counts.matmuls(), counts.total()), (3, 3), "{counts:?}");
    stream.synchronize().unwrap();
    let mut sums = [0.0; 12];
    out.copy_to(&mut sums).unwrap();
    assert_eq!(sums, [12.0, 12.0, 12.0, 12.0, 12.0, 12.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
}
