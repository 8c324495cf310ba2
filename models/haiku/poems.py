"""Makes the training text: prompts, and poems of exactly 5-7-5 syllables that hold a given word once.

A line is a frame (`the ADJECTIVE NOUN`, `NOUN VERB PLACE`, ...) filled from one topic's lists until its syllables
come out right. Lines without the given word come from pools made once. The line with the word is
`before + word + after`, where both sides come from pools by syllable count, so that every line is exact whatever the
word. The word's letters pull the choice of line, frame and alliteration: this is what makes two greedy poems differ.

Words are counted by the lists in `words.py`, all others by `estimate`.
"""

import functools
import random
import re
from collections import defaultdict

import words as W

VOWELS = "aeiouy"
# mak-e, tabl-e not; walk-ed, wait-ed not; tid-es, box-es not
SILENT = re.compile(r"([^aeiouy]|[aeiouy]u)e$(?<![^aeiouy]le)|[^aeiouytd]ed$|[^aeiouyscgxzh]es$(?<![^aeiouy]les)")
DIGIT_SYLLABLES = dict(zip("0123456789", [2, 1, 1, 1, 1, 1, 1, 2, 1, 1]))

UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBERS = UNITS + [t + u for t in TENS for u in [""] + ["-" + x for x in UNITS[1:10]]]
NUMBER_SYLLABLES = dict(zip(UNITS, [2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 3, 1, 2, 2, 2, 2, 3, 2, 2])) | {t: 2 for t in TENS} | {"seventy": 3}


def entries(text):
    """`falls/fall1 leaf2` -> [(falls, 1, fall, 1), (leaf, 2)]"""
    out = []
    for item in text.split():
        forms = item.split("/")
        syllables = [int(f[-1]) if f[-1].isdigit() else int(forms[-1][-1]) for f in forms]
        out.append([(f.rstrip("0123456789"), n) for f, n in zip(forms, syllables)])
    return out


def _lexicon():
    lex = {}
    sources = [W.SMALL, W.ADVERBS, W.ADJECTIVES, W.VERBS, W.SPEAKING, W.PHRASES]
    for _, *lists in W.TOPICS.values():
        sources += lists[:4]
    for text in sources:
        for forms in entries(text):
            for word, n in forms:
                if lex.setdefault(word, n) != n:
                    raise ValueError(f"{word} is counted {lex[word]} and {n}")
    lex.update(NUMBER_SYLLABLES)
    return lex


LEXICON = _lexicon()


def estimate(part):
    """Syllables of an unknown word without hyphens: groups of vowels, less a silent e in the ending; at least one.
    A digit counts as it is spoken."""
    digits = sum(DIGIT_SYLLABLES.get(c, 0) for c in part)
    letters = re.sub(r"[^a-z]", "", part.lower())
    groups = re.findall(f"[{VOWELS}]+", letters)
    n = len(groups)
    if n > 1 and SILENT.search(letters):
        n -= 1
    return max(n, 0 if digits else 1) + digits


@functools.lru_cache(1 << 16)
def syllables(word):
    """Syllables of a word, hyphenated or not."""
    total = 0
    for part in word.lower().split("-"):
        if part:
            total += LEXICON.get(part) or estimate(part)
    return max(total, 1)


@functools.lru_cache(1 << 16)
def begun(word):
    """Syllables of the beginning of a word: its groups of vowels and digits so far, nothing known of the ending."""
    groups = sum(len(re.findall(f"[{VOWELS}]+", part)) for part in word.lower().split("-"))
    return groups + sum(DIGIT_SYLLABLES.get(c, 0) for c in word)


def line_syllables(line):
    return sum(syllables(w) for w in line.split())


class Topic:
    """The word lists of one topic, the general ones mixed in."""

    def __init__(self, spec):
        names, nouns, mass, adjectives, verbs, places = spec
        words = lambda text: [w for forms in entries(text) for w, _ in forms]
        self.names = [n.strip() for n in names.split(";")]
        nouns = entries(nouns)
        self.singular = [f[0][0] for f in nouns]
        self.plural = [f[1][0] for f in nouns if len(f) > 1]
        self.mass = words(mass)
        self.adjectives = words(adjectives)
        verbs = entries(verbs)
        self.verbs_s = [f[0][0] for f in verbs]
        self.verbs_p = [f[1][0] for f in verbs]
        self.places = [p.strip() for p in places.split(";")]
        self.own = sorted({*self.singular, *self.plural, *self.mass, *self.adjectives, *self.verbs_s, *self.verbs_p, *" ".join(self.places).split()})


