//! Every block format against the values that the `gguf` Python package gives, bit for bit.
//! `tests/fixtures/quant/make.py` made the sample.

use std::collections::HashSet;

use ferrowarp::gguf::TensorType;
use ferrowarp::quant::dequantise;
use proptest::prelude::*;
use safetensors::SafeTensors;

const SAMPLE: &[u8] = include_bytes!("fixtures/quant/blocks.safetensors");

#[test]
fn every_type_gives_the_same_bits_as_the_gguf_package() {
    let sample = SafeTensors::deserialize(SAMPLE).unwrap();
    for tensor_type in TensorType::ALL {
        let blocks = sample.tensor(&format!("{tensor_type}.blocks")).unwrap();
        let values = sample.tensor(&format!("{tensor_type}.values")).unwrap();
        let want: Vec<f32> = values.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let mut got = vec![f32::NAN; want.len()];
        dequantise(*tensor_type, blocks.data(), &mut got);
        let distinct: HashSet<u32> = want.iter().map(|v| v.to_bits()).collect();
        // The blocks of values −1, 0 and 1 have three each.
        let n_blocks = blocks.data().len() / tensor_type.block_bytes() as usize;
        assert!(distinct.len() > 200.min(n_blocks), "{tensor_type}: the sample has {} values", distinct.len());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{tensor_type} value {i}: {got:e}, expected {want:e}");
        }
    }
}

/// A row may begin at any byte of a file.
#[test]
fn alignment_does_not_matter() {
    let sample = SafeTensors::deserialize(SAMPLE).unwrap();
    for tensor_type in TensorType::ALL {
        let blocks = sample.tensor(&format!("{tensor_type}.blocks")).unwrap().data().to_vec();
        let n = blocks.len() / tensor_type.block_bytes() as usize * tensor_type.block_elements() as usize;
        let mut want = vec![0.0; n];
        dequantise(*tensor_type, &blocks, &mut want);
        for shift in 1..4 {
            let shifted = [vec![0; shift], blocks.clone()].concat();
            let mut got = vec![f32::NAN; n];
            dequantise(*tensor_type, &shifted[shift..], &mut got);
            assert!(got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{tensor_type} + {shift}");
        }
    }
}

#[test]
fn row_sizes_are_whole_blocks() {
    for tensor_type in TensorType::ALL {
        let (elements, bytes) = (tensor_type.block_elements(), tensor_type.block_bytes());
        assert_eq!(tensor_type.row_bytes(3 * elements), Some(3 * bytes), "{tensor_type}");
        assert_eq!(tensor_type.row_bytes(3 * elements + 1).is_none(), elements > 1, "{tensor_type}");
        assert_eq!(TensorType::from_id(tensor_type.id()), Some(*tensor_type));
    }
}

proptest! {
    /// No bytes make dequantising panic, not even those that no quantiser writes.
    #[test]
    fn any_bytes_dequantise(
        kind in 0..TensorType::ALL.len(),
        bytes in prop::collection::vec(any::<u8>(), 2 * 210),
    ) {
        let tensor_type = TensorType::ALL[kind];
        let blocks = bytes.len() / tensor_type.block_bytes() as usize;
        let mut out = vec![0.0; blocks * tensor_type.block_elements() as usize];
        dequantise(tensor_type, &bytes[..blocks * tensor_type.block_bytes() as usize], &mut out);
    }
}
