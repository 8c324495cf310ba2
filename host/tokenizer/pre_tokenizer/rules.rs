//! The rules that cut text into words, as data: their names, their expressions, and what else a name settles.
//!
//! The names are those that llama.cpp's converter writes and `llama-vocab.cpp` reads. The expressions are the published
//! ones as llama.cpp has them, with two changes that leave every word as it is: look-ahead is put otherwise (see the module
//! above), and a class of letters that llama.cpp writes by look-ahead is written as a difference. Where llama.cpp's expression
//! differs from the published one, llama.cpp's is here: it takes all of `\p{Lu}`, `\p{Lt}`, `\p{Lm}`, `\p{Lo}` and `\p{Ll}` for
//! `\p{L}`, for one, or tells upper from lower case in ASCII only.

/// What is done with white space at the end of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trailing {
    /// The match stands.
    Keep,
    /// The last character of the run goes to the next word.
    HandBack,
    /// As `HandBack`, but a run that ends in a line break stands.
    HandBackUnlessLineBreak,
    /// The match is cut to the longest power of two, at most 512, that leaves a character to the next word; a run that ends
    /// in a line break stands.
    PowerOfTwo,
}

/// One way of cutting words into smaller ones.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Every match of a regular expression is a word, and every stretch between two.
    Match(&'static str, Trailing),
    /// Digits (`\p{N}`) come in threes counted from the right. What is before the first group stays with it, as in llama.cpp:
    /// the next step parts them.
    DigitGroups,
    /// A word ends before every place that a multiple of three ASCII digits, and no further one, follows.
    Thousands,
}

/// What the name of a rule settles beside its expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tokenizer) struct Traits {
    /// A word that is a token as it stands is taken whole, whatever the merges say.
    pub ignore_merges: bool,
    /// A begin-of-text token is put first unless the file says otherwise.
    pub add_bos: bool,
    /// A begin-of-text token is put first even if the file says otherwise: Gemma 4 cannot do without.
    pub needs_bos: bool,
    /// Merges are over characters, with U+2581 for blanks and `<0x0A>` for the bytes of what has no token.
    pub characters: bool,
    /// A run of line breaks that is a token is taken whole.
    pub whole_line_breaks: bool,
}

/// A rule: its names, its traits and its steps, each on the words of the one before.
pub(super) struct Rule {
    pub names: &'static [&'static str],
    pub traits: Traits,
    pub steps: &'static [Step],
}

const PLAIN: Traits =
    Traits { ignore_merges: false, add_bos: false, needs_bos: false, characters: false, whole_line_breaks: false };
const IGNORE_MERGES: Traits = Traits { ignore_merges: true, ..PLAIN };
const BOS: Traits = Traits { add_bos: true, ..PLAIN };
const IGNORE_MERGES_BOS: Traits = Traits { add_bos: true, ..IGNORE_MERGES };
const CHARACTERS: Traits = Traits { characters: true, ..PLAIN };

/// English contractions in both cases.
macro_rules! contraction {
    () => {
        r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
    };
}

/// Signs with a blank in front and line breaks behind, then white space: how most expressions end.
macro_rules! signs_and_space {
    () => {
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    };
    ("with slashes") => {
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
    };
}

/// An ASCII sign and the letters behind it; or letters and marks with at most one other character in front; or signs.
macro_rules! sign_then_letters {
    () => {
        r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
    };
}

/// Words that change from upper to lower case once, in ASCII; `$letter` is the class, `$end` what may follow the word.
macro_rules! cased_words {
    ($letter:literal, $end:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[",
            $letter,
            r"--[a-z]]*[",
            $letter,
            r"--[A-Z]]+",
            $end,
            r"|[^\r\n\p{L}\p{N}]?[",
            $letter,
            r"--[a-z]]+[",
            $letter,
            r"--[A-Z]]*",
            $end,
        )
    };
}

