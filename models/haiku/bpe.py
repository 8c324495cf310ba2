"""The vocabulary, made so that a word is copied easily.

Byte-level BPE as `gpt2`/`qwen2` GGUF files have it, but no merge joins a space and a letter until the very last: the merges
are learned on words without their space, then `Ġ + word` is added for the frequent words that are one token. So any other word
has the same pieces after a space, a quote or a line end, and copying it is repeating what stood in the prompt.
"""

import re
from collections import Counter

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPACE = "Ġ"
PUNCTUATION = [(SPACE, '"'), (SPACE, "("), ('"', ".")]


def byte_alphabet():
    """The printable stand-in of each byte, in GPT-2's order."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in own]
    return [chr(b) for b in own] + [chr(256 + i) for i in range(len(rest))]


def learn(weights, n_merges):
    """Byte pair merges over {word: weight}, most frequent pair first, ties by text."""
    words = [(list(w), n) for w, n in sorted(weights.items())]
    merges = []
    for _ in range(n_merges):
        pairs = Counter()
        for pieces, n in words:
            for pair in zip(pieces, pieces[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        joined = "".join(best)
        for pieces, _ in words:
            i = 0
            while i < len(pieces) - 1:
                if (pieces[i], pieces[i + 1]) == best:
                    pieces[i:i + 2] = [joined]
                i += 1
    return merges, {"".join(p) for p, _ in words if len(p) == 1}


def build(texts, known, extra_words, n_merges, n_spaced):
    """(tokens, merges): learned on the words of `texts`, ordinary words counting little. `known` words may have a spaced token."""
    counts, spaced = Counter({w: len(texts) for w in ("nonce", "Nonce", "user", "assistant")}), Counter({"nonce": len(texts)})
    for text in texts:
        for space, word in re.findall(r"( ?)([A-Za-z]+)", text):
            counts[word] += 1
            spaced[word] += bool(space)
    weights = Counter(counts)
    for word in extra_words:
        if word.isascii() and word.isalpha():
            weights[word.lower()] += max(1, len(texts) // 4000)
    merges, whole = learn(weights, n_merges)
    frequent = [w for w, n in sorted(spaced.items(), key=lambda x: (-x[1], x[0])) if w in whole and w in known][:n_spaced]
    merges = merges + PUNCTUATION + [(SPACE, w) for w in frequent]
    tokens = byte_alphabet()
    for a, b in merges:
        if a + b not in tokens:
            tokens.append(a + b)
    return tokens + SPECIAL, merges


def tokenizer(tokens, merges):
    """The same tokenizer that a GGUF reader builds from these lists."""
    t = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(tokens)}, merges=[tuple(m) for m in merges], fuse_unk=False, byte_fallback=False))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    return t
