//! `chat` on a terminal: a pseudo-terminal takes the place of screen and keyboard.

use rexpect::{
    reader::Options,
    session::{PtySession, spawn_with_options},
};
use serde_json::Value;

use crate::run::{Folder, HAIKU, json, program};

const UP: &str = "\x1b[A";

/// A chat that a person sits before.
struct Chat(PtySession);

impl Chat {
    /// Starts one and waits for its first prompt.
    fn start(arguments: &[&str]) -> Chat {
        let mut command = program(&[&["chat", "--temp", "0"], arguments].concat());
        command.env("TERM", "xterm-256color").env("NO_COLOR", "1");
        let options = Options::new().timeout_ms(Some(120_000)).strip_ansi_escape_codes(true);
        let mut chat = Chat(spawn_with_options(command, options).expect("the program runs"));
        let greeting = chat.until("> ");
        assert!(greeting.contains("/help lists the commands"), "{greeting}");
        chat
    }

    /// What the screen shows up to `text`, which it must show. Every byte is a character here.
    fn until(&mut self, text: &str) -> String {
        let bytes: String = text.bytes().map(char::from).collect();
        self.0.exp_string(&bytes).unwrap_or_else(|error| panic!("waiting for {text:?}: {error}"))
    }

    /// Presses keys, and Enter.
    fn enter(&mut self, keys: &str) {
        self.0.send_line(keys).unwrap();
    }

    /// Presses keys that show nothing yet, or a control key.
    fn press(&mut self, keys: &str) {
        self.0.send(keys).unwrap();
        self.0.flush().unwrap();
    }

    /// The conversation as `/save` writes it: roles and contents.
    fn saved(&mut self, folder: &Folder, name: &str) -> Vec<(String, String)> {
        let path = folder.path(name);
        self.enter(&format!("/save {path}"));
        self.until("messages in");
        self.until("> ");
        let messages: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let part = |message: &Value, key: &str| message[key].as_str().unwrap().to_owned();
        messages.iter().map(|message| (part(message, "role"), part(message, "content"))).collect()
    }

    /// Ctrl-D, after which the program ends well.
    fn end(mut self) {
        self.0.send_control('d').unwrap();
        self.0.exp_eof().unwrap();
        let status = format!("{:?}", self.0.process().wait().unwrap());
        assert!(status.starts_with("Exited") && status.ends_with(", 0)"), "{status}");
    }
}

fn said(role: &str, content: &str) -> (String, String) {
    (role.to_owned(), content.to_owned())
}

/// The answer to a first question.
fn answer(question: &str, arguments: &[&str]) -> String {
    let alone = json(&[&["generate", "--temp", "0", "-p", question], arguments].concat());
    alone["text"].as_str().unwrap().to_owned()
}

/// Waits for every line of an answer.
fn expect_lines(chat: &mut Chat, answer: &str) {
    for line in answer.lines() {
        chat.until(line);
    }
}

#[test]
fn a_person_asks_again_from_the_history_says_several_lines_and_starts_anew() {
    let folder = Folder::new();
    let history = folder.path("history");
    let limit = ["-n", "9"];
    let expected = answer(HAIKU, &limit);
    let arguments = [&limit[..], &["--history", &history]].concat();

    let mut chat = Chat::start(&arguments);
    chat.enter(HAIKU);
    expect_lines(&mut chat, &expected);
    chat.until("> ");
    assert_eq!(chat.saved(&folder, "first.json"), [said("user", HAIKU), said("assistant", &expected)]);

    chat.enter("/reset");
    chat.until("> ");
    // Two lines up: the save, the reset, then the question.
    chat.press(&UP.repeat(3));
    chat.until(HAIKU);
    chat.enter("");
    expect_lines(&mut chat, &expected);
    chat.until("> ");
    assert_eq!(chat.saved(&folder, "again.json"), [said("user", HAIKU), said("assistant", &expected)]);

    chat.enter("/system Write about rain.");
    chat.until("> ");
    chat.enter("A haiku \\");
    chat.until("… ");
    chat.enter("of three lines");
    chat.until("> ");
    let messages = chat.saved(&folder, "system.json");
    assert_eq!(messages[..2], [said("system", "Write about rain."), said("user", "A haiku \nof three lines")]);
    assert_eq!(messages[2].0, "assistant");

    chat.enter("/nonsense");
    chat.until("none of the commands that /help lists");
    chat.until("> ");
    chat.end();

    // The next chat knows the lines of this one.
    let mut chat = Chat::start(&arguments);
    chat.press(&UP.repeat(3));
    chat.until("A haiku");
    chat.enter("");
    chat.until("> ");
    assert_eq!(chat.saved(&folder, "next.json")[0], said("user", "A haiku \nof three lines"));
    chat.end();
}

#[test]
fn a_dumb_terminal_gets_no_colours() {
    for (term, no_colour, coloured) in
        [("xterm-256color", "", true), ("dumb", "", false), ("xterm-256color", "1", false), ("dumb", "1", false)]
    {
        for (arguments, word) in [(&["generate", "--nonsense"][..], "error"), (&["--help"], "Usage")] {
            let mut command = program(arguments);
            command.env("TERM", term).env("NO_COLOR", no_colour);
            let options = Options::new().timeout_ms(Some(60_000));
            let mut session = spawn_with_options(command, options).expect("the program runs");
            let shown = session.exp_eof().unwrap();
            assert!(shown.contains(word), "{shown}");
            assert_eq!(shown.contains('\x1b'), coloured, "TERM={term} NO_COLOR={no_colour}: {shown:?}");
        }
    }
}

#[test]
fn ctrl_c_stops_an_answer_and_keeps_the_session() {
    let folder = Folder::new();
    // An answer without an end.
    let mut chat = Chat::start(&["--ignore-eos", "--context-shift"]);
    let beginning = answer(HAIKU, &["-n", "6"]);
    for name in ["once.json", "twice.json"] {
        chat.enter(HAIKU);
        expect_lines(&mut chat, &beginning);
        chat.0.send_control('c').unwrap();
        chat.until("stopped");
        chat.until("> ");
        let messages = chat.saved(&folder, name);
        assert_eq!(messages[0], said("user", HAIKU));
        // What was said stays said.
        assert!(messages[1].0 == "assistant" && messages[1].1.starts_with(&beginning), "{messages:?}");
        assert_eq!(messages.len(), 2);
        chat.enter("/reset");
        chat.until("> ");
    }
    // Where nothing runs, Ctrl-C drops the line.
    chat.press("never said");
    chat.until("never said");
    chat.0.send_control('c').unwrap();
    chat.until("Ctrl-D or /exit ends the chat");
    chat.until("> ");
    assert_eq!(chat.saved(&folder, "empty.json"), []);
    chat.end();
}
