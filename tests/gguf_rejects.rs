//! One test for each rule that a GGUF file must keep: a file that keeps all the others is refused, by a message of one line that
//! names the file, the field, what was found and what was expected.

mod support;

use ferrowarp::gguf::{Array, Gguf, GgufError, Rule, TensorType, Value, Writer};
use ferrowarp::model::{Config, Model, ModelRule};
use proptest::prelude::*;
use support::check_message;
use support::tiny::{Shape, TinyModel};

/// The bytes of a small valid file, changed by `edit` before they are laid out.
fn file(edit: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.metadata("general.architecture", &Value::String("qwen2".into()));
    writer.metadata("numbers", &Value::Array(Array::U32(vec![1, 2, 3])));
    writer.tensor("plain", &[4, 2], TensorType::F32);
    writer.tensor("packed", &[64], TensorType::Q8_0);
    edit(&mut writer);
    let mut bytes = writer.header();
    bytes.resize(bytes.len() + writer.data_bytes() as usize, 0);
    bytes
}

#[track_caller]
fn rejects(bytes: Vec<u8>, rule: Rule, parts: &[&str]) {
    let error = Gguf::from_bytes(bytes, "model.gguf").expect_err("the file is accepted");
    assert_eq!(error.rule(), Some(rule), "{error}");
    check_message(&error.to_string(), &[parts, &["found ", "expected "]].concat());
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

#[test]
fn accepts_the_file_that_the_others_break() {
    for version in [2, 3] {
        let gguf = Gguf::from_bytes(file(|w| w.version = version), "model.gguf").unwrap();
        assert_eq!(gguf.version(), version);
        assert_eq!(gguf.metadata().str("general.architecture").unwrap(), "qwen2");
        let packed = gguf.tensor("packed").unwrap();
        assert_eq!((packed.dims.as_slice(), packed.bytes), (&[64][..], 68));
        assert_eq!(gguf.data(packed).len(), 68);
        assert_eq!(gguf.tensors().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["plain", "packed"]);
    }
}

#[test]
fn accepts_an_alignment_and_every_value_type() {
    let values = [
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-100)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-30_000)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(-2_000_000_000)),
        ("f32", Value::F32(1.5)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("ä\n".into())),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(-0.25)),
        ("strings", Value::Array(Array::String(vec!["".into(), "x".into()]))),
        ("bools", Value::Array(Array::Bool(vec![true, false]))),
        ("floats", Value::Array(Array::F32(vec![]))),
    ];
    let mut writer = Writer::default();
    writer.metadata("general.alignment", &Value::U32(64));
    for (key, value) in &values {
        writer.metadata(key, value);
    }
    writer.tensor("a", &[1], TensorType::F32);
    writer.tensor("b", &[1], TensorType::F32);
    let mut bytes = writer.header();
    assert_eq!(bytes.len() % 64, 0);
    bytes.resize(bytes.len() + 64 + 4, 7);
    let gguf = Gguf::from_bytes(bytes, "model.gguf").unwrap();
    for (key, value) in &values {
        assert_eq!(gguf.metadata().get(key), Some(value));
    }
    assert_eq!(gguf.data(gguf.tensor("b").unwrap()), [7; 4]);
}

#[test]
fn rejects_a_foreign_file() {
    rejects(file(|w| w.magic = *b"PK\x03\x04"), Rule::Magic, &["magic", "\"GGUF\""]);
    rejects(b"GGU".to_vec(), Rule::Truncated, &["magic"]);
    rejects(Vec::new(), Rule::Truncated, &["magic"]);
}

#[test]
fn rejects_big_endian() {
    rejects(file(|w| w.version = 3u32.swap_bytes()), Rule::ByteOrder, &["version", "big-endian"]);
    rejects(file(|w| w.magic = *b"FUGG"), Rule::ByteOrder, &["byte-swapped"]);
}

#[test]
fn rejects_unknown_versions() {
    for version in [0, 1, 4, u32::MAX] {
        rejects(file(|w| w.version = version), Rule::Version, &["version", &format!("found {version}"), "2 or 3"]);
    }
}

