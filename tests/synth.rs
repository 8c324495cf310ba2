//! `ferrowarp synth`: files of published shapes with random weights, which must be what they claim to be.

mod support;

use std::path::Path;

use assert_cmd::Command;
use driver::DeviceChoice;
use ferrowarp::{
    forward::{Engine, EngineOptions, Logits, MatrixSource, Then},
    gguf::{Gguf, TensorType},
    gpu::{Activations, Gpu, kernels::CacheType},
    model::{Config, Model},
    reference::Reference,
    synth::{FileType, ModelFacts, SHAPES, Shape, Synth, SynthError, create, random_matrices},
    tokenizer::{Ends, Special, Tokenizer},
    trace::{Recorder, relative_error},
};
use support::fixtures::goldens;

fn bytes(shape: &str, file_type: FileType, seed: u64) -> Vec<u8> {
    let synth = Synth::new(Shape::find(shape).expect(shape), file_type, seed);
    let mut bytes = Vec::new();
    let mut last = 0;
    synth.write(&mut bytes, &mut |done| last = done).unwrap();
    assert_eq!(bytes.len() as u64, synth.bytes());
    assert_eq!(last, synth.bytes());
    bytes
}

fn model(shape: &str, file_type: FileType) -> Gguf {
    let name = format!("{shape} {}", file_type.name());
    Gguf::from_bytes(bytes(shape, file_type, 1), &name).unwrap_or_else(|error| panic!("{error}"))
}

/// Prompt and generation on the device; every logit against the CPU reference.
#[allow(clippy::print_stdout)] // a test says what it measured
fn check(gguf: &Gguf) {
    let config = Config::from_gguf(gguf).unwrap_or_else(|error| panic!("{error}"));
    let tokenizer = Tokenizer::from_gguf(gguf).unwrap_or_else(|error| panic!("{error}"));
    let mut ids = tokenizer.encode("<|im_start|>é 1", Special::Parse, Ends::AsFileSays).unwrap();
    assert_eq!(ids.len(), 5, "a token, and a byte each");
    let options = EngineOptions {
        cache_type: CacheType::F32,
        activations: Activations::F32,
        n_batch: 16,
        all_logits: true,
        ..EngineOptions::default()
    };
    let gpu = Gpu::open(DeviceChoice::Soft).unwrap();
    let mut engine = Engine::load(gpu, gguf, options, &mut |_, _| {}).unwrap_or_else(|error| panic!("{error}"));

    let n_prompt = ids.len();
    let mut got = Vec::new();
    for step in 0..n_prompt + 4 {
        if step >= n_prompt {
            ids.push(engine.greedy(tokenizer.vocab_size(), Then::Anything).unwrap());
        }
        engine.decode(ids[step]).unwrap();
        got.extend(engine.logits().unwrap());
    }
    let model = Model::open(gguf).unwrap();
    let mut reference = Reference::new(&model);
    let want = reference.forward(&ids, &mut Recorder::off()).unwrap();
    let largest = |got: &[f32]| {
        assert!(got.iter().all(|logit| logit.is_finite()), "{}", gguf.name());
        let rows = got.chunks(config.vocab_size).zip(want.chunks(config.vocab_size));
        rows.map(|(got, want)| relative_error(got, want)).fold(0.0, f64::max)
    };
    let one_by_one = largest(&got);

    engine.reset();
    engine.forward(&ids, Logits::All, &mut Recorder::off()).unwrap();
    let together = largest(&engine.logit_rows(ids.len()).unwrap());
    println!("{}: {one_by_one:.1e}, {together:.1e}", gguf.name());
    // The tolerances of tests/golden.rs, where they are explained.
    assert!(one_by_one <= 1e-4, "{}: {one_by_one:.1e}", gguf.name());
    assert!(together <= 1e-2, "{}: {together:.1e}", gguf.name());
}

#[test]
fn every_type_runs_and_agrees_with_the_reference() {
    // tiny-qwen2 has rows that K blocks divide and rows that they do not.
    for file_type in FileType::ALL.iter().copied() {
        check(&model("tiny-qwen2", file_type));
    }
}

#[test]
fn every_family_runs_and_agrees_with_the_reference() {
    let shapes = SHAPES.iter().filter(|shape| shape.name.starts_with("tiny-"));
    let mut n_shapes = 0;
    for shape in shapes {
        check(&model(shape.name, FileType::Q4_K_M));
        n_shapes += 1;
    }
    assert_eq!(n_shapes, 4);
    let experts = model("tiny-qwen3moe", FileType::MXFP4_MOE);
    let tensor = experts.tensor("blk.1.ffn_down_exps.weight").unwrap();
    assert_eq!(tensor.tensor_type, TensorType::MXFP4);
    check(&experts);
}

