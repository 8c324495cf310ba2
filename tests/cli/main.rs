//! The command line, as a person or a script sees it: what each command prints, and what it says to bad input.

mod bad_input;
mod batch;
mod bench;
mod chat;
mod embed;
mod explain;
mod generate;
mod model_files;
mod numbers;
mod perplexity;
mod places;
mod prompt_cache;
mod run;
mod speculation;
mod terminal;
mod text;
mod verify;
