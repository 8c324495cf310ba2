//! Line tables: which line of Rust each instruction comes from.
//!
//! LLVM puts a `.loc` with file, line and column before instructions, of the innermost function where some were inlined, and
//! says in DWARF which function was inlined where. `ptxas` takes that DWARF for a request to compile without optimisation
//! (`.target …, debug`), and no reader of PTX has it. [`with_callers`] moves what it says into the `.loc`s, in PTX's own words
//! (`function_name`, `inlined_at`), and takes the rest away: debug sections, their labels, `debug`. Not one instruction changes.
//!
//! NVPTX has no lists of ranges: DWARF says of an inlined function where its first instruction is and where its last, and
//! instructions of others may lie between. Of the functions whose range holds a `.loc`, the one is taken whose file it names,
//! then the one with the nearest lines, then the one with the shortest range.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

use gimli::{
    AttributeValue, DW_AT_abstract_origin, DW_AT_call_column, DW_AT_call_file, DW_AT_call_line, DW_AT_high_pc,
    DW_AT_low_pc, DW_AT_name, DW_TAG_inlined_subroutine, DW_TAG_subprogram, DebugAbbrev, DebugInfo, LittleEndian,
};

/// File, line and column.
type Spot = (u64, u64, u64);

/// The label of the functions' names in `.debug_str`.
const NAMES: &str = "$L__names";

/// A function of the PTX, or one that was inlined into it: instructions between two lines of the text.
struct Scope {
    low: usize,
    high: usize,
    /// Index of the function in `Functions`.
    function: usize,
    /// Where the inlined function was called; the scope that called it.
    call: Option<(Spot, usize)>,
    /// Those inlined into it, by their first instruction.
    inner: Vec<usize>,
}

/// What is known of a function in the source.
#[derive(Default)]
struct Function {
    name: String,
    /// How many calls and instructions name a file, and the first and last line in it that they name.
    files: HashMap<u64, (u64, u64, u64)>,
}

impl Function {
    fn saw(&mut self, (file, line, _): Spot) {
        if line > 0 {
            let known = self.files.entry(file).or_insert((0, line, line));
            *known = (known.0 + 1, known.1.min(line), known.2.max(line));
        }
    }

    /// 0 where the function has this line; more, the less likely that is.
    fn distance(&self, (file, line, _): Spot) -> u64 {
        match self.files.get(&file) {
            Some(&(_, first, last)) => first.saturating_sub(line) + line.saturating_sub(last),
            None => u64::MAX,
        }
    }
}

/// The text with callers in its `.loc`s and without DWARF. Paths below `root` are given from there, those of Rust's library
/// from `core` on.
///
/// # Errors
/// What is wrong with the DWARF.
pub fn with_callers(ptx: &str, root: &Path) -> Result<String, String> {
    let (code, debug) = match ptx.find("\n\t.section\t") {
        Some(at) => ptx.split_at(at + 1),
        None => (ptx, ""),
    };
    let lines: Vec<&str> = code.lines().collect();
    let mut tables = Tables::default();
    if !debug.is_empty() {
        tables.read(&lines, debug).map_err(|error| format!("its debug information cannot be read: {error}"))?;
        tables.learn(&lines);
    }
    Ok(tables.write(&lines, root))
}

fn spot_of(line: &str) -> Option<Spot> {
    let mut numbers = line.strip_prefix("\t.loc\t")?.split([' ', ',']);
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?, next()?))
}

/// The text without `.file`, `.loc` and debug sections, and these lines apart from it, each behind a tab and the number of lines of the
/// text that come before it and after the last such.
///
/// The two compress to half of what the whole does: one instruction is much like another where no place in the source stands between
/// them, and so are two targets' texts.
pub fn lines_apart(ptx: &str) -> (String, String) {
    let (mut text, mut lines) = (String::with_capacity(ptx.len()), String::new());
    let (mut in_section, mut between) = (false, 0);
    for line in ptx.split_inclusive('\n') {
        let content = line.trim();
        let was_in_section = in_section;
        in_section = (in_section || content.starts_with(".section")) && !content.ends_with('}');
        if was_in_section || [".section", ".file\t", ".loc\t"].iter().any(|start| content.starts_with(start)) {
            let _ = write!(lines, "{between}\t{line}");
            between = 0;
        } else {
            text += line;
            between += 1;
        }
    }
    (text, lines)
}