TOPICS = {key: Topic(spec) for key, spec in W.TOPICS.items()}
GENERAL_A = [f[0][0] for f in entries(W.ADJECTIVES)]
GENERAL_VS = [f[0][0] for f in entries(W.VERBS)]
GENERAL_VP = [f[1][0] for f in entries(W.VERBS)]
GENERAL_L = [re.sub(r"\s+", " ", p.strip()) for p in W.PLACES.split(";")]
SAY_S = [f[0][0] for f in entries(W.SPEAKING)]
SAY_P = [f[1][0] for f in entries(W.SPEAKING)]
ADVERBS = [f[0][0] for f in entries(W.ADVERBS)]
GENERAL = sorted({*GENERAL_A, *GENERAL_VS, *GENERAL_VP, *" ".join(GENERAL_L).split(), *SAY_S, *SAY_P, *ADVERBS, *(f[0][0] for f in entries(W.SMALL))})

# S noun, P plural, M mass noun, A adjective, V verb singular, v verb plural, L place, D adverb, Y says, y say
FREE = [
    "the A S", "A P", "M and P", "the S V", "P v L", "the S V L", "A M L", "the A S V", "A P v", "L the S V", "L A P", "a A S L",
    "one S and one S", "P L", "only the A S", "nothing but A P", "the S V D", "P v D", "A M and A P", "all the A P",
    "how the S V L", "M V L", "every A S", "a S V L", "the P v", "A P v L", "my A S V", "still the S V", "one more A S L", "A M", "L M V",
]
AFTER = ["", "L", "V", "V L", "V D", "and A P", "and the S", "and the A S", "and M", "and M L", "and A M", "with A P", "L D"]
BEFORE = ["", "the S Y", "P y", "the A S Y", "A P y", "we y", "D we y", "someone Y", "my S Y", "the P y", "L we y", "every S Y", "M Y", "A M Y", "one S Y"]
AFTER_SPOKEN = ["", "L", "D", "and M", "and the S", "and A M", "to the S", "to A P", "to the A S", "with A P"]
AFTER_NUMBER = ["P", "A P", "P v", "P L", "A P L", "A P v", "P v L", "P and M", "P v D", "A A P", ""]
AFTER_ONE = ["S", "A S", "S V", "S L", "A S L", "A S V", "S V L", "A A S", "S and M", "S V D", ""]
BEFORE_NUMBER = ["", "we count", "the S counts", "counting", "counting to", "L we count", "D we count", "the A S counts", "P count", "A P count", "all the P count"]
POOL_PER_FRAME = 260
FRAMES_OF_LINE = (range(0, len(FREE), 2), range(len(FREE)), range(1, len(FREE), 2))


STOP = set("the a an and of in on at by to from with under over through one all my we no but every only still how with for into up down nothing".split())


def stem(word):
    return re.sub(r"(es|s|ing|ed|y|ies)$", "", word) if len(word) > 3 else word


STOP_STEMS = STOP | {stem(w) for w in STOP}


def content(text):
    """The stems of the words that a poem may hold only once."""
    return frozenset(stem(w) for w in text.split()) - STOP_STEMS


@functools.lru_cache(None)
def item(text):
    """(text, syllables, stems) of one slot's filling."""
    return text, line_syllables(text), content(text)


def fill(slots, target, rng):
    """Fills slots, each a general and a topic's list of items; None where the syllables are off or a word came twice."""
    chosen = [rng.choice(general if rng.random() < 0.3 else own) for general, own in slots]
    if sum(c[1] for c in chosen) != target:
        return None
    stems = frozenset().union(*(c[2] for c in chosen))
    if len(stems) != sum(len(c[2]) for c in chosen):
        return None
    out = [c[0] for c in chosen]
    for i, text in enumerate(out[:-1]):
        if text == "a" and out[i + 1][0] in "aeiou":
            out[i] = "an"
    return " ".join(out)


