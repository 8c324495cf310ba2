//! Which launches a layer of published shapes has: a pattern that does not match any more shows here, and not in somebody's waiting.

use super::{Launch, Options, Pass, Step};
use crate::{
    gpu::{Activations, kernels::CacheType},
    model::Model,
    synth::{FileType, Shape, Synth},
};

/// The kernels of a shape's second layer, in order.
fn launches(shape: &str, cache_type: CacheType, pass: impl Fn(&Model, Options) -> Pass) -> Vec<&'static str> {
    let gguf = Synth::new(Shape::find(shape).expect(shape), FileType::Q4_K_M, 1).without_matrices().unwrap();
    let model = Model::open(&gguf).unwrap();
    let pass = pass(&model, Options { activations: Activations::Q8, cache_type });
    let node = |layer| model.figure.nodes.iter().position(|node| node.layer == Some(layer)).unwrap();
    let steps = pass.begin_of_node(node(1))..pass.begin_of_node(node(2));
    pass.steps[steps].iter().map(|step| step.launch.name()).collect()
}

fn many(model: &Model, options: Options) -> Pass {
    Pass::many(model, options).expect("a pass for prompts")
}

fn rows(model: &Model, options: Options) -> Pass {
    Pass::rows(model, options).expect("a pass for sequences together")
}

