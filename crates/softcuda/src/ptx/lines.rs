//! Where the instructions of a module come from: the lines of the source that it was compiled from.
//!
//! A `.loc` gives the file, line and column of the instructions behind it, up to the next one. Where the compiler has inlined
//! one function into another, `function_name` names the inner one and `inlined_at` says where it was called; that place
//! has a `.loc` of its own further up, with its own `inlined_at` where that function too was inlined. So each place leads to
//! the one that called it, and the last lies in the function that the PTX defines.

use crate::SourceLine;
use std::collections::HashMap;

/// A place of a `.loc`: file, line and column.
pub(crate) type Spot = (u32, u32, u32);

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
    /// `.file`.
    pub(crate) fn file(&mut self, index: u32, path: String) {
        self.files.insert(index, path);
    }

    /// A function begins at a line of the PTX.
    pub(crate) fn enter(&mut self, from: u32, name: &str) {
        self.latest.clear();
        self.functions.push(name.to_owned());
        self.push(from, (0, 0, 0), None, None);
    }

    fn push(&mut self, from: u32, spot: Spot, name: Option<(String, u64)>, caller: Option<usize>) {
        let Some(function) = self.functions.len().checked_sub(1) else { return };
        self.latest.insert(spot, self.places.len());
        self.places.push(Place { from, spot, name, caller, function });
    }

    /// `.loc`; outside a function it says nothing.
    pub(crate) fn place(&mut self, from: u32, spot: Spot, name: Option<(String, u64)>, inlined_at: Option<Spot>) {
        let caller = inlined_at.and_then(|at| {
            if !self.latest.contains_key(&at) {
                self.push(from, at, None, None);
            }
            self.latest.get(&at).copied()
        });
        self.push(from, spot, name, caller);
    }

    /// A label of `.debug_str`: it stands before the next byte.
    pub(crate) fn label(&mut self, name: String) {
        self.labels.insert(name, self.strings.len());
    }

    /// A byte of `.debug_str`.
    pub(crate) fn byte(&mut self, value: u8) {
        self.strings.push(value);
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