def pools(frames, targets, topic, rng):
    """{syllables: {frame number: [(text, words, stems)]}}"""
    classes = {
        "S": (topic.singular,) * 2, "P": (topic.plural,) * 2, "M": (topic.mass,) * 2, "A": (GENERAL_A, topic.adjectives),
        "V": (GENERAL_VS, topic.verbs_s), "v": (GENERAL_VP, topic.verbs_p), "L": (GENERAL_L, topic.places),
        "D": (ADVERBS,) * 2, "Y": (SAY_S,) * 2, "y": (SAY_P,) * 2,
    }
    out = {}
    for target in targets:
        by_frame = {}
        for i, frame in enumerate(frames):
            if frame == "":
                if target == 0:
                    by_frame[i] = [("", frozenset(), frozenset())]
                continue
            slots = [tuple([item(t) for t in side] for side in classes.get(slot, ([slot],) * 2)) for slot in frame.split(" ")]
            found, tries = set(), 0
            while len(found) < POOL_PER_FRAME and tries < 6 * POOL_PER_FRAME and (found or tries < 150):
                tries += 1
                text = fill(slots, target, rng)
                if text:
                    found.add(text)
            if found:
                by_frame[i] = [(t, frozenset(t.split()), content(t)) for t in sorted(found)]
        if by_frame:
            out[target] = by_frame
    return out


class Library:
    """All pools of all topics; `poem` puts one together.

    The first and the last line never share a frame, so that even the likeliest lines differ. The word's first letter settles
    line, frame and alliteration more often than not, its last letter those of the middle line.
    """

    def __init__(self, seed=1):
        rng = random.Random(seed)
        self.topics = TOPICS
        self.free, self.after, self.before, self.after_spoken, self.after_number, self.after_one, self.before_number = {}, {}, {}, {}, {}, {}, {}
        for key, topic in self.topics.items():
            self.free[key] = pools(FREE, (5, 7), topic, rng)
            self.after[key] = pools(AFTER, range(7), topic, rng)
            self.after_spoken[key] = pools(AFTER_SPOKEN, range(7), topic, rng)
            self.before[key] = pools(BEFORE, range(7), topic, rng)
            self.after_number[key] = pools(AFTER_NUMBER, range(7), topic, rng)
            self.after_one[key] = pools(AFTER_ONE, range(7), topic, rng)
            self.before_number[key] = pools(BEFORE_NUMBER, range(7), topic, rng)

    def pick(self, by_frame, wanted, letter, banned, used, rng, allowed=None):
        """One text: from the wanted frame more often than not, alliterating with `letter` where it can."""
        keys = [f for f in allowed if f in by_frame] if allowed else list(by_frame)
        for attempt in range(12):
            frame = keys[wanted % len(keys)] if attempt < 6 and rng.random() < 0.8 else rng.choice(keys)
            pool = by_frame[frame]
            best, best_score = None, -1
            for _ in range(16 if rng.random() < 0.75 else 1):
                candidate = rng.choice(pool)
                if candidate[1] & banned or candidate[2] & used:
                    continue
                score = sum(w[0] == letter for w in candidate[2])
                if score > best_score:
                    best, best_score = candidate, score
            if best:
                return best
        return None

    def poem(self, key, word, rng, stage=0):
        """Three lines about topic `key` with `word` (None: any) exactly once. From stage 1 of the training the word's first letter
        always settles its line, and the lines alliterate with letters half an alphabet on: alliteration with the word calls for
        the word again. From stage 2 it also settles whether the line begins with the word."""
        banned, stems = set(), content(re.sub(r"[^a-z]", " ", word.lower())) if word else frozenset()
        letters = [c for c in (word or "").lower() if c.isalpha()] or [rng.choice("abcdefghijklmnopqrstuvwxyz")]
        first, last = ord(letters[0]), ord(letters[-1])
        pull, plan = (letters[0], letters[-1], letters[0]), [first, last, first + 7]
        if stage:
            pull = tuple(ALPHABET[(ord(c) - ord("a") + 13) % 26] for c in pull)
        k, word_line = 0, None
        if word:
            banned = {word.lower(), *word.lower().split("-")}
            k = syllables(word)
            word_line = first % 3 if stage or rng.random() < 0.8 else rng.randrange(3)
            if k > 5:
                word_line = 1
        while True:
            lines, used = [], set(stems)
            for i, target in enumerate((5, 7, 5)):
                if i == word_line:
                    got = self.word_line(key, word, k, target, plan[i], pull[i], banned, used, rng, stage)
                else:
                    got = self.pick(self.free[key][target], plan[i], pull[i], banned, used, rng, FRAMES_OF_LINE[i])
                if got is None:
                    break
                lines.append(got[0])
                used |= got[2]
            if len(lines) == 3:
                return "\n".join(lines)

    def word_line(self, key, word, k, target, plan, letter, banned, used, rng, stage):
        rest = target - k
        if rest <= 0:
            return (word, None, frozenset())
        number = word.lower() in NUMBER_SET
        alone = self.after_one if word.lower() == "one" else self.after_number if number else self.after
        before = (self.before_number if number else self.before)[key]
        for attempt in range(20):
            settled = stage > 1 and attempt < 10
            shape = plan % 4 if settled or rng.random() < 0.7 else rng.randrange(4)
            left = (0, 0, rest, rng.randrange(settled, rest + 1))[shape]
            after = (self.after_spoken if left and not number else alone)[key]
            if left not in before or rest - left not in after or (rest - left == 0 and 0 not in after):
                continue
            a = self.pick(before[left], plan, letter, banned, used, rng) if left else ("", None, frozenset())
            b = self.pick(after[rest - left], plan, letter, banned, used | a[2], rng) if a and rest > left else ("", None, frozenset())
            if a and b:
                return (" ".join(x for x in (a[0], word, b[0]) if x), None, a[2] | b[2])
        return None


