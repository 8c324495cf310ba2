//! JSON that comes in pieces: where an object ends, and how a call's object begins.

/// Looks for an object's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Object {
    /// Within an object that was begun before.
    pub fn begun() -> Object {
        Object { depth: 1, ..Object::default() }
    }

    /// Takes the next text, and says behind which byte of it the object ends.
    pub fn push(&mut self, text: &str) -> Option<usize> {
        for (at, byte) in text.bytes().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// What a text begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// A call, whose arguments begin at this byte.
    Call {
        /// The tool's name.
        name: String,
        /// Where.
        at: usize,
    },
    /// Perhaps a call: more of it must come.
    Open {
        /// Where the key ended that the tool's name belongs to.
        key: Option<usize>,
    },
    /// No call.
    Other,
}

/// The longest name, and the longest value before it, in bytes.
const MAX_TEXT: usize = 256;

/// How an object begins that has a tool's name, and arguments behind it; `type` and `id`, which are texts, may stand before.
pub fn head(text: &str) -> Head {
    let mut reader = Reader { text, at: 0, key: None };
    match reader.head() {
        Ok((name, at)) => Head::Call { name, at },
        Err(Miss::Short) => Head::Open { key: reader.key },
        Err(Miss::Other) => Head::Other,
    }
}

/// Why there is nothing.
enum Miss {
    /// The text ends before it.
    Short,
    /// Something else is there.
    Other,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    key: Option<usize>,
}

impl Reader<'_> {
    /// The next character behind blanks.
    fn peek(&mut self) -> Result<u8, Miss> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| b" \n\r\t".contains(byte)).count();
        self.text.as_bytes().get(self.at).copied().ok_or(Miss::Short)
    }

    fn take(&mut self, wanted: u8) -> Result<(), Miss> {
        if self.peek()? != wanted {
            return Err(Miss::Other);
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<String, Miss> {
        self.take(b'"')?;
        let inside = &self.text[self.at..];
        let mut is_escaped = false;
        for (at, byte) in inside.bytes().enumerate() {
            match byte {
                _ if at > MAX_TEXT => return Err(Miss::Other),
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => {
                    let quoted = &self.text[self.at - 1..self.at + at + 1];
                    self.at += at + 1;
                    return serde_json::from_str(quoted).map_err(|_| Miss::Other);
                }
                _ => {}
            }
        }
        Err(Miss::Short)
    }

    fn head(&mut self) -> Result<(String, usize), Miss> {
        self.take(b'{')?;
        let mut name = None;
        loop {
            let key = self.string()?;
            if key == "name" {
                self.key = Some(self.at);
            }
            self.take(b':')?;
            match (key.as_str(), &name) {
                ("name", None) => name = Some(self.string()?),
                ("type" | "id", _) => drop(self.string()?),
                ("arguments" | "parameters", Some(name)) => {
                    let name = name.clone();
                    return if self.peek()? == b'{' { Ok((name, self.at)) } else { Err(Miss::Other) };
                }
                _ => return Err(Miss::Other),
            }
            self.take(b',')?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_by_how_it_begins() {
        let call = |name: &str, at| Head::Call { name: name.to_owned(), at };
        for (text, wanted) in [
            (r#"{"name": "f", "arguments": {"x": 1}}"#, call("f", 27)),
            ("\n{ \"name\" :\"f\\u006f\",\r\"parameters\":\t{", call("fo", 36)),
            (r#"{"type": "function", "name": "f", "id": "1", "arguments":{"#, call("f", 57)),
            ("", Head::Open { key: None }),
            (r#" {"na"#, Head::Open { key: None }),
            (r#"{"type": "function", "name""#, Head::Open { key: Some(27) }),
            (r#"{"name": "f", "arguments": "#, Head::Open { key: Some(7) }),
            // Neither its arguments nor anything else may come before the name.
            (r#"{"arguments": {}, "name": "f"}"#, Head::Other),
            (r#"{"name": "f", "arguments": [1]}"#, Head::Other),
            (r#"{"name": "f"}"#, Head::Other),
            (r#"{"name": 3"#, Head::Other),
            (r#"{"name": "\q","#, Head::Other),
            (r#"{"a"#, Head::Open { key: None }),
            (r#"{"a": "#, Head::Other),
            ("[", Head::Other),
            (&format!("{{\"name\": \"{}", "f".repeat(300)), Head::Other),
        ] {
            assert_eq!(head(text), wanted, "{text}");
        }
    }

    #[test]
    fn an_object_ends_where_its_last_brace_is() {
        for (text, rest) in [(r#"{}"#, "}"), (r#"{"a": [{"b": "}\"]\\"}], "é": 1}"#, ", {"), (r#"{"a": "\\\""}"#, "\"")]
        {
            let whole = format!("{text}{rest}");
            assert_eq!(Object::default().push(&whole), Some(text.len()), "{whole}");
            let mut object = Object::default();
            let ends = whole.char_indices().map(|(at, c)| (object.push(&whole[at..at + c.len_utf8()]), at));
            assert_eq!(ends.filter(|(end, _)| end.is_some()).map(|(_, at)| at + 1).next(), Some(text.len()));
        }
        assert_eq!(Object::begun().push(r#", "id": "}"} rest"#), Some(12));
        assert_eq!(Object::default().push(r#"{"a": "}"#), None);
    }
}
