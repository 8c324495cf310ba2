"""Writes the golden numbers beside this file: what llama.cpp makes of the two real models. README.md says how to run it."""

import ctypes
import gc
import glob
import hashlib
import json
import os
import re
import struct
import sys
import urllib.request
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

HERE = Path(__file__).parent
TEXT = HERE / "text.txt"
STEPS = 24
# What the test measures the perplexity over: tokens of a window, windows.
PERPLEXITY = (512, 2)
# And the README's table of quality, for which ferrowarp takes one token at a time.
QUALITY = (128, 4)
THREADS = int(os.environ.get("THREADS", os.cpu_count()))

ASKED = [
    "What is the capital of France?",
    "Hello",
    'Write a haiku about rain that includes the word "lantern".',
    "Why is the sky blue?",
    "What is 2 + 2?",
    "List three colours of the rainbow.",
    "Who wrote Hamlet?",
    "Write a Python function that adds two numbers.",
    "Translate into French: good morning, my friends",
    "Tell me a short story about a lighthouse keeper.",
]
CONTINUED = [
    "The capital of France is",
    "Once upon a time, in a lighthouse by the sea,",
    "The sky is blue because",
    "def fibonacci(n):\n",
    "1, 2, 3, 4, 5,",
    "Die Hauptstadt von Deutschland ist",
    "To be, or not to be,",
]
# A file without a chat template is no model for conversations: it mostly continues texts.
MODELS = {
    "SmolLM2-135M-Instruct.Q4_1": {"asked": ASKED, "continued": []},
    "gemma-3-270m-q4_k_m": {"asked": ASKED[:3], "continued": CONTINUED},
}
TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two spaces,\ta tab\n\n\nthree lines   ",
    "I'm sure they've said we'll go; it's 12345.67 or 1,000,000",
    "naïve café, Ωmega, Привет, 日本語のテキスト, 한국어, العربية",
    "🦙👩‍👩‍👧 ½ Ⅷ e\u0301 \u200b\ufeff",
    "for (int i = 0; i < n; ++i) { x[i] *= 2; } // done\r\n",
    "<bos><start_of_turn>user\nhi<end_of_turn>\n<|im_start|>user\nhi<|im_end|>",
    "forty-six forty—six ____ ---- ==== \\n",
    "\u0000\u0001 \u007f",
]


def fail(message):
    sys.exit(f"error: {message}")


class Opaque(ctypes.Structure):
    """A structure of llama.cpp's that is passed by value: longer than it, and read and written by offset."""

    _fields_ = [("bytes", ctypes.c_uint8 * 1024)]

    def field(self, name, offset, default, value, kind="<i"):
        (found,) = struct.unpack_from(kind, bytes(self.bytes), offset)
        if found != default:
            fail(f"xllamacpp {xllamacpp.__version__}: {name} by default is {found}, expected {default}; "
                 "this version lays its parameters out in another way")
        struct.pack_into(kind, self.bytes, offset, value)


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


LIB = ctypes.CDLL(glob.glob(os.path.join(os.path.dirname(xllamacpp.__file__), "*.so"))[0])
POINTER = ctypes.c_void_p
SILENT = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, POINTER)(lambda *_: None)
for name, result, arguments in [
    ("llama_log_set", None, [POINTER, POINTER]),
    ("llama_model_default_params", Opaque, []),
    ("llama_context_default_params", Opaque, []),
    ("llama_model_load_from_file", POINTER, [ctypes.c_char_p, Opaque]),
    ("llama_init_from_model", POINTER, [POINTER, Opaque]),
    ("llama_model_get_vocab", POINTER, [POINTER]),
    ("llama_model_chat_template", ctypes.c_char_p, [POINTER, ctypes.c_char_p]),
    ("llama_vocab_n_tokens", ctypes.c_int32, [POINTER]),
    ("llama_vocab_bos", ctypes.c_int32, [POINTER]),
    ("llama_vocab_get_add_bos", ctypes.c_bool, [POINTER]),
    ("llama_vocab_is_eog", ctypes.c_bool, [POINTER, ctypes.c_int32]),
    ("llama_tokenize", ctypes.c_int32,
     [POINTER, ctypes.c_char_p, ctypes.c_int32, POINTER, ctypes.c_int32, ctypes.c_bool, ctypes.c_bool]),
    ("llama_get_memory", POINTER, [POINTER]),
    ("llama_memory_clear", None, [POINTER, ctypes.c_bool]),
    ("llama_batch_init", Batch, [ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]),
    ("llama_decode", ctypes.c_int32, [POINTER, Batch]),
    ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [POINTER, ctypes.c_int32]),
    ("llama_free", None, [POINTER]),
    ("llama_model_free", None, [POINTER]),
]:
    function = getattr(LIB, name)
    function.restype, function.argtypes = result, arguments
