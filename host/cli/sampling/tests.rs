//! Every flag sets its option, and the file's defaults stand where no flag does.

use clap::Parser;

use super::*;
use crate::gguf::Writer;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    sampler: SamplerArguments,
}

/// A file that holds these metadata alone.
fn file(metadata: &[(&str, Value)]) -> Gguf {
    let mut writer = Writer::default();
    for (key, value) in metadata {
        writer.metadata(key, value);
    }
    Gguf::from_bytes(writer.header(), "test.gguf").unwrap()
}

fn options(line: &str, gguf: &Gguf) -> Result<SamplerOptions, OptionError> {
    let words = std::iter::once("test").chain(line.split_whitespace());
    Line::try_parse_from(words).unwrap().sampler.options(gguf)
}

#[test]
fn every_option_has_a_flag_that_sets_it() {
    let line = "--seed 7 --samplers top_k;temperature --min-keep 2 --temp 0.5 --dynatemp-range 0.25 --dynatemp-exponent 1.5 \
                --top-k 30 --top-p 0.875 --min-p 0.125 --typical-p 0.75 --top-n-sigma 2 --xtc-probability 0.5 \
                --xtc-threshold 0.375 --repeat-last-n 32 --repeat-penalty 1.25 --presence-penalty 0.5 \
                --frequency-penalty -0.5 --dry-multiplier 0.75 --dry-base 2 --dry-allowed-length 3 \
                --dry-penalty-last-n -1 --dry-sequence-breaker ! --dry-sequence-breaker ? --mirostat 2 \
                --mirostat-eta 0.25 --mirostat-tau 4 --logit-bias 15+1.5 --logit-bias 3-inf";
    let want = SamplerOptions {
        seed: Some(7),
        samplers: vec![Stage::TopK, Stage::Temperature],
        min_keep: 2,
        temp: 0.5,
        dynatemp_range: 0.25,
        dynatemp_exponent: 1.5,
        top_k: 30,
        top_p: 0.875,
        min_p: 0.125,
        typical_p: 0.75,
        top_n_sigma: 2.0,
        xtc_probability: 0.5,
        xtc_threshold: 0.375,
        repeat_last_n: 32,
        repeat_penalty: 1.25,
        presence_penalty: 0.5,
        frequency_penalty: -0.5,
        dry_multiplier: 0.75,
        dry_base: 2.0,
        dry_allowed_length: 3,
        dry_penalty_last_n: u32::MAX,
        dry_sequence_breakers: vec!["!".into(), "?".into()],
        mirostat: 2,
        mirostat_tau: 4.0,
        mirostat_eta: 0.25,
        logit_bias: vec![(15, 1.5), (3, f32::NEG_INFINITY)],
    };
    assert_eq!(options(line, &file(&[])).unwrap(), want);
    let aliases =
        "--temperature 0.5 --typical 0.75 --top-nsigma 2 --mirostat-lr 0.25 --mirostat-ent 4 --dynatemp-exp 1.5";
    let want = SamplerOptions {
        temp: 0.5,
        typical_p: 0.75,
        top_n_sigma: 2.0,
        mirostat_eta: 0.25,
        mirostat_tau: 4.0,
        dynatemp_exponent: 1.5,
        ..SamplerOptions::default()
    };
    assert_eq!(options(aliases, &file(&[])).unwrap(), want);
}

#[test]
fn the_file_sets_what_the_person_did_not() {
    let gguf = file(&[("general.sampling.top_k", Value::I32(20)), ("general.sampling.temp", Value::F32(0.5))]);
    let want = |temp| SamplerOptions { top_k: 20, temp, ..SamplerOptions::default() };
    assert_eq!(options("", &gguf).unwrap(), want(0.5));
    assert_eq!(options("--temp 1", &gguf).unwrap(), want(1.0));
    assert_eq!(options("", &file(&[])).unwrap(), SamplerOptions::default());
    assert_eq!(options("--seed -1", &file(&[])).unwrap(), SamplerOptions::default());
}

#[test]
fn what_is_wrong_in_a_file_is_blamed_on_it_and_overridden_by_the_option_named() {
    let cases = [
        ("general.sampling.temp", Value::String("hot".into()), "--temp 0.5"),
        ("general.sampling.temp", Value::Bool(true), "--temp 0.5"),
        ("general.sampling.top_p", Value::F32(1.5), "--top-p 0.9"),
        ("general.sampling.top_k", Value::F32(4.5), "--top-k 7"),
        ("general.sampling.sequence", Value::String("magic".into()), "--samplers top_k"),
        ("general.sampling.penalty_last_n", Value::U64(1 << 40), "--repeat-last-n 3"),
        ("general.sampling.penalty_repeat", Value::F64(0.0), "--repeat-penalty 1.5"),
        ("general.sampling.mirostat", Value::I32(7), "--mirostat 1"),
    ];
    for (key, value, line) in cases {
        let gguf = file(&[(key, value)]);
        let error = options("", &gguf).unwrap_err().to_string();
        let flag = line.split(' ').next().unwrap();
        assert!(error.starts_with("test.gguf: ") && error.contains(key) && error.contains(flag), "{error}");
        assert_eq!(options(line, &gguf).unwrap(), options(line, &file(&[])).unwrap(), "{line}");
        assert!(options("--seed 1", &gguf).is_err(), "another option overrides nothing");
    }
}

#[test]
fn values_that_mean_nothing_name_their_flag() {
    let gguf = file(&[]);
    for (line, flag) in [
        ("--top-p 1.5", "--top-p"),
        ("--repeat-last-n -2", "--repeat-last-n"),
        ("--mirostat 3", "--mirostat"),
        ("--temp nan", "--temp"),
    ] {
        let error = options(line, &gguf).unwrap_err().to_string();
        assert!(error.starts_with(flag) && error.contains("expected"), "{line}: {error}");
    }
    for line in
        ["--seed -2", "--seed x", "--seed 4294967296", "--logit-bias 15", "--logit-bias x+1", "--samplers top_q"]
    {
        let words = std::iter::once("test").chain(line.split_whitespace());
        assert!(Line::try_parse_from(words).is_err(), "{line}");
    }
}
