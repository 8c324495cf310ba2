//! The CPU reference against llama.cpp's numbers, over every model of the fixture folders.
//!
//! The golden logits come from llama.cpp's CPU backend on the same weights dequantised to F32, with an F32 cache, so they contain its
//! single-precision rounding: about 2e-5 relative. 1e-4 leaves room for nothing else; a wrong scale, pairing or bias is far above.

mod support;

use ferrowarp::gguf::Gguf;
use ferrowarp::model::{
    Config, Figure, Model, RopePairing, RopeScaling,
    figure::{Op, ValueId},
};
use ferrowarp::reference::{Reference, ReferenceError};
use ferrowarp::trace::{Recorder, Trace, relative_error};
use support::fixtures::{Golden, Prompt, goldens, own};

const LOGITS_TOLERANCE: f64 = 1e-4;
/// A norm alone rounds once per value.
const NORM_TOLERANCE: f64 = 1e-5;

/// Logits here are below 50, so an error of 2e-5 moves them by less than this.
const CERTAIN_MARGIN: f64 = 2e-3;

/// Opens the golden's model and hands it to `check`.
fn with_model(golden: &Golden, check: impl FnOnce(&Config, &mut Reference)) {
    let gguf = Gguf::open(&golden.model).unwrap_or_else(|e| panic!("{e}"));
    let model = Model::open(&gguf).unwrap_or_else(|e| panic!("{e}"));
    check(&model.config, &mut Reference::new(&model));
}

fn check_logits(golden: &Golden, prompt: &Prompt, vocab_size: usize, got: &[f32]) -> f64 {
    let Some(want) = &prompt.logits else {
        return 0.0;
    };
    assert_eq!(want.shape[1], vocab_size);
    // The file holds the last rows.
    let got = &got[got.len() - want.data.len()..];
    let rows = got.chunks_exact(vocab_size).zip(want.data.chunks_exact(vocab_size));
    let errors = rows.map(|(got, want)| relative_error(got, want));
    let largest = errors.fold(0.0, f64::max);
    assert!(
        largest <= LOGITS_TOLERANCE,
        "{} {}: logits differ by {largest:.2e}, expected at most {LOGITS_TOLERANCE:.0e}",
        golden.name,
        prompt.name
    );
    largest
}

fn argmax(logits: &[f32]) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|l| *l == largest).unwrap() as u32
}

#[test]
fn logits_and_greedy_tokens_are_llama_cpps() {
    for golden in goldens() {
        with_model(&golden, |config, reference| {
            let v = config.vocab_size;
            for prompt in &golden.prompts {
                reference.reset();
                let logits = reference.forward(&prompt.ids, &mut Recorder::off()).unwrap();
                assert_eq!(logits.len(), prompt.ids.len() * v);
                let error = check_logits(&golden, prompt, v, &logits);

                let steps = prompt.certain_steps(CERTAIN_MARGIN);
                let mut last = logits[logits.len() - v..].to_vec();
                let mut greedy = Vec::new();
                while greedy.len() < steps {
                    greedy.push(argmax(&last));
                    last = reference.forward(&greedy[greedy.len() - 1..], &mut Recorder::off()).unwrap();
                }
                assert_eq!(greedy, prompt.greedy[..steps], "{} {}: greedy tokens", golden.name, prompt.name);
                println!("{:24} {:6} logits {error:.1e}, {steps} greedy tokens", golden.name, prompt.name);
            }
        });
    }
}

#[test]
fn traces_are_llama_cpps() {
    let mut traced = 0;
    for golden in goldens().iter().filter(|g| !g.trace.is_empty()) {
        let prompt = golden.prompts.iter().find(|p| p.name == "short").expect("the traced prompt");
        let trace = trace(golden, &prompt.ids, prompt.ids.len());
        golden.compare_trace(&trace, |name, error| {
            let tolerance = if name.contains("norm") { NORM_TOLERANCE } else { LOGITS_TOLERANCE };
            println!("{:20} {name:16} {error:.1e}", golden.name);
            assert!(error <= tolerance, "{} {name}: {error:.2e}, expected at most {tolerance:.0e}", golden.name);
        });
        traced += 1;
    }
    assert!(traced > 0, "no golden file holds a trace");
}

