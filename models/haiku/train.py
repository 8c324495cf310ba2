"""Trains the haiku model and writes successor.gguf: one seeded run on two CPU cores.

    python train.py [--out successor.gguf]

Needs torch, tokenizers, gguf, numpy. Every example is made when it is needed and seen once. The loss is taken on the poem only.
Matrices inside the blocks learn by Muon (momentum made orthogonal by Newton-Schulz iterations, Jordan 2024), the rest by AdamW.
"""

import argparse
import gc
import math
import os
import random
import re
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two threads that spin for each other waste a shared machine
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
import torch.nn.functional as F

import bpe
import export
import poems
from model import Haiku


# (steps, height of the learning rate, strict poems, weight of the counting loss): first any poem that counts right, then those of
# stricter form, with the counting watched.
CYCLES = [(3600, 1.0, False, 0.0), (2400, 0.8, True, 0.3)]
COUNTS = 12
MUON_RATE, ADAM_RATE = 0.02, 3e-3


class Text:
    """Examples as ids, in batches of like length."""

    def __init__(self, seed, n_merges=1100, n_spaced=600):
        self.rng = random.Random(seed)
        self.library = poems.Library()
        plain = poems.WordMaker()
        texts = []
        for _ in range(12000):  # numbers aside, the given words shall not shape the vocabulary
            prompt, poem, word, kind = poems.example(self.library, plain, self.rng)
            if word and kind not in ("number", "lexicon"):
                prompt, poem = prompt.replace(word, " "), poem.replace(word, " ")
            prompt = re.split("nonce|Nonce|id:|request|#", prompt)[0]
            texts += [prompt, poem]
        known = {w for t in [*poems.WORDINGS, *poems.UNPROMPTED, *poems.VERBS, "a short haiku one poem nonce id"] for w in re.findall("[A-Za-z]+", t)}
        known |= set(poems.LEXICON) | {w for t in poems.TOPICS.values() for n in t.names for w in n.split()}
        self.tokens, self.merges = bpe.build(texts, known, plain.ordinary, n_merges, n_spaced)
        self.tokenizer = bpe.tokenizer(self.tokens, self.merges)
        self.makers = poems.WordMaker([t for t in self.tokens if t.isascii() and t.isalpha() and t.islower()])
        self.end = self.tokens.index("<|im_end|>")

    def encode_prompt(self, prompts):
        wrapped = [f"<|im_start|>user\n{p}<|im_end|>\n<|im_start|>assistant\n" for p in prompts]
        return [e.ids for e in self.tokenizer.encode_batch_fast(wrapped)]

    def examples(self, n):
        made = [poems.example(self.library, self.makers, self.rng) for _ in range(n)]
        asked = self.encode_prompt([m[0] for m in made])
        answers = [e.ids + [self.end] for e in self.tokenizer.encode_batch_fast([m[1] for m in made])]
        return [(a, b, *self.counts(m[1], m[2], b)) for m, a, b in zip(made, asked, answers)]

    def counts(self, poem, word, ids):
        """Syllables of the given word, and for each place of the answer those of its line so far, -1 inside a word."""
        words = [poems.syllables(w) for w in poem.split()]
        so_far, total, done = [0], 0, 0
        for token, following in zip(ids, ids[1:]):
            if self.tokens[token] == "Ċ":
                total = 0
                so_far.append(0)
            elif following == self.end or self.tokens[following][0] in "ĠĊ":
                total += words[done]
                done += 1
                so_far.append(min(total, COUNTS - 1))
            else:
                so_far.append(-1)
        assert done == len(words), poem
        return min(poems.syllables(word) if word else 0, COUNTS - 1), so_far

    def batches(self, batch, chunk=48):
        while True:
            pool = sorted((x for x in self.examples(batch * chunk) if len(x[0]) + len(x[1]) <= 120), key=lambda x: len(x[0]) + len(x[1]))
            groups = [pool[i:i + batch] for i in range(0, len(pool) - batch + 1, batch)]
            self.rng.shuffle(groups)
            for group in groups:
                t = -(-(max(len(x[0]) + len(x[1]) for x in group) - 1) // 8) * 8  # few shapes: each new one costs
                ids = torch.zeros(len(group), t, dtype=torch.long)
                target, so_far, given = (torch.full((len(group), t), -1) for _ in range(3))
                for i, (a, b, syllables, counts) in enumerate(group):
                    line, at = torch.tensor(a + b), slice(len(a) - 1, len(a) + len(b) - 1)
                    ids[i, :len(line) - 1] = line[:-1]
                    target[i, at], so_far[i, at], given[i, at] = line[len(a):], torch.tensor(counts), syllables
                yield ids, target, so_far, given


def answers(target):
    """The places in a batch where the loss looks, and as many of the others as make their number a multiple of 128."""
    flat = target.view(-1)
    order = (flat < 0).to(torch.uint8).argsort(stable=True)
    return order[:min(len(flat), -(-int((flat >= 0).sum()) // 128) * 128)]


class Muon:
    """Momentum, made orthogonal; matrices of one shape together."""

    def __init__(self, params, lr, momentum=0.95):
        self.lr, self.momentum = lr, momentum
        shapes = {}
        for p in params:
            shapes.setdefault(tuple(p.shape), []).append(p)
        self.groups = [(ps, torch.zeros(len(ps), *shape)) for shape, ps in shapes.items()]

    @torch.no_grad()
    def step(self, scale, decay=0.01):
        for params, memory in self.groups:
            g = torch.stack([p.grad for p in params])
            memory.lerp_(g, 1 - self.momentum)
            x = g.lerp(memory, self.momentum).bfloat16()
            flip = x.shape[1] > x.shape[2]
            if flip:
                x = x.transpose(1, 2)
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):
                a = x @ x.transpose(1, 2)
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            if flip:
                x = x.transpose(1, 2)
            size = max(1.0, x.shape[1] / x.shape[2]) ** 0.5
            for p, u in zip(params, x.float()):
                p.mul_(1 - self.lr * scale * decay).add_(u, alpha=-self.lr * scale * size)


class Counting(torch.nn.Module):
    """Two readers of what the last layer gets, used in training alone: the syllables of the line so far, and of the given word.
    Without them a line with an unknown word in it is one syllable off in a third of the poems."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.so_far, self.given = torch.nn.RMSNorm(width), torch.nn.Linear(width, COUNTS), torch.nn.Linear(width, COUNTS)

    def forward(self, x, so_far, given):
        x = self.norm(x.float())
        return F.cross_entropy(self.so_far(x), so_far, ignore_index=-1) + F.cross_entropy(self.given(x), given, ignore_index=-1)


def answers_loss(model, counting, ids, target, so_far, given):
    """(loss of the poem's tokens, loss of the counting) on the answer only"""
    at = answers(target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, before = model(ids, at, middle=True)
    loss = F.cross_entropy(logits.float(), target.view(-1)[at], ignore_index=-1)
    return loss, counting(before, so_far.view(-1)[at], given.view(-1)[at]) if counting else None


def cycle(number, steps, peak, weight, text, model, a):
    """One learning cycle: fresh optimisers, the rate rising to `peak` and falling to zero along a cosine."""
    inner = [p for name, p in model.named_parameters() if p.dim() == 2 and name.startswith("blk")]
    inside = {id(p) for p in inner}
    muon = Muon(inner, MUON_RATE)
    counting = Counting(model.s["width"]) if weight else None
    others = [p for p in model.parameters() if id(p) not in inside] + (list(counting.parameters()) if counting else [])
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    batches, start, processor, shown = text.batches(a.batch), time.time(), time.process_time(), 0.0
    count_shown = 0.0
    for step in range(1, steps + 1):
        scale = peak * min(1.0, step / 150) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in adam.param_groups:
            group["lr"] = ADAM_RATE * scale
        loss, count_loss = answers_loss(model, counting, *next(batches))
        (loss + weight * count_loss if counting else loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        muon.step(scale)
        adam.zero_grad()
        model.zero_grad()
        shown += loss.item()
        count_shown += count_loss.item() if counting else 0.0
        if step % 100 == 0:
            spent = time.time() - start
            print(f"cycle {number} step {step} loss {shown / 100:.4f} counting {count_shown / 100:.4f} {spent / step * 1000:.0f} ms/step {spent:.0f} s, {time.process_time() - processor:.0f} s of processor time", flush=True)
            shown = count_shown = 0.0
        if step % 250 == 0 or step == steps:
            export.write(a.out, model, text.tokens, text.merges)


def main():
    arg = argparse.ArgumentParser()
    arg.add_argument("--batch", type=int, default=48)
    arg.add_argument("--seed", type=int, default=42)
    arg.add_argument("--out", default="successor.gguf")
    arg.add_argument("--from-cycle", type=int, default=0, help="go on after an interruption: the cycles before this one are in the file already")
    a = arg.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(a.seed)
    start = time.time()
    text = Text(a.seed)
    gc.collect()
    gc.freeze()  # millions of lines that stay: not to be searched for garbage again and again
    model = Haiku(len(text.tokens))
    n = sum(p.numel() for p in model.parameters())
    print(f"{n / 1e6:.2f} M parameters, {len(text.tokens)} tokens, prepared in {time.time() - start:.0f} s", flush=True)
    for number, (steps, peak, strict, weight) in enumerate(CYCLES):
        if number < a.from_cycle:
            continue
        if number:  # from the file, so that an interrupted run and a whole one compute the same
            model, _, _ = export.read(a.out)
            model.train()
            text.rng = random.Random(a.seed + number)
        text.library.strict = strict
        cycle(number, steps, peak, weight, text, model, a)


if __name__ == "__main__":
    main()
