//! What a person can set, its defaults (llama.cpp's), its limits, and what a model file can say about it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A stage of the chain between the logit bias and the draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Repeat, presence and frequency penalties.
    Penalties,
    /// The DRY repetition penalty.
    Dry,
    /// Top-nσ.
    TopNSigma,
    /// Top-k.
    TopK,
    /// Locally typical sampling.
    Typical,
    /// Nucleus sampling.
    TopP,
    /// Min-p.
    MinP,
    /// Exclude top choices.
    Xtc,
    /// Temperature, dynamic too.
    Temperature,
}

impl Stage {
    /// The order of a chain that nobody changed.
    pub const DEFAULT_ORDER: [Stage; 9] = [
        Stage::Penalties,
        Stage::Dry,
        Stage::TopNSigma,
        Stage::TopK,
        Stage::Typical,
        Stage::TopP,
        Stage::MinP,
        Stage::Xtc,
        Stage::Temperature,
    ];

    /// The stage of this name, as llama.cpp's `--samplers` takes it: letters of either case, words joined by `_`, `-`
    /// or nothing.
    pub fn from_name(name: &str) -> Option<Self> {
        let letters: String =
            name.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect();
        Some(match letters.as_str() {
            "penalties" => Stage::Penalties,
            "dry" => Stage::Dry,
            "topnsigma" => Stage::TopNSigma,
            "topk" => Stage::TopK,
            "typ" | "typp" | "typical" => Stage::Typical,
            "topp" | "nucleus" => Stage::TopP,
            "minp" => Stage::MinP,
            "xtc" => Stage::Xtc,
            "temp" | "temperature" => Stage::Temperature,
            _ => return None,
        })
    }

    /// The stages of a list separated by `;`, such as `top_k;top_p;temperature`. The error is the unknown name.
    pub fn parse_sequence(sequence: &str) -> Result<Vec<Self>, String> {
        sequence
            .split(';')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(|name| Stage::from_name(name).ok_or_else(|| name.to_owned()))
            .collect()
    }
}

/// An option that cannot be used.
#[derive(Debug, Error, PartialEq)]
pub enum OptionError {
    /// A value outside its limits.
    #[error("{flag} is {value}: expected {expected}")]
    Value {
        /// The command-line flag, as `--top-p`.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What can be given.
        expected: &'static str,
    },
    /// A sampling default in a model file that cannot be used.
    #[error("{file}: metadata key {key}: found {value}, expected {expected}; set {flag} to override it")]
    Metadata {
        /// The model's file.
        file: String,
        /// The metadata key, as `general.sampling.top_p`.
        key: &'static str,
        /// What the file holds.
        value: String,
        /// What it can hold.
        expected: &'static str,
        /// The command-line flag for the same option.
        flag: &'static str,
    },
}

/// A metadata value, as far as sampling needs to tell them apart.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataValue {
    /// Any integer type.
    Integer(i64),
    /// Either float type.
    Float(f64),
    /// A string.
    Text(String),
    /// Anything else, in words.
    Other(String),
}

/// The options that a model file can set: its key and the flag of the same option.
const METADATA: [(&str, &str); 12] = [
    ("general.sampling.sequence", "--samplers"),
    ("general.sampling.top_k", "--top-k"),
    ("general.sampling.top_p", "--top-p"),
    ("general.sampling.min_p", "--min-p"),
    ("general.sampling.xtc_probability", "--xtc-probability"),
    ("general.sampling.xtc_threshold", "--xtc-threshold"),
    ("general.sampling.temp", "--temp"),
    ("general.sampling.penalty_last_n", "--repeat-last-n"),
    ("general.sampling.penalty_repeat", "--repeat-penalty"),
    ("general.sampling.mirostat", "--mirostat"),
    ("general.sampling.mirostat_tau", "--mirostat-tau"),
    ("general.sampling.mirostat_eta", "--mirostat-eta"),
];

