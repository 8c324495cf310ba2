//! Tokenizers against llama.cpp, over every vocabulary in the fixtures.

mod text_fixtures;

use std::{path::Path, time::Duration};

use ferrowarp::generate::{Chosen, Limits, Stop, Written};
use ferrowarp::gguf::{Array, Gguf, Value as Metadata, Writer};
use ferrowarp::tokenizer::{ControlText, Ends, Piece, Special, StreamDecoder, Tokenizer, VocabularyData};
use proptest::prelude::*;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

fn tokenizer(path: &Path) -> Tokenizer {
    let gguf = Gguf::open(path).unwrap();
    Tokenizer::from_gguf(&gguf).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    let numbers = value.as_array().unwrap().iter();
    numbers.map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Every string of every `*.tokens.json`, without and with special tokens parsed.
#[test]
fn ids_equal_llama_cpps() {
    let mut wrong = Vec::new();
    for path in text_fixtures::files("vocab", ".tokens.json") {
        let fixture = text_fixtures::json(&path);
        let tokenizer = tokenizer(&text_fixtures::beside(&path, fixture["vocab"].as_str().unwrap()));
        let cases = fixture["cases"].as_array().unwrap();
        assert!(!cases.is_empty(), "{path:?} has no cases");
        for case in cases {
            let text = case["text"].as_str().unwrap();
            for (special, key) in [(Special::Text, "ids"), (Special::Parse, "ids_special")] {
                let found = tokenizer.encode(text, special, Ends::Bare).unwrap();
                if found != ids(&case[key]) {
                    wrong.push(format!(
                        "{path:?} {key} of {text:?}:\n  found    {found:?}\n  expected {:?}",
                        ids(&case[key])
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

/// Every pre-tokenizer that llama.cpp knows, over the awkward texts: one list of ids for each different answer.
#[test]
fn every_pre_tokenizer_cuts_as_llama_cpp_does() {
    let path = text_fixtures::own("vocab/pre_tokenizers.json");
    let fixture = text_fixtures::json(&path);
    let cases = fixture["cases"].as_array().unwrap();
    let names = fixture["names"].as_object().unwrap();
    assert!(cases.len() > 200 && names.len() > 80);
    let mut wrong = Vec::new();
    for (name, expected) in names {
        let gguf = Gguf::open(&text_fixtures::beside(&path, expected["vocab"].as_str().unwrap())).unwrap();
        let mut data = VocabularyData::from_gguf(&gguf).unwrap();
        (data.model, data.pre) = if name == "gemma4" { ("gemma4", None) } else { ("gpt2", Some(name.as_str())) };
        let tokenizer = Tokenizer::new(&data).unwrap();
        assert_eq!(tokenizer.adds_bos(), expected["adds_bos"].as_bool().unwrap(), "{name}");
        let picks = &fixture["groups"][expected["group"].as_u64().unwrap() as usize];
        for (case, pick) in cases.iter().zip(picks.as_array().unwrap()) {
            let text = case["text"].as_str().unwrap();
            let expected = ids(&case["answers"][pick.as_u64().unwrap() as usize]);
            let found = tokenizer.encode(text, Special::Text, Ends::Bare).unwrap();
            if found != expected {
                let pieces = |ids: &[u32]| -> Vec<String> {
                    ids.iter().map(|&id| tokenizer.decode(&[id], ControlText::Show).unwrap()).collect()
                };
                wrong.push(format!(
                    "{name}: {text:?}:\n  found    {:?}\n  expected {:?}",
                    pieces(&found),
                    pieces(&expected)
                ));
            }
            assert_eq!(tokenizer.decode(&found, ControlText::Show).unwrap(), text, "{name}");
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}

/// The pairs of files that llama.cpp carries for its own tests: texts in `.inp`, a line of ids for each in `.out`.
#[test]
fn ids_equal_llama_cpps_own_test_files() {
    const SEPARATOR: &str = "\n__ggml_vocab_test__\n";
    for input in text_fixtures::files("vocab", ".gguf.inp") {
        let name = input.file_stem().unwrap().to_str().unwrap();
        let tokenizer = tokenizer(&text_fixtures::beside(&input, name));
        let texts = std::fs::read_to_string(&input).unwrap();
        let expected = std::fs::read_to_string(input.with_extension("out")).unwrap();
        let texts: Vec<&str> = texts.split(SEPARATOR).collect();
        let expected: Vec<&str> = expected.lines().collect();
        assert!(texts.len() >= expected.len() && expected.len() > 1, "{input:?}");
        for (text, line) in texts.iter().zip(&expected) {
            let line: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let found = tokenizer.encode(text, Special::Text, Ends::Bare).unwrap();
            assert_eq!(found, line, "{input:?}: {text:?}");
        }
    }
}

/// Texts decode to themselves: exactly for byte-level vocabularies, with the blank in front for SentencePiece.
#[test]
fn fixture_texts_decode_to_themselves() {
    for path in text_fixtures::files("vocab", ".tokens.json") {
        let fixture = text_fixtures::json(&path);
        let gguf = Gguf::open(&text_fixtures::beside(&path, fixture["vocab"].as_str().unwrap())).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let sentencepiece = gguf.metadata().str("tokenizer.ggml.model").unwrap() == "llama";
        for case in fixture["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let decoded = tokenizer.decode(&ids(&case["ids"]), ControlText::Hide).unwrap();
            let prefix = if sentencepiece && !text.is_empty() { " " } else { "" };
            assert_eq!(decoded, format!("{prefix}{text}"), "{path:?}");
        }
    }
}

/// What `StreamDecoder` gives out token by token, joined, is what `decode` gives at once.
#[test]
fn streams_equal_whole_texts() {
    for path in text_fixtures::files("vocab", ".tokens.json") {
        let fixture = text_fixtures::json(&path);
        let tokenizer = tokenizer(&text_fixtures::beside(&path, fixture["vocab"].as_str().unwrap()));
        for case in fixture["cases"].as_array().unwrap() {
            for (key, control) in [("ids", ControlText::Hide), ("ids_special", ControlText::Show)] {
                let ids = ids(&case[key]);
                // From every token on: a continuation may begin in the middle of a character.
                for start in 0..ids.len() {
                    let mut decoder = StreamDecoder::new(&tokenizer, control);
                    let mut streamed = String::new();
                    for &id in &ids[start..] {
                        streamed.push_str(&decoder.push(id).unwrap());
                    }
                    streamed.push_str(&decoder.finish());
                    assert_eq!(streamed, tokenizer.decode(&ids[start..], control).unwrap());
                }
            }
        }
    }
}

#[test]
fn ends_come_from_the_file() {
    let vocab = |name: &str| {
        let path = text_fixtures::files("vocab", name).remove(0);
        tokenizer(&path)
    };
    let ends = |tokenizer: &Tokenizer| -> Vec<u32> { tokenizer.end_of_generation().iter().copied().collect() };
    let qwen2 = vocab("ggml-vocab-qwen2.gguf");
    // <|endoftext|> and <|im_end|>; and </s>, an ordinary token by its type, which llama.cpp knows by its text.
    assert_eq!(ends(&qwen2), [128_247, 151_643, 151_645]);
    assert!(qwen2.is_control(151_645) && !qwen2.is_control(151_646) && qwen2.is_control(128_247));
    assert_eq!(qwen2.encode("a", Special::Text, Ends::AsFileSays).unwrap(), [64]);

    let gpt2 = vocab("ggml-vocab-gpt-2.gguf");
    assert_eq!(ends(&gpt2), [50_256]);

    let llama = vocab("ggml-vocab-llama-spm.gguf");
    assert_eq!(ends(&llama), [2]);
    assert_eq!((llama.bos(), llama.eos(), llama.adds_bos()), (Some(1), Some(2), true));
    let framed = llama.encode("Hello", Special::Text, Ends::AsFileSays).unwrap();
    assert_eq!(framed, [1, 15_043]);
    assert_eq!(llama.decode(&framed, ControlText::Hide).unwrap(), " Hello");
    assert_eq!(llama.decode(&framed, ControlText::Show).unwrap(), "<s> Hello");
}

/// A vocabulary of 256 bytes and a family's special tokens, as `turn_ends.py` makes it for llama.cpp.
fn of_family(case: &Value) -> Tokenizer {
    let model = case["model"].as_str().unwrap();
    let text = |value: &str| Metadata::String(value.into());
    let mut writer = Writer::default();
    writer.metadata("tokenizer.ggml.model", &text(model));
    if let Some(pre) = case["pre"].as_str() {
        writer.metadata("tokenizer.ggml.pre", &text(pre));
    }
    // What is not special is a byte.
    let byte = |byte: usize| match model {
        "llama" => (format!("<0x{byte:02X}>"), 6),
        _ if (33..127).contains(&byte) => (char::from(byte as u8).to_string(), 1),
        _ => (format!("byte {byte}"), 1),
    };
    let special = case["special"].as_array().unwrap();
    let mut tokens: Vec<Option<(String, i32)>> = vec![None; 256 + special.len()];
    for token in special {
        let [id, text, kind] = [0, 1, 2].map(|part| &token[part]);
        tokens[id.as_u64().unwrap() as usize] = Some((text.as_str().unwrap().into(), kind.as_i64().unwrap() as i32));
    }
    let mut bytes = (0..256).map(byte);
    let (tokens, types): (Vec<String>, Vec<i32>) =
        tokens.into_iter().map(|token| token.unwrap_or_else(|| bytes.next().unwrap())).unzip();
    for (role, of) in case["roles"].as_object().unwrap() {
        let id = tokens.iter().position(|token| token == of.as_str().unwrap()).unwrap();
        writer.metadata(&format!("tokenizer.ggml.{role}_token_id"), &Metadata::U32(id as u32));
    }
    writer.metadata("tokenizer.ggml.scores", &Metadata::Array(Array::F32(vec![0.0; tokens.len()])));
    writer.metadata("tokenizer.ggml.merges", &Metadata::Array(Array::String(Vec::new())));
    writer.metadata("tokenizer.ggml.tokens", &Metadata::Array(Array::String(tokens)));
    writer.metadata("tokenizer.ggml.token_type", &Metadata::Array(Array::I32(types)));
    Tokenizer::from_gguf(&Gguf::from_bytes(writer.header(), "vocabulary.gguf").unwrap()).unwrap()
}

/// The tokens that end a turn, in each family's vocabulary, are llama.cpp's: these end a generation and are no text of it, and the others,
/// the marks of gpt-oss's channels and of GLM's and Granite's roles among them, do not.
#[test]
fn turns_of_every_family_end_where_llama_cpps_do() {
    let cases = text_fixtures::json(&text_fixtures::own("vocab/turn_ends.json"));
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 20, "{} families", cases.len());
    for case in cases {
        let (family, tokenizer) = (&case["family"], of_family(case));
        let ends: Vec<&str> = case["ends"].as_array().unwrap().iter().map(|end| end.as_str().unwrap()).collect();
        for token in case["special"].as_array().unwrap() {
            let (id, text) = (token[0].as_u64().unwrap() as u32, token[1].as_str().unwrap());
            let limits = Limits { n_predict: None, ignore_eos: false, shift_keeping: None };
            let mut written = Written::new(&tokenizer, &[], limits, ControlText::Hide);
            let start = tokenizer.encode("a", Special::Text, Ends::Bare).unwrap();
            for id in start {
                assert_eq!(written.push(Chosen { id, logprobs: None }).unwrap().stop, None, "{family}: a");
            }
            let pushed = written.push(Chosen { id, logprobs: None }).unwrap();
            let wanted = ends.contains(&text).then_some(Stop::Eos);
            assert_eq!(pushed.stop, wanted, "{family}: {text}");
            assert!(wanted.is_none() || pushed.text.is_empty(), "{family}: {text}");
        }
    }
}

/// Control tokens in what a user typed stay text, in every vocabulary and at every place.
#[test]
fn typed_control_tokens_stay_text() {
    for path in text_fixtures::files("vocab", ".gguf") {
        let tokenizer = tokenizer(&path);
        let texts: Vec<&str> = tokenizer.control_texts().collect();
        assert!(!texts.is_empty(), "{path:?}");
        for text in texts {
            for typed in [text.to_owned(), format!("a {text}\n{text}b"), text.repeat(3)] {
                let ids = tokenizer.encode(&typed, Special::Text, Ends::Bare).unwrap();
                assert!(!ids.iter().any(|&id| tokenizer.is_control(id)), "{path:?}: {typed:?}");
                let piece = Piece { text: typed, is_template: false };
                assert_eq!(tokenizer.encode_pieces(&[piece], Ends::Bare).unwrap(), ids);
            }
            assert_eq!(tokenizer.encode(text, Special::Parse, Ends::Bare).unwrap().len(), 1);
        }
    }
}

/// A vocabulary of 151 936 tokens is ready in 0.3 s on two idle cores. What is held to that is the processor time of one thread
/// that does it all, as other programs may run beside this one.
#[test]
fn a_large_vocabulary_builds_fast() {
    let path = text_fixtures::files("vocab", "ggml-vocab-qwen2.gguf").remove(0);
    let gguf = Gguf::open(&path).unwrap();
    let processor_time = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let build = || {
        let start = processor_time();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        assert_eq!(tokenizer.vocab_size(), 151_936);
        processor_time() - start
    };
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let best = (0..4).map(|_| alone.install(build)).min().unwrap();
    println!("151936 tokens in {best:?} of processor time");
    assert!(best.as_secs_f64() < 0.6, "{best:?}");
}

/// Texts with many special tokens, broken ones, blanks and characters of every length.
fn awkward_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<String>(),
        "[ \t\r\n]{0,5}",
        "[a-zA-Z0-9']{0,6}",
        Just("<|im_end|>".to_owned()),
        Just("<|im_start|>".to_owned()),
        Just("<|endoftext|>".to_owned()),
        Just("<|im_".to_owned()),
        Just("end|>".to_owned()),
        Just("🙂é漢\u{301}".to_owned()),
    ];
    proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

/// Failing inputs are printed, not written beside the sources.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

#[test]
fn any_text_survives_the_round_trip() {
    for path in [
        text_fixtures::files("vocab", "ggml-vocab-qwen2.gguf").remove(0),
        text_fixtures::files("vocab", "ggml-vocab-gpt-2.gguf").remove(0),
        text_fixtures::own("vocab/haiku-proto.gguf"),
    ] {
        let tokenizer = tokenizer(&path);
        proptest!(config(), |(text in awkward_text())| {
            let typed = tokenizer.encode(&text, Special::Text, Ends::Bare).unwrap();
            prop_assert!(!typed.iter().any(|&id| tokenizer.is_control(id)));
            prop_assert_eq!(&tokenizer.decode(&typed, ControlText::Hide).unwrap(), &text);
            let parsed = tokenizer.encode(&text, Special::Parse, Ends::Bare).unwrap();
            prop_assert_eq!(&tokenizer.decode(&parsed, ControlText::Show).unwrap(), &text);
        });
    }
}

/// Cutting a template's text into pieces anywhere changes nothing; a user's pieces only lose their control tokens.
#[test]
fn pieces_encode_as_the_whole() {
    let path = text_fixtures::files("vocab", "ggml-vocab-qwen2.gguf").remove(0);
    let tokenizer = tokenizer(&path);
    proptest!(config(), |(text in awkward_text(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6))| {
        let mut ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        ends.push(text.len());
        let mut at: Vec<usize> = cuts.iter().map(|cut| *cut.get(&ends)).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let pieces = |is_template: bool| -> Vec<Piece> {
            at.windows(2)
                .map(|pair| Piece { text: text[pair[0]..pair[1]].to_owned(), is_template })
                .collect()
        };
        prop_assert_eq!(
            tokenizer.encode_pieces(&pieces(true), Ends::Bare).unwrap(),
            tokenizer.encode(&text, Special::Parse, Ends::Bare).unwrap()
        );
        prop_assert_eq!(
            tokenizer.encode_pieces(&pieces(false), Ends::Bare).unwrap(),
            tokenizer.encode(&text, Special::Text, Ends::Bare).unwrap()
        );
    });
}