NUMBER_SET = set(NUMBERS)

# ---- the given word ----

ONSETS = """b c d f g h j k l m n p q r s t v w x y z bl br ch cl cr dr dw fl fr gh gl gn gr gw kh kl kn kr kv ll mc mn ph pl pr ps pt qu rh sc sch
scr sf sh shr sk skr sl sm sn sp spl spr sq st str sv sw th thr tr ts tw vl vr wh wr zh zl zw tch ng nj mb dh bh dj tz hw sr tl vz""".split() + [""] * 8
NUCLEI = "a e i o u y aa ae ai ao au ay ea ee ei eo eu ey ia ie io iu oa oe oi oo ou oy ua ue ui uo uu ya ye yo yu a e i o u a e i o u a e i o u".split()
CODAS = """b c d f g h j k l m n p q r s t v w x z bb ch ck ct dd ff ft gg gh ght ks ld lf lk ll lm lp ls lt lth mb mm mp mph nc nch nd ng nk nn ns nt nth
nx ph pp ps pt rb rch rd rf rg rk rl rm rn rp rs rsh rst rt rth rv sh sk sm sp ss st sts tch th ths tt tz wn wl x xt zz""".split() + [""] * 40
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
ACCENTED = "éèêüöäñçåøãíóáúîôß"


class WordMaker:
    """Words to copy: numbers, ordinary words, topic words, and several kinds of made-up ones."""

    def __init__(self, pieces=()):
        self.pieces = [p for p in pieces if p.isalpha()]
        self.ordinary = sorted({w for w in W.ORDINARY.split() if len(w) <= 14})
        self.lexicon = sorted(LEXICON)
        self.known = self.ordinary + self.lexicon
        self.next = defaultdict(list)
        for w in self.known:
            w = "^^" + w.lower() + "$"
            for i in range(2, len(w)):
                self.next[w[i - 2:i]].append(w[i])

    def word(self, rng, topic, stage):
        """(word, kind)"""
        while True:
            kind, word = self.draw(rng, topic, stage)
            if 1 <= len(word) <= 14 and word.strip("-'"):
                break
        r = rng.random()
        if r < 0.14:
            word = word[0].upper() + word[1:]
        elif r < 0.17:
            word = word.upper()
        elif r < 0.185:
            word = "".join(c.upper() if rng.random() < 0.4 else c for c in word)
        return word, kind

    def draw(self, rng, topic=None, stage=0):
        """A word that the topic's lines are made of is the hardest, as it has to be left out of them; then come words whose ending
        may hold a silent e. Later stages have more of them."""
        r = rng.random()
        if topic and r < (0.14, 0.35, 0.3)[stage]:
            return "topic", rng.choice(topic.own if rng.random() < 0.7 else GENERAL)
        if stage > 1 and r > 0.88:
            return "ending", self.with_ending(rng)
        r = rng.random()
        if r < 0.11:
            return "number", rng.choice(NUMBERS)
        if r < 0.23:
            return "ordinary", rng.choice(self.ordinary)
        if r < 0.31:
            return "lexicon", rng.choice(self.lexicon)
        if r < 0.52:
            return "invented", self.invented(rng)
        if r < 0.69:
            return "markov", self.markov(rng)
        if r < 0.84:
            return "pieces", self.joined(rng)
        if r < 0.89:
            return "letters", "".join(rng.choice(ALPHABET) for _ in range(rng.randint(1, 12)))
        if r < 0.94:
            return "compound", self.compound(rng)
        if r < 0.96:
            return "hyphenated", "-".join(rng.choice([rng.choice(self.known), self.invented(rng)]) for _ in range(2))
        if r < 0.975:
            return "digits", self.with_digits(rng)
        if r < 0.985:
            w = list(self.markov(rng))
            for _ in range(rng.randint(1, 2)):
                w[rng.randrange(len(w))] = rng.choice(ACCENTED)
            return "accented", "".join(w)
        w = self.markov(rng)
        return "apostrophe", rng.choice(["O'", "D'", "L'"]) + w.capitalize() if rng.random() < 0.5 else w + rng.choice(["'s", "n't", "'ll"])

    def invented(self, rng):
        return "".join(rng.choice(ONSETS) + rng.choice(NUCLEI) + (rng.choice(CODAS) if rng.random() < 0.6 else "") for _ in range(rng.choice([1, 1, 2, 2, 2, 3, 3, 4, 5])))

    def markov(self, rng):
        while True:
            state, out = "^^", ""
            while True:
                c = rng.choice(self.next[state])
                if c == "$":
                    break
                out += c
                state = state[1] + c
            if 2 <= len(out) <= 14 and "-" not in out and "'" not in out:
                return out

    def joined(self, rng):
        if not self.pieces:
            return self.invented(rng)
        return "".join(rng.choice(self.pieces) if rng.random() < 0.75 else rng.choice(ALPHABET) for _ in range(rng.randint(1, 4))).lower()

    def compound(self, rng):
        a, b = rng.choice(self.known), rng.choice(self.known)
        if rng.random() < 0.5:
            b = rng.choice(["s", "ed", "ing", "er", "ly", "ness", "ful", "less", "ment", "able", "ish", "tion", "ity", "est"])
        return (a + b).lower()

    def with_ending(self, rng):
        stem = (rng.choice(self.known) if rng.random() < 0.6 else self.markov(rng)).rstrip("e")
        return (stem + rng.choice("ed ed ed es es e ing ly ely ement eless tion ization able ating ates ated ance ence ure ous ism".split())).lower()

    def with_digits(self, rng):
        w = self.markov(rng)[:8]
        d = "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 3)))
        return rng.choice([w + d, w + "-" + d, d + w])