/// Everything that decides which token is drawn from given logits.
///
/// The default is llama.cpp's. The command-line flag of a field is its name with `-` for `_`, and an error names it so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerOptions {
    /// Seed of the random numbers, any 32-bit value. `None` takes one from the operating system.
    pub seed: Option<u32>,
    /// The stages between bias and draw, in order. Default: [`Stage::DEFAULT_ORDER`].
    pub samplers: Vec<Stage>,
    /// The fewest tokens that a truncating stage leaves; 0 for no floor but the one token each always leaves. Default 0.
    pub min_keep: u32,
    /// Temperature: finite; 0 or less is greedy. Default 0.8.
    pub temp: f32,
    /// How far the dynamic temperature goes to either side of `temp`: finite, at least 0; 0 is off. Default 0.
    pub dynatemp_range: f32,
    /// Power of the normalised entropy in the dynamic temperature: finite, at least 0. Default 1.
    pub dynatemp_exponent: f32,
    /// How many of the likeliest tokens stay; 0 is off. Default 40.
    pub top_k: u32,
    /// The probability that the likeliest tokens must reach together: 0 to 1; 1 is off. Default 0.95.
    pub top_p: f32,
    /// The least probability, as a fraction of the largest: 0 to 1; 0 is off. Default 0.05.
    pub min_p: f32,
    /// The probability that the most typical tokens must pass together: 0 to 1; 1 is off. Default 1.
    pub typical_p: f32,
    /// How many standard deviations below the largest a logit may lie: finite; 0 or less is off. Default −1.
    pub top_n_sigma: f32,
    /// The chance of dropping the top choices: 0 to 1; 0 is off. Default 0.
    pub xtc_probability: f32,
    /// The probability that makes a token a top choice: 0 to 1; over 0.5 is off. Default 0.1.
    pub xtc_threshold: f32,
    /// How many of the last tokens the penalties look at; 0 is off. Default 64.
    pub repeat_last_n: u32,
    /// Divides the positive logits of the last tokens and multiplies the others: finite, above 0; 1 is off. Default 1.
    pub repeat_penalty: f32,
    /// Subtracted once from the logit of each of the last tokens: finite; 0 is off. Default 0.
    pub presence_penalty: f32,
    /// Subtracted as often as the token is among the last: finite; 0 is off. Default 0.
    pub frequency_penalty: f32,
    /// Size of the DRY penalty: finite; 0 is off. Default 0.
    pub dry_multiplier: f32,
    /// By what the DRY penalty grows with each token of a repetition: finite, at least 0; under 1 is off. Default 1.75.
    pub dry_base: f32,
    /// The longest repetition that DRY lets pass. Default 2.
    pub dry_allowed_length: u32,
    /// How many of the last tokens DRY looks at; 0 is off. Default 64.
    pub dry_penalty_last_n: u32,
    /// Texts that end a repetition. Default: newline, `:`, `"`, `*`.
    pub dry_sequence_breakers: Vec<String>,
    /// Mirostat: 0 is off, 1 and 2 are its versions; on, it replaces all stages but bias and temperature. Default 0.
    pub mirostat: u32,
    /// The surprise that Mirostat steers to, in bits: finite, at least 0. Default 5.
    pub mirostat_tau: f32,
    /// Mirostat's learning rate: finite, at least 0. Default 0.1.
    pub mirostat_eta: f32,
    /// (token id, bias) pairs: the bias is added to the token's logit. Anything but NaN; −∞ bans the token.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            seed: None,
            samplers: Stage::DEFAULT_ORDER.to_vec(),
            min_keep: 0,
            temp: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_last_n: 64,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: 64,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            logit_bias: Vec::new(),
        }
    }
}

