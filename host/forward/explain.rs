//! A model's figure as a person reads it, and beside it the launches that carry it out.
//!
//! [`Explanation`] prints a line for each operation: the value it makes, its shape, what it is made of; then the launch of the pass for one
//! token and that of the pass for a prompt, by its number in the layer, with the bytes of weights that it reads. Layers that are alike are
//! printed once.

use std::fmt;

use super::{
    EngineError, EngineOptions, MemoryPlan, Size,
    lower::{Launch, Locals, Pass},
    plan::Passes,
};
use crate::{
    gguf::Gguf,
    model::{
        Figure, Model,
        figure::{Matrix, Node, Op, StackId},
    },
};

/// A model's figure and its launches, ready to be printed.
pub struct Explanation {
    parts: Vec<Part>,
    totals: [Total; 2],
}

/// The beginning, layers that are alike, or the head.
struct Part {
    title: String,
    rows: Vec<[String; 5]>,
}

/// Launches and bytes of a pass.
struct Total {
    name: &'static str,
    launches: usize,
    bytes: u64,
}

impl Explanation {
    /// Explains a model as an engine of these options would run it.
    ///
    /// # Errors
    /// Those of [`MemoryPlan::new`].
    pub fn new(gguf: &Gguf, model: &Model, options: &EngineOptions) -> Result<Explanation, EngineError> {
        let (_, Passes { one, several, .. }) = MemoryPlan::with_passes(gguf, model, options)?;
        let passes = [Some(&one.0), several.as_ref().map(|(pass, _)| pass)];
        let figure = &model.figure;
        let first_of = |layer: usize| figure.nodes.iter().position(|node| node.layer == Some(layer));
        let n_layers = figure.layers.len();
        let bounds: Vec<usize> = (0..n_layers).filter_map(first_of).chain([figure.head, figure.nodes.len()]).collect();

        let describe = |title: String, nodes: std::ops::Range<usize>| Part {
            title,
            rows: nodes.clone().map(|index| row(model, passes, index, nodes.start)).collect(),
        };
        let mut parts = vec![describe("before the layers".into(), 0..bounds[0])];
        let mut layer = 0;
        while layer < n_layers {
            let alike = (layer..n_layers).take_while(|other| figure.layers[*other] == figure.layers[layer]).count();
            let last = layer + alike - 1;
            let title = if alike == 1 { format!("layer {layer}") } else { format!("layers {layer} to {last}, each") };
            parts.push(describe(title, bounds[layer]..bounds[layer + 1]));
            layer += alike;
        }
        parts.push(describe("the head".into(), bounds[n_layers]..bounds[n_layers + 1]));
        let total = |name, pass: Option<&Pass>| Total {
            name,
            launches: pass.map_or(0, |pass| pass.steps.len()),
            bytes: pass
                .map_or(0, |pass| pass.steps.iter().map(|step| weight_bytes(model, &pass.locals, &step.launch)).sum()),
        };
        let totals = [total("a token", passes[0]), total("a prompt", passes[1])];
        Ok(Explanation { parts, totals })
    }
}

/// The line of one node; launches are counted from the part's first.
fn row(model: &Model, passes: [Option<&Pass>; 2], index: usize, first: usize) -> [String; 5] {
    let figure = &model.figure;
    let node = &figure.nodes[index];
    let value = figure.value(node.out);
    let shape = value.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ");
    let launch = |pass: Option<&Pass>| {
        let Some(pass) = pass else { return String::new() };
        let step = pass.step_of_node[index];
        let begin = pass.begin_of_node(index);
        let number = |step: usize| step - pass.begin_of_node(first).min(step) + 1;
        // A launch of several operations is named at the last of them.
        if pass.step_of_node.get(index + 1) == Some(&step) {
            return format!("{} ╷", number(step));
        }
        let described = (begin..=step).map(|step| {
            let launch = &pass.steps[step].launch;
            match weight_bytes(model, &pass.locals, launch) {
                0 => format!("{} {}", number(step), launch.name()),
                bytes => format!("{} {} {}", number(step), launch.name(), Size(bytes)),
            }
        });
        described.collect::<Vec<_>>().join(", ")
    };
    [name(figure, node.out), shape, operation(figure, node), launch(passes[0]), launch(passes[1])]
}

fn name(figure: &Figure, value: crate::model::figure::ValueId) -> String {
    figure.value(value).name.clone().unwrap_or_else(|| format!("#{}", value.0))
}

