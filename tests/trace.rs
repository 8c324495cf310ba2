//! Traces: files, growth token by token, and the first difference.

mod support;

use ferrowarp::{
    gguf::Gguf,
    model::Model,
    reference::Reference,
    trace::{Difference, Printed, Recorder, Trace, relative_error},
};
use support::fixtures::own;

fn sample() -> Trace {
    let mut trace = Trace::new();
    trace.append("norm-0", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    trace.append("a-0", &[2, 1], &[-1.0, 1.0]);
    trace.append("kq_soft_max-0", &[1, 2, 2], &[1.0, 0.0, 0.25, 0.75]);
    trace
}

#[test]
fn a_file_keeps_the_order_of_execution() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    sample().save(&path).unwrap();
    let read = Trace::load(&path).unwrap();
    assert_eq!(read, sample());
    let names: Vec<&str> = read.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["norm-0", "a-0", "kq_soft_max-0"]);
}

#[test]
fn files_that_are_no_traces_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    let message = |path: &std::path::Path| Trace::load(path).unwrap_err().to_string();
    assert!(message(&path).contains("cannot be read"), "{}", message(&path));
    for bytes in [&b""[..], b"{}", &[255; 64]] {
        std::fs::write(&path, bytes).unwrap();
        let message = message(&path);
        assert!(message.contains("header: found") && message.contains("expected a safetensors file"), "{message}");
    }
    let error = sample().save(&folder.path().join("no/folder")).unwrap_err().to_string();
    assert!(error.contains("cannot be written"), "{error}");
}

#[test]
fn tensors_grow_by_tokens() {
    let mut trace = sample();
    trace.append("norm-0", &[1, 3], &[7.0, 8.0, 9.0]);
    let norm = trace.get("norm-0").unwrap();
    assert_eq!((norm.shape.as_slice(), norm.data.last()), (&[3, 3][..], Some(&9.0)));

    // Two heads, first one token over 2 positions, then two tokens over 3: heads stay apart and the first rows are padded.
    let mut trace = Trace::new();
    trace.append("kq_soft_max-1", &[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    trace.append("kq_soft_max-1", &[2, 2, 3], &[5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15., 16.]);
    let grown = trace.get("kq_soft_max-1").unwrap();
    assert_eq!(grown.shape, [2, 3, 3]);
    let want = [1., 2., 0., 5., 6., 7., 8., 9., 10., 3., 4., 0., 11., 12., 13., 14., 15., 16.];
    assert_eq!(grown.data, want);
}

#[test]
fn a_figure_counts_equal_names() {
    let golden = own("qwen2-tiny-f32");
    let gguf = Gguf::open(&golden.model).unwrap();
    let figure = Model::open(&gguf).unwrap().figure;
    let named = |start: &str| -> Vec<(String, Vec<usize>)> {
        let values = figure.values.iter().filter_map(|value| Some((value.name.clone()?, value.shape.clone())));
        values.filter(|(name, _)| name.starts_with(start)).collect()
    };
    let (flat, heads) = (vec![256], vec![4, 64]);
    let of_layer = |layer: usize| {
        let name = |count: &str| format!("Qcur-{layer}{count}");
        [(name(""), flat.clone()), (name(".1"), flat.clone()), (name(".2"), heads.clone()), (name(".3"), heads.clone())]
    };
    assert_eq!(named("Qcur-"), [of_layer(0), of_layer(1)].concat());
    let mut names: Vec<&String> = figure.values.iter().filter_map(|value| value.name.as_ref()).collect();
    let n = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), n, "every name is given once");
}

#[test]
fn the_first_difference_is_the_first_in_execution() {
    let reference = sample();
    let mut trace = Trace::new();
    trace.append("norm-0", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.00001]);
    trace.append("a-0", &[2, 1], &[-1.0, 1.5]);
    trace.append("kq_soft_max-0", &[1, 2, 2], &[9.0, 0.0, 0.25, 0.75]);
    trace.append("extra", &[1], &[0.0]);

    let diff = trace.diff(&reference, 1e-5);
    assert_eq!(diff.compared, 3);
    assert_eq!(diff.only_first, ["extra"]);
    assert_eq!(diff.largest.as_ref().unwrap().0, "norm-0");
    let Some(Difference::Values { name, error, index, first, second }) = &diff.first else { panic!("{diff}") };
    assert_eq!((name.as_str(), index.as_slice(), *first, *second), ("a-0", &[1, 0][..], 1.5, 1.0));
    assert!((error - 0.5 / 2f64.sqrt()).abs() < 1e-12);
    let text = diff.to_string();
    assert!(
        text.contains("first difference in a-0: relative error 3.536e-1; farthest apart at [1, 0]: 1.5 and 1"),
        "{text}"
    );
    assert!(text.contains("only in the first: extra"), "{text}");

    assert!(reference.diff(&reference, 0.0).first.is_none());
    assert!(trace.diff(&reference, 10.0).first.is_none());
}