impl SamplerOptions {
    /// The defaults for a model: llama.cpp's, with what its file sets under `general.sampling.*` in their place.
    ///
    /// `name` is the file's and `get` looks a metadata key up. `is_given` says whether the user chose this flag's option: then the
    /// file's value does not count, be it what it may. Set what the user chose on the result. A negative count in the file means
    /// off, as llama.cpp takes it.
    ///
    /// # Errors
    /// [`OptionError::Metadata`] for a value of the wrong type or outside its limits.
    pub fn from_metadata(
        name: &str,
        get: impl Fn(&str) -> Option<MetadataValue>,
        is_given: impl Fn(&str) -> bool,
    ) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let get = |key: &str, flag: &str| if is_given(flag) { None } else { get(key) };
        let file = Reader { name, get: &get };
        file.stages("--samplers", &mut options.samplers)?;
        file.count("--top-k", &mut options.top_k)?;
        file.number("--top-p", &mut options.top_p)?;
        file.number("--min-p", &mut options.min_p)?;
        file.number("--xtc-probability", &mut options.xtc_probability)?;
        file.number("--xtc-threshold", &mut options.xtc_threshold)?;
        file.number("--temp", &mut options.temp)?;
        file.count("--repeat-last-n", &mut options.repeat_last_n)?;
        file.number("--repeat-penalty", &mut options.repeat_penalty)?;
        file.count("--mirostat", &mut options.mirostat)?;
        file.number("--mirostat-tau", &mut options.mirostat_tau)?;
        file.number("--mirostat-eta", &mut options.mirostat_eta)?;
        // The defaults are within the limits: what is outside them is the file's.
        options.validate().map_err(|error| match error {
            OptionError::Value { flag, value, expected } => file.wrong(flag, value, expected),
            other => other,
        })?;
        Ok(options)
    }

    /// Checks every field against its limits.
    ///
    /// # Errors
    /// [`OptionError::Value`], naming the first field that is outside them.
    pub fn validate(&self) -> Result<(), OptionError> {
        let finite = |x: f32| x.is_finite();
        let fraction = |x: f32| (0.0..=1.0).contains(&x);
        let not_negative = |x: f32| x.is_finite() && x >= 0.0;
        check("--temp", self.temp, "a finite number (0 is greedy)", finite)?;
        check("--dynatemp-range", self.dynatemp_range, "a finite number, at least 0", |range| {
            not_negative(range) && (self.temp + range).is_finite()
        })?;
        check("--dynatemp-exponent", self.dynatemp_exponent, "a finite number, at least 0", not_negative)?;
        check("--top-p", self.top_p, "a number from 0 to 1", fraction)?;
        check("--min-p", self.min_p, "a number from 0 to 1", fraction)?;
        check("--typical-p", self.typical_p, "a number from 0 to 1", fraction)?;
        check("--top-n-sigma", self.top_n_sigma, "a finite number (0 or less is off)", finite)?;
        check("--xtc-probability", self.xtc_probability, "a number from 0 to 1", fraction)?;
        check("--xtc-threshold", self.xtc_threshold, "a number from 0 to 1", fraction)?;
        check("--repeat-penalty", self.repeat_penalty, "a finite number above 0 (1 is off)", |penalty| {
            penalty > 0.0 && penalty.is_finite() && penalty.recip().is_finite()
        })?;
        check("--presence-penalty", self.presence_penalty, "a finite number", finite)?;
        check("--frequency-penalty", self.frequency_penalty, "a finite number", finite)?;
        check("--dry-multiplier", self.dry_multiplier, "a finite number (0 is off)", finite)?;
        check("--dry-base", self.dry_base, "a finite number, at least 0", not_negative)?;
        check("--mirostat", self.mirostat, "0, 1 or 2", |version| version <= 2)?;
        check("--mirostat-tau", self.mirostat_tau, "a finite number, at least 0", not_negative)?;
        check("--mirostat-eta", self.mirostat_eta, "a finite number, at least 0", not_negative)?;
        for &(_, bias) in &self.logit_bias {
            check("--logit-bias", bias, "a number", |bias| !bias.is_nan())?;
        }
        Ok(())
    }
}

fn check<T: Copy + ToString>(
    flag: &'static str,
    value: T,
    expected: &'static str,
    fits: impl Fn(T) -> bool,
) -> Result<(), OptionError> {
    if fits(value) { Ok(()) } else { Err(OptionError::Value { flag, value: value.to_string(), expected }) }
}

/// Reads options out of a file's metadata.
struct Reader<'a, G> {
    /// The file's name.
    name: &'a str,
    /// The value of a key, unless the flag's option was given.
    get: &'a G,
}

