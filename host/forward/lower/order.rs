//! Which activations of a step of many sequences can lie in the order of the products that read them.

use super::{Form, Launch, Local, Pass, Step};
use crate::{
    gpu::{Gpu, parts},
    model::{Model, figure::StackId},
};

/// By local: whether it is f16 that only products of weights as they are read, and whose maker can leave it in [steps](crate::gpu::kernels::Order::Steps).
pub fn in_steps(model: &Model, pass: &Pass) -> Vec<bool> {
    let can = |local: Local| {
        let touches = |step: &&Step| step.launch.locals().contains(&local);
        pass.locals.get(local).form == Form::F16
            && pass.steps.iter().filter(touches).all(|step| suits(model, step, local))
    };
    (0..pass.locals.len()).map(|index| can(Local(index))).collect()
}

/// Whether a launch makes the local so, or reads it so.
fn suits(model: &Model, step: &Step, local: Local) -> bool {
    match &step.launch {
        Launch::RmsNormF16 { out, .. } | Launch::AttentionRows { out, .. } => *out == local,
        Launch::Product { x, stack, .. } if *x == local => is_packed(model, *stack),
        // Where a stack has parts, its units are a launch of their own.
        Launch::Product { swiglu: Some((unit, _)), stack, .. } if *unit == local => {
            let stack_of = model.figure.stack(*stack);
            is_packed(model, *stack) && parts(&model.types(stack_of), stack_of.n_in, stack_of.n_matrices).0.len() == 1
        }
        _ => false,
    }
}

fn is_packed(model: &Model, stack: StackId) -> bool {
    let stack = model.figure.stack(stack);
    model.types(stack).iter().all(|(tensor_type, _)| Gpu::has_gemm(*tensor_type, stack.n_in))
}
