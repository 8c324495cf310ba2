//! `ferrowarp chat`: a conversation.
//!
//! Each turn renders the whole conversation with the chat template; of its tokens, those that the cache holds from the turns
//! before are not computed again ([`Session::prompt`](crate::session::Session::prompt)).

mod conversation;
mod input;

use std::{io::IsTerminal, path::PathBuf};

use anyhow::Result;
use clap::Args;

use super::{
    Outcome,
    chat_template::TemplateArguments,
    generation::GenerationArguments,
    interrupt,
    model::EngineArguments,
    output::{note, print_error},
    speculation::SpeculationArguments,
    tokenizer::TokenizerArguments,
};
use conversation::Conversation;
use input::{Input, Line};

/// The arguments of `chat`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    ferrowarp chat -m model.gguf --system 'Answer in one sentence.' --context-shift\n  \
    printf 'My name is Ada.\\nWhat is my name?\\n' | ferrowarp chat -m model.gguf --temp 0\n\n\
    /help in the chat lists its commands. Ctrl-C stops an answer, Ctrl-D ends the chat.")]
pub struct Arguments {
    #[command(flatten)]
    engine: EngineArguments,
    /// Keep the lines typed in this file, for the next chat too.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    #[command(flatten)]
    template: TemplateArguments,
    #[command(flatten)]
    tokenizer: TokenizerArguments,
    #[command(flatten)]
    generation: GenerationArguments,
    #[command(flatten)]
    speculation: SpeculationArguments,
}

/// What `/help` prints.
const HELP: &str = "\
/system TEXT  tell the model something before the conversation, which starts anew; without TEXT, nothing
/reset        start anew
/save FILE    write the conversation to a file, as JSON
/exit         end the chat (also Ctrl-D)
A line that begins with another / is said like any other; // says one that begins like a command.
A line that ends in \\ goes on in the next one. Ctrl-C stops an answer and keeps what there is of it.";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Request<'a> {
    Say(&'a str),
    /// What begins like a command and is none.
    SayWithHint(&'a str),
    System(&'a str),
    Reset,
    Save(&'a str),
    Help,
    Exit,
    /// A command that lacks something, and how it is written.
    Incomplete(&'static str),
}

impl Request<'_> {
    fn of(text: &str) -> Request<'_> {
        let Some(command) = text.strip_prefix('/') else {
            return Request::Say(text);
        };
        if command.starts_with('/') {
            return Request::Say(command);
        }
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, rest.trim()) {
            ("system", text) => Request::System(text),
            ("reset", "") => Request::Reset,
            ("save", "") => Request::Incomplete("/save FILE"),
            ("save", file) => Request::Save(file),
            ("help", "") => Request::Help,
            ("exit" | "quit", "") => Request::Exit,
            _ => Request::SayWithHint(text),
        }
    }
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        interrupt::install()?;
        self.generation.limits(0)?; // What is wrong with these needs no model to be said.
        let interactive = std::io::stdin().is_terminal();
        let mut input = Input::new(interactive, self.history.as_deref())?;
        let gguf = self.engine.model.open_to_run()?;
        let mut conversation = Conversation::new(
            &gguf,
            &self.engine,
            &self.tokenizer,
            &self.template,
            self.generation,
            &self.speculation,
        )?;
        if interactive {
            note(&format!("{}; /help lists the commands", gguf.name()));
        }
        loop {
            let text = match input.read()? {
                Line::Text(text) => text,
                Line::Interrupted => {
                    note("(Ctrl-D or /exit ends the chat)");
                    continue;
                }
                Line::End => break,
            };
            if text.trim().is_empty() {
                continue;
            }
            let done = match Request::of(&text) {
                Request::Say(text) => conversation.say(text),
                Request::System(text) => {
                    conversation.set_system(text);
                    Ok(())
                }
                Request::Reset => {
                    conversation.reset();
                    Ok(())
                }
                Request::Save(file) => conversation.save(file.as_ref()),
                Request::Help => {
                    note(HELP);
                    Ok(())
                }
                Request::Exit => break,
                Request::Incomplete(usage) => {
                    note(&format!("nothing done: expected {usage}"));
                    Ok(())
                }
                Request::SayWithHint(text) => {
                    let word = text.split_whitespace().next().unwrap_or_default();
                    note(&format!(
                        "said to the model: {word} is none of the commands that /help lists; a line that begins with // is said \
                         without this hint"
                    ));
                    conversation.say(text)
                }
            };
            match done {
                Ok(()) => {}
                // A person can say it differently; a script should not go on as if nothing had happened.
                Err(error) if interactive && !super::is_broken_pipe(&error) => {
                    print_error(&super::one_line(&error));
                }
                Err(error) => return Err(error),
            }
        }
        input.finish()?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_what_is_said() {
        let cases = [
            ("hello /exit", Request::Say("hello /exit")),
            (" /exit", Request::Say(" /exit")),
            ("/exit", Request::Exit),
            ("/quit ", Request::Exit),
            ("/system Be brief.", Request::System("Be brief.")),
            ("/system", Request::System("")),
            ("/save a b.json ", Request::Save("a b.json")),
            ("/save", Request::Incomplete("/save FILE")),
            ("/etc/passwd is a file", Request::SayWithHint("/etc/passwd is a file")),
            ("/exit the building", Request::SayWithHint("/exit the building")),
            ("/", Request::SayWithHint("/")),
            ("//exit", Request::Say("/exit")),
            ("//", Request::Say("/")),
            ("// a comment", Request::Say("/ a comment")),
            ("///", Request::Say("//")),
        ];
        for (text, want) in cases {
            assert_eq!(Request::of(text), want, "{text:?}");
        }
    }
}