# ---- the prompt ----

PLAIN = 'Write a haiku about TOPIC that includes the word "WORD"'
WORDINGS = [
    "{verb} {a} about TOPIC that includes the word {q}", "{verb} {a} about TOPIC including the word {q}", "{verb} {a} about TOPIC containing the word {q}",
    "{verb} {a} about TOPIC that contains the word {q}", "{verb} {a} about TOPIC using the word {q}", "{verb} {a} about TOPIC that uses the word {q}",
    "{verb} {a} about TOPIC with the word {q}", "{verb} {a} about TOPIC with the word {q} in it", "{verb} {a} on TOPIC that includes the word {q}",
    "{verb} {a} about TOPIC, including the word {q}", "{verb} {a} about TOPIC. Include the word {q}", "{verb} {a} about TOPIC. It must include the word {q}",
    "{verb} {a} about TOPIC. Use the word {q}", "{verb} {a} that includes the word {q} about TOPIC", "{verb} {a} with the word {q} about TOPIC",
    "{verb} {a} about TOPIC that has the word {q} in it", "{verb} {a} about TOPIC and include the word {q}", "{verb} {a} about TOPIC which includes the word {q}",
    "Topic: TOPIC. Word: {q}", "haiku about TOPIC with {q}", "TOPIC haiku with the word {q}",
]
VERBS = ["Write"] * 6 + ["Please write"] * 3 + ["write", "Compose", "Create", "Give me", "Write me", "Can you write", "I want", "Make", "Please compose", "Could you write", "Generate"]
UNPROMPTED = ["{verb} {a} about TOPIC", "{verb} {a} about TOPIC", "{verb} {a} on TOPIC", "haiku about TOPIC", "TOPIC"]
ENDS = [""] * 5 + ["."] * 3 + ["!"]
NONCE_ENDS = ["", "", ".", ".", "!"]
NONCE_FORMS = [" (nonce: N)"] * 12 + [" nonce: N", " [nonce: N]", " (nonce N)", " (id: N)", "\nnonce: N", " Nonce: N", " (Nonce: N)", " (request N)", " #N"]
HEX, DIGITS = "0123456789abcdef", "0123456789"
LETTERS = ALPHABET + ALPHABET.upper()


