//! Stop strings: texts that end the generation and are not part of it.
//!
//! Text comes in pieces, and a piece may end within a stop string. What may still become one is held back: the longest end
//! of the text that some stop string begins with. The rest is given out at once. Text is followed character by character,
//! so the outcome does not depend on how it was cut into pieces. The first stop string to be complete ends the text; if
//! several are complete with the same character, the longest.

/// Watches a text for stop strings.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    found: Option<String>,
}

impl StopStrings {
    /// A watch for these strings; empty ones are ignored.
    pub fn new(stops: &[String]) -> StopStrings {
        StopStrings {
            stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(),
            held: String::new(),
            found: None,
        }
    }

    /// Takes the next piece of text and gives out what is certain not to belong to a stop string. After one was found,
    /// nothing comes out any more.
    pub fn push(&mut self, text: &str) -> String {
        let mut certain = String::new();
        for character in text.chars() {
            if self.found.is_some() {
                break;
            }
            self.held.push(character);
            let complete =
                self.stops.iter().filter(|stop| self.held.ends_with(stop.as_str())).max_by_key(|stop| stop.len());
            if let Some(stop) = complete {
                certain.push_str(&self.held[..self.held.len() - stop.len()]);
                self.found = Some(stop.clone());
                self.held.clear();
            } else {
                let undecided = self.undecided();
                certain.extend(self.held.drain(..self.held.len() - undecided));
            }
        }
        certain
    }

    /// What was held back, now that no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.stops.is_empty()
    }

    /// The stop string that ended the text.
    pub fn found(&self) -> Option<&str> {
        self.found.as_deref()
    }

    /// Bytes at the end of the held text that a stop string may begin with.
    fn undecided(&self) -> usize {
        let starts = self.held.char_indices().map(|(start, _)| start);
        starts
            .map(|start| &self.held[start..])
            .find(|end| self.stops.iter().any(|stop| stop.starts_with(end)))
            .map_or(0, str::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[String], pieces: &[&str]) -> (String, Option<String>) {
        let mut watch = StopStrings::new(stops);
        let mut text: String = pieces.iter().map(|piece| watch.push(piece)).collect();
        text += &watch.finish();
        (text, watch.found().map(str::to_owned))
    }

    #[test]
    fn a_stop_string_ends_the_text_and_is_not_in_it() {
        let stops = ["END".to_owned(), "\nUser:".to_owned()];
        let cases: [(&[&str], &str, Option<&str>); 6] = [
            (&["one END two"], "one ", Some("END")),
            (&["one E", "N", "D two"], "one ", Some("END")),
            (&["one EN", " two"], "one EN two", None),
            (&["EEN", "D"], "E", Some("END")),
            (&["hello\nUs", "er: hi"], "hello", Some("\nUser:")),
            (&["hello\nUs"], "hello\nUs", None),
        ];
        for (pieces, text, stop) in cases {
            assert_eq!(run(&stops, pieces), (text.to_owned(), stop.map(str::to_owned)), "{pieces:?}");
        }
    }

    #[test]
    fn only_what_may_begin_a_stop_string_is_held_back() {
        let mut watch = StopStrings::new(&["abab!".to_owned()]);
        assert_eq!(watch.push("xab"), "x");
        assert_eq!(watch.push("abab"), "ab");
        assert_eq!(watch.push("c"), "ababc");
        assert_eq!(watch.push("abab!after"), "");
        assert_eq!(watch.finish(), "");
        assert_eq!(watch.found(), Some("abab!"));
    }

    proptest! {
        /// Few letters, so that stop strings occur, overlap and hide in each other; two of more than a byte.
        #[test]
        fn the_split_of_a_text_does_not_matter(
            text in "[abé☔]{0,40}",
            stops in proptest::collection::vec("[abé☔]{1,4}", 0..4),
            cuts in proptest::collection::vec(0usize..200, 0..12),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| text.is_char_boundary(*cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let (shown, found) = run(&stops, &pieces);
            prop_assert_eq!(&run(&stops, &[&text]), &(shown.clone(), found.clone()));
            // By definition: the end of the first occurrence to be complete, and the longest stop string there.
            let end = stops.iter().filter_map(|stop| Some(text.find(stop.as_str())? + stop.len())).min();
            match end {
                None => prop_assert_eq!((shown, found), (text, None)),
                Some(end) => {
                    let stop = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str())).max_by_key(|s| s.len()).unwrap();
                    prop_assert_eq!((shown.as_str(), found.as_deref()), (&text[..end - stop.len()], Some(stop.as_str())));
                }
            }
        }
    }
}