#[test]
fn shapes_and_numbers_that_are_none_differ() {
    let mut other = Trace::new();
    other.append("norm-0", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let diff = sample().diff(&other, 1e9);
    assert!(matches!(&diff.first, Some(Difference::Shape { name, .. }) if name == "norm-0"), "{diff}");

    let mut other = Trace::new();
    other.append("norm-0", &[2, 3], &[1.0, 2.0, f32::NAN, 4.0, 5.0, 6.0]);
    let diff = other.diff(&sample(), 1e9);
    let Some(Difference::Values { error, index, .. }) = &diff.first else { panic!("{diff}") };
    assert_eq!((*error, index.as_slice()), (f64::INFINITY, &[0, 2][..]));

    assert_eq!(relative_error(&[f32::NEG_INFINITY, 3.0], &[f32::NEG_INFINITY, 4.0]), 0.25);
    assert_eq!(relative_error(&[0.0, 3.0], &[0.0, 0.0]), 3.0);
    assert_eq!(relative_error(&[], &[]), 0.0);
}

/// What llama.cpp's eval-callback prints of the first golden prompt of the smallest model: llama.cpp's values, which the reference
/// agrees with.
const PRINTED: &str = "tests/fixtures/eval_callback/qwen2-tiny-f32.txt";

#[test]
fn what_eval_callback_prints_is_compared_with() {
    let golden = own("qwen2-tiny-f32");
    let gguf = Gguf::open(&golden.model).unwrap();
    let model = Model::open(&gguf).unwrap();
    let ids = &golden.prompts.iter().find(|prompt| prompt.name == "short").unwrap().ids;
    let mut trace = Trace::new();
    let mut sink = |name: &str, shape: &[usize], data: &[f32]| trace.append(name, shape, data);
    Reference::new(&model).forward(ids, &mut Recorder::new(&mut sink)).unwrap();
    let text = std::fs::read_to_string(PRINTED).unwrap();
    let diff = |trace: &Trace, text: &str| trace.diff_printed(&Printed::read(text).unwrap(), 1e-4);

    let same = diff(&trace, &text);
    // One is of the last token alone.
    assert!(same.first.is_none() && same.compared == 14, "{same}");
    assert!(same.only_first.iter().any(|name| name == "ffn_out-0") && same.only_second.is_empty(), "{same}");

    // A value that is shown: the first of the rotated queries.
    let shown = trace.get("Qcur-0.3").unwrap().data[0];
    let heading = text.match_indices("Qcur-0 = ").nth(3).unwrap().0;
    let (before, behind) = text.split_at(heading);
    let behind = behind.replacen(&format!("{shown:12.4}"), &format!("{:12.4}", shown + 0.5), 1);
    let Some(Difference::Values { name, index, first, .. }) = diff(&trace, &(before.to_owned() + &behind)).first else {
        panic!("the value is another");
    };
    assert_eq!((name.as_str(), &index[..], first), ("Qcur-0.3", &[0, 0, 0][..], shown));

    // One that is not, in the middle of a row: only the sum tells.
    let mut other = Trace::new();
    for tensor in trace.tensors() {
        let mut data = tensor.data.clone();
        if tensor.name == "ffn_inp-0" {
            data[100] += 10.0;
        }
        other.append(&tensor.name, &tensor.shape, &data);
    }
    let found = diff(&other, &text).first;
    assert!(matches!(&found, Some(Difference::Sum { name, .. }) if name == "ffn_inp-0"), "{found:?}");

    // Another shape.
    let wide = text.replacen("= {256, 17, 1, 1}", "= {128, 34, 1, 1}", 1);
    assert!(matches!(diff(&trace, &wide).first, Some(Difference::Shape { .. })));
}
