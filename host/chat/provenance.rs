//! Which characters of a rendered prompt the template wrote itself.
//!
//! Control tokens are looked for in the template's own words only (see `tokenizer`). A rendering is one flat string,
//! though, and templates trim, split, compare and join what users said, so the engine has to be asked where each
//! character came from without disturbing what it computes.
//!
//! # Method
//!
//! The template is rendered twice. The first rendering is the prompt. For the second, characters in the template's
//! own words that could be part of a control token are exchanged for private-use characters, their *twins*, that
//! occur nowhere else. Message contents are not touched, so they can be inspected freely. Then:
//!
//! - If the second rendering, with every twin turned back, equals the first, each twin shows a character that the
//!   template wrote. Everything else counts as a user's.
//! - If not, some marked word was compared rather than written (`content.split('<|x|>')`). Then places are marked
//!   one after another, and a place whose mark changes the prompt stays unmarked. Words that stay unmarked lose
//!   their control tokens; that is visible and does no harm.
//!
//! So an error can only be on the side of text: what a user wrote has no twins, whatever the template does to it.
//!
//! Some templates put a token together around a role (`'<|' + message['role'] + '|>'`). A stretch between two twins
//! that is exactly the role of a message therefore counts as the template's.

use std::collections::{BTreeSet, HashMap};

use super::source::Segment;
use crate::tokenizer::Piece;

/// Where in the template's own words parts of control tokens stand.
#[derive(Debug)]
pub(super) struct Marks {
    /// Index of a segment, and the byte ranges in its text to be exchanged.
    places: Vec<(usize, Vec<std::ops::Range<usize>>)>,
    /// The characters of all control tokens.
    alphabet: Vec<char>,
}

/// Twins for one rendering.
#[derive(Debug)]
pub(super) struct Twins {
    twin_of: HashMap<char, char>,
    original_of: HashMap<char, char>,
}

/// A choice of places to mark. Besides the segments there are the values of `bos_token` and `eos_token`.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    places: Vec<bool>,
    pub ends: bool,
}

impl Marks {
    /// Finds the marks for a template in pieces and the texts of the control tokens.
    pub(super) fn find(segments: &[Segment], control_texts: &[String]) -> Marks {
        let places = segments
            .iter()
            .enumerate()
            .filter_map(|(index, segment)| Some((index, ranges(segment.text()?, control_texts))))
            .filter(|(_, ranges)| !ranges.is_empty())
            .collect();
        let alphabet: BTreeSet<char> = control_texts.iter().flat_map(|text| text.chars()).collect();
        Marks { places, alphabet: alphabet.into_iter().collect() }
    }

    /// Twins that occur in none of `texts`; `None` when those texts leave no room in the private-use planes.
    pub(super) fn twins<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Option<Twins> {
        const PRIVATE_USE: std::ops::Range<u32> = 0xf_0000..0x10_f000;
        let used: BTreeSet<u32> = texts
            .into_iter()
            .flat_map(str::chars)
            .map(u32::from)
            .filter(|character| PRIVATE_USE.contains(character))
            .collect();
        let length = self.alphabet.len() as u32;
        let fits =
            |&start: &u32| start + length <= PRIVATE_USE.end && used.range(start..start + length).next().is_none();
        // After a character that is used, or at the start of the range.
        let start = std::iter::once(PRIVATE_USE.start).chain(used.iter().map(|character| character + 1)).find(fits)?;
        let twins: Option<Vec<char>> = (start..start + length).map(char::from_u32).collect();
        let twins = twins?;
        Some(Twins {
            twin_of: self.alphabet.iter().copied().zip(twins.iter().copied()).collect(),
            original_of: twins.into_iter().zip(self.alphabet.iter().copied()).collect(),
        })
    }

    /// Selections to try in turn: all places first, see [`Marks::narrowed`] for what follows.
    pub(super) fn all(&self) -> Selection {
        Selection { places: vec![true; self.places.len()], ends: true }
    }

    /// The largest selection found by adding one place after another for which `unchanged` holds.
    pub(super) fn narrowed(&self, mut unchanged: impl FnMut(&Selection) -> bool) -> Selection {
        let mut selection = Selection { places: vec![false; self.places.len()], ends: true };
        selection.ends = unchanged(&selection);
        for index in 0..self.places.len() {
            selection.places[index] = true;
            if !unchanged(&selection) {
                selection.places[index] = false;
            }
        }
        selection
    }

    /// The template's source with the selected places marked.
    pub(super) fn marked_source(&self, segments: &[Segment], selection: &Selection, twins: &Twins) -> String {
        let mut source = String::new();
        let mut places = self.places.iter().zip(&selection.places).peekable();
        for (index, segment) in segments.iter().enumerate() {
            let place = places.next_if(|((at, _), _)| *at == index);
            match (place, segment.text()) {
                (Some(((_, ranges), true)), Some(text)) => {
                    source.push_str(&segment.source_with_text(&twins.mark_ranges(text, ranges)));
                }
                _ => source.push_str(segment.source()),
            }
        }
        source
    }
}