impl<G: Fn(&str, &str) -> Option<MetadataValue>> Reader<'_, G> {
    fn value(&self, flag: &str) -> Option<MetadataValue> {
        (self.get)(key_of(flag), flag)
    }

    fn stages(&self, flag: &'static str, field: &mut Vec<Stage>) -> Result<(), OptionError> {
        const EXPECTED: &str = "names of samplers separated by ;";
        match self.value(flag) {
            None => {}
            Some(MetadataValue::Text(sequence)) => {
                *field = Stage::parse_sequence(&sequence)
                    .map_err(|name| self.wrong(flag, words(&MetadataValue::Text(name)), EXPECTED))?;
            }
            Some(other) => return Err(self.wrong(flag, words(&other), EXPECTED)),
        }
        Ok(())
    }

    fn number(&self, flag: &'static str, field: &mut f32) -> Result<(), OptionError> {
        match self.value(flag) {
            None => {}
            Some(MetadataValue::Float(value)) if (value as f32).is_finite() => *field = value as f32,
            Some(MetadataValue::Integer(value)) => *field = value as f32,
            Some(other) => return Err(self.wrong(flag, words(&other), "a finite number")),
        }
        Ok(())
    }

    fn count(&self, flag: &'static str, field: &mut u32) -> Result<(), OptionError> {
        match self.value(flag) {
            None => {}
            Some(MetadataValue::Integer(value)) if value <= i64::from(u32::MAX) => *field = value.max(0) as u32,
            Some(other) => return Err(self.wrong(flag, words(&other), "an integer below 2³²")),
        }
        Ok(())
    }

    fn wrong(&self, flag: &'static str, value: String, expected: &'static str) -> OptionError {
        OptionError::Metadata { file: self.name.to_owned(), key: key_of(flag), value, expected, flag }
    }
}

/// The key of a flag's option.
fn key_of(flag: &str) -> &'static str {
    let found = METADATA.iter().find(|(_, of)| *of == flag);
    found.expect("an option that a file can set").0
}