#[test]
fn rejects_every_shorter_file() {
    let bytes = TinyModel::new("qwen2", Shape::default(), 1).bytes();
    Gguf::from_bytes(bytes.clone(), "model.gguf").unwrap();
    for length in (0..bytes.len()).filter(|n| *n < 4096 || n % 509 == 0 || n + 3 > bytes.len()) {
        let error = Gguf::from_bytes(bytes[..length].to_vec(), "model.gguf").expect_err("the file is accepted");
        check_message(&error.to_string(), &[]);
    }
    rejects(file(|_| {})[..80].to_vec(), Rule::Truncated, &["metadata key number 1", "the end of the file at byte 80"]);
}

#[test]
fn rejects_counts_that_cannot_fit() {
    for count in [1000, u64::from(u32::MAX), u64::MAX / 2, u64::MAX] {
        let found = format!("found {count}");
        rejects(file(|w| w.metadata_count = count), Rule::MetadataCount, &["metadata count", &found]);
        rejects(file(|w| w.tensor_count = count), Rule::TensorCount, &["tensor count", &found]);
    }
}

#[test]
fn rejects_empty_keys() {
    let edit = |w: &mut Writer| w.metadata_raw(b"", 0, &[1]);
    rejects(file(edit), Rule::EmptyKey, &["metadata key number 2"]);
}

#[test]
fn rejects_long_keys() {
    let key = |length: usize| file(|w| w.metadata_raw(&vec![b'k'; length], 0, &[1]));
    Gguf::from_bytes(key(65_535), "model.gguf").unwrap();
    rejects(key(65_536), Rule::KeyLength, &["metadata key number 2", "65536", "65535"]);
}

#[test]
fn rejects_duplicate_keys() {
    let edit = |w: &mut Writer| w.metadata("numbers", &Value::U8(1));
    rejects(file(edit), Rule::DuplicateKey, &["metadata key numbers", "twice", "once"]);
}

#[test]
fn metadata_that_is_not_utf8_matters_only_where_it_is_needed() {
    let bytes = Value::Bytes(b"a\xff".to_vec());
    let strings = Value::Array(Array::Bytes(vec![b"ok".to_vec(), b"\xff".to_vec()]));
    let edit = |w: &mut Writer| {
        w.metadata("text", &bytes);
        w.metadata("texts", &strings);
        w.metadata_raw(b"k\xc0\xc1", 0, &[1]);
    };
    let gguf = Gguf::from_bytes(file(edit), "model.gguf").unwrap();
    assert_eq!((gguf.metadata().get("text"), gguf.metadata().get("texts")), (Some(&bytes), Some(&strings)));
    assert_eq!(gguf.metadata().u32("k\\xc0\\xc1").unwrap(), 1);
    let error = gguf.metadata().opt_str("text").unwrap_err().to_string();
    check_message(&error, &["model.gguf", "metadata key text", "a\\xff", "not UTF-8", "a string"]);
    let error = gguf.metadata().string_array("texts").unwrap_err().to_string();
    check_message(&error, &["metadata key texts", "an array of strings"]);
}

#[test]
fn rejects_tensor_names_that_are_not_utf8() {
    rejects(file(|w| w.tensor_raw(b"\xc0", &[1], 0, 0)), Rule::Utf8, &["tensor number 2"]);
}

#[test]
fn rejects_unknown_value_types() {
    rejects(file(|w| w.metadata_raw(b"key", 13, &[0])), Rule::ValueType, &["metadata key key", "value type 13"]);
    let array = [u32::MAX.to_le_bytes().as_slice(), &0u64.to_le_bytes()].concat();
    rejects(file(|w| w.metadata_raw(b"key", ARRAY, &array)), Rule::ValueType, &["metadata key key"]);
}

#[test]
fn rejects_truths_that_are_neither() {
    rejects(file(|w| w.metadata_raw(b"key", 7, &[2])), Rule::Bool, &["metadata key key", "the byte 2", "0 or 1"]);
    let array = [7u32.to_le_bytes().as_slice(), &2u64.to_le_bytes(), &[1, 255]].concat();
    rejects(file(|w| w.metadata_raw(b"key", ARRAY, &array)), Rule::Bool, &["the byte 255"]);
}

