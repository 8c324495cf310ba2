//! The README's table of instructions is what the decoder says of each form in `ptx/instructions.txt`.

use softcuda::Module;
use std::fmt::Write;

/// A piece of a form: text, or alternatives.
enum Piece {
    Text(String),
    Choice(Vec<String>),
}

fn pieces(form: &str) -> Vec<Piece> {
    let (mut out, mut text, mut rest) = (Vec::new(), String::new(), form);
    while let Some(start) = rest.find('{') {
        let end = start + rest[start..].find('}').expect("`}`");
        let inside = &rest[start + 1..end];
        text += &rest[..start];
        // `{%r1, %r2}` is a vector.
        if inside.contains('%') && !inside.contains(';') {
            text += &rest[start..=end];
        } else {
            out.push(Piece::Text(std::mem::take(&mut text)));
            out.push(Piece::Choice(inside.split(',').map(|word| word.replace(';', ",")).collect()));
        }
        rest = &rest[end + 1..];
    }
    out.push(Piece::Text(text + rest));
    out
}

fn expansions(pieces: &[Piece]) -> Vec<(Vec<usize>, String)> {
    let mut out = vec![(Vec::new(), String::new())];
    for piece in pieces {
        out = match piece {
            Piece::Text(text) => out.into_iter().map(|(picks, form)| (picks, form + text)).collect(),
            Piece::Choice(words) => out
                .into_iter()
                .flat_map(|(picks, form)| {
                    words
                        .iter()
                        .enumerate()
                        .map(move |(i, word)| ([picks.as_slice(), &[i]].concat(), form.clone() + word))
                })
                .collect(),
        };
    }
    out
}

fn registers(letter: char, from: usize, count: usize) -> String {
    let items: Vec<String> = (from..from + count).map(|i| format!("%{letter}{i}")).collect();
    format!("{{{}}}", items.join(", "))
}

/// The width letter of the last type among the modifiers.
fn letter(opcode: &str) -> char {
    let last = opcode.split('.').rev().find_map(|word| {
        Some(match word {
            "b8" | "u8" | "s8" | "b16" | "u16" | "s16" | "f16" | "bf16" => 'h',
            "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" | "tf32" => 'r',
            "b64" | "u64" | "s64" | "f64" => 'd',
            "b128" => 'q',
            _ => return None,
        })
    });
    last.unwrap_or('r')
}

/// The fragments of a product, by its shape and types.
fn fragments(opcode: &str) -> String {
    let words: Vec<&str> = opcode.split('.').collect();
    let shape =
        words.iter().find(|word| word.starts_with('m') && word.contains('n') && word.contains('k')).expect("a shape");
    let numbers: Vec<usize> = shape.split(['m', 'n', 'k']).filter_map(|word| word.parse().ok()).collect();
    let (m, n, k) = (numbers[0], numbers[1], numbers[2]);
    let bits = |kind: &str| match kind {
        "f64" => Some(64),
        "f32" | "s32" | "tf32" => Some(32),
        "f16" | "bf16" => Some(16),
        "s8" | "u8" | "e4m3" | "e5m2" | "e3m2" | "e2m3" | "e2m1" => Some(8),
        "s4" | "u4" => Some(4),
        "b1" => Some(1),
        _ => None,
    };
    let kinds: Vec<usize> = words.iter().filter_map(|word| bits(word)).collect();
    let (d, a, b, c) = match *kinds.as_slice() {
        [d, c] => (d, 16, 16, c),
        [d, a, b, c, ..] => (d, a, b, c),
        _ => panic!("{opcode}"),
    };
    let wide = |bits: usize| if bits == 64 { 'd' } else { 'r' };
    // `wmma` of f16 has each element of A and B twice, in eight registers.
    let doubled = words[0] == "wmma" && kinds.len() == 2;
    let count = |elements: usize, bits: usize| (elements * bits / 32 / bits.max(32)).max(1);
    let (na, nb) = if doubled { (8, 8) } else { (count(m * k, a), count(k * n, b)) };
    [
        registers(wide(d), 1, count(m * n, d)),
        registers(wide(a), 20, na),
        registers(wide(b), 40, nb),
        registers(wide(c), 50, count(m * n, c)),
    ]
    .join(", ")
}

