//! Small vocabularies built by hand.

use super::*;

/// The 256 letters of the byte alphabet, then `more`, with their types.
pub(crate) fn byte_level_vocabulary(more: &[(&str, i32)]) -> (Vec<String>, Vec<i32>) {
    let letters = byte_level::byte_letters().map(String::from).into_iter();
    let texts = letters.chain(more.iter().map(|&(text, _)| text.to_owned()));
    let types = std::iter::repeat_n(1, 256).chain(more.iter().map(|&(_, number)| number));
    (texts.collect(), types.collect())
}

fn byte_level(
    more: &[(&str, i32)],
    merges: &[&str],
    change: impl FnOnce(&mut VocabularyData),
) -> Result<Tokenizer, TokenizerError> {
    let (tokens, types) = byte_level_vocabulary(more);
    let merges: Vec<String> = merges.iter().map(|&merge| merge.to_owned()).collect();
    let mut data = VocabularyData {
        file: "test.gguf",
        model: "gpt2",
        pre: Some("qwen2"),
        tokens: &tokens,
        token_types: Some(&types),
        merges: Some(&merges),
        ..VocabularyData::default()
    };
    change(&mut data);
    Tokenizer::new(&data)
}

fn message(result: Result<Tokenizer, TokenizerError>) -> String {
    match result {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn user_defined_tokens_are_found_in_all_text_and_control_tokens_are_not() {
    let tokenizer = byte_level(&[("<c>", 3), ("<u>", 4)], &[], |_| ()).unwrap();
    let typed = tokenizer.encode("<u><c>", Special::Text, Ends::Bare).unwrap();
    assert_eq!(typed[0], 257);
    assert_eq!(typed.len(), 4);
    let parsed = tokenizer.encode("<u><c>", Special::Parse, Ends::Bare).unwrap();
    assert_eq!(parsed, [257, 256]);
}

#[test]
fn merges_do_not_make_control_tokens() {
    // `++` is a control token that a merge would make of two signs, and that a word could equal.
    for ignore_merges in ["qwen2", "llama-bpe"] {
        let tokenizer = byte_level(&[("++", 3), ("+++", 1)], &["+ +", "++ +"], |data| {
            data.pre = Some(ignore_merges);
            data.add_bos = Some(false);
        })
        .unwrap();
        let plus = u32::from(b'+');
        let typed = tokenizer.encode("++", Special::Text, Ends::Bare).unwrap();
        assert_eq!(typed, [plus, plus], "{ignore_merges}");
        assert_eq!(tokenizer.encode("++", Special::Parse, Ends::Bare).unwrap(), [256]);
    }
}

#[test]
fn a_control_token_needs_every_byte_to_be_a_templates() {
    let tokenizer = byte_level(&[("<c>", 3)], &[], |_| ()).unwrap();
    let encode = |pieces: &[(&str, bool)]| {
        let pieces: Vec<Piece> =
            pieces.iter().map(|&(text, is_template)| Piece { text: text.to_owned(), is_template }).collect();
        tokenizer.encode_pieces(&pieces, Ends::Bare).unwrap()
    };
    assert_eq!(encode(&[("<", true), ("c>", true)]), [256]);
    assert_eq!(encode(&[("<", true), ("", false), ("c>", true)]), [256]);
    assert_eq!(encode(&[("<", true), ("c", false), (">", true)]).len(), 3);
    assert_eq!(encode(&[("<", false), ("c>", true)]).len(), 3);
    assert_eq!(encode(&[("<c", true), (">", false)]).len(), 3);
}

#[test]
fn begin_and_end_tokens_are_put_once() {
    let tokenizer = byte_level(&[("<b>", 3), ("<e>", 3)], &[], |data| {
        (data.bos, data.eos) = (Some(256), Some(257));
        (data.add_bos, data.add_eos) = (Some(true), Some(true));
    })
    .unwrap();
    let a = tokenizer.encode("a", Special::Parse, Ends::Bare).unwrap()[0];
    let framed = |text: &str| {
        let piece = Piece { text: text.to_owned(), is_template: true };
        tokenizer.encode_pieces(&[piece], Ends::AsFileSays).unwrap()
    };
    assert_eq!(tokenizer.encode("a", Special::Text, Ends::AsFileSays).unwrap(), [256, a, 257]);
    assert_eq!(framed("a"), [256, a, 257]);
    assert_eq!(framed("<b>a<e>"), [256, a, 257]);
}

#[test]
fn phi3s_special_tokens_swallow_white_space() {
    let more = [("<|end|>", 3), ("<|endoftext|>", 3)];
    let phi3 = byte_level(&more, &[], |data| data.name = Some("Phi-3-mini")).unwrap();
    let other = byte_level(&more, &[], |_| ()).unwrap();
    let text = "<|end|>\n<|endoftext|>\n";
    assert_eq!(phi3.encode(text, Special::Parse, Ends::Bare).unwrap().len(), 3);
    assert_eq!(other.encode(text, Special::Parse, Ends::Bare).unwrap().len(), 4);
}

#[test]
fn normalisation_is_off_until_asked_for() {
    let mut tokenizer = byte_level(&[], &[], |_| ()).unwrap();
    let decomposed = "e\u{301}";
    let round = |tokenizer: &Tokenizer| {
        let ids = tokenizer.encode(decomposed, Special::Text, Ends::Bare).unwrap();
        tokenizer.decode(&ids, ControlText::Hide).unwrap()
    };
    assert_eq!(round(&tokenizer), decomposed);
    tokenizer.set_nfc(true);
    assert_eq!(round(&tokenizer), "é");
}

#[test]
fn an_id_outside_the_vocabulary_is_an_error() {
    let tokenizer = byte_level(&[], &[], |_| ()).unwrap();
    assert!(tokenizer.token_bytes(255).is_ok());
    for id in [256, u32::MAX] {
        let error = tokenizer.decode(&[id], ControlText::Hide).unwrap_err().to_string();
        assert!(error.contains(&id.to_string()) && error.contains("256"), "{error}");
    }
}

#[test]
fn a_byte_without_a_token_is_an_error() {
    let (mut tokens, _) = byte_level_vocabulary(&[]);
    tokens.retain(|token| token != "z");
    let data = VocabularyData { model: "gpt2", tokens: &tokens, merges: Some(&[]), ..VocabularyData::default() };
    let tokenizer = Tokenizer::new(&data).unwrap();
    assert!(tokenizer.encode("abc", Special::Text, Ends::Bare).is_ok());
    let error = tokenizer.encode("xyz", Special::Text, Ends::Bare).unwrap_err();
    assert!(error.to_string().contains("0x7a"), "{error}");
}

/// What llama.cpp makes of such merges: they take part, and what is no token at the end is written in parts.
#[test]
fn merges_of_what_is_no_token_take_part() {
    let encode = |more: &[(&str, i32)], merges: &[&str], text: &str| {
        let tokenizer = byte_level(more, merges, |_| ()).unwrap();
        tokenizer.encode(text, Special::Text, Ends::Bare).unwrap()
    };
    let [a, b, c] = [b'a', b'b', b'c'].map(u32::from);
    assert_eq!(encode(&[("abc", 1)], &["a b", "ab c"], "abcab"), [256, a, b]);
    assert_eq!(encode(&[], &["a b", "ab c"], "abc"), [a, b, c]);
    assert_eq!(encode(&[], &["abc defghijkl", "a", "", "a "], "abc"), [a, b, c]);
    // A control token is no part of any.
    assert_eq!(encode(&[("ab", 3), ("abc", 1)], &["a b", "ab c"], "abc"), [a, b, c]);
}

#[test]
fn a_begin_token_that_is_asked_for_and_not_there_is_left_out() {
    let tokenizer = byte_level(&[], &[], |data| (data.bos, data.add_bos) = (Some(999), Some(true))).unwrap();
    let bare = tokenizer.encode("a", Special::Text, Ends::Bare).unwrap();
    assert_eq!(tokenizer.encode("a", Special::Text, Ends::AsFileSays).unwrap(), bare);
}

/// Each bad vocabulary is refused with a message that names the file, the field and what was found.
#[test]
fn bad_vocabularies_are_refused() {
    let cases: Vec<(Result<Tokenizer, TokenizerError>, &[&str])> = vec![
        (byte_level(&[], &[], |data| data.model = "bert"), &["test.gguf", "tokenizer.ggml.model", "bert"]),
        (byte_level(&[], &[], |data| data.pre = Some("tokyo")), &["tokenizer.ggml.pre", "tokyo", "qwen2", "tekken"]),
        (byte_level(&[], &[], |data| data.tokens = &[]), &["test.gguf", "tokenizer.ggml.tokens"]),
        (byte_level(&[], &[], |data| data.merges = None), &["test.gguf", "tokenizer.ggml.merges"]),
        (byte_level(&[("ab", 1), ("ab", 1)], &[], |_| ()), &["tokenizer.ggml.tokens[257]", "\"ab\"", "256"]),
        (
            byte_level(&[], &[], |data| data.token_types = Some(&[1, 1])),
            &["tokenizer.ggml.token_type", "2 values", "256"],
        ),
        (byte_level(&[("<0xZZ>", 6)], &[], |_| ()), &["tokenizer.ggml.tokens[256]", "<0xZZ>"]),
        (byte_level(&[], &[], |data| data.model = "llama"), &["tokenizer.ggml.scores", "0 values"]),
    ];
    for (result, parts) in cases {
        let message = message(result);
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    }
}