#[test]
fn a_layer_of_olmo_norms_over_all_heads_and_after_its_branches() {
    let token = ["gemv", "rmsnorm_qk", "attention_decode", "gemv", "rmsnorm_add", "gemv", "gemv", "rmsnorm_add"];
    for cache_type in CacheType::ALL {
        assert_eq!(launches("olmo3-7b", cache_type, Pass::token), token, "{cache_type}");
    }
    let network = ["cuBLAS", "rmsnorm_add", "rmsnorm_power", "cuBLAS", "glu", "cuBLAS", "rmsnorm_add"];
    let with = |attention: &[&'static str]| [attention, &network].concat();
    for (cache_type, attention) in
        [(CacheType::F16, "flash"), (CacheType::BF16, "flash"), (CacheType::F32, "attention")]
    {
        let want = with(&["rmsnorm_power", "cuBLAS", "rmsnorm_qk", "qkv", attention]);
        assert_eq!(launches("olmo3-7b", cache_type, many), want, "{cache_type}");
    }
    let want = with(&["rmsnorm_power", "cuBLAS", "rmsnorm_qk", "attention_decode"]);
    assert_eq!(launches("olmo3-7b", CacheType::F16, rows), want);
}

#[test]
fn a_layer_of_ministral_has_the_launches_of_one_of_llama() {
    let token = ["gemv", "attention_decode", "gemv", "gemv", "gemv"];
    let prompt = ["rmsnorm", "cuBLAS", "qkv", "flash", "cuBLAS", "rmsnorm", "cuBLAS", "glu", "cuBLAS"];
    for shape in ["llama3-8b", "ministral3-8b"] {
        assert_eq!(launches(shape, CacheType::F16, Pass::token), token, "{shape}");
        assert_eq!(launches(shape, CacheType::F16, many), prompt, "{shape}");
    }
}

#[test]
fn a_norm_behind_a_branch_is_one_launch_with_its_sum() {
    for (shape, glu) in [("gemma3-27b", &["gemv", "glu"][..]), ("glm4-9b", &["gemv"])] {
        let before = ["gemv", "attention_decode", "gemv", "rmsnorm_add"];
        let want = [&before, glu, &["gemv", "rmsnorm_add"]].concat();
        assert_eq!(launches(shape, CacheType::F16, Pass::token), want, "{shape}");
        let want = [
            ["rmsnorm", "cuBLAS", "qkv", "flash", "cuBLAS", "rmsnorm_add"],
            ["rmsnorm", "cuBLAS", "glu", "cuBLAS", "rmsnorm_add", ""],
        ];
        let want: Vec<&str> = want.concat().into_iter().filter(|name| !name.is_empty()).collect();
        assert_eq!(launches(shape, CacheType::F16, many), want, "{shape}");
    }
}

#[test]
fn a_mixture_is_two_launches_behind_its_router() {
    let token = ["gemv", "attention_decode", "gemv", "experts_router", "gemv", "gemv_sum"];
    assert_eq!(launches("qwen3-30b-a3b", CacheType::F16, Pass::token), token);
    // What stands beside the experts is added to their sum, and the stream to both.
    let beside = [&token[..], &["gemv", "gemv", "matmul_epilogue"]].concat();
    assert_eq!(launches("glm4.5-air", CacheType::F16, Pass::token), beside);
    // Experts with biases, and a unit that the product does not make.
    let apart = ["gemv", "experts_bias", "gemv", "experts_bias", "glu", "gemv", "experts_bias", "experts_combine"];
    let found = launches("gpt-oss-20b", CacheType::F16, Pass::token);
    assert!(found.ends_with(&apart), "{found:?}");
    // Vectors of packed weights are 8-bit integers or there is no such launch.
    let sums = |activations| {
        let gguf = Synth::new(Shape::find("qwen3-30b-a3b").unwrap(), FileType::Q4_K_M, 1).without_matrices().unwrap();
        let model = Model::open(&gguf).unwrap();
        let pass = Pass::token(&model, Options { activations, cache_type: CacheType::F16 });
        pass.steps.iter().any(|step| matches!(step.launch, Launch::GemvSum { .. }))
    };
    assert_eq!([Activations::Q8, Activations::F32].map(sums), [true, false]);
}

/// Of types that no mixture is published in, experts are added up by a launch of their own.
#[test]
fn experts_of_rare_types_are_added_up_apart() {
    for file_type in [FileType::F32, FileType::TQ1_0, FileType::IQ1_S] {
        let gguf = Synth::new(Shape::find("qwen3-30b-a3b").unwrap(), file_type, 1).without_matrices().unwrap();
        let model = Model::open(&gguf).unwrap();
        let pass = Pass::token(&model, Options { activations: Activations::Q8, cache_type: CacheType::F16 });
        let names: Vec<&str> = pass.steps.iter().map(|step| step.launch.name()).collect();
        assert!(
            names.windows(3).any(|three| three == ["gemv", "gemv", "experts_combine"]),
            "{}: {names:?}",
            file_type.name()
        );
    }
}

/// Whether each product of a layer, of a step of many sequences, finds its activations in the order that it reads them in.
#[test]
fn activations_lie_as_their_products_read_them() {
    let in_steps = |shape: &str, file_type: FileType| -> Vec<bool> {
        let gguf = Synth::new(Shape::find(shape).expect(shape), file_type, 1).without_matrices().unwrap();
        let model = Model::open(&gguf).unwrap();
        let pass = rows(&model, Options { activations: Activations::Q8, cache_type: CacheType::F16 });
        let node = |layer| model.figure.nodes.iter().position(|node| node.layer == Some(layer)).unwrap();
        let of_layer = |step: &Step| match &step.launch {
            Launch::Product { x, .. } => Some(pass.in_steps[x.0]),
            _ => None,
        };
        pass.steps[pass.begin_of_node(node(1))..pass.begin_of_node(node(2))].iter().filter_map(of_layer).collect()
    };
    // Queries with keys and values, output, gate and up, down.
    assert_eq!(in_steps("qwen2.5-7b", FileType::Q4_K_M), [true; 4]);
    assert_eq!(in_steps("qwen2.5-7b", FileType::F16), [true; 4]);
    assert_eq!(in_steps("qwen2.5-7b", FileType::BF16), [true; 4]);
    // Its experts gather what they multiply.
    assert_eq!(in_steps("qwen3-30b-a3b", FileType::Q4_K_M), [true; 2]);
    // Another unit is a launch between, and rows that nothing is known to bound are one before.
    assert_eq!(in_steps("gemma3-27b", FileType::Q8_0), [true, true, true, false]);
    assert_eq!(in_steps("olmo3-7b", FileType::Q8_0), [false, true, false, false]);
}

/// Whatever lies before attention, prompts of every shape take a tensor core's way over the cache, but for latent attention.
#[test]
fn prompts_of_every_published_shape_have_flash_attention() {
    for shape in crate::synth::SHAPES.iter().filter(|shape| !shape.name.starts_with("tiny-")) {
        let gguf = Synth::new(shape, FileType::Q4_K_M, 1).without_matrices().unwrap();
        let model = Model::open(&gguf).unwrap();
        let options = Options { activations: Activations::Q8, cache_type: CacheType::F16 };
        let pass = Pass::many(&model, options).unwrap_or_else(|| panic!("{}: no pass for prompts", shape.name));
        // Heads of other sizes, Gemma 4's of 512, have no kernel.
        let is_slow = |launch: &Launch| match launch {
            Launch::Attention { heads, v: Some(_), .. } | Launch::AttentionMany { heads, .. } => {
                let head_dim = model.figure.caches[heads.cache.0].head_dim;
                options.cache_type.head_dims().any(|dim| dim == head_dim)
            }
            _ => false,
        };
        let slow = pass.steps.iter().find(|step| is_slow(&step.launch));
        assert!(slow.is_none(), "{}: {slow:?}", shape.name);
    }
}

/// A pass for sequences together has the rooms and the scales of the one for prompts.
#[test]
fn passes_for_prompts_and_for_sequences_have_the_same_products() {
    for shape in crate::synth::SHAPES {
        let gguf = Synth::new(shape, FileType::Q4_K_M, 1).without_matrices().unwrap();
        let model = Model::open(&gguf).unwrap();
        for cache_type in [CacheType::F16, CacheType::BF16, CacheType::F32] {
            let options = Options { activations: Activations::Q8, cache_type };
            let Some((many, rows)) = Pass::many(&model, options).zip(Pass::rows(&model, options)) else { continue };
            assert_eq!(many.scales, rows.scales, "{} {cache_type}", shape.name);
            let products = |pass: &Pass| -> Vec<_> {
                let product = |launch: &Launch| match launch {
                    Launch::Product { stack, room, .. } => Some((*stack, *room)),
                    _ => None,
                };
                pass.steps.iter().filter_map(|step| product(&step.launch)).collect()
            };
            assert_eq!(products(&many), products(&rows), "{} {cache_type}", shape.name);
        }
    }
}
