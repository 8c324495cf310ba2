//! `ferrowarp explain`: the figure, and the launches beside it.

use super::run::{fixture, stdout};

#[test]
fn the_figure_stands_beside_its_launches() {
    let text = stdout(&["explain", "-m", &fixture("models/qwen2-tiny-q4_k_m.gguf")]);
    let line = |start: &str| {
        let found = text.lines().find(|line| line.trim_start().starts_with(start));
        found.unwrap_or_else(|| panic!("no {start} in:\n{text}"))
    };
    // A layer of five launches for a token, of nine for a prompt, in the order of the figure.
    for (value, token, prompt) in [
        ("attn_norm-0 ", "1 ╷", "1 rmsnorm"),
        ("Qcur-0 ", "1 ╷", "2 "),
        ("Kcur-0.3", "1 gemv", "3 qkv"),
        ("kqv_out-0", "2 attention_decode", "4 flash"),
        ("ffn_inp-0", "3 gemv", "5 cuBLAS"),
        ("ffn_swiglu-0", "4 gemv", "8 glu"),
        ("l_out-0", "5 gemv", "9 cuBLAS"),
        ("result_output", "1 gemv", "2 matmul"),
    ] {
        let line = line(value);
        assert!(line.contains(token) && line.contains(prompt), "{line:?} has no {token:?} and {prompt:?}");
    }
    assert!(line("a token: 12 launches, ").ends_with(" of weights"), "{text}");
}

#[test]
fn layers_that_differ_are_shown_apart() {
    let text = stdout(&["explain", "-m", &fixture("models/gemma3-tiny-f16.gguf")]);
    for part in ["layers 0 to 4, each", "layer 5", "window 32", "attn_post_norm-0", "the head"] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    let text = stdout(&["explain", "-m", &fixture("models/qwen35-tiny-f16.gguf")]);
    assert!(text.contains("delta rule") && text.contains("delta_net_convolve"), "{text}");
}