/// The numbers that the models' makers publish; GGUFs of Llama 3.2 and EXAONE 4 have RoPE's divisors more.
#[test]
fn shapes_have_the_published_number_of_parameters() {
    let published = [
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-3b", 3_085_938_688),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("llama3-8b", 8_030_261_248),
        ("llama3.2-1b", 1_235_814_400 + 32),
        ("mistral-7b", 7_248_023_552),
        ("command-r7b", 8_028_033_024),
        ("deepseek-v2-lite", 15_706_484_224),
        ("ernie4.5-0.3b", 360_748_032),
        ("ernie4.5-21b-a3b", 21_825_437_888),
        ("exaone4-32b", 32_003_216_384 + 64),
        ("gemma2-9b", 9_241_705_984),
        // 27 432 406 640 with the encoder of images and its projection, 416 866 032 and 6 194 304.
        ("gemma3-27b", 27_009_346_304),
        // The cards' 25.2 and 30.7 billion; and of 5.1 billion what is no encoder of images or sounds. Each has 256 divisors of RoPE's more.
        ("gemma4-26b-a4b", 25_233_141_790 + 256),
        ("gemma4-31b", 30_697_345_340 + 256),
        ("gemma4-e2b", 4_628_569_379 + 256),
        ("glm4-9b", 9_400_279_040),
        // 110 468 824 832 with the block that predicts tokens further on, its own embedding and output.
        ("glm4.5-air", 106_852_251_264),
        ("gpt-oss-20b", 20_914_757_184),
        ("granite3.3-8b", 8_170_864_640),
        ("granite3.1-3b-a800m", 3_298_793_472),
        // The 8.4 billion of the language model.
        ("ministral3-8b", 8_489_553_920),
        ("olmo3-7b", 7_298_011_136),
        ("phi4-14b", 14_659_507_200),
        ("qwen1.5-moe-a2.7b", 14_315_784_192),
        ("qwen3.5-9b", 8_953_803_264),
        ("qwen3.5-35b-a3b", 34_660_610_688),
        ("qwen3-next-80b-a3b", 79_674_391_296),
        ("seed-oss-36b", 36_151_104_512),
        ("smollm3-3b", 3_075_098_624),
    ];
    let names: Vec<&str> = SHAPES.iter().map(|shape| shape.name).collect();
    for name in names.iter().filter(|name| !name.starts_with("tiny-")) {
        let found = published.iter().find(|(published, _)| published == name);
        let (_, parameters) = found.unwrap_or_else(|| panic!("{name} is not in the test"));
        let synth = Synth::new(Shape::find(name).unwrap(), FileType::Q8_0, 0);
        assert_eq!(synth.parameters(), *parameters, "{name}");
    }
    assert_eq!(published.len() + 4, names.len());
}

/// Files that people download, in bytes, as their pages show them: within a hundredth, the vocabulary being smaller here.
#[test]
fn files_are_as_large_as_the_real_ones() {
    for (shape, file_type, real) in [
        ("qwen2.5-0.5b", FileType::Q4_K_M, 397.8e6),
        ("qwen2.5-7b", FileType::Q4_K_M, 4.683e9),
        ("llama3-8b", FileType::Q4_K_M, 4.921e9),
        ("llama3-8b", FileType::Q8_0, 8.541e9),
    ] {
        let synth = Synth::new(Shape::find(shape).unwrap(), file_type, 0);
        let ratio = synth.bytes() as f64 / real;
        println!("{shape} {}: {ratio:.4}", file_type.name());
        assert!((0.99..1.002).contains(&ratio), "{shape}: {ratio} of the real size");
    }
}

/// The fixtures whose mix is a K mix were quantised by llama.cpp itself.
#[test]
fn mixes_are_llama_cpps() {
    let mut compared = 0;
    for golden in goldens() {
        let gguf = Gguf::open(&golden.model).unwrap();
        let number = gguf.metadata().opt_u32("general.file_type").unwrap();
        let mix = FileType::ALL
            .iter()
            .copied()
            .find(|mix| Some(mix.number()) == number && matches!(mix.number(), 10..=18 | 30));
        let Some(mix) = mix else { continue };
        let config = Config::from_gguf(&gguf).unwrap();
        let facts = ModelFacts {
            n_layers: config.n_layers as u64,
            n_experts: config.experts.map_or(0, |experts| experts.n_experts as u64),
            heads_per_kv_head: (config.n_heads / config.n_kv_heads) as u64,
            tied_output: config.tied_output,
        };
        for tensor in gguf.tensors() {
            let want = mix.tensor_type(facts, &tensor.name, &tensor.dims);
            assert_eq!((tensor.name.as_str(), tensor.tensor_type), (tensor.name.as_str(), want), "{}", golden.name);
        }
        compared += 1;
    }
    assert!(compared >= 5, "{compared} models were compared");
}

