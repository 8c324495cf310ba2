"""Prints what each rounding of a prompt's pass to F16 changes, alone, which no setting of the program's can tell apart.

    ferrowarp tokenize -m MODEL -f tests/real/text.txt --format json > tokens.json
    python3 tests/real/rounding.py MODEL tokens.json [WINDOWS]

SmolLM2 135M in NumPy, in f32 but for what is rounded: activations where `host/forward/lower/many.rs` rounds them, keys and values, the
queries, the probabilities. Each row is the mean KL divergence, in nats, over the second halves of the windows of 128 tokens, from the pass
that rounds the same activations and nothing else. Needs numpy and gguf."""

import json
import sys

import numpy as np
from gguf import GGUFReader, dequantize

N_LAYERS, N_HEADS, N_KV_HEADS, HEAD_DIM, BASE, EPSILON, WINDOW = 30, 9, 3, 64, 100000.0, 1e-5, 128


def f16(x):
    return x.astype(np.float16).astype(np.float32)


def norm(x, weight):
    mean = (x.astype(np.float64) ** 2).mean(-1, keepdims=True)
    return (x / np.sqrt(mean + EPSILON)).astype(np.float32) * weight


def rope(x):
    angles = np.arange(len(x))[:, None] * BASE ** (-np.arange(HEAD_DIM // 2) * 2.0 / HEAD_DIM)
    cos, sin = np.cos(angles)[:, None].astype(np.float32), np.sin(angles)[:, None].astype(np.float32)
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


def log_probabilities(weights, tokens, activations, cache, queries, probabilities):
    """Of the tokens behind the first half; the last four say what is rounded."""
    rounded = f16 if activations else lambda x: x
    n, x = len(tokens), weights["token_embd.weight"][tokens]
    hidden = np.triu(np.full((n, n), -np.inf, dtype=np.float32), 1)
    for layer in range(N_LAYERS):
        times = lambda x, name: x @ weights[f"blk.{layer}.{name}.weight"].T
        normed = rounded(norm(x, weights[f"blk.{layer}.attn_norm.weight"]))
        q = rope(times(normed, "attn_q").reshape(n, N_HEADS, HEAD_DIM)) * np.float32(np.log2(np.e) / HEAD_DIM**0.5)
        k = rope(times(normed, "attn_k").reshape(n, N_KV_HEADS, HEAD_DIM))
        v = times(normed, "attn_v").reshape(n, N_KV_HEADS, HEAD_DIM)
        k, v = (f16(k), f16(v)) if cache else (k, v)
        q = f16(q) if queries else q
        attended = np.empty_like(q)
        for head in range(N_HEADS):
            kv_head = head // (N_HEADS // N_KV_HEADS)
            scores = q[:, head] @ k[:, kv_head].T + hidden
            powers = np.exp2(scores - scores.max(-1, keepdims=True))
            total = powers.sum(-1, keepdims=True)
            powers = f16(powers) if probabilities else powers
            attended[:, head] = powers @ v[:, kv_head] / total
        x = x + times(rounded(attended.reshape(n, -1)), "attn_output")
        normed = rounded(norm(x, weights[f"blk.{layer}.ffn_norm.weight"]))
        gate, up = rounded(times(normed, "ffn_gate")), rounded(times(normed, "ffn_up"))
        x = x + times(rounded(gate / (1 + np.exp(-gate)) * up), "ffn_down")
    logits = (norm(x, weights["output_norm.weight"]) @ weights["token_embd.weight"].T)[n // 2 :].astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def main():
    model, tokens, *windows = sys.argv[1:]
    weights = {t.name: np.asarray(dequantize(t.data, t.tensor_type), np.float32) for t in GGUFReader(model).tensors}
    ids = np.array(json.load(open(tokens))["ids"])
    windows = [ids[start : start + WINDOW] for start in range(0, WINDOW * int(windows[0] if windows else 4), WINDOW)]
    divergence = lambda exact, other: (np.exp(exact) * (exact - other)).sum(-1).mean()
    exact = {a: [log_probabilities(weights, w, a, False, False, False) for w in windows] for a in (False, True)}
    kl = np.mean([divergence(a, b) for a, b in zip(exact[False], exact[True])])
    print(f"activations in F16, from activations in f32: {kl:.2e}", flush=True)
    for activations, base in exact.items():
        for rounds in ((1, 0, 0), (1, 1, 0), (1, 0, 1), (1, 1, 1), (0, 1, 1)):
            kl = np.mean([divergence(b, log_probabilities(weights, w, activations, *rounds)) for b, w in zip(base, windows)])
            names = [name for name, on in zip(("cache", "queries", "probabilities"), rounds) if on]
            print(f"activations {'in F16' if activations else 'in f32'}; {', '.join(names)}: {kl:.2e}", flush=True)


main()