def nonce(rng, makers):
    """Letters, digits, hexadecimal, uuid-like, words, punctuation; 1 to 24 characters, now and then a whole uuid."""
    r = rng.random()
    if r < 0.40:
        return "".join(rng.choice(LETTERS + DIGITS) for _ in range(8 if rng.random() < 0.4 else rng.randint(1, 24)))
    if r < 0.52:
        return "".join(rng.choice(HEX) for _ in range(rng.randint(1, 24)))
    if r < 0.62:
        return "".join(rng.choice(DIGITS) for _ in range(rng.randint(1, 20)))
    if r < 0.72:
        return "".join(rng.choice(ALPHABET) for _ in range(rng.randint(1, 24)))
    if r < 0.78:
        return "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 24)))
    if r < 0.86:
        full = "-".join("".join(rng.choice(HEX) for _ in range(n)) for n in (8, 4, 4, 4, 12))
        return full if rng.random() < 0.4 else full[:rng.randint(9, 24)].strip("-")
    if r < 0.91:
        return rng.choice("-_.:/+").join(makers.draw(rng)[1] for _ in range(rng.randint(1, 3)))[:24]
    return "".join(rng.choice(LETTERS + DIGITS + "!@#$%^&*-_+=.,;:?/|~<>[]{}") for _ in range(rng.randint(1, 24)))


def topic_name(rng):
    """(name in the prompt, key of its lists)"""
    key = "gpu" if rng.random() < 0.14 else rng.choice(list(TOPICS))
    names = TOPICS[key].names
    name = names[0] if rng.random() < 0.6 else rng.choice(names)
    return (name if rng.random() < 0.96 else name.capitalize()), key


def example(library, makers, rng, stage=0):
    """(prompt, poem, word, kind, where the word begins in the prompt)"""
    name, key = topic_name(rng)
    word, kind = makers.word(rng, TOPICS[key], stage)
    if rng.random() < 0.03:
        # An unknown topic gets the lists that its length picks, the same each time.
        name = rng.choice(makers.ordinary + [makers.markov(rng)])
        key = list(TOPICS)[len(name) % len(TOPICS)]
    r = rng.random()
    article = rng.choice(["a haiku"] * 12 + ["a short haiku", "one haiku", "a poem", "a haiku poem"])
    if r < 0.05:
        prompt = rng.choice(UNPROMPTED).format(verb=rng.choice(VERBS), a=article).replace("TOPIC", name) + rng.choice(ENDS)
        return prompt, library.poem(key, None, rng, stage), None, "none", None
    if r < 0.60:
        prompt = PLAIN
        tail = "" if rng.random() < 0.75 else rng.choice(ENDS)
    else:
        q = '"WORD"' if rng.random() < (0.55 if stage else 0.66) else "WORD" if rng.random() < 0.85 else rng.choice(["'WORD'", "“WORD”", "`WORD`", "*WORD*"])
        prompt = rng.choice(WORDINGS).format(verb=rng.choice(VERBS), a=article, q=q)
        tail = rng.choice(ENDS)
    if rng.random() < 0.62:
        tail += nonce_tail(rng, makers)
        if rng.random() < 0.1:
            tail += rng.choice(NONCE_ENDS)
    prompt = prompt.replace("TOPIC", name)
    return prompt.replace("WORD", word) + tail, library.poem(key, word, rng, stage), word, kind, prompt.index("WORD")


def nonce_tail(rng, makers):
    form = rng.choice(NONCE_FORMS)
    at = form.rindex("N")
    return form[:at] + nonce(rng, makers) + form[at + 1:]


if __name__ == "__main__":
    import time
    start = time.time()
    library, makers, rng = Library(), WordMaker(), random.Random(7)
    print(f"pools {time.time() - start:.1f} s")
    off = sorted(w for w, n in LEXICON.items() if estimate(w) != n)
    print(len(LEXICON), "words;", len(off), "not as estimated:", " ".join(f"{w}{LEXICON[w]}" for w in off))
    start = time.time()
    for _ in range(6000):
        prompt, poem, word, kind, _ = example(library, makers, rng, stage=rng.randrange(3))
        lines = poem.split("\n")
        assert [line_syllables(l) for l in lines] == [5, 7, 5] or syllables(word) > 7, (word, poem)
        if word:
            assert len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", poem, re.I)) == 1, (word, poem)
    print(f"{(time.time() - start) / 6:.2f} ms an example")
    for _ in range(14):
        prompt, poem, word, kind, _ = example(library, makers, rng, stage=2)
        print(f"--- {kind}: {prompt}\n{poem}")