/// Rules that no fixture shows: many layers, and rows that 256 does not divide.
#[test]
fn mixes_of_large_models() {
    use TensorType::*;
    let facts = ModelFacts { n_layers: 24, n_experts: 0, heads_per_kv_head: 7, tied_output: true };
    let cases = [
        // Qwen2.5-0.5B, 896 wide: Q5_0 stands in for Q4_K, and Q8_0 for Q6_K.
        (FileType::Q4_K_M, "token_embd.weight", [896, 151_936], Q8_0),
        (FileType::Q4_K_M, "blk.0.attn_q.weight", [896, 896], Q5_0),
        (FileType::Q4_K_M, "blk.0.attn_v.weight", [896, 128], Q8_0),
        (FileType::Q4_K_M, "blk.3.attn_v.weight", [896, 128], Q5_0),
        (FileType::Q4_K_M, "blk.2.ffn_down.weight", [4864, 896], Q6_K),
        (FileType::Q4_K_M, "blk.3.ffn_down.weight", [4864, 896], Q4_K),
        (FileType::Q4_K_M, "blk.5.ffn_down.weight", [4864, 896], Q6_K),
        (FileType::Q4_K_M, "blk.21.ffn_down.weight", [4864, 896], Q6_K),
        (FileType::Q5_K_M, "blk.3.attn_q.weight", [896, 896], Q5_1),
        (FileType::Q2_K, "blk.3.attn_v.weight", [896, 128], Q5_0),
        (FileType::Q2_K, "blk.3.attn_q.weight", [896, 896], IQ4_NL),
        (FileType::Q4_0, "token_embd.weight", [896, 151_936], Q8_0),
        (FileType::Q4_0, "blk.0.ffn_down.weight", [4864, 896], Q4_0),
        (FileType::Q8_0, "token_embd.weight", [896, 151_936], Q8_0),
        (FileType::IQ4_XS, "blk.0.attn_v.weight", [1024, 128], Q5_K),
        (FileType::IQ1_S, "blk.0.attn_v.weight", [1024, 128], Q4_K),
        (FileType::IQ1_M, "blk.3.attn_output.weight", [1024, 1024], IQ2_XXS),
        (FileType::IQ2_XXS, "token_embd.weight", [1024, 151_936], Q5_K),
        (FileType::IQ2_XS, "blk.2.ffn_down.weight", [3072, 1024], Q2_K),
        (FileType::IQ2_S, "blk.3.attn_q.weight", [1024, 1024], IQ2_XS),
        (FileType::IQ2_M, "blk.2.ffn_down.weight", [3072, 1024], IQ3_S),
        (FileType::IQ3_XXS, "blk.3.attn_k.weight", [1024, 128], IQ2_S),
        (FileType::IQ3_XXS, "blk.3.attn_output.weight", [1024, 1024], IQ3_S),
        (FileType::IQ3_XS, "blk.3.ffn_up.weight", [1024, 3072], IQ3_XXS),
        (FileType::IQ3_XS, "blk.2.ffn_up.weight", [1024, 3072], IQ3_S),
        (FileType::IQ3_M, "blk.2.ffn_down.weight", [3072, 1024], Q4_K),
        (FileType::TQ1_0, "blk.0.attn_q.weight", [896, 896], Q4_0),
        (FileType::TQ2_0, "blk.0.attn_q.weight", [1024, 1024], TQ2_0),
        (FileType::NVFP4, "blk.0.attn_q.weight", [896, 896], NVFP4),
        (FileType::F16, "token_embd.weight", [896, 151_936], F16),
        (FileType::Q4_K_M, "blk.0.attn_q.weight", [100, 100], F16),
    ];
    for (mix, name, dims, want) in cases {
        assert_eq!(mix.tensor_type(facts, name, &dims), want, "{} {name}", mix.name());
    }
    assert_eq!(FileType::Q4_K_M.tensor_type(facts, "blk.0.attn_q.bias", &[896]), F32);
}