/// Every tensor of a pass over `ids`, fed `step` tokens at a time.
fn trace(golden: &Golden, ids: &[u32], step: usize) -> Trace {
    let mut trace = Trace::new();
    with_model(golden, |_, reference| {
        for ids in ids.chunks(step) {
            let mut sink = |name: &str, shape: &[usize], data: &[f32]| trace.append(name, shape, data);
            reference.forward(ids, &mut Recorder::new(&mut sink)).unwrap();
        }
    });
    trace
}

/// The cache changes nothing: the same sums in the same order, so the same bits.
#[test]
fn one_token_at_a_time_is_the_same() {
    for golden in goldens() {
        let ids = &golden.prompts.iter().min_by_key(|p| p.ids.len().abs_diff(16)).unwrap().ids;
        let at_once = trace(&golden, ids, ids.len());
        for step in [1, 7] {
            let diff = trace(&golden, ids, step).diff(&at_once, 0.0);
            assert!(diff.first.is_none() && diff.only_first.is_empty(), "{}, {step} at a time: {diff}", golden.name);
        }
    }
}

/// Something that is wrong with a model.
struct Fault {
    model: &'static str,
    what: &'static str,
    make: Make,
}

/// Where a mistake is made: in what the file is taken to say, or in what is done with it.
enum Make {
    Config(fn(&mut Config)),
    Figure(fn(&mut Figure)),
}
use Make::{Config as InConfig, Figure as InFigure};

/// The nodes of an operation that is not carried out pass on what they read.
fn drop_nodes(figure: &mut Figure, is_dropped: impl Fn(&Figure, &Op) -> Option<ValueId>) {
    for index in 0..figure.nodes.len() {
        if let Some(x) = is_dropped(figure, &figure.nodes[index].op) {
            figure.nodes[index].op = Op::Reshape { x };
        }
    }
}

/// Drops the biases of one of queries, keys and values.
fn drop_bias(figure: &mut Figure, stem: &str) {
    drop_nodes(figure, |figure, op| match op {
        Op::Bias { x, .. } => {
            let name = figure.value(*x).name.as_deref().unwrap_or_default();
            name.starts_with(stem).then_some(*x)
        }
        _ => None,
    });
}

fn each_op(figure: &mut Figure, change: fn(&mut Op)) {
    figure.nodes.iter_mut().for_each(|node| change(&mut node.op));
}

