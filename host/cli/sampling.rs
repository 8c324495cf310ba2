//! The arguments that decide which token is drawn, by llama.cpp's names.

use clap::Args;

use crate::{
    gguf::{Gguf, Value},
    sample::{MetadataValue, OptionError, SamplerOptions, Stage},
};

/// The sampler's options; what is not given is the model file's `general.sampling.*`, or llama.cpp's default.
#[derive(Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplerArguments {
    /// Seed of the random choices; drawn from the system if not given or -1, and shown by -v.
    #[arg(short, long, value_name = "N", value_parser = seed, allow_negative_numbers = true)]
    seed: Option<Seed>,
    /// Samplers in order, separated by ; [default: penalties;dry;top_n_sigma;top_k;typical;top_p;min_p;xtc;temperature].
    #[arg(long, value_name = "NAMES", value_parser = stages)]
    samplers: Option<Stages>,
    /// Temperature; 0 always takes the likeliest token [default: 0.8].
    #[arg(long, visible_alias = "temperature", value_name = "F", allow_negative_numbers = true)]
    temp: Option<f32>,
    /// How far the dynamic temperature goes to either side of --temp; 0 is off [default: 0].
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    dynatemp_range: Option<f32>,
    /// Power of the entropy in the dynamic temperature [default: 1].
    #[arg(long, visible_alias = "dynatemp-exp", value_name = "F", allow_negative_numbers = true)]
    dynatemp_exponent: Option<f32>,
    /// Draw from the N likeliest tokens; 0 or less is off [default: 40].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    top_k: Option<i32>,
    /// Draw from the likeliest tokens that reach this probability together; 1 is off [default: 0.95].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Draw from tokens at least this likely, as a fraction of the likeliest; 0 is off [default: 0.05].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Draw from the most typical tokens that reach this probability together; 1 is off [default: 1].
    #[arg(long, visible_alias = "typical", value_name = "P", allow_negative_numbers = true)]
    typical_p: Option<f32>,
    /// Draw from logits within this many standard deviations of the largest; 0 or less is off [default: -1].
    #[arg(long, visible_alias = "top-nsigma", value_name = "F", allow_negative_numbers = true)]
    top_n_sigma: Option<f32>,
    /// The chance of dropping the top choices; 0 is off [default: 0].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    xtc_probability: Option<f32>,
    /// The probability that makes a token a top choice; over 0.5 is off [default: 0.1].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    xtc_threshold: Option<f32>,
    /// The fewest tokens that a truncating sampler leaves [default: 0].
    #[arg(long, value_name = "N")]
    min_keep: Option<u32>,
    /// How many of the last tokens the penalties look at; 0 is off, -1 the whole text [default: 64].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    repeat_last_n: Option<i32>,
    /// Divides the positive logits of the last tokens; 1 is off [default: 1].
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
    /// Subtracted once from the logit of each of the last tokens; 0 is off [default: 0].
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Subtracted as often as the token is among the last; 0 is off [default: 0].
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Size of the DRY penalty on repetitions; 0 is off [default: 0].
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    dry_multiplier: Option<f32>,
    /// By what the DRY penalty grows with each token of a repetition [default: 1.75].
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    dry_base: Option<f32>,
    /// The longest repetition that DRY lets pass [default: 2].
    #[arg(long, value_name = "N")]
    dry_allowed_length: Option<u32>,
    /// How many of the last tokens DRY looks at; 0 is off, -1 the whole text [default: 64].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    dry_penalty_last_n: Option<i32>,
    /// A text that ends a repetition; may be given more than once, none for no such text [default: newline : " *].
    #[arg(long, value_name = "TEXT")]
    dry_sequence_breaker: Vec<String>,
    /// Mirostat version; 0 is off [default: 0].
    #[arg(long, value_name = "N")]
    mirostat: Option<u32>,
    /// Mirostat's learning rate [default: 0.1].
    #[arg(long, visible_alias = "mirostat-lr", value_name = "F", allow_negative_numbers = true)]
    mirostat_eta: Option<f32>,
    /// The surprise that Mirostat steers to, in bits [default: 5].
    #[arg(long, visible_alias = "mirostat-ent", value_name = "F", allow_negative_numbers = true)]
    mirostat_tau: Option<f32>,
    /// Added to a token's logit: 15+1 makes token 15 likelier, 15-inf bans it; may be given more than once.
    #[arg(short, long, value_name = "ID±BIAS", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
}

