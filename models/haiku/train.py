"""Trains the haiku model and writes haiku.gguf: one seeded run on two CPU cores.

    python train.py [--out haiku.gguf]

Needs torch, tokenizers, gguf, numpy. Every example is made when it is needed and seen once. The loss is taken on the poem only.
Matrices inside the blocks learn by Muon (momentum made orthogonal by Newton-Schulz iterations, Jordan 2024), the rest by AdamW.
"""

import argparse
import functools
import gc
import itertools
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


BEFORE, BEHIND = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
STEPS = 13200
RISE, FALL = 150, 2001  # the learning rate rises, stays, and falls
LATE, LAST = 7200, 9600  # here begin stage 1, with more of the hardest words and two more losses for the given word, and stage 2
COUNTS = 12  # syllables told apart: 0 to 11
COUNTING = 0.3  # weight of each counting loss
ONCE, COPY = 5.0, 1.0  # weights: of the chance that the given word begins where it has no place; of its own tokens where it has
FIRM, FIRMLY = 11600, 5.0  # from here on both weigh so much more
MUON_RATE, ADAM_RATE = 0.015, 2.2e-3
POOL = 40  # batches made at a time, and sorted into ones of like length


class Text:
    """Examples as ids, in batches of like length."""

    def __init__(self, seed, n_merges=1500, n_spaced=600):
        self.seed, self.rng = seed, random.Random(seed)
        self.library = poems.Library()
        plain = poems.WordMaker()
        texts = []
        for _ in range(12000):  # numbers aside, the given words shall not shape the vocabulary
            prompt, poem, word, kind, _ = poems.example(self.library, plain, self.rng)
            if word and kind not in ("number", "lexicon", "topic"):
                prompt, poem = prompt.replace(word, " "), poem.replace(word, " ")
            prompt = re.split("nonce|Nonce|id:|request|#", prompt)[0]
            texts += [prompt, poem]
        known = {w for t in [*poems.WORDINGS, *poems.UNPROMPTED, *poems.VERBS, "a short haiku one poem nonce id"] for w in re.findall("[A-Za-z]+", t)}
        known |= {forms[0][0] for forms in poems.entries(poems.W.SMALL)} | {w for t in poems.TOPICS.values() for n in t.names for w in n.split()}
        self.tokens, self.merges = bpe.build(texts, known, plain.ordinary, n_merges, n_spaced)
        self.tokenizer = bpe.tokenizer(self.tokens, self.merges)
        self.makers = poems.WordMaker([t for t in self.tokens if t.isascii() and t.isalpha() and t.islower()])
        self.end, self.space = self.tokens.index("<|im_end|>"), self.tokens.index(bpe.SPACE)

    def examples(self, n, stage):
        made = [poems.example(self.library, self.makers, self.rng, stage) for _ in range(n)]
        asked = self.tokenizer.encode_batch([BEFORE + m[0] + BEHIND for m in made])
        poem = self.tokenizer.encode_batch([m[1] for m in made])
        return [
            (
                a.ids, b.ids + [self.end], self.places_of(m[2], b, m[1], stage) if stage and m[2] else None,
                given_so_far(a.offsets, m[0], m[2], m[4]), line_so_far(b.offsets, m[1]), most(poems.syllables(m[2] or "-")),
            )
            for m, a, b in zip(made, asked, poem)
        ]

    @functools.lru_cache(1 << 12)
    def beginnings(self, word):
        """The tokens that `word` can begin with: with a space or without, as it is or in lower case."""
        out = set()
        for text in (word, word.lower()):
            for ids in (self.tokenizer.encode(text).ids, self.tokenizer.encode(" " + text).ids):
                out.add(ids[1] if ids[0] == self.space else ids[0])
        return sorted(out)

    def places_of(self, word, encoded, poem, stage):
        """(The tokens that `word` can begin with, the places in the poem where it must not begin: after it, and before it where its
        place is settled; the places of its own tokens)"""
        found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", poem)
        line = poem.rfind("\n", 0, found.start()) + 1
        own = [i for i, (a, b) in enumerate(encoded.offsets) if a < found.end() and b > found.start()]
        before = own[0] if stage > 1 else sum(b <= line for _, b in encoded.offsets)
        return self.beginnings(word), [*range(before), *range(own[0] + 1, len(encoded.ids) + 1)], own

    def batches(self, batch, first):
        """The batches from number `first` on, a multiple of POOL. Every pool has its own random numbers."""
        for pool in itertools.count(first // POOL):
            self.rng.seed(f"{self.seed} {pool}")
            examples = self.examples(batch * (POOL + 4), (pool * POOL >= LATE) + (pool * POOL >= LAST))
            made = sorted((x for x in examples if len(x[0]) + len(x[1]) <= 120), key=lambda x: len(x[0]) + len(x[1]))
            groups = [made[i:i + batch] for i in range(0, len(made) - batch + 1, batch)]
            self.rng.shuffle(groups)
            assert len(groups) >= POOL
            for group in groups[:POOL]:
                t = -(-(max(len(x[0]) + len(x[1]) for x in group) - 1) // 8) * 8  # few shapes: each new one costs
                ids = torch.zeros(len(group), t, dtype=torch.long)
                target, so_far, given, whole = (torch.full((len(group), t), -1) for _ in range(4))
                banned, copied = torch.full((len(group), t, 4), -1), torch.zeros(len(group), t, dtype=torch.bool)
                for i, (a, b, placed, word, lines, syllables) in enumerate(group):
                    line, at = torch.tensor(a + b), slice(len(a) - 1, len(a) + len(b) - 1)
                    ids[i, :len(line) - 1] = line[:-1]
                    target[i, at], so_far[i, at], whole[i, at] = line[len(a):], torch.tensor(lines), syllables
                    given[i, :len(a)] = torch.tensor(word)
                    if placed:
                        tokens, elsewhere, own = placed
                        banned[i, len(a) - 1 + torch.tensor(elsewhere), :len(tokens)] = torch.tensor(tokens)
                        copied[i, len(a) - 1 + torch.tensor(own)] = True
                yield ids, target, banned, copied, so_far, given, whole


def most(n):
    return min(n, COUNTS - 1)


def given_so_far(offsets, prompt, word, at):
    """For each token of the prompt the syllables of the given word so far, those of the whole word after its end; -1 elsewhere."""
    out = [-1] * len(offsets)
    if word is None:
        return out
    start, end = len(BEFORE) + at, len(BEFORE) + at + len(word)
    for i, (a, b) in enumerate(offsets):
        if a < end and b > start:
            out[i] = most(poems.begun(word[:b - start]))
        elif a >= end:
            out[i] = most(poems.syllables(word))
            break
    return out


def line_so_far(offsets, poem):
    """For the place before the poem and each token of it, the syllables of the line so far."""
    out = [0]
    for _, end in offsets:
        *whole, last = poem[poem.rfind("\n", 0, end) + 1:end].split(" ")
        closed = end == len(poem) or poem[end] in " \n"
        out.append(most(sum(map(poems.syllables, whole)) + (0 if not last else poems.syllables(last) if closed else poems.begun(last))))
    return out


def places(target):
    """The places in a batch where a loss looks, and as many of the others as make their number a multiple of 128."""
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
    """Three readers, used in training alone: at half height the syllables of the given word, piece by piece where the prompt
    has it; before the last layer those of the line so far and of the given word. Without them a line with an unknown word
    in it is one syllable off in a third of the poems."""

    def __init__(self, width):
        super().__init__()
        self.low, self.high = torch.nn.RMSNorm(width), torch.nn.RMSNorm(width)
        self.given, self.so_far, self.whole = (torch.nn.Linear(width, COUNTS) for _ in range(3))

    def forward(self, third, given, before, so_far, whole):
        low, high = self.low(third.float()), self.high(before.float())
        pairs = [(self.given(low), given), (self.so_far(high), so_far), (self.whole(high), whole)]
        # Summed, as a batch may hold no prompt with a word.
        return [F.cross_entropy(x, wanted, ignore_index=-1, reduction="sum") / max(1, int((wanted >= 0).sum())) for x, wanted in pairs]


def losses(model, counting, ids, target, banned, copied, so_far, given, whole):
    """Loss of the poem's tokens, that of the given word where it has no place, that of its own tokens, and the three of the counting."""
    at, half = places(target), places(given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, third, before = model(ids, at, half)
    logits, target, banned, copied = logits.float(), target.view(-1)[at], banned.flatten(0, 1)[at], copied.view(-1)[at]
    counts = counting(third, given.view(-1)[half], before, so_far.view(-1)[at], whole.view(-1)[at])
    each = F.cross_entropy(logits, target, ignore_index=-1, reduction="none")
    wrong = (banned >= 0) & (banned != target[:, None])
    rows = torch.nonzero(wrong.any(1))[:, 0]
    chance = (logits[rows].softmax(-1).gather(1, banned[rows].clamp(min=0)) * wrong[rows]).sum(1)
    once = -torch.log1p(-chance.clamp(max=0.999)).sum() / max(1, len(rows))
    return [each.sum() / (target >= 0).sum(), once, each[copied].sum() / max(1, int(copied.sum())), *counts]


def rate(step):
    """The learning rate as a part of its highest: falls in a line to 0.48 at LATE, and in another to zero at the end."""
    falling = 1 - (min(step, LATE) - FALL) / 10000
    return min(1.0, step / RISE, falling, falling * (STEPS + 1 - step) / (STEPS + 1 - LATE))


class Learner:
    """The model and what learning it takes: the counting, two optimisers, the number of steps done."""

    def __init__(self, n_vocab):
        self.model = Haiku(n_vocab)
        self.counting = Counting(self.model.s["width"])
        inner = {name: p for name, p in self.model.named_parameters() if p.dim() == 2 and name.startswith("blk")}
        inside = {id(p) for p in inner.values()}
        others = [p for p in [*self.model.parameters(), *self.counting.parameters()] if id(p) not in inside]
        self.muon = Muon(list(inner.values()), MUON_RATE)
        self.adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        self.done = 0

    def step(self, batch):
        """Learns from one batch; its losses."""
        self.done += 1
        scale = rate(self.done)
        for group in self.adam.param_groups:
            group["lr"] = ADAM_RATE * scale
        parts = losses(self.model, self.counting, *batch)
        firmly = FIRMLY if self.done > FIRM else 1.0
        (parts[0] + firmly * (ONCE * parts[1] + COPY * parts[2]) + COUNTING * sum(parts[3:])).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adam.step()
        self.muon.step(scale)
        self.adam.zero_grad()
        self.model.zero_grad()
        return torch.stack(parts).detach()

    def save(self, path):
        state = [self.done, self.model.state_dict(), self.counting.state_dict(), self.adam.state_dict(), [m for _, m in self.muon.groups]]
        torch.save(state, path + ".part")
        os.replace(path + ".part", path)

    def load(self, path):
        self.done, model, counting, adam, memories = torch.load(path)
        self.model.load_state_dict(model)
        self.counting.load_state_dict(counting)
        self.adam.load_state_dict(adam)
        for (_, memory), saved in zip(self.muon.groups, memories):
            memory.copy_(saved)


def main():
    arg = argparse.ArgumentParser()
    arg.add_argument("--batch", type=int, default=48)
    arg.add_argument("--seed", type=int, default=42)
    arg.add_argument("--out", default="haiku.gguf")
    arg.add_argument("--state", help="a file to keep the state of learning in; where it is there, learning goes on from it, to the same end")
    a = arg.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(a.seed)
    start = time.time()
    text = Text(a.seed)
    gc.collect()
    gc.freeze()  # millions of lines that stay: not to be searched for garbage again and again
    learner = Learner(len(text.tokens))
    if a.state and os.path.exists(a.state):
        learner.load(a.state)
    n = sum(p.numel() for p in learner.model.parameters())
    print(f"{n / 1e6:.2f} M parameters, {len(text.tokens)} tokens, prepared in {time.time() - start:.0f} s", flush=True)
    batches, first, shown = text.batches(a.batch, learner.done), learner.done, torch.zeros(6)
    start, processor = time.time(), time.process_time()
    while learner.done < STEPS:
        shown += learner.step(next(batches))
        if learner.done % 100 == 0:
            poem, once, copy, *counts = (shown / 100).tolist()
            spent, busy = time.time() - start, time.process_time() - processor
            print(
                f"step {learner.done} loss {poem:.4f} once {once:.4f} copy {copy:.4f} counting {' '.join(f'{c:.4f}' for c in counts)} "
                f"{spent / (learner.done - first) * 1000:.0f} ms/step {spent:.0f} s, {busy:.0f} s of processor time", flush=True,
            )
            shown.zero_()
        if a.state and learner.done % (10 * POOL) == 0:
            learner.save(a.state)
        if learner.done % 400 == 0 or learner.done == STEPS:
            export.write(a.out, learner.model, text.tokens, text.merges)


if __name__ == "__main__":
    main()
