//! Where the instructions of a module come from: the lines of the source that it was compiled from.
//!
//! A `.loc` gives the file, line and column of the instructions behind it, up to the next one. Where the compiler has inlined
//! one function into another, `function_name` names the inner one and `inlined_at` says where it was called; that place
//! has a `.loc` of its own further up, with its own `inlined_at` where that function too was inlined. So each place leads to
//! the one that called it, and the last lies in the function that the PTX defines.

use crate::SourceLine;
use std::collections::HashMap;

/// File, line and column.
type Spot = (u32, u32, u32);

#[derive(Debug)]
struct Place {
    /// The line of the PTX that it stands in; it holds for those behind.
    from: u32,
    spot: Spot,
    /// The label in `.debug_str`, and an offset, of the function's name; none: the function that the PTX defines.
    name: Option<(String, u64)>,
    /// Index of the place that calls this one's function.
    caller: Option<usize>,
    /// Index of the function that the PTX defines, in `functions`.
    function: usize,
}

/// The line table of a module.
#[derive(Debug, Default)]
pub(crate) struct LineTable {
    files: HashMap<u32, String>,
    /// In the order of the text.
    places: Vec<Place>,
    functions: Vec<String>,
    /// The bytes of `.debug_str`, and where its labels stand.
    strings: Vec<u8>,
    labels: HashMap<String, usize>,
    /// The last place with a spot, in the function that is being read.
    latest: HashMap<Spot, usize>,
}

impl LineTable {
    /// Reads a module's text; `functions` are the lines at which those that it defines begin, and their names.
    pub(crate) fn read(text: &str, functions: &[(u32, String)]) -> LineTable {
        let mut table = LineTable::default();
        let mut functions = functions.iter().peekable();
        let mut in_strings = false;
        for (line, number) in text.lines().zip(1..) {
            if let Some((from, name)) = functions.next_if(|(from, _)| *from <= number) {
                table.enter(*from, name);
            }
            let line = line.trim_start();
            if let Some(rest) = line.strip_prefix(".loc") {
                table.loc(number, rest);
            } else if let Some(rest) = line.strip_prefix(".file") {
                table.file(rest);
            } else if let Some(rest) = line.strip_prefix(".section") {
                in_strings = rest.trim_start().starts_with(".debug_str");
            } else if in_strings {
                in_strings = !line.starts_with('}');
                table.string(line);
            }
        }
        table
    }

    /// `1 20 5`, with `, function_name LABEL+offset, inlined_at 1 30 7` where that was inlined.
    fn loc(&mut self, from: u32, text: &str) {
        let mut words = text.split([' ', '\t', ',']).filter(|word| !word.is_empty());
        let spot = |words: &mut dyn Iterator<Item = &str>| -> Option<Spot> {
            let mut next = || words.next()?.parse().ok();
            Some((next()?, next()?, next()?))
        };
        let Some(at) = spot(&mut words) else { return };
        let (mut name, mut inlined_at) = (None, None);
        while let Some(word) = words.next() {
            match word {
                "function_name" => {
                    name = words.next().map(|label| match label.split_once('+') {
                        Some((label, offset)) => (label.to_owned(), offset.parse().unwrap_or(0)),
                        None => (label.to_owned(), 0),
                    });
                }
                "inlined_at" => inlined_at = spot(&mut words),
                _ => {}
            }
        }
        self.place(from, at, name, inlined_at);
    }

    /// `1 "kernels/rmsnorm.rs"`; a time and a size may follow.
    fn file(&mut self, text: &str) {
        let mut parts = text.split('"');
        if let (Some(Ok(index)), Some(path)) = (parts.next().map(|index| index.trim().parse()), parts.next()) {
            self.files.insert(index, path.to_owned());
        }
    }

    /// A line of `.debug_str`: a label, bytes, or both.
    fn string(&mut self, line: &str) {
        let mut rest = line;
        if let Some((label, behind)) = line.split_once(':') {
            self.labels.insert(label.trim().to_owned(), self.strings.len());
            rest = behind;
        }
        if let Some(bytes) = rest.trim_start().strip_prefix(".b8") {
            self.strings.extend(bytes.split(',').filter_map(|byte| byte.trim().parse::<u8>().ok()));
        }
    }

    fn enter(&mut self, from: u32, name: &str) {
        self.latest.clear();
        self.functions.push(name.to_owned());
        self.push(from, (0, 0, 0), None, None);
    }

    fn push(&mut self, from: u32, spot: Spot, name: Option<(String, u64)>, caller: Option<usize>) {
        let Some(function) = self.functions.len().checked_sub(1) else { return };
        self.latest.insert(spot, self.places.len());
        self.places.push(Place { from, spot, name, caller, function });
    }

    fn place(&mut self, from: u32, spot: Spot, name: Option<(String, u64)>, inlined_at: Option<Spot>) {
        let caller = inlined_at.and_then(|at| {
            if !self.latest.contains_key(&at) {
                self.push(from, at, None, None);
            }
            self.latest.get(&at).copied()
        });
        self.push(from, spot, name, caller);
    }

    /// Where a line of the PTX comes from, the innermost function first; empty where the compiler does not say.
    pub(crate) fn source_of(&self, line: u32) -> Vec<SourceLine> {
        let at = self.places.partition_point(|place| place.from <= line).checked_sub(1);
        std::iter::successors(at, |&at| self.places[at].caller)
            .map(|at| &self.places[at])
            // Line 0 is of code that the compiler made up, or of several lines at once.
            .filter(|place| place.spot.1 != 0)
            .map(|place| SourceLine {
                file: self.files.get(&place.spot.0).cloned().unwrap_or_else(|| format!("file {}", place.spot.0)),
                line: place.spot.1,
                column: place.spot.2,
                function: self.name_of(place),
            })
            .collect()
    }

    fn name_of(&self, place: &Place) -> String {
        let named = place.name.as_ref().and_then(|(label, offset)| {
            let start = self.labels.get(label)?.checked_add(usize::try_from(*offset).ok()?)?;
            let bytes = self.strings.get(start..)?.split(|byte| *byte == 0).next()?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        });
        named.unwrap_or_else(|| self.functions[place.function].clone())
    }
}