impl SamplerArguments {
    /// The options for this model.
    ///
    /// # Errors
    /// [`OptionError`]: the file's or the person's value is not one that can be used.
    pub fn options(&self, gguf: &Gguf) -> Result<SamplerOptions, OptionError> {
        let mut options =
            SamplerOptions::from_metadata(gguf.name(), |key| metadata(gguf, key), |flag| self.is_given(flag))?;
        options.seed = self.seed.and_then(|Seed(seed)| seed);
        macro_rules! given {
            ($($field:ident)*) => {$(
                if let Some(value) = self.$field {
                    options.$field = value;
                }
            )*};
        }
        given!(
            temp dynatemp_range dynatemp_exponent top_p min_p typical_p top_n_sigma xtc_probability xtc_threshold
            min_keep repeat_penalty presence_penalty frequency_penalty dry_multiplier dry_base dry_allowed_length
            mirostat mirostat_eta mirostat_tau
        );
        if let Some(Stages(samplers)) = &self.samplers {
            options.samplers.clone_from(samplers);
        }
        if let Some(top_k) = self.top_k {
            options.top_k = top_k.max(0).unsigned_abs();
        }
        if let Some(last_n) = self.repeat_last_n {
            options.repeat_last_n = window("--repeat-last-n", last_n)?;
        }
        if let Some(last_n) = self.dry_penalty_last_n {
            options.dry_penalty_last_n = window("--dry-penalty-last-n", last_n)?;
        }
        if !self.dry_sequence_breaker.is_empty() {
            let breakers = self.dry_sequence_breaker.iter();
            options.dry_sequence_breakers = breakers.filter(|text| *text != "none").cloned().collect();
        }
        options.logit_bias.extend(&self.logit_bias);
        options.validate()?;
        Ok(options)
    }

    /// Whether the person set an option that a file may set as well.
    fn is_given(&self, flag: &str) -> bool {
        match flag {
            "--samplers" => self.samplers.is_some(),
            "--top-k" => self.top_k.is_some(),
            "--top-p" => self.top_p.is_some(),
            "--min-p" => self.min_p.is_some(),
            "--xtc-probability" => self.xtc_probability.is_some(),
            "--xtc-threshold" => self.xtc_threshold.is_some(),
            "--temp" => self.temp.is_some(),
            "--repeat-last-n" => self.repeat_last_n.is_some(),
            "--repeat-penalty" => self.repeat_penalty.is_some(),
            "--mirostat" => self.mirostat.is_some(),
            "--mirostat-tau" => self.mirostat_tau.is_some(),
            "--mirostat-eta" => self.mirostat_eta.is_some(),
            _ => false,
        }
    }
}

/// A seed, or none for one from the system.
#[derive(Clone, Copy, Debug)]
struct Seed(Option<u32>);

fn seed(text: &str) -> Result<Seed, String> {
    if text == "-1" {
        return Ok(Seed(None));
    }
    let seed =
        text.parse().map_err(|_| format!("expected a number from 0 to {}, or -1 for one from the system", u32::MAX))?;
    Ok(Seed(Some(seed)))
}

/// The samplers, as one value of an argument.
#[derive(Clone)]
struct Stages(Vec<Stage>);

fn stages(text: &str) -> Result<Stages, String> {
    Stage::parse_sequence(text).map(Stages).map_err(|name| {
        format!(
            "unknown sampler {name:?}: expected names separated by ; out of penalties, dry, top_n_sigma, top_k, typical, \
             top_p, min_p, xtc, temperature"
        )
    })
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.find(['+', '-']).and_then(|at| {
        let (id, bias) = text.split_at(at);
        Some((id.parse().ok()?, bias.parse().ok()?))
    });
    parsed.ok_or_else(|| "expected a token id, + or -, and a number, as 15043+1".to_owned())
}

/// A number of last tokens, −1 for all.
fn window(flag: &'static str, last_n: i32) -> Result<u32, OptionError> {
    match last_n {
        -1 => Ok(u32::MAX),
        last_n => u32::try_from(last_n).map_err(|_| OptionError::Value {
            flag,
            value: last_n.to_string(),
            expected: "a number of tokens, 0 for none or -1 for the whole text",
        }),
    }
}

/// A metadata value as sampling options take it.
fn metadata(gguf: &Gguf, key: &str) -> Option<MetadataValue> {
    let value = gguf.metadata().get(key)?;
    if let Some(integer) = value.as_integer() {
        return Some(MetadataValue::Integer(i64::try_from(integer).unwrap_or(i64::MAX)));
    }
    match value {
        Value::F32(number) => Some(MetadataValue::Float(f64::from(*number))),
        Value::F64(number) => Some(MetadataValue::Float(*number)),
        Value::String(text) => Some(MetadataValue::Text(text.clone())),
        other => Some(MetadataValue::Other(other.to_string())),
    }
}

#[cfg(test)]
mod tests;
