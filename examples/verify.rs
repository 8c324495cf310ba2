//! Where do the device's numbers first differ from the reference's? Every value that generation's launches leave, against a forward pass
//! on the CPU in plain loops.
//!
//! ```console
//! $ cargo run --release --example verify [MODEL.gguf [TOLERANCE]]
//! ```

use std::{env, path::Path};

use anyhow::Result;
use driver::DeviceChoice;
use ferrowarp::{
    forward::{Engine, EngineOptions},
    gguf::Gguf,
    gpu::{Gpu, kernels::CacheType},
    model::Model,
    reference::Reference,
    trace::{Diff, Recorder, Trace},
};

#[allow(clippy::print_stdout, reason = "an example shows what it computed")]
fn main() -> Result<()> {
    let model = env::args().nth(1).unwrap_or_else(|| "tests/fixtures/models/qwen2-tiny-f32.gguf".to_owned());
    let tolerance = env::args().nth(2).map_or(Ok(1e-4), |tolerance| tolerance.parse())?;
    println!("{}", run(DeviceChoice::Auto, Path::new(&model), &[1, 2, 3, 4, 5], tolerance)?);
    Ok(())
}

/// Runs `tokens` through the device one at a time and through the reference: the first value, in the order of execution, whose relative
/// error is above `tolerance`, and how many agree.
pub fn run(device: DeviceChoice, model: &Path, tokens: &[u32], tolerance: f64) -> Result<Diff> {
    let gguf = Gguf::open(model)?;

    // An F32 cache rounds nothing, so that what is left is the order of sums.
    let options =
        EngineOptions { n_context: Some(64), cache_type: CacheType::F32, all_logits: true, ..EngineOptions::default() };
    let mut engine = Engine::load(Gpu::open(device)?, &gguf, options, &mut |_done, _total| {})?;
    let on_device = engine.trace(tokens, 1)?;

    let model = Model::open(&gguf)?;
    let mut expected = Trace::new();
    let mut sink = |name: &str, shape: &[usize], values: &[f32]| {
        expected.append(name, shape, values);
        if name == "result_output" {
            expected.append("logits", shape, values);
        }
    };
    Reference::new(&model).forward(tokens, &mut Recorder::new(&mut sink))?;
    Ok(on_device.diff_common(&expected, tolerance))
}
