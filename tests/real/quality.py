"""Prints the README's table of quality: what rounding activations and the cache changes, here and in llama.cpp.

    python3 tests/real/quality.py PROGRAM MODELS [--batches] [WINDOWS]

Takes the first windows of text.txt in, a token at a time, as answers are generated: four for numbers to publish, which is slow without a
GPU; one will do to see whether something is wrong. With --batches a window at a time, as prompts are, where activations are always rounded to
16 bits and the cache alone is compared: minutes without a GPU. Nothing but Python is needed."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CACHE_TYPES = ["f32", "f16", "bf16", "q8_0"]
# llama.cpp rounds activations to 8 bits wherever weights are quantised; its exact numbers are those of the weights in F32.
ACTIVATIONS = {"f32": "f32", "q8": "file"}


def measure(program, model, *more):
    command = [program, "perplexity", "-m", model, "--format", "json", *map(str, more)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def row(*cells):
    print("|", " | ".join(cells), "|", flush=True)


def cells(kl, same_top):
    return f"{kl:.1e}", f"{100 * same_top:.1f} %"


def main():
    in_batches = "--batches" in sys.argv
    program, models, *windows = [argument for argument in sys.argv[1:] if argument != "--batches"]
    way = [] if in_batches else ["--one-by-one"]
    row("model", "activations", "cache", "KL", "same first choice", "llama.cpp: KL", "same first choice")
    row(*["---"] * 7)
    for path in sorted(HERE.glob("*.json")):
        name, golden = path.stem, json.loads(path.read_text())["quality"]
        n_windows = min(int(windows[0]) if windows else 4, golden["windows"])
        mean = lambda values: sum(values[:n_windows]) / n_windows
        theirs = {(s["weights"], s["cache_type"]): (mean(s["kl"]), mean(s["same_top"])) for s in golden["settings"]}
        model = Path(models) / f"{name}.gguf"
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / "base"
            text = ["-f", HERE / "text.txt", "-c", golden["window"], "--chunks", n_windows]
            f32 = ["--activations", "f32", "--cache-type", "f32"]
            exact = measure(program, model, *way, *text, *f32, "--kl-save", base)
            for activations, weights in ACTIVATIONS.items():
                for cache_type in CACHE_TYPES:
                    if (activations, cache_type) == ("f32", "f32") or in_batches and activations != "f32":
                        continue
                    options = ["--activations", activations, "--cache-type", cache_type]
                    got = measure(program, model, *way, "--kl-base", base, *options)
                    ours = cells(got["kl"]["mean"], got["same_top"])
                    shown = "in batches" if in_batches else activations
                    row(name, shown, cache_type, *ours, *cells(*theirs[weights, cache_type]))
        print(f"{name}: {exact['scored']} predictions", file=sys.stderr, flush=True)


main()
