"""Prints the README's table of quality: what rounding activations and the cache changes, here and in llama.cpp.

    python3 tests/real/quality.py PROGRAM MODELS [MODEL…]

Takes the first windows of text.txt in, a token at a time, as answers are generated. Nothing but Python is needed."""

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
    command = [program, "perplexity", "-m", model, "--one-by-one", "--format", "json", *map(str, more)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def row(*cells):
    print("|", " | ".join(cells), "|", flush=True)


def cells(kl, same_top):
    return f"{kl:.1e}", f"{100 * same_top:.1f} %"


def main():
    program, models, *names = sys.argv[1:]
    names = names or sorted(path.stem for path in HERE.glob("*.json"))
    row("model", "activations", "cache", "KL", "same first choice", "llama.cpp: KL", "same first choice")
    row(*["---"] * 7)
    for name in names:
        golden = json.loads((HERE / f"{name}.json").read_text())["quality"]
        theirs = {(s["weights"], s["cache_type"]): (s["kl"], s["same_top"]) for s in golden["settings"]}
        model = Path(models) / f"{name}.gguf"
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / "base"
            text = ["-f", HERE / "text.txt", "-c", golden["window"], "--chunks", golden["windows"]]
            exact = measure(program, model, *text, "--activations", "f32", "--cache-type", "f32", "--kl-save", base)
            for activations, weights in ACTIVATIONS.items():
                for cache_type in CACHE_TYPES:
                    if (activations, cache_type) == ("f32", "f32"):
                        continue
                    got = measure(
                        program, model, "--kl-base", base, "--activations", activations, "--cache-type", cache_type)
                    ours = cells(got["kl"]["mean"], got["same_top"])
                    row(name, activations, cache_type, *ours, *cells(*theirs[weights, cache_type]))
        print(f"{name}: exact perplexity {exact['perplexity']:.4f}, llama.cpp {golden['perplexity']:.4f}, "
              f"{exact['scored']} predictions", file=sys.stderr, flush=True)


main()
