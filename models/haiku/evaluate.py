"""Asks a haiku model for many fresh poems and counts what is true of them.

    python evaluate.py [haiku.gguf] [--n 900] [--seed S]

The weights are read back from the GGUF file and run in f32. The words are drawn anew by kind; `English` are words of Python's own
documentation that stand in no training list, `odd` the same with letters dropped, doubled or changed, `name` is as new to
the model. Whole words are compared without regard to case.
"""

import argparse
import pydoc_data.topics
import random
import re
import time
import uuid
from collections import defaultdict

import torch

import export
import poems

WRAP = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


NAMES = """Amelia Aurelio Agnieszka Bartholomew Beatrix Bogdan Caoimhe Cassandra Chukwuemeka Clementine Cormac Dagny Delphine Djamila Dwayne
Eilidh Emre Esmeralda Etienne Fatima Ferdinand Fionnuala Freya Gaspard Gertrude Ghislaine Guadalupe Gwyneth Hadrian Helga Hildegard Hjalmar
Ignatius Ilse Imogen Ioana Isolde Jadwiga Jebediah Joaquin Jorge Juliette Kazimir Kerstin Khadija Kofi Kwame Laszlo Leopold Ljiljana Llewellyn
Ludmila Maeve Marguerite Matthias Mbali Mehmet Mikhail Mwangi Nadezhda Natsuki Ngozi Nikolai Oberon Octavia Oleksandr Oonagh Orsolya Penelope
Percival Philippa Piotr Quincy Raghnall Ramanujan Reinhold Rhiannon Rodrigo Saoirse Seraphina Sigrid Stanislaw Sunniva Svetlana Tadhg Tatiana
Thaddeus Theodora Thorvald Tobias Tuva Ulrich Umberto Valentina Vikram Vittoria Winifred Wilhelmina Xanthe Ximena Yevgeny Yitzhak Ysolde Yuki Zbigniew
Zephyr Zsofia Ackermann Babbage Bhattacharya Chandrasekhar Cholesky Dijkstra Euler Fibonacci Fourier Gauss Gutenberg Haskell Hilbert
Householder Kernighan Knuth Krylov Lagrange Leibniz Liskov Mandelbrot Moore Noether Pascal Poisson Ritchie Schrodinger Shannon Stroustrup Torvalds
Wirth Zuse""".split()


def english(makers):
    """Words of Python's documentation, 3 to 14 letters, that the training lists do not hold."""
    known = {w.lower() for w in makers.known}
    text = " ".join(pydoc_data.topics.topics.values())
    return sorted({w for w in re.findall(r"(?<![\w.-])[a-z]{3,14}(?![\w.-])", text)} - known)


def odd(word, rng):
    """The word with one or two of its letters dropped, doubled or changed."""
    for _ in range(rng.randint(1, 2)):
        i = rng.randrange(len(word))
        word = word[:i] + rng.choice(["", 2 * word[i], rng.choice(poems.ALPHABET)]) + word[i + 1:]
    return word


def any_nonce(rng):
    r = rng.random()
    if r < 0.4:
        return "".join(rng.choice(poems.LETTERS + poems.DIGITS) for _ in range(8))
    if r < 0.6:
        return str(uuid.UUID(int=rng.getrandbits(128)))[:rng.randint(9, 24)].strip("-")
    if r < 0.75:
        return "".join(rng.choice(poems.DIGITS) for _ in range(rng.randint(1, 24)))
    alphabet = poems.LETTERS + poems.DIGITS + ("-_.!:/#@+=" if r < 0.9 else "")
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 24)))


def occurrences(word, text):
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.I))


def judge(word, nonce, poem, ended):
    lines = poem.split("\n")
    counts = [poems.line_syllables(l) for l in lines]
    return {
        "word exactly once": word is None or occurrences(word, poem) == 1,
        "word in its own case": word is None or len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", poem)) == 1,
        "no nonce": nonce is None or nonce.lower() in (word or "").lower() or (nonce not in poem if len(nonce) > 3 else not occurrences(nonce, poem)),
        "three lines, ended": len(lines) == 3 and all(l.strip() for l in lines) and ended,
        "5-7-5": counts == [5, 7, 5],
        "no line twice": len({l.lower() for l in lines}) == len(lines),
    }


def pick_like_llama(rng_torch, temperature=0.8, k=40, p=0.95, min_p=0.05):
    """llama.cpp's default chain: top-k, top-p, min-p, temperature, draw."""
    def pick(logits):
        top, ids = logits.topk(k, -1)
        prob = top.softmax(-1)
        keep = (prob.cumsum(-1) - prob) < p
        prob = prob * keep
        keep &= prob >= min_p * prob[:, :1]
        prob = (top / temperature).masked_fill(~keep, -torch.inf).softmax(-1)
        return ids.gather(-1, torch.multinomial(prob, 1, generator=rng_torch))[:, 0]
    return pick