#[test]
fn the_seed_decides_the_bytes() {
    let first = bytes("tiny-qwen3", FileType::Q4_K_M, 7);
    assert!(first == bytes("tiny-qwen3", FileType::Q4_K_M, 7));
    assert!(first != bytes("tiny-qwen3", FileType::Q4_K_M, 8));
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_replaced_only_by_force_and_nothing_else_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, "precious").unwrap();
    let synth = Synth::new(Shape::find("tiny-llama").unwrap(), FileType::Q8_0, 1);
    let error = create(&path, &synth, false, &mut |_| {}).unwrap_err();
    assert!(matches!(error, SynthError::Exists { .. }), "{error}");
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");

    create(&path, &synth, true, &mut |_| {}).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), synth.bytes());
    assert_eq!(files(folder.path()), ["model.gguf"]);

    // A folder cannot be replaced: the finished file is removed again.
    let taken = folder.path().join("folder.gguf");
    std::fs::create_dir(&taken).unwrap();
    let error = create(&taken, &synth, true, &mut |_| {}).unwrap_err();
    assert!(matches!(error, SynthError::Io { .. }), "{error}");
    let nowhere = folder.path().join("no/such/folder.gguf");
    let error = create(&nowhere, &synth, true, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("no/such/folder.gguf"), "{error}");
    assert_eq!(files(folder.path()), ["folder.gguf", "model.gguf"]);
}

#[test]
fn the_command_writes_a_file_that_generates() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let run = |arguments: &[&str]| {
        let output =
            Command::cargo_bin("ferrowarp").unwrap().args(arguments).env("FERROWARP_DEVICE", "soft").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let file = path.to_str().unwrap();
    let synth = ["synth", "--shape", "tiny-qwen2", "--type", "Q4_K_M", "--seed", "3", "-o", file];
    let (success, stdout, stderr) = run(&synth);
    assert!(success, "{stderr}");
    assert!(stdout.contains("bytes") && stderr.is_empty(), "{stdout}{stderr}");
    assert!(std::fs::read(&path).unwrap() == bytes("tiny-qwen2", FileType::Q4_K_M, 3));

    let (success, stdout, stderr) =
        run(&["generate", "-m", file, "-p", "a", "-n", "4", "--temp", "0", "--format", "json"]);
    assert!(success, "{stderr}");
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert!(!json["ids"].as_array().unwrap().is_empty(), "{json}");

    let (success, _, stderr) = run(&synth);
    assert!(!success && stderr.contains("--force"), "{stderr}");
    let (success, _, stderr) = run(&["synth", "--shape", "gpt-5", "--type", "f16", "-o", file]);
    assert!(!success && stderr.contains("qwen2.5-0.5b"), "{stderr}");
}

#[test]
fn a_model_without_matrices_gets_them_on_the_device() {
    for name in ["tiny-qwen2", "tiny-llama", "tiny-qwen3moe"] {
        for file_type in [
            FileType::F16,
            FileType::BF16,
            FileType::Q4_K_M,
            FileType::MXFP4_MOE,
            FileType::IQ1_M,
            FileType::IQ3_XS,
            FileType::NVFP4,
        ] {
            let synth = Synth::new(Shape::find(name).unwrap(), file_type, 5);
            let mut written = Vec::new();
            synth.write(&mut written, &mut |_| {}).unwrap();
            let (whole, hollow) = (Gguf::from_bytes(written, name).unwrap(), synth.without_matrices().unwrap());
            // All but the matrices is there: the rotation's divisors too, which are part of the hyperparameters.
            assert_eq!(Config::from_gguf(&hollow).unwrap(), Config::from_gguf(&whole).unwrap());
            for (tensor, other) in whole.tensors().zip(hollow.tensors()) {
                assert_eq!(
                    (&tensor.name, &tensor.dims, tensor.tensor_type),
                    (&other.name, &other.dims, other.tensor_type)
                );
                if tensor.dims.len() == 1 {
                    assert_eq!(whole.data(tensor), hollow.data(other), "{}", tensor.name);
                }
            }
            let gpu = Gpu::open(DeviceChoice::Soft).unwrap();
            let options = EngineOptions { matrices: MatrixSource::Made(random_matrices), ..EngineOptions::default() };
            let mut engine = Engine::load(gpu, &hollow, options, &mut |_, _| {}).unwrap();
            for token in [7, 8, 9] {
                engine.decode(token).unwrap();
            }
            let logits = engine.logits().unwrap();
            let size = logits.iter().map(|logit| logit * logit).sum::<f32>() / logits.len() as f32;
            assert!((0.05..100.0).contains(&size), "{name} {}: the logits' mean square is {size}", file_type.name());
        }
    }
}