/// The name of a label that LLVM made for debug information only.
fn debug_label(line: &str) -> Option<&str> {
    let name = line.strip_suffix(':')?;
    ["$L__tmp", "$L__func_begin", "$L__func_end"].iter().any(|start| name.starts_with(start)).then_some(name)
}

#[derive(Default)]
struct Tables {
    scopes: Vec<Scope>,
    /// Those that the PTX defines, in the order of the text.
    outermost: Vec<usize>,
    functions: Vec<Function>,
}

impl Tables {
    /// Reads the sections: addresses in them are lines of the text.
    fn read(&mut self, lines: &[&str], debug: &str) -> Result<(), gimli::Error> {
        let labels: HashMap<&str, u64> =
            lines.iter().zip(0..).filter_map(|(line, at)| Some((debug_label(line)?, at))).collect();
        let (info, abbreviations) = (section(debug, ".debug_info", &labels), section(debug, ".debug_abbrev", &labels));
        let info = DebugInfo::new(&info, LittleEndian);
        let abbreviations = DebugAbbrev::new(&abbreviations, LittleEndian);
        let mut units = info.units();
        while let Some(unit) = units.next()? {
            let table = unit.abbreviations(&abbreviations)?;
            // By where each is described; one may be named before it is.
            let mut known: HashMap<usize, usize> = HashMap::new();
            // The scopes that hold the entry, by depth; none for an entry that is no scope.
            let mut open: Vec<Option<usize>> = Vec::new();
            let (mut entries, mut depth) = (unit.entries(&table), 0);
            while let Some((step, entry)) = entries.next_dfs()? {
                depth += step;
                open.truncate(usize::try_from(depth).unwrap_or(0));
                let mut function_at = |offset: usize| {
                    *known.entry(offset).or_insert_with(|| {
                        self.functions.push(Function::default());
                        self.functions.len() - 1
                    })
                };
                let number = |name| {
                    Ok(match entry.attr_value(name)? {
                        Some(AttributeValue::FileIndex(file)) => file,
                        Some(value) => value.udata_value().unwrap_or(0),
                        None => 0,
                    })
                };
                let address = |name| match entry.attr_value(name)? {
                    Some(AttributeValue::Addr(address)) => Ok(usize::try_from(address).ok()),
                    _ => Ok(None),
                };
                let function = match entry.attr_value(DW_AT_abstract_origin)? {
                    Some(AttributeValue::UnitRef(origin)) => function_at(origin.0),
                    _ => function_at(entry.offset().0),
                };
                if let Some(AttributeValue::String(name)) = entry.attr_value(DW_AT_name)? {
                    self.functions[function].name = without_types(&name.to_string_lossy()).to_owned();
                }
                let call = match open.iter().flatten().next_back() {
                    Some(&outer) if entry.tag() == DW_TAG_inlined_subroutine => {
                        let spot = (number(DW_AT_call_file)?, number(DW_AT_call_line)?, number(DW_AT_call_column)?);
                        Some((spot, outer))
                    }
                    _ => None,
                };
                let mut scope = None;
                if let (Some(low), Some(high)) = (address(DW_AT_low_pc)?, address(DW_AT_high_pc)?)
                    && (call.is_some() || entry.tag() == DW_TAG_subprogram)
                {
                    let new = self.scopes.len();
                    scope = Some(new);
                    self.scopes.push(Scope { low, high, function, call, inner: Vec::new() });
                    match call {
                        Some((spot, outer)) => {
                            self.functions[self.scopes[outer].function].saw(spot);
                            self.scopes[outer].inner.push(new);
                        }
                        None => self.outermost.push(new),
                    }
                }
                open.push(scope);
            }
        }
        self.outermost.sort_by_key(|&scope| self.scopes[scope].low);
        for at in 0..self.scopes.len() {
            let mut inner = std::mem::take(&mut self.scopes[at].inner);
            inner.sort_by_key(|&scope| self.scopes[scope].low);
            self.scopes[at].inner = inner;
        }
        Ok(())
    }