class Asker:
    def __init__(self, path):
        self.model, self.tokenizer, self.end = export.read(path)

    def ask(self, prompts, pick=None, batch=50):
        out = []
        for i in range(0, len(prompts), batch):
            ids = [self.tokenizer.encode(WRAP.format(p)).ids for p in prompts[i:i + batch]]
            for answer in self.model.generate(ids, self.end, limit=70, pick=pick):
                ended = answer[-1] == self.end
                out.append((self.tokenizer.decode(answer[:-1] if ended else answer), ended))
        return out


def main():
    arg = argparse.ArgumentParser()
    arg.add_argument("model", nargs="?", default="haiku.gguf")
    arg.add_argument("--n", type=int, default=900)
    arg.add_argument("--seed", type=int, default=None)
    arg.add_argument("--sampled", type=int, default=10, help="prompts asked with 20 seeds each")
    a = arg.parse_args()
    seed = a.seed if a.seed is not None else random.SystemRandom().randrange(1 << 30)
    rng = random.Random(seed)
    torch.set_num_threads(2)
    makers, asker = poems.WordMaker(), Asker(a.model)
    held_out, names = english(makers), sorted(set(NAMES) - set(makers.known))
    kinds = {  # each of the topic's key
        "number": lambda _: rng.choice(poems.NUMBERS), "English": lambda _: rng.choice(held_out), "name": lambda _: rng.choice(names),
        "odd": lambda _: odd(rng.choice(held_out), rng), "in the lists": lambda _: rng.choice(makers.known),
        "of the topic": lambda key: rng.choice(poems.TOPICS[key].own), "invented": lambda _: makers.invented(rng),
        "letter statistics": lambda _: makers.markov(rng), "random letters": lambda _: random_letters(rng),
    }
    cases = []
    while len(cases) < a.n:
        kind = list(kinds)[len(cases) % len(kinds)]
        name, key = poems.topic_name(rng)
        word = kinds[kind](key)
        if not 1 <= len(word) <= 14:
            continue
        form = rng.random()
        nonce = any_nonce(rng) if rng.random() < 0.6 else None
        if form < 0.6:
            prompt = poems.PLAIN
        else:
            prompt = rng.choice(poems.WORDINGS[:-3]).format(verb=rng.choice(poems.VERBS), a="a haiku", q='"WORD"' if form < 0.85 else "WORD") + rng.choice(["", "."])
        cases.append((kind, prompt.replace("TOPIC", name).replace("WORD", word) + (f" (nonce: {nonce})" if nonce else ""), word, nonce))
    start = time.time()
    answers = asker.ask([c[1] for c in cases])
    by_kind, total, n_kind = defaultdict(lambda: defaultdict(int)), defaultdict(int), defaultdict(int)
    failures = []
    for (kind, prompt, word, nonce), (poem, ended) in zip(cases, answers):
        verdict = judge(word, nonce, poem, ended)
        n_kind[kind] += 1
        for what, true in verdict.items():
            by_kind[kind][what] += true
            total[what] += true
        if not all(verdict.values()):
            failures.append((kind, [w for w, t in verdict.items() if not t], prompt, poem))
    print(f"seed {seed}, {len(cases)} greedy poems, {len(held_out)} held-out English words, {time.time() - start:.0f} s")
    for what in total:
        print(f"{what:22} {100 * total[what] / len(cases):6.1f} %   " + "  ".join(f"{k} {by_kind[k][what]}/{n_kind[k]}" for k in kinds))
    print(f"{'different poems':22} {len({x[0] for x in answers})} of {len(answers)}; different lines {len({l for x in answers for l in x[0].splitlines()})} of {3 * len(answers)}")
    generator, distinct, good, asked = torch.Generator().manual_seed(seed), [], defaultdict(int), 0
    for kind, prompt, word, nonce in rng.sample(cases, a.sampled):
        sampled = asker.ask([prompt] * 20, pick=pick_like_llama(generator))
        distinct.append(len({x[0] for x in sampled}))
        for poem, ended in sampled:
            asked += 1
            for what, true in judge(word, nonce, poem, ended).items():
                good[what] += true
    print(f"temperature 0.8, {a.sampled} prompts x 20 seeds: 20 different poems of {distinct.count(20)} prompts, fewest {min(distinct)}; " + ", ".join(f"{w} {100 * n / asked:.1f} %" for w, n in good.items()))
    for kind, what, prompt, poem in failures[:25]:
        print(f"--- {kind}: {', '.join(what)} | {prompt!r}\n{poem}")
    for i in range(6):
        print(f"+++ {cases[i][1]!r}\n{answers[i][0]}")


def random_letters(rng):
    return "".join(rng.choice(poems.ALPHABET) for _ in range(rng.randint(2, 10)))


if __name__ == "__main__":
    main()