/// The instruction with its operands.
fn written(form: &str) -> String {
    let (opcode, operands) = form.split_once(' ').unwrap_or((form, ""));
    let letter = letter(opcode);
    let mut operands = operands.to_owned();
    for i in (1..=9).rev() {
        operands = operands.replace(&format!("${i}"), &format!("%{letter}{i}"));
    }
    let counted = |prefix: char| opcode.split('.').find_map(|word| word.strip_prefix(prefix)?.parse::<usize>().ok());
    let length = counted('v').or(counted('x')).unwrap_or(1);
    for i in [1, 5] {
        let vector = if length == 1 && !opcode.contains("matrix") {
            format!("%{letter}{i}")
        } else {
            registers(letter, i, length)
        };
        let vector = if opcode.contains("matrix") { registers('r', i, length) } else { vector };
        operands = operands.replace(&format!("V{i}"), &vector);
    }
    if operands.contains('C') {
        let rank = opcode.split('.').find_map(|word| word.strip_suffix('d')?.parse().ok()).unwrap_or(1);
        operands = operands.replace('C', &registers('r', 10, rank));
    }
    operands = match operands.as_str() {
        "M" => fragments(opcode),
        "G" if opcode.contains("wait") => "0".to_owned(),
        "G" if opcode.contains("mma_async") => {
            let d = if opcode.contains("8.f16.") || opcode.contains("16.f16.f16.f16") || opcode.contains("k32.f16") {
                2
            } else {
                4
            };
            let signs = if opcode.contains(".s32.") { "" } else { ", 1, 1" };
            let transposes = if opcode.contains("k16") { ", 0, 0" } else { "" };
            format!("{}, %d1, %d2, %p1{signs}{transposes}", registers('r', 1, d))
        }
        "G" => String::new(),
        _ => operands,
    };
    if operands.contains('W') {
        let count = match opcode {
            _ if opcode.contains(".a.") || opcode.contains(".b.") => match opcode {
                _ if opcode.contains(".f16") => 8,
                _ if opcode.contains("bf16") || opcode.contains("tf32") => 4,
                _ if opcode.contains("m8n8") => 1,
                _ => 2,
            },
            _ if opcode.contains(".f16") => 4,
            _ => 8,
        };
        operands = operands.replace('W', &registers('r', 1, count));
    }
    format!("{opcode} {operands};")
}

fn runs(instruction: &str) -> bool {
    let ptx = format!(
        ".version 9.0\n.target sm_100a\n.address_size 64\n.func f() {{ ret; }}\n.visible .entry k() {{
.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<80>; .reg .b64 %d<80>; .reg .b128 %q<9>;
T: .branchtargets L, L;\n{instruction}\nL: ret;\n}}"
    );
    Module::from_ptx(&ptx).is_ok_and(|module| module.unknown_instructions().is_empty())
}

fn table() -> String {
    let mut out = String::new();
    for line in include_str!("ptx/instructions.txt").lines() {
        if let Some(title) = line.strip_prefix("## ") {
            write!(out, "\n**{title}**\n\n| instruction | not executed |\n|---|---|\n").unwrap();
        }
        if line.starts_with('#') {
            continue;
        }
        let pieces = pieces(line);
        let all: Vec<(Vec<usize>, String, bool)> = expansions(&pieces)
            .into_iter()
            .map(|(picks, form)| {
                let runs = runs(&written(&form));
                (picks, form, runs)
            })
            .collect();
        // The opcode's part of a form, with alternatives of which none runs left out.
        let mut shown = String::new();
        let mut choice = 0;
        for piece in &pieces {
            match piece {
                Piece::Text(text) => shown += text,
                Piece::Choice(words) => {
                    let kept: Vec<&str> = words
                        .iter()
                        .enumerate()
                        .filter(|(i, _)| all.iter().any(|(picks, _, runs)| picks[choice] == *i && *runs))
                        .map(|(_, word)| word.as_str())
                        .collect();
                    choice += 1;
                    shown += &match kept.as_slice() {
                        [] => "{…}".to_owned(),
                        [one] => (*one).to_owned(),
                        several => format!("{{{}}}", several.join("; ")),
                    };
                }
            }
        }
        // What stands in neither the kept alternatives nor runs.
        let opcode = |form: &str| form.split(' ').next().unwrap_or(form).to_owned();
        let mut missing: Vec<String> = all.iter().filter(|form| !form.2).map(|form| opcode(&form.1)).collect();
        missing.dedup();
        let none = missing.len() == all.len() || all.iter().all(|form| !form.2);
        let shown = if none { String::new() } else { format!("`{}`", shown.replace('|', "\\|")) };
        let missing = match missing.len() {
            0 => String::new(),
            n if n > 8 && none => format!("`{}` and the like", missing[0]),
            n if n > 8 => format!("{n} of {} combinations, such as `{}`", all.len(), missing[0]),
            _ => missing.iter().map(|form| format!("`{form}`")).collect::<Vec<_>>().join(", "),
        };
        writeln!(out, "| {shown} | {missing} |").unwrap();
    }
    out
}

/// With `UPDATE_README=1` the table is written anew.
#[test]
fn the_readme_says_what_the_decoder_does() {
    const BEGIN: &str = "<!-- instructions: made by tests/table.rs -->\n";
    const END: &str = "<!-- end of instructions -->";
    let path = format!("{}/README.md", env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("where the table begins");
    let (known, after) = rest.split_once(END).expect("where the table ends");
    let table = table();
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    for (old, new) in known.lines().zip(table.lines()) {
        assert_eq!(old, new, "README.md differs from the decoder; UPDATE_README=1 writes the table anew");
    }
    assert_eq!(
        known.lines().count(),
        table.lines().count(),
        "README.md differs; UPDATE_README=1 writes the table anew"
    );
}