    /// Notes which lines belong to a function, from the instructions for which there is no doubt.
    fn learn(&mut self, lines: &[&str]) {
        for (spot, holding) in self.holding(lines) {
            // Each holds the next: there is one innermost.
            let nested =
                holding.windows(2).all(|pair| self.scopes[pair[1]].call.is_some_and(|(_, outer)| outer == pair[0]));
            if let Some(&innermost) = holding.last().filter(|_| nested) {
                let function = self.scopes[innermost].function;
                if self.functions[function].files.is_empty() || self.functions[function].files.contains_key(&spot.0) {
                    self.functions[function].saw(spot);
                }
            }
        }
    }

    /// Every `.loc` with the scopes whose range holds it, outer ones before inner ones.
    fn holding(&self, lines: &[&str]) -> Vec<(Spot, Vec<usize>)> {
        let mut found = Vec::new();
        for &outermost in &self.outermost {
            let Scope { low, high, .. } = self.scopes[outermost];
            for (at, line) in lines.iter().enumerate().take(high).skip(low) {
                if let Some(spot) = spot_of(line) {
                    found.push((spot, self.holding_line(outermost, at)));
                }
            }
        }
        found
    }

    fn holding_line(&self, outermost: usize, at: usize) -> Vec<usize> {
        let mut holding = vec![outermost];
        let mut next = 0;
        while let Some(&scope) = holding.get(next) {
            let inner = self.scopes[scope].inner.iter();
            let begun = inner.take_while(|inner| self.scopes[**inner].low <= at);
            holding.extend(begun.filter(|inner| at < self.scopes[**inner].high));
            next += 1;
        }
        holding
    }

    /// The scope that an instruction most likely belongs to.
    fn scope_at(&self, outermost: usize, at: usize, spot: Spot) -> usize {
        let holding = self.holding_line(outermost, at);
        let likely = |scope: &usize| {
            let Scope { low, high, function, .. } = self.scopes[*scope];
            (self.functions[function].distance(spot), high - low)
        };
        // Of equals the last, which is the innermost.
        holding.into_iter().rev().min_by_key(likely).unwrap_or(outermost)
    }

    fn write(&self, lines: &[&str], root: &Path) -> String {
        let mut out = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum::<usize>() * 2);
        let (mut names, mut offsets) = (Vec::new(), HashMap::new());
        let mut outermost = self.outermost.iter().copied().peekable();
        let (mut current, mut latest) = (None, HashMap::new());
        for (at, line) in lines.iter().enumerate() {
            if outermost.next_if(|&scope| self.scopes[scope].low <= at).is_some_and(|scope| {
                current = Some(scope);
                true
            }) {
                latest.clear();
            }
            current = current.filter(|&scope| at < self.scopes[scope].high);
            if debug_label(line).is_some() {
                continue;
            }
            if let Some(path) = line.strip_prefix("\t.file\t") {
                let _ = writeln!(out, "\t.file\t{}", shorter(path, root));
            } else if let (Some(spot), Some(outer)) = (spot_of(line), current) {
                let scope = self.scope_at(outer, at, spot);
                self.write_loc(&mut out, spot, scope, &mut latest, &mut |function| {
                    let name = &self.functions[function].name;
                    *offsets.entry(name.clone()).or_insert_with(|| {
                        let offset = names.len();
                        names.extend(name.bytes().chain([0]));
                        offset
                    })
                });
            } else if line.starts_with(".target ") {
                let _ = writeln!(out, "{}", line.trim_end_matches(", debug"));
            } else {
                let _ = writeln!(out, "{line}");
            }
        }
        if !names.is_empty() {
            let _ = write!(out, "\t.section\t.debug_str\n\t{{\n{NAMES}:\n");
            for bytes in names.chunks(32) {
                let bytes: Vec<String> = bytes.iter().map(u8::to_string).collect();
                let _ = writeln!(out, "\t.b8 {}", bytes.join(","));
            }
            out += "\t}\n";
        }
        out
    }

    /// Writes a `.loc`, before it one for each call that leads to it, where the last of that place was of another scope.
    fn write_loc(
        &self,
        out: &mut String,
        spot: Spot,
        scope: usize,
        latest: &mut HashMap<Spot, usize>,
        name: &mut impl FnMut(usize) -> usize,
    ) {
        let Scope { function, call, .. } = self.scopes[scope];
        if let Some((at, outer)) = call
            && latest.get(&at) != Some(&outer)
        {
            self.write_loc(out, at, outer, latest, name);
        }
        let (file, line, column) = spot;
        let _ = write!(out, "\t.loc\t{file} {line} {column}");
        if let Some(((file, line, column), _)) = call {
            let _ = write!(out, ", function_name {NAMES}+{}, inlined_at {file} {line} {column}", name(function));
        }
        out.push('\n');
        latest.insert(spot, scope);
    }
}