/// Han characters, by llama.cpp's ranges.
macro_rules! han {
    () => {
        concat!(
            r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}",
            r"\x{2B820}-\x{2CEAF}\x{2CEB0}-\x{2EBEF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}]"
        )
    };
}

/// Han, Hiragana and Katakana.
const KANJI_KANA: Step = Step::Match(r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+", Trailing::Keep);
/// Most of the letters from U+0800 on. White space is none of them: llama.cpp takes it out of the text beforehand.
const ASIAN: Step = Step::Match(r"[[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]--\s]+", Trailing::Keep);
const DIGIT: Step = Step::Match(r"\p{N}", Trailing::Keep);
const DIGITS: Step = Step::Match(r"\p{N}+", Trailing::Keep);
const THREE_DIGITS: Step = Step::Match(r"\p{N}{1,3}", Trailing::Keep);
const LINE_BREAK: Step = Step::Match(r"[\r\n]", Trailing::Keep);
const LINES: Step = Step::Match(r"[^\n]+|\n+", Trailing::Keep);
/// All but white space, brackets and the punctuation of several scripts.
const UNPUNCTUATED: Step =
    Step::Match(r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+", Trailing::Keep);

/// GPT-2's words: contractions, letters, digits and the rest, each with at most one blank in front.
const GPT2: Step = Step::Match(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", Trailing::HandBack);

/// Llama 3's words: any sign may lead a word of letters, and digits come in threes.
const LLAMA3_TEXT: &str = concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}", signs_and_space!());
const LLAMA3: Step = Step::Match(LLAMA3_TEXT, Trailing::HandBackUnlessLineBreak);

/// The same with one digit at a time.
const QWEN2: Step = Step::Match(
    concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", signs_and_space!()),
    Trailing::HandBackUnlessLineBreak,
);

/// Letters that have case, as DeepSeek LLM's own file lists them (no mathematical alphabets, for one).
pub(super) const CASED: &str = concat!(
    r"\x{41}-\x{5A}\x{61}-\x{7A}\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}",
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}",
    r"\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}",
    r"\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}",
    r"\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}",
    r"\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}",
    r"\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}",
    r"\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}",
    r"\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}",
    r"\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}",
    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}",
    r"\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}",
    r"\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}",
);

/// Stands for [`CASED`] in an expression.
pub(super) const CASED_MARK: &str = "{CASED}";