#[test]
fn rejects_nested_arrays() {
    let array =
        [ARRAY.to_le_bytes().as_slice(), &1u64.to_le_bytes(), &0u32.to_le_bytes(), &0u64.to_le_bytes()].concat();
    rejects(file(|w| w.metadata_raw(b"key", ARRAY, &array)), Rule::NestedArray, &["metadata key key"]);
}

#[test]
fn rejects_arrays_that_cannot_fit() {
    for (element_type, length) in [(0u32, 1000), (8, 1 << 40), (10, u64::MAX / 8 + 1), (12, u64::MAX)] {
        let array = [element_type.to_le_bytes().as_slice(), &u64::to_le_bytes(length)].concat();
        let bytes = file(|w| w.metadata_raw(b"key", ARRAY, &array));
        rejects(bytes, Rule::ArrayLength, &["metadata key key, its length", &format!("found {length}")]);
    }
}

#[test]
fn rejects_strings_that_cannot_fit() {
    for length in [10_000, u64::MAX] {
        let bytes = file(|w| w.metadata_raw(b"key", STRING, &u64::to_le_bytes(length)));
        rejects(bytes, Rule::StringLength, &["metadata key key", &format!("found {length}")]);
    }
}

#[test]
fn rejects_alignments() {
    let bad = [Value::U32(0), Value::U32(4), Value::U32(48), Value::U32(1 << 21), Value::U64(32), Value::F32(32.0)];
    for value in bad {
        let mut writer = Writer::default();
        writer.metadata("general.alignment", &value);
        writer.alignment = 32;
        rejects(writer.header(), Rule::Alignment, &["general.alignment", "a power of two"]);
    }
}

#[test]
fn rejects_empty_tensor_names() {
    rejects(file(|w| w.tensor_raw(b"", &[1], 0, 160)), Rule::EmptyTensorName, &["tensor number 2"]);
}

#[test]
fn rejects_long_tensor_names() {
    let name = |length: usize| {
        let mut writer = Writer::default();
        writer.tensor(&"n".repeat(length), &[8], TensorType::F32);
        [writer.header(), vec![0; 32]].concat()
    };
    Gguf::from_bytes(name(64), "model.gguf").unwrap();
    rejects(name(65), Rule::TensorNameLength, &["tensor number 0", "65 bytes", "at most 64"]);
}

#[test]
fn rejects_duplicate_tensors() {
    let edit = |w: &mut Writer| {
        w.tensor("plain", &[1], TensorType::F32);
    };
    rejects(file(edit), Rule::DuplicateTensor, &["tensor plain", "twice"]);
}

#[test]
fn rejects_dimension_counts() {
    for dims in [&[][..], &[1, 1, 1, 1, 1][..]] {
        let bytes = file(|w| w.tensor_raw(b"t", dims, 0, 0));
        rejects(bytes, Rule::DimensionCount, &["tensor t", &format!("{} dimensions", dims.len()), "1 to 4"]);
    }
}

#[test]
fn rejects_zero_dimensions() {
    for dims in [&[0][..], &[4, 0], &[4, 1, 0, 1]] {
        rejects(file(|w| w.tensor_raw(b"t", dims, 0, 0)), Rule::ZeroDimension, &["tensor t"]);
    }
}

#[test]
fn rejects_products_that_overflow() {
    let big = 1u64 << 32;
    for (dims, kind) in [(&[big, big][..], 0), (&[1 << 61, 1][..], 0), (&[big, 1 << 31][..], 1), (&[u64::MAX][..], 0)] {
        rejects(file(|w| w.tensor_raw(b"t", dims, kind, 0)), Rule::ElementCount, &["tensor t", "2^63"]);
    }
}

#[test]
fn tensors_of_other_types_are_told_apart() {
    for (id, name) in
        [(41, "41 (Q1_0)"), (4, "type 4"), (31, "type 31"), (1000, "type 1000"), (u32::MAX, "type 4294967295")]
    {
        // Its place in the file is not looked at: nobody knows how long it is.
        let gguf = Gguf::from_bytes(file(|w| w.tensor_raw(b"t", &[256], id, u64::MAX)), "model.gguf").unwrap();
        let [foreign] = gguf.foreign_tensors() else { panic!("one such tensor") };
        assert_eq!((foreign.name.as_str(), foreign.dims.as_slice()), ("t", &[256][..]));
        assert!(foreign.type_name().contains(name), "{}", foreign.type_name());
        assert!(gguf.tensor("t").is_none() && gguf.tensors().len() == 2);
        let error = Config::from_gguf(&gguf).unwrap_err();
        assert_eq!(error.rule(), Some(ModelRule::TensorType), "{error}");
        check_message(&error.to_string(), &["tensor t", name, "Q4_K"]);
        // It still counts among the names.
        let twice = file(|w| {
            w.tensor_raw(b"t", &[256], id, 0);
            w.tensor_raw(b"t", &[256], id, 0);
        });
        rejects(twice, Rule::DuplicateTensor, &["tensor t"]);
    }
}