/// `load<f32, 4>` as `load`.
fn without_types(name: &str) -> &str {
    match name.find('<') {
        Some(at) if at > 0 => &name[..at],
        _ => name,
    }
}

/// `1 "/home/a/project/src/lib.rs"` as `1 "src/lib.rs"`.
fn shorter(file: &str, root: &Path) -> String {
    const LIBRARY: &str = "/rust/library/";
    let Some((number, path)) = file.split_once(" \"") else { return file.to_owned() };
    if let Some(at) = path.find(LIBRARY) {
        return format!("{number} \"{}", &path[at + LIBRARY.len()..]);
    }
    let root = format!("{}/", root.display());
    format!("{number} \"{}", path.strip_prefix(&root).unwrap_or(path))
}

/// The bytes of a section that is written as `.b8`, `.b32` and so on.
fn section(debug: &str, name: &str, labels: &HashMap<&str, u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let is_it = |line: &&str| line.trim().strip_prefix(".section\t").is_some_and(|rest| rest.trim_end() == name);
    let lines = debug.lines().skip_while(|line| !is_it(line)).skip(1).take_while(|line| line.trim() != "}");
    for line in lines {
        let Some((bits, values)) = line.trim().strip_prefix(".b").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let width = bits.parse::<usize>().unwrap_or(8) / 8;
        for value in values.split(',') {
            // The start of another section is 0.
            let value = value.parse().ok().or_else(|| labels.get(value).copied()).unwrap_or(0);
            bytes.extend_from_slice(&value.to_le_bytes()[..width.min(8)]);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As LLVM writes it: `square` of `lib.rs` inlined at line 9 of `k`, whose own instructions lie on both sides.
    const WITH: &str = concat!(
        ".version 8.0\n.target sm_80, debug\n.address_size 64\n\n",
        ".visible .entry k(\n\t.param .u64 k_param_0\n)\n{\n\t.reg .b32 \t%r<4>;\n\t.loc\t1 7 0\n$L__func_begin0:\n\t.loc\t1 7 0\n\n",
        "\t.loc\t1 8 5\n\tmov.b32 %r1, 1;\n$L__tmp0:\n\t.loc\t2 3 7\n\tmul.lo.s32 %r2, %r1, %r1;\n$L__tmp1:\n",
        "\t.loc\t1 10 5\n\tadd.s32 %r3, %r2, 1;\n\tret;\n$L__tmp2:\n$L__func_end0:\n\n}\n",
        "\t.file\t1 \"/home/a/project/src/lib.rs\"\n\t.file\t2 \"/usr/lib/rustlib/src/rust/library/core/src/num/mod.rs\"\n",
        "\t.section\t.debug_abbrev\n\t{\n",
        ".b8 1\n.b8 17\n.b8 1\n.b8 0\n.b8 0\n",
        ".b8 2\n.b8 46\n.b8 0\n.b8 3\n.b8 8\n.b8 0\n.b8 0\n",
        ".b8 3\n.b8 46\n.b8 1\n.b8 17\n.b8 1\n.b8 18\n.b8 1\n.b8 3\n.b8 8\n.b8 0\n.b8 0\n",
        ".b8 4\n.b8 29\n.b8 0\n.b8 49\n.b8 19\n.b8 17\n.b8 1\n.b8 18\n.b8 1\n.b8 88\n.b8 11\n.b8 89\n.b8 11\n.b8 87\n.b8 11\n.b8 0\n.b8 0\n",
        ".b8 0\n\t}\n",
        "\t.section\t.debug_info\n\t{\n.b32 59\n.b8 2\n.b8 0\n.b32 .debug_abbrev\n.b8 8\n",
        ".b8 1\n",
        ".b8 2\n.b8 115\n.b8 113\n.b8 60\n.b8 62\n.b8 0\n",
        ".b8 3\n.b64 $L__func_begin0\n.b64 $L__func_end0\n.b8 107\n.b8 0\n",
        ".b8 4\n.b32 12\n.b64 $L__tmp0\n.b64 $L__tmp2\n.b8 1\n.b8 9\n.b8 13\n",
        ".b8 0\n.b8 0\n\t}\n$L__sec_end0:\n\t.section\t.debug_macinfo\t{\t}\n",
    );

    #[test]
    fn callers_move_into_the_lines_and_dwarf_goes() {
        let with = with_callers(WITH, Path::new("/home/a/project")).unwrap();
        // The range of `sq` ends behind the addition, whose file says that it is not of `sq`.
        let expected = [
            ".target sm_80\n",
            "\t.loc\t1 8 5\n\tmov.b32 %r1, 1;\n",
            "\t.loc\t1 9 13\n\t.loc\t2 3 7, function_name $L__names+0, inlined_at 1 9 13\n\tmul.lo.s32 %r2, %r1, %r1;\n",
            "\t.loc\t1 10 5\n\tadd.s32 %r3, %r2, 1;\n",
            "\t.file\t1 \"src/lib.rs\"\n\t.file\t2 \"core/src/num/mod.rs\"\n",
            "\t.section\t.debug_str\n\t{\n$L__names:\n\t.b8 115,113,0\n\t}\n",
        ];
        for part in expected {
            assert!(with.contains(part), "{part:?} is missing:\n{with}");
        }
        for gone in ["$L__tmp", "$L__func", "$L__sec", "debug_info", "debug_abbrev", "macinfo", ", debug"] {
            assert!(!with.contains(gone), "{gone} is there:\n{with}");
        }
    }

    #[test]
    fn instructions_are_the_same_with_and_without() {
        let with = with_callers(WITH, Path::new("/")).unwrap();
        let (without, lines) = lines_apart(&with);
        assert!(
            lines.contains("0\t\t.loc\t2 3 7, function_name $L__names+0, inlined_at 1 9 13\n1\t\t.loc\t1 10 5\n"),
            "{lines}"
        );
        for line in [".loc", ".file", ".section", "$L__names", ".b8"] {
            assert!(!without.contains(line), "{line} is there:\n{without}");
        }
        let instructions = |text: &str| -> Vec<String> {
            let body = text[text.find('{').unwrap()..text.find('}').unwrap()].lines();
            let body = body.filter(|line| !line.trim_start().starts_with(".loc") && !line.starts_with("$L__"));
            body.filter(|line| !line.is_empty()).map(str::to_owned).collect()
        };
        assert_eq!(instructions(&without), instructions(WITH));
        assert_eq!(with_callers(&without, Path::new("/")).unwrap(), without, "text without lines stays as it is");
    }

    #[test]
    fn damaged_dwarf_is_an_error_not_a_panic() {
        let damaged = WITH.replace(".b8 4\n.b8 29", ".b8 9\n.b8 29");
        assert!(with_callers(&damaged, Path::new("/")).unwrap_err().contains("debug information"));
        for end in 0..WITH.len() {
            let _ = with_callers(&WITH[..end], Path::new("/"));
        }
    }
}