/// Every rule.
pub(super) const RULES: &[Rule] = &[
    Rule {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "megrez",
            "kormo",
            "f2llmv2",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        traits: PLAIN,
        steps: &[QWEN2],
    },
    Rule {
        names: &["qwen35"],
        traits: PLAIN,
        steps: &[Step::Match(
            concat!(
                contraction!(),
                r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
            ),
            Trailing::HandBackUnlessLineBreak,
        )],
    },
    Rule {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        traits: IGNORE_MERGES_BOS,
        steps: &[LLAMA3],
    },
    Rule { names: &["glm4", "glm5"], traits: IGNORE_MERGES, steps: &[LLAMA3] },
    Rule { names: &["smaug-bpe", "dbrx", "chatglm-bpe"], traits: PLAIN, steps: &[LLAMA3] },
    Rule { names: &["jais-2"], traits: PLAIN, steps: &[Step::Match(LLAMA3_TEXT, Trailing::PowerOfTwo)] },
    Rule {
        names: &[
            "gpt-2",
            "phi-2",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "exaone4",
            "granite-docling",
            "modern-bert",
            "roberta-bpe",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
        ],
        traits: PLAIN,
        steps: &[GPT2],
    },
    Rule {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        traits: PLAIN,
        steps: &[DIGIT, GPT2],
    },
    Rule {
        names: &["deepseek-llm"],
        traits: PLAIN,
        steps: &[
            LINE_BREAK,
            Step::Match(r"\s?[{CASED}]+", Trailing::Keep),
            // U+3000 counts as white space here, not as a sign: llama.cpp reads it so.
            Step::Match(
                r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3001}\x{3002}]+",
                Trailing::Keep,
            ),
            Step::Match(r"\s+$", Trailing::Keep),
            ASIAN,
            DIGITS,
        ],
    },
    Rule {
        names: &["deepseek-coder"],
        traits: PLAIN,
        steps: &[
            LINE_BREAK,
            Step::Match(r"\s?\p{L}+", Trailing::Keep),
            Step::Match(r"\s?\p{P}+", Trailing::Keep),
            ASIAN,
            DIGIT,
        ],
    },
    Rule {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        traits: PLAIN,
        steps: &[
            THREE_DIGITS,
            KANJI_KANA,
            Step::Match(concat!(sign_then_letters!(), r"[\r\n]*|\s*[\r\n]+|\s+"), Trailing::HandBackUnlessLineBreak),
        ],
    },
    Rule {
        names: &["spark2_5"],
        traits: PLAIN,
        steps: &[
            THREE_DIGITS,
            KANJI_KANA,
            Step::Match(concat!(sign_then_letters!(), r"|[\r\n]|\s+"), Trailing::HandBack),
            DIGIT,
        ],
    },
    Rule {
        names: &["afmoe"],
        traits: PLAIN,
        steps: &[
            Step::DigitGroups,
            // The third range is the published one from U+F900, whose first character llama.cpp has in its other form, U+8C48.
            Step::Match(
                concat!(
                    r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{8C48}-\x{FAFF}\x{3040}-\x{309F}\x{30A0}-\x{30FF}",
                    r"\x{FF65}-\x{FF9F}\x{2F00}-\x{2FDF}\x{E40}-\x{E7F}\x{E80}-\x{EFF}\x{1780}-\x{17FF}",
                    r"\x{1000}-\x{109F}\x{AA60}-\x{AA7F}\x{A9E0}-\x{A9FF}\x{AC00}-\x{D7AF}\x{1100}-\x{11FF}]+",
                ),
                Trailing::Keep,
            ),
            Step::Match(concat!(sign_then_letters!(), r"[\r\n]*|\s*[\r\n]+|\s+"), Trailing::HandBackUnlessLineBreak),
        ],
    },
    Rule {
        names: &["youtu"],
        traits: IGNORE_MERGES,
        steps: &[
            Step::Match(
                concat!(
                    r"[\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+",
                    r"|[\x{FF01}\x{2026}\x{201C}\x{201D}\x{2018}\x{2019}\x{2014}\x{FF1A}\x{FF1B}\x{FF0C}",
                    r"\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+",
                    r"|[\x{3105}-\x{312F}]+|[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+",
                ),
                Trailing::Keep,
            ),
            Step::Match(
                concat!(
                    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:",
                    contraction!(),
                    r")?|\p{N}",
                    signs_and_space!("with slashes")
                ),
                Trailing::HandBackUnlessLineBreak,
            ),
        ],
    },
    Rule {
        names: &["tiny_aya", "cohere2moe"],
        traits: PLAIN,
        steps: &[
            Step::DigitGroups,
            Step::Match(
                concat!(
                    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:",
                    contraction!(),
                    r")?|\p{N}{1,3}",
                    signs_and_space!("with slashes")
                ),
                Trailing::HandBackUnlessLineBreak,
            ),
        ],
    },
    Rule {
        names: &["tekken"],
        traits: IGNORE_MERGES_BOS,
        steps: &[Step::Match(
            concat!(cased_words!(r"\p{L}", ""), r"|\p{N}", signs_and_space!("with slashes")),
            Trailing::HandBackUnlessLineBreak,
        )],
    },
    Rule {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        traits: PLAIN,
        steps: &[Step::Match(
            concat!(
                cased_words!(r"\p{L}", concat!("(?:", contraction!(), ")?")),
                r"|\p{N}{1,3}",
                signs_and_space!("with slashes")
            ),
            Trailing::HandBackUnlessLineBreak,
        )],
    },
    Rule {
        names: &["granite-embed-multi-97m"],
        traits: IGNORE_MERGES,
        steps: &[Step::Match(
            concat!(
                cased_words!(r"[\p{L}\p{M}]", concat!("(?:", contraction!(), ")?")),
                r"|\p{N}{1,3}",
                signs_and_space!("with slashes")
            ),
            Trailing::HandBackUnlessLineBreak,
        )],
    },
    Rule {
        names: &["kimi-k2"],
        traits: PLAIN,
        steps: &[Step::Match(
            concat!(
                han!(),
                r"+|[^\r\n\p{L}\p{N}]?[\p{L}--",
                han!(),
                r"]+(?:",
                contraction!(),
                r")?|\p{N}{1,3}",
                signs_and_space!()
            ),
            Trailing::HandBackUnlessLineBreak,
        )],
    },
    Rule {
        names: &["falcon"],
        traits: PLAIN,
        steps: &[Step::Match(r"[\p{P}$+<=>^~|`]+", Trailing::Keep), GPT2, Step::Match("[0-9]{3}", Trailing::Keep)],
    },
    Rule { names: &["poro-chat", "bloom", "gpt3-finnish"], traits: PLAIN, steps: &[UNPUNCTUATED] },
    Rule { names: &["viking"], traits: PLAIN, steps: &[UNPUNCTUATED, DIGIT] },
    Rule {
        names: &["chameleon"],
        traits: BOS,
        steps: &[
            Step::Match("<sentinel:[0-9]+>", Trailing::Keep),
            Step::Match("IMGIMG[A-I]{1,4}Z", Trailing::Keep),
            Step::Match(r"[\t\n]|    |  ", Trailing::Keep),
            DIGIT,
            Step::Match(r"[\p{P}!-/:-@\[-`{-~]", Trailing::Keep),
            GPT2,
        ],
    },
    Rule { names: &["superbpe"], traits: PLAIN, steps: &[DIGITS, Step::Thousands] },
    Rule {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        traits: PLAIN,
        steps: &[Step::Match(
            concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+"),
            Trailing::HandBackUnlessLineBreak,
        )],
    },
    Rule {
        names: &["seed-coder"],
        traits: PLAIN,
        steps: &[Step::Match(
            concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+"),
            Trailing::HandBackUnlessLineBreak,
        )],
    },
    Rule {
        names: &["ufakzeka"],
        traits: PLAIN,
        steps: &[Step::Match(
            concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", signs_and_space!()),
            Trailing::HandBackUnlessLineBreak,
        )],
    },
    Rule { names: &["laguna"], traits: PLAIN, steps: &[LINES, QWEN2] },
    Rule {
        names: &["exaone-moe"],
        traits: PLAIN,
        steps: &[Step::Match(
            concat!(
                contraction!(),
                r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+"
            ),
            Trailing::HandBackUnlessLineBreak,
        )],
    },
    Rule {
        names: &["minicpm5"],
        traits: IGNORE_MERGES,
        steps: &[
            THREE_DIGITS,
            Step::Match(
                concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+", signs_and_space!()),
                Trailing::HandBackUnlessLineBreak,
            ),
        ],
    },
    Rule {
        names: &["gemma4", "granite-embed-multi-311m"],
        traits: Traits { add_bos: true, needs_bos: true, whole_line_breaks: true, ..CHARACTERS },
        steps: &[LINES],
    },
    Rule { names: &["sarvam-moe"], traits: CHARACTERS, steps: &[LINES] },
    Rule {
        names: &["default"],
        traits: PLAIN,
        steps: &[
            Step::Match(r"[\p{P}$+<=>^~|]+", Trailing::Keep),
            GPT2,
            DIGITS,
            Step::Match("[0-9]{3}", Trailing::Keep),
        ],
    },
];
