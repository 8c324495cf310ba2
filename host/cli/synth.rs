//! `ferrowarp synth`: a model file of a published shape, with random weights.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args, builder::PossibleValuesParser};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Outcome,
    output::{out, shows_progress},
};
use crate::synth::{FileType, SHAPES, Shape, Synth, create};

/// The arguments of `synth`.
#[derive(Args)]
#[command(
    after_help = "The file is as large and as fast as the real one; what it writes is noise. The same shape, type and seed give \
                  the same bytes.\n\nExample:\n  ferrowarp synth --shape qwen2.5-0.5b --type q4_k_m -o qwen.gguf"
)]
pub struct Arguments {
    /// Which model's hyperparameters to take.
    #[arg(long, value_name = "SHAPE", value_parser = PossibleValuesParser::new(SHAPES.iter().map(|shape| shape.name)))]
    shape: String,
    /// Which mix of types, by the name that quantised files bear.
    #[arg(long = "type", value_name = "TYPE", ignore_case = true, value_parser = PossibleValuesParser::new(FileType::ALL.iter().map(|t| t.name())))]
    file_type: String,
    /// Which random numbers.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        let shape = Shape::find(&self.shape).context("the shape that was just parsed")?;
        let file_type = FileType::find(&self.file_type.to_lowercase()).context("the type that was just parsed")?;
        let synth = Synth::new(shape, file_type, self.seed);
        let bar = if shows_progress() { ProgressBar::new(synth.bytes()) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("writing {bar:40} {bytes}/{total_bytes} {bytes_per_sec}");
        bar.set_style(style.context("the progress bar's template")?);
        let result = create(&self.output, &synth, self.force, &mut |done| {
            bar.set_position(done);
        });
        bar.finish_and_clear();
        result?;
        writeln!(out(), "{}: {} bytes", self.output.display(), synth.bytes())?;
        Ok(Outcome::Done)
    }
}