/// What a node does, with the names of what it reads.
fn operation(figure: &Figure, node: &Node) -> String {
    let weights = |matrix: &Matrix| tensor_names(figure, matrix);
    let (what, with) = match &node.op {
        Op::Embed { table } => ("row of", weights(table)),
        Op::Scale { factor, .. } => ("scale", format!("{factor}")),
        Op::RmsNorm { .. } => ("RMSNorm", String::new()),
        Op::LayerNorm { .. } => ("LayerNorm", String::new()),
        Op::Temper { .. } => ("growth by position", String::new()),
        Op::Every { n } => ("numbers", format!("0 to {}", n - 1)),
        Op::Columns { first, .. } => ("columns", format!("from {first}")),
        Op::Join { .. } => ("join", String::new()),
        Op::Product { weight, .. } => ("product", weights(weight)),
        Op::Bias { .. } => ("bias", String::new()),
        Op::Reshape { .. } | Op::Part { .. } => ("view", String::new()),
        Op::Rope { .. } => ("RoPE", String::new()),
        Op::Attention { cache, .. } => match figure.caches[cache.0].window {
            Some(window) => ("attention", format!("window {window}")),
            None => ("attention", String::new()),
        },
        Op::Gate { .. } => ("gate", String::new()),
        Op::Glu { glu, .. } => ("GLU", format!("{glu:?}")),
        Op::Add { .. } => ("add", String::new()),
        Op::SoftCap { cap, .. } => ("soft cap", format!("{cap}")),
        Op::Route { routing, .. } => ("route", format!("{} of {}", routing.experts.n_used, routing.experts.n_experts)),
        Op::ExpertProduct { weight, .. } => ("experts", weights(weight)),
        Op::ExpertBias { .. } => ("experts' bias", String::new()),
        Op::Combine { .. } => ("weighted sum", String::new()),
        Op::Convolve { kernel, .. } => ("convolution", format!("of {kernel}")),
        Op::UnitHeads { .. } => ("unit heads", String::new()),
        Op::DeltaGates { .. } => ("delta gates", String::new()),
        Op::DeltaRule { .. } => ("delta rule", String::new()),
        Op::GatedNorm { .. } => ("gated norm", String::new()),
    };
    let inputs = node.op.inputs().iter().map(|input| name(figure, *input)).collect::<Vec<_>>().join(", ");
    let text = format!("{what} {with}{}{inputs}", if with.is_empty() || inputs.is_empty() { "" } else { " · " });
    text.trim_end().to_string()
}

/// The file's tensors that a matrix's rows come from.
fn tensor_names(figure: &Figure, matrix: &Matrix) -> String {
    let mut before = 0;
    let pieces = figure.stack(matrix.stack).pieces.iter().filter(|piece| {
        before += piece.n_rows();
        before > matrix.rows.start && before - piece.n_rows() < matrix.rows.end
    });
    let short = |name: &str| {
        name.trim_start_matches("blk.")
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .trim_start_matches('.')
            .trim_end_matches(".weight")
            .to_string()
    };
    pieces.map(|piece| short(&figure.tensors[piece.tensor.0].name)).collect::<Vec<_>>().join(" + ")
}

/// Bytes of weights that a launch reads for one token, in the file's types.
fn weight_bytes(model: &Model, locals: &Locals, launch: &Launch) -> u64 {
    let of_stack = |stack: StackId, rows: &std::ops::Range<usize>, used: usize| {
        let stack = model.figure.stack(stack);
        let mut before = 0;
        let pieces = stack.pieces.iter().map(|piece| {
            before += piece.n_rows();
            let start = rows.start.max(before - piece.n_rows());
            let n = rows.end.min(before).saturating_sub(start);
            (n * used * model.view(piece.tensor).row_bytes()) as u64
        });
        pieces.sum()
    };
    match launch {
        Launch::Embed { table, .. } => of_stack(*table, &(0..1), 1),
        Launch::Matmul { weight, .. } => of_stack(weight.stack, &weight.rows, 1),
        Launch::Gemv { weight, experts: None, .. } | Launch::Router { weight, .. } => {
            of_stack(weight.stack, &weight.rows, 1)
        }
        // Each of a token's experts.
        Launch::Gemv { weight, experts: Some((experts, _)), .. } | Launch::GemvSum { weight, experts, .. } => {
            of_stack(weight.stack, &weight.rows, locals.get(*experts).width)
        }
        Launch::GemvStack { stack, .. } | Launch::Product { stack, .. } => {
            of_stack(*stack, &(0..model.figure.stack(*stack).n_out), 1)
        }
        _ => 0,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["value", "shape", "operation", "launch, a token", "launch, a prompt"].map(String::from);
        let rows = || self.parts.iter().flat_map(|part| &part.rows).chain([&heads]);
        let width = |column: usize| rows().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [0, 1, 2, 3].map(width);
        let line = |f: &mut fmt::Formatter<'_>, row: &[String; 5]| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            let text = cells.chain([row[4].clone()]).collect::<Vec<_>>().join("  ");
            writeln!(f, "  {}", text.trim_end())
        };
        line(f, &heads)?;
        for part in &self.parts {
            writeln!(f, "\n{}", part.title)?;
            part.rows.iter().try_for_each(|row| line(f, row))?;
        }
        writeln!(f)?;
        for Total { name, launches, bytes } in &self.totals {
            writeln!(f, "{name}: {launches} launches, {} of weights", Size(*bytes))?;
        }
        Ok(())
    }
}