LIB.llama_log_set(ctypes.cast(SILENT, POINTER), None)

# ggml's numbers of them.
CACHE_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8}


class Llama:
    """A model with one sequence. A cache in f32 goes without flash attention; for others it is as llama.cpp decides."""

    def __init__(self, path, cache_type):
        self.model = LIB.llama_model_load_from_file(os.fsencode(path), LIB.llama_model_default_params())
        if not self.model:
            fail(f"{path}: llama.cpp does not load it")
        parameters = LIB.llama_context_default_params()
        parameters.field("n_ctx", 0, 512, 1024)
        parameters.field("n_threads", 28, 4, THREADS)
        parameters.field("n_threads_batch", 32, 4, THREADS)
        parameters.field("flash_attn_type", 52, -1, 0 if cache_type == "f32" else -1)
        for name, offset in [("type_k", 104), ("type_v", 108)]:
            parameters.field(name, offset, CACHE_TYPES["f16"], CACHE_TYPES[cache_type])
        self.context = LIB.llama_init_from_model(self.model, parameters)
        if not self.context:
            fail(f"{path}: llama.cpp makes no context for it")
        self.vocab = LIB.llama_model_get_vocab(self.model)
        self.n_vocab = LIB.llama_vocab_n_tokens(self.vocab)
        self.batch = LIB.llama_batch_init(PERPLEXITY[0], 0, 1)
        self.n_past = 0

    def close(self):
        LIB.llama_free(self.context)
        LIB.llama_model_free(self.model)
        gc.collect()

    def tokens(self, text, begin, special):
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        n = LIB.llama_tokenize(self.vocab, data, len(data), ids, len(ids), begin, special)
        return list(ids[:n])

    def reset(self):
        LIB.llama_memory_clear(LIB.llama_get_memory(self.context), True)
        self.n_past = 0

    def forward(self, ids, first_row):
        """Takes the tokens in; logits of those from `first_row` on."""
        self.batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            self.batch.token[i] = token
            self.batch.pos[i] = self.n_past + i
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = 0
            self.batch.logits[i] = i >= first_row
        if LIB.llama_decode(self.context, self.batch) != 0:
            fail("llama_decode failed")
        self.n_past += len(ids)
        rows = [LIB.llama_get_logits_ith(self.context, i) for i in range(first_row, len(ids))]
        return np.stack([np.ctypeslib.as_array(row, (self.n_vocab,)).copy() for row in rows])

    def greedy(self, ids, steps, given=None):
        """The first choice after the prompt and after each token that follows, with its lead. Follows `given`, or itself."""
        self.reset()
        row = self.forward(ids, len(ids) - 1)[0]
        chosen, margins = [], []
        for step in range(steps):
            best = int(row.argmax())
            second = np.partition(row, -2)[-2]
            chosen.append(best)
            margins.append(round(float(row[best] - second), 4))
            if step + 1 < steps:
                row = self.forward([given[step] if given else best], 0)[0]
        return chosen, margins

    def predictions(self, text, window, windows):
        """Log probabilities at the scored positions of the text's first windows, and for each the token that follows."""
        ids = self.tokens(text, True, False)
        rows, following = [], []
        for start in range(0, windows * window, window):
            part = ids[start : start + window]
            if LIB.llama_vocab_get_add_bos(self.vocab):
                part[0] = LIB.llama_vocab_bos(self.vocab)
            self.reset()
            logits = self.forward(part, window // 2)[:-1]
            largest = logits.max(axis=1, keepdims=True)
            exponentials = np.exp((logits - largest).astype(np.float64))
            rows.append((logits - largest - np.log(exponentials.sum(axis=1, keepdims=True))).astype(np.float32))
            following += part[window // 2 + 1 :]
        return np.concatenate(rows), following


def dequantised(source, scratch):
    """The same weights in F32: what llama.cpp computes of them is not rounded to 8 bits on the way."""
    target = scratch / f"{source.stem}-f32.gguf"
    if target.exists():
        return target
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(scratch / "part", architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        of = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=of)
    for tensor in reader.tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, data.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (scratch / "part").rename(target)
    return target


def templated(path, messages):
    """What llama.cpp's server makes of each message."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = 512
    parameters.warmup = False
    server = xllamacpp.Server(parameters)
    texts = []
    for message in messages:
        body = json.dumps({"messages": [{"role": "user", "content": message}]}).encode()
        request = urllib.request.Request(
            server.listening_address + "/apply-template", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            texts.append(json.load(answer)["prompt"])
    return texts


def divergence(base, other, windows):
    """For each window the mean Kullback–Leibler divergence in nats, and the share of equal first choices."""
    kl = [(np.exp(b) * (b - o)).sum() for b, o in zip(base.astype(np.float64), other)]
    same_top = base.argmax(axis=1) == other.argmax(axis=1)
    means = lambda values: [float(part.mean()) for part in np.split(np.array(values), windows)]
    return {"kl": means(kl), "same_top": means(same_top)}


def perplexity(rows, following):
    return float(np.exp(-np.mean([row[token] for row, token in zip(rows.astype(np.float64), following)])))


def golden(source, scratch, asked, continued):
    prompts = [{"asked": text, "text": rendered} for text, rendered in zip(asked, templated(source, asked))]
    prompts += [{"text": text} for text in continued]
    text = TEXT.read_text()

    plain = dequantised(source, scratch)
    exact = Llama(plain, "f32")
    for prompt in prompts:
        prompt["ids"] = exact.tokens(prompt["text"], True, "asked" in prompt)
        prompt["greedy"], prompt["margins"] = exact.greedy(prompt["ids"], STEPS)
        say(source.stem, prompt["greedy"])
    texts = [
        {"text": t, "ids": exact.tokens(t, False, False), "ids_special": exact.tokens(t, False, True)} for t in TEXTS
    ]
    ends = [i for i in range(exact.n_vocab) if LIB.llama_vocab_is_eog(exact.vocab, i)]
    measured = perplexity(*exact.predictions(text, *PERPLEXITY))
    base, following = exact.predictions(text, *QUALITY)
    exact.close()

    quality = []
    for weights, path in [("f32", plain), ("file", source)]:
        for cache_type in CACHE_TYPES:
            model = Llama(path, cache_type)
            rows, _ = model.predictions(text, *QUALITY)
            row = {"weights": weights, "cache_type": cache_type, **divergence(base, rows, QUALITY[1])}
            if (weights, cache_type) == ("file", "f16"):
                # As llama.cpp runs it by default.
                chosen = [model.greedy(p["ids"], STEPS, given=p["greedy"])[0] for p in prompts]
                equal = sum(a == b for c, p in zip(chosen, prompts) for a, b in zip(c, p["greedy"]))
                by_default = equal / (STEPS * len(prompts))
            model.close()
            quality.append(row)
            say(source.stem, row)

    return {
        "model": source.name,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "made_with": f"xllamacpp {xllamacpp.__version__}",
        "ends": ends,
        "prompts": prompts,
        "first_choices_by_default": by_default,
        "texts": texts,
        "perplexity": {"window": PERPLEXITY[0], "windows": PERPLEXITY[1], "value": measured},
        "quality": {
            "window": QUALITY[0],
            "windows": QUALITY[1],
            "settings": quality,
        },
    }


def say(*what):
    print(*what, file=sys.stderr, flush=True)


def main():
    if len(sys.argv) != 3:
        fail("golden.py MODELS SCRATCH")
    models, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    scratch.mkdir(parents=True, exist_ok=True)
    for name, what in MODELS.items():
        numbers = golden(models / f"{name}.gguf", scratch, **what)
        lines = json.dumps(numbers, indent=1, ensure_ascii=True)
        # Lists of numbers on a line each.
        lines = re.sub(r"\[\s+(-?[\d.e-]+(?:,\s+-?[\d.e-]+)*)\s+\]", lambda m: "[" + " ".join(m[1].split()) + "]", lines)
        (HERE / f"{name}.json").write_text(lines + "\n")


if __name__ == "__main__":
    main()