#[test]
fn rejects_rows_that_are_not_whole_blocks() {
    for tensor_type in TensorType::ALL.iter().filter(|t| t.is_quantised()) {
        let row = tensor_type.block_elements() + 16;
        let bytes = file(|w| w.tensor_raw(b"t", &[row, 32], tensor_type.id(), 0));
        rejects(bytes, Rule::BlockSize, &["tensor t", tensor_type.name(), &format!("rows of {row} values")]);
    }
}

#[test]
fn rejects_offsets_off_the_alignment() {
    let bytes = file(|w| w.tensor_raw(b"t", &[1], 0, 4));
    rejects(bytes, Rule::OffsetAlignment, &["tensor t", "offset 4", "a multiple of the alignment, 32"]);
}

#[test]
fn rejects_data_outside_the_file() {
    for offset in [128, 1 << 40, u64::MAX - 31] {
        rejects(file(|w| w.tensor_raw(b"t", &[1], 0, offset)), Rule::TensorRange, &["tensor t", "bytes"]);
    }
    rejects(file(|w| w.tensor_raw(b"t", &[1 << 40], 0, 0)), Rule::TensorRange, &["tensor t"]);
}

#[test]
fn rejects_tensors_that_share_bytes() {
    let bytes = file(|w| w.tensor_raw(b"t", &[1], 0, 32));
    rejects(bytes, Rule::TensorOverlap, &["tensor t", "inside tensor packed"]);
}

// Split models.

/// Writes part `no` of `count` to `folder`, with one tensor in it.
fn write_part(folder: &std::path::Path, name: &str, no: u64, count: u64, tensor: &str, promised: u64) {
    let mut writer = Writer::default();
    writer.metadata("split.no", &Value::U16(no as u16));
    writer.metadata("split.count", &Value::U16(count as u16));
    writer.metadata("split.tensors.count", &Value::I32(promised as i32));
    writer.tensor(tensor, &[8], TensorType::F32);
    let bytes = [writer.header(), vec![no as u8; 32]].concat();
    std::fs::write(folder.join(name), bytes).unwrap();
}

fn open_in(folder: &tempfile::TempDir, name: &str) -> Result<Gguf, GgufError> {
    Gguf::open(&folder.path().join(name))
}

#[test]
fn accepts_a_split_model_by_its_first_part() {
    let folder = tempfile::tempdir().unwrap();
    for no in 0..3 {
        let name = format!("m-{:05}-of-00003.gguf", no + 1);
        write_part(folder.path(), &name, no, 3, &format!("t{no}"), 3);
    }
    let gguf = open_in(&folder, "m-00001-of-00003.gguf").unwrap();
    assert_eq!((gguf.n_parts(), gguf.tensors().len()), (3, 3));
    for no in 0..3u8 {
        let tensor = gguf.tensor(&format!("t{no}")).unwrap();
        assert_eq!(gguf.data(tensor), [no; 32]);
    }
}

#[test]
fn rejects_a_split_model_by_another_part() {
    let folder = tempfile::tempdir().unwrap();
    write_part(folder.path(), "m-00002-of-00002.gguf", 1, 2, "t", 2);
    let error = open_in(&folder, "m-00002-of-00002.gguf").unwrap_err();
    assert_eq!(error.rule(), Some(Rule::SplitFirst), "{error}");
    assert!(error.to_string().contains("found part 2 of 2"), "{error}");
}