/// Mistakes that programs like this one have made. Each must push the logits far past the tolerance.
const FAULTS: &[Fault] = &[
    Fault { model: "qwen2-tiny-f32", what: "the query's bias is dropped", make: InFigure(|f| drop_bias(f, "Qcur")) },
    Fault { model: "qwen2-tiny-f32", what: "the key's bias is dropped", make: InFigure(|f| drop_bias(f, "Kcur")) },
    Fault { model: "qwen2-tiny-f32", what: "the value's bias is dropped", make: InFigure(|f| drop_bias(f, "Vcur")) },
    Fault {
        model: "qwen2-tiny-f32",
        what: "the output is tied though the file has one",
        make: InFigure(|f| {
            let Op::Embed { table } = f.nodes[0].op.clone() else { panic!("the first node embeds") };
            let logits = f.logits;
            let head = f.nodes.iter_mut().find(|node| node.out == logits).unwrap();
            let Op::Product { weight, .. } = &mut head.op else { panic!("the logits are a product") };
            *weight = table;
        }),
    },
    Fault {
        model: "qwen2-tiny-f32",
        what: "RoPE turns neighbours instead of halves",
        make: InConfig(|c| c.rope.pairing = RopePairing::Neighbours),
    },
    Fault {
        model: "qwen2-tiny-f32",
        what: "RoPE's base is the default, not the file's",
        make: InConfig(|c| c.rope.theta = 10_000.0),
    },
    Fault {
        model: "qwen2-tiny-f32",
        what: "scores are divided by head_dim, not its root",
        make: InConfig(|c| c.attention_scale = 1.0 / c.head_dim as f32),
    },
    Fault {
        model: "qwen2-tiny-f32",
        what: "gate and up are exchanged",
        make: InFigure(|f| {
            each_op(f, |op| {
                if let Op::Glu { gate, up, .. } = op {
                    std::mem::swap(gate, up);
                }
            });
        }),
    },
    Fault {
        model: "qwen2-tiny-f32",
        what: "keys and values are exchanged",
        make: InFigure(|f| {
            each_op(f, |op| {
                if let Op::Attention { k, v, .. } = op {
                    std::mem::swap(k, v);
                }
            });
        }),
    },
    Fault {
        model: "llama-tiny-q4_k_m",
        what: "RoPE turns halves instead of neighbours",
        make: InConfig(|c| c.rope.pairing = RopePairing::Halves),
    },
    Fault {
        model: "llama-tiny-q4_k_m",
        what: "rope_freqs.weight is ignored",
        make: InConfig(|c| c.rope.factors = None),
    },
    Fault {
        model: "qwen3-tiny-q4_k_m",
        what: "the heads' norms are dropped",
        make: InFigure(|f| {
            drop_nodes(f, |figure, op| match op {
                Op::RmsNorm { x, .. } => (figure.value(*x).shape.len() == 2).then_some(*x),
                _ => None,
            });
        }),
    },
    Fault {
        model: "qwen2-yarn-tiny-q4_k_m",
        what: "YaRN is ignored",
        make: InConfig(|c| c.rope.scaling = RopeScaling::None),
    },
    Fault {
        model: "qwen2-yarn-tiny-q4_k_m",
        what: "YaRN scales every pair",
        make: InConfig(|c| c.rope.scaling = RopeScaling::Linear { factor: 4.0 }),
    },
    Fault {
        model: "qwen3moe-tiny-q4_k_m",
        what: "the experts' weights are not normalised",
        make: InConfig(|c| c.experts.as_mut().unwrap().normalise = false),
    },
    Fault {
        model: "qwen3moe-tiny-q4_k_m",
        what: "one expert too few is used",
        make: InConfig(|c| c.experts.as_mut().unwrap().n_used -= 1),
    },
];

#[test]
fn the_goldens_catch_every_fault() {
    for fault in FAULTS {
        let golden = own(fault.model);
        let prompt = golden.prompts.iter().find(|p| p.name == "short").unwrap();
        let gguf = Gguf::open(&golden.model).unwrap();
        let mut config = Config::from_gguf(&gguf).unwrap();
        if let InConfig(change) = fault.make {
            change(&mut config);
        }
        let mut model = Model::with_config(&gguf, config).unwrap();
        if let InFigure(change) = fault.make {
            change(&mut model.figure);
        }
        let got = Reference::new(&model).forward(&prompt.ids, &mut Recorder::off()).unwrap();
        let error = relative_error(&got, &prompt.logits.as_ref().unwrap().data);
        println!("{:24} {:48} {error:.1e}", fault.model, fault.what);
        assert!(error > 100.0 * LOGITS_TOLERANCE, "{}, {}: the logits differ by {error:.1e}", fault.model, fault.what);
    }
}

#[test]
fn what_cannot_be_run_is_refused() {
    let golden = own("llama-tiny-q4_k_m");
    with_model(&golden, |config, reference| {
        let token = config.vocab_size as u32;
        let error = reference.forward(&[0, token], &mut Recorder::off()).unwrap_err();
        assert_eq!(error, ReferenceError::Token { token, last: config.vocab_size - 1 });
        let context = config.context_length;
        let error = reference.forward(&vec![0; context + 1], &mut Recorder::off()).unwrap_err();
        assert_eq!(error, ReferenceError::Context { needed: context + 1, context });
        assert_eq!(reference.position(), 0);
        assert_eq!(reference.forward(&[], &mut Recorder::off()), Ok(Vec::new()));
    });
}