fn words(value: &MetadataValue) -> String {
    match value {
        MetadataValue::Integer(value) => value.to_string(),
        MetadataValue::Float(value) => value.to_string(),
        MetadataValue::Text(value) => format!("{value:?}"),
        MetadataValue::Other(value) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_survive_json() {
        let options = SamplerOptions::default();
        assert_eq!(options.validate(), Ok(()));
        let json = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<SamplerOptions>(&json).unwrap(), options);
        assert_eq!(serde_json::from_str::<SamplerOptions>("{}").unwrap(), options);
        assert!(serde_json::from_str::<SamplerOptions>(r#"{"top_q": 1}"#).is_err());
    }

    #[test]
    fn every_limit_is_checked_and_named() {
        type Spoil = fn(&mut SamplerOptions);
        let cases: [(&str, Spoil); 18] = [
            ("--temp", |o| o.temp = f32::NAN),
            ("--dynatemp-range", |o| o.dynatemp_range = -0.1),
            ("--dynatemp-exponent", |o| o.dynatemp_exponent = f32::INFINITY),
            ("--top-p", |o| o.top_p = 1.5),
            ("--min-p", |o| o.min_p = -0.5),
            ("--typical-p", |o| o.typical_p = f32::NAN),
            ("--top-n-sigma", |o| o.top_n_sigma = f32::INFINITY),
            ("--xtc-probability", |o| o.xtc_probability = 2.0),
            ("--xtc-threshold", |o| o.xtc_threshold = -1.0),
            ("--repeat-penalty", |o| o.repeat_penalty = 0.0),
            ("--presence-penalty", |o| o.presence_penalty = f32::NAN),
            ("--frequency-penalty", |o| o.frequency_penalty = f32::INFINITY),
            ("--dry-multiplier", |o| o.dry_multiplier = f32::NAN),
            ("--dry-base", |o| o.dry_base = -1.0),
            ("--mirostat", |o| o.mirostat = 3),
            ("--mirostat-tau", |o| o.mirostat_tau = -1.0),
            ("--mirostat-eta", |o| o.mirostat_eta = f32::NAN),
            ("--logit-bias", |o| o.logit_bias = vec![(0, f32::NAN)]),
        ];
        for (flag, spoil) in cases {
            let mut options = SamplerOptions::default();
            spoil(&mut options);
            let error = options.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{flag} is ")), "{error}");
        }
        let options = SamplerOptions { top_p: 1.5, ..SamplerOptions::default() };
        assert_eq!(options.validate().unwrap_err().to_string(), "--top-p is 1.5: expected a number from 0 to 1");
    }

    #[test]
    fn metadata_replaces_defaults() {
        let get = |key: &str| {
            Some(match key {
                "general.sampling.sequence" => MetadataValue::Text("top-k;TEMPERATURE; min_p".into()),
                "general.sampling.top_k" => MetadataValue::Integer(-1),
                "general.sampling.temp" => MetadataValue::Integer(1),
                "general.sampling.min_p" => MetadataValue::Float(0.25),
                _ => return None,
            })
        };
        let options = SamplerOptions::from_metadata("a.gguf", get, |_| false).unwrap();
        let want = SamplerOptions {
            samplers: vec![Stage::TopK, Stage::Temperature, Stage::MinP],
            top_k: 0,
            temp: 1.0,
            min_p: 0.25,
            ..SamplerOptions::default()
        };
        assert_eq!(options, want);
    }

    #[test]
    fn bad_metadata_names_file_key_value_and_a_way_out_that_leads_out() {
        use MetadataValue::{Float, Integer, Other, Text};
        let bad: [(&str, &[MetadataValue]); 12] = [
            ("general.sampling.sequence", &[Text("top_k;magic".into()), Integer(1), Other("[1]".into())]),
            ("general.sampling.top_k", &[Float(2.5), Text("40".into()), Integer(1 << 40), Other("true".into())]),
            ("general.sampling.top_p", &[Float(1.5), Integer(-1), Float(f64::NAN), Text("0.9".into())]),
            ("general.sampling.min_p", &[Float(-0.5), Other("false".into())]),
            ("general.sampling.xtc_probability", &[Float(2.0)]),
            ("general.sampling.xtc_threshold", &[Float(-2.0)]),
            ("general.sampling.temp", &[Text("hot".into()), Float(f64::INFINITY), Float(1e300), Other("true".into())]),
            ("general.sampling.penalty_last_n", &[Float(64.0)]),
            ("general.sampling.penalty_repeat", &[Float(0.0), Float(-1.0), Integer(0)]),
            ("general.sampling.mirostat", &[Integer(3), Float(1.0)]),
            ("general.sampling.mirostat_tau", &[Float(-1.0)]),
            ("general.sampling.mirostat_eta", &[Float(f64::NEG_INFINITY)]),
        ];
        assert_eq!(bad.map(|(key, _)| key), METADATA.map(|(key, _)| key));
        for (key, values) in bad {
            for value in values {
                let get = |asked: &str| (asked == key).then(|| value.clone());
                let error = SamplerOptions::from_metadata("a.gguf", get, |_| false).unwrap_err().to_string();
                let flag = METADATA.iter().find(|(of, _)| *of == key).unwrap().1;
                assert!(error.starts_with(&format!("a.gguf: metadata key {key}: found ")), "{error}");
                assert!(
                    error.contains("expected") && error.ends_with(&format!("set {flag} to override it")),
                    "{error}"
                );
                let overridden = SamplerOptions::from_metadata("a.gguf", get, |given| given == flag);
                assert_eq!(overridden, Ok(SamplerOptions::default()), "{key} = {value:?} with {flag}");
            }
        }
        let top_k = |key: &str| (key == "general.sampling.top_k").then_some(Float(2.5));
        assert_eq!(
            SamplerOptions::from_metadata("a.gguf", top_k, |_| false).unwrap_err().to_string(),
            "a.gguf: metadata key general.sampling.top_k: found 2.5, expected an integer below 2³²; set --top-k to override it"
        );
    }

    #[test]
    fn names_of_stages() {
        assert_eq!(
            Stage::parse_sequence("penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature"),
            Ok(Stage::DEFAULT_ORDER.to_vec())
        );
        assert_eq!(Stage::parse_sequence("infill"), Err("infill".into()));
    }
}