#[test]
fn rejects_renamed_parts() {
    let folder = tempfile::tempdir().unwrap();
    write_part(folder.path(), "renamed.gguf", 0, 2, "t", 2);
    let error = open_in(&folder, "renamed.gguf").unwrap_err();
    assert_eq!(error.rule(), Some(Rule::SplitName), "{error}");
    assert!(error.to_string().contains("-00001-of-00002.gguf"), "{error}");
    let bytes = std::fs::read(folder.path().join("renamed.gguf")).unwrap();
    rejects(bytes, Rule::SplitName, &["split.count", "one of 2 parts"]);
}

#[test]
fn rejects_a_missing_part() {
    let folder = tempfile::tempdir().unwrap();
    write_part(folder.path(), "m-00001-of-00002.gguf", 0, 2, "t", 2);
    let error = open_in(&folder, "m-00001-of-00002.gguf").unwrap_err();
    assert!(matches!(error, GgufError::Open { .. }), "{error}");
    assert!(error.to_string().contains("m-00002-of-00002.gguf"), "{error}");
}

#[test]
fn rejects_parts_of_different_models() {
    let folder = tempfile::tempdir().unwrap();
    write_part(folder.path(), "m-00001-of-00002.gguf", 0, 2, "a", 2);
    write_part(folder.path(), "m-00002-of-00002.gguf", 1, 3, "b", 3);
    let error = open_in(&folder, "m-00001-of-00002.gguf").unwrap_err();
    assert_eq!(error.rule(), Some(Rule::SplitPart), "{error}");
    assert!(error.to_string().contains("found part 2 of 3, expected part 2 of 2"), "{error}");

    write_part(folder.path(), "m-00002-of-00002.gguf", 1, 2, "a", 2);
    let error = open_in(&folder, "m-00001-of-00002.gguf").unwrap_err();
    assert_eq!(error.rule(), Some(Rule::DuplicateTensor), "{error}");
}

#[test]
fn rejects_parts_with_too_few_tensors() {
    let folder = tempfile::tempdir().unwrap();
    write_part(folder.path(), "m-00001-of-00002.gguf", 0, 2, "a", 3);
    write_part(folder.path(), "m-00002-of-00002.gguf", 1, 2, "b", 3);
    let error = open_in(&folder, "m-00001-of-00002.gguf").unwrap_err();
    assert_eq!(error.rule(), Some(Rule::SplitTensors), "{error}");
    assert!(error.to_string().contains("found 2 tensors in 2 parts, expected 3"), "{error}");
}

#[test]
fn rejects_paths_that_are_no_files() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_path_buf(), folder.path().join("none.gguf")] {
        let error = Gguf::open(&path).unwrap_err();
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        assert!(matches!(error, GgufError::Open { .. }), "{error}");
    }
}

/// Each rule is broken by a test in this file.
#[test]
fn every_rule_has_a_test() {
    let source = include_str!("gguf_rejects.rs");
    for rule in Rule::ALL {
        assert!(source.contains(&format!("Rule::{rule:?}")), "no test breaks Rule::{rule:?}");
    }
}

// Any file: an answer, never a panic.

/// Every bit of the part before the data, flipped alone.
#[test]
fn survives_every_flipped_bit() {
    let bytes = TinyModel::new("qwen3moe", Shape { n_layers: 1, experts: (2, 1), ..Shape::default() }, 3).bytes();
    let gguf = Gguf::from_bytes(bytes.clone(), "model.gguf").unwrap();
    let header = gguf.tensors().map(|t| t.offset).min().unwrap() as usize;
    let mut accepted = 0;
    for bit in 0..header * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match Gguf::from_bytes(bytes, "model.gguf") {
            Ok(gguf) => accepted += usize::from(Model::open(&gguf).is_ok()),
            Err(error) => check_message(&error.to_string(), &[]),
        }
    }
    // A flipped bit of a token's text or of the padding is no error; most others are.
    assert!(accepted < header * 2, "{accepted} of {} flips accepted", header * 8);
}

proptest! {
    #[test]
    fn survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = Gguf::from_bytes(bytes, "model.gguf");
    }

    /// Past magic, version and counts, where most of the reader is.
    #[test]
    fn survives_any_bytes_after_the_header(
        tensors in 0u64..4,
        pairs in 0u64..4,
        bytes in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        let header = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat();
        let _ = Gguf::from_bytes([header, bytes].concat(), "model.gguf");
    }
}