impl Twins {
    /// `text` with every character of the alphabet exchanged.
    pub(super) fn mark(&self, text: &str) -> String {
        text.chars().map(|character| *self.twin_of.get(&character).unwrap_or(&character)).collect()
    }

    fn mark_ranges(&self, text: &str, ranges: &[std::ops::Range<usize>]) -> String {
        let mut marked = String::with_capacity(text.len());
        let mut position = 0;
        for range in ranges {
            marked.push_str(&text[position..range.start]);
            marked.push_str(&self.mark(&text[range.clone()]));
            position = range.end;
        }
        marked.push_str(&text[position..]);
        marked
    }

    /// `marked` with every twin turned back.
    pub(super) fn unmark(&self, marked: &str) -> String {
        marked.chars().map(|character| *self.original_of.get(&character).unwrap_or(&character)).collect()
    }

    /// The rendering `marked` in pieces: twins, and `roles` between two twins, are the template's.
    pub(super) fn pieces(&self, marked: &str, roles: &[&str]) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        for character in marked.chars() {
            let original = self.original_of.get(&character);
            let is_template = original.is_some();
            let character = *original.unwrap_or(&character);
            match pieces.last_mut() {
                Some(last) if last.is_template == is_template => last.text.push(character),
                _ => pieces.push(Piece { text: character.to_string(), is_template }),
            }
        }
        for index in 1..pieces.len().saturating_sub(1) {
            // Pieces alternate, so both neighbours of a piece that is not the template's are.
            if !pieces[index].is_template && roles.contains(&pieces[index].text.as_str()) {
                pieces[index].is_template = true;
            }
        }
        pieces
    }
}

/// The parts of `text` that are a control token, begin one at the end, or end one at the start; sorted, disjoint.
fn ranges(text: &str, control_texts: &[String]) -> Vec<std::ops::Range<usize>> {
    let mut marked = vec![false; text.len()];
    for control in control_texts.iter().filter(|control| !control.is_empty()) {
        let mut from = 0;
        while let Some(at) = text[from..].find(control.as_str()) {
            let at = from + at;
            marked[at..at + control.len()].fill(true);
            // Occurrences may overlap, so the search goes on one character later.
            from = at + text[at..].chars().next().map_or(1, char::len_utf8);
        }
        for (cut, _) in control.char_indices().skip(1) {
            if text.ends_with(&control[..cut]) {
                marked[text.len() - cut..].fill(true);
            }
            if text.starts_with(&control[cut..]) {
                marked[..control.len() - cut].fill(true);
            }
        }
    }
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
    for (at, _) in marked.iter().enumerate().filter(|&(_, &marked)| marked) {
        match ranges.last_mut() {
            Some(last) if last.end == at => last.end = at + 1,
            _ => ranges.push(at..at + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn whole_tokens_and_their_ends_are_marked() {
        let control = control(&["<|a|>", "[é]"]);
        let marked = |text: &str| -> Vec<(usize, usize)> {
            let ranges = ranges(text, &control).into_iter();
            ranges.map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(marked("x<|a|>y"), [(1, 6)]);
        assert_eq!(marked("x<|"), [(1, 3)]);
        assert_eq!(marked("|>x[é"), [(0, 2), (3, 6)]);
        assert_eq!(marked("é] <"), [(0, 3), (4, 5)]);
        assert_eq!(marked("a | b"), []);
    }

    #[test]
    fn twins_avoid_characters_in_use() {
        let marks = Marks::find(&[], &control(&["<|a|>"]));
        let twins = marks.twins(["\u{f0001}x"]).unwrap();
        let marked = twins.mark("<|a|>");
        assert!(marked.chars().all(|twin| twin > '\u{f0001}'), "{marked:?}");
        assert_eq!(twins.unmark(&marked), "<|a|>");
    }

    #[test]
    fn no_room_for_twins_is_noticed() {
        let marks = Marks::find(&[], &control(&["<|a|>"]));
        let full: String = (0xf_0000..0x10_f000).step_by(3).filter_map(char::from_u32).collect();
        assert!(marks.twins([full.as_str()]).is_none());
    }

    #[test]
    fn a_role_between_twins_is_the_templates_and_nothing_else_is() {
        let marks = Marks::find(&[], &control(&["<|user|>"]));
        let twins = marks.twins([]).unwrap();
        let rendered = format!("{}user{}user", twins.mark("<|"), twins.mark("|>"));
        let piece = |text: &str, is_template| Piece { text: text.to_owned(), is_template };
        let expected = [piece("<|", true), piece("user", true), piece("|>", true), piece("user", false)];
        assert_eq!(twins.pieces(&rendered, &["user"]), expected);
        assert!(!twins.pieces(&rendered, &["system"])[1].is_template);
    }
}
