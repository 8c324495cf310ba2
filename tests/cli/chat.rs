//! `chat` through a pipe: a line is a turn.

use serde_json::{Value, json};

use crate::run::{Folder, HAIKU, failure, ids, list, output, stdout};

fn saved(path: &str) -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_turn_knows_the_turns_before_it() {
    let folder = Folder::new();
    let (first, both) = (folder.path("first.json"), folder.path("both.json"));
    let chat = ["chat", "--temp", "0", "-n", "10", "-v", "--system", "Write well.", "--cache-type", "f32"];
    let script = format!("{HAIKU}\n/save {first}\nAnother \\\none\n\n/save {both}\n/exit\nnever said\n");
    let (out, error) = output(&chat, &script);

    let messages = saved(&both);
    let roles: Vec<&str> = messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(messages[..3], saved(&first)[..]);
    assert_eq!((&messages[1]["content"], &messages[3]["content"]), (&json!(HAIKU), &json!("Another \none")));
    let answers = [2, 4].map(|i| messages[i]["content"].as_str().unwrap());
    assert_eq!(out, format!("{}\n{}\n", answers[0], answers[1]));

    // The second answer is what `generate` says to the whole conversation before it.
    let before = folder.file("before.json", serde_json::to_string(&messages[..4]).unwrap());
    let seen: Value = serde_json::from_str(&stdout(&["template", "--messages", &before, "--format", "json"])).unwrap();
    let prompt = ids(&seen["ids"]);
    let list = list(&prompt);
    let alone = stdout(&["generate", "--temp", "0", "-n", "10", "--cache-type", "f32", "--prompt-ids", &list]);
    assert_eq!(alone, format!("{}\n", answers[1]));
    // And the cache held the turn before: at least its prompt is not computed again.
    let n_first = crate::run::json(&["template", "-p", HAIKU, "--system", "Write well."]);
    let n_first = ids(&n_first["ids"]).len();
    let line = error.lines().find(|line| line.starts_with("reused")).unwrap_or_else(|| panic!("{error}"));
    let reused: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(reused >= n_first && line.contains(&format!("of the prompt's {}", prompt.len())), "{line}");
}

#[test]
fn reset_and_system_start_anew() {
    let chat = ["chat", "--temp", "0", "-n", "6"];
    let (out, _) = output(&chat, &format!("{HAIKU}\n/reset\n{HAIKU}\n"));
    let answers: Vec<&str> = out.lines().collect();
    assert_eq!(answers.len() % 2, 0);
    let (first, second) = answers.split_at(answers.len() / 2);
    assert_eq!(first, second);

    let folder = Folder::new();
    let path = folder.path("saved.json");
    let (_, error) = output(&chat, &format!("{HAIKU}\n/system Be brief.\n/save {path}\n/help\n"));
    assert_eq!(saved(&path), [json!({"role": "system", "content": "Be brief."})]);
    for command in ["/system", "/reset", "/save", "/exit"] {
        assert!(error.contains(command), "{command}: {error}");
    }
}

#[test]
fn a_conversation_longer_than_the_context_says_so_or_goes_on_without_its_beginning() {
    // Room for two turns and not for three.
    let turn = ids(&crate::run::json(&["template", "-p", HAIKU])["ids"]).len();
    let context = (2 * turn + 14).to_string();
    let chat = ["chat", "--temp", "0", "-n", "12", "-c", &context];
    let script = format!("{HAIKU}\n{HAIKU}\n{HAIKU}\n");
    let output = crate::run::ferrowarp(&chat).write_stdin(script.as_str()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&format!("its {context} positions")), "{error}");

    let (out, error) = crate::run::output(&[&chat[..], &["--context-shift"]].concat(), &script);
    assert!(error.contains("left out from now on"), "{error}");
    assert!(out.lines().count() >= 3, "{out}");
}

#[test]
fn a_line_that_looks_like_a_command_is_said_with_a_hint() {
    let folder = Folder::new();
    let path = folder.path("saved.json");
    let script = format!("/etc/passwd, what is it?\n//help\n/save\n// one\n/save {path}\n");
    let (_, error) = output(&["chat", "--temp", "0", "-n", "2"], &script);
    let messages = saved(&path);
    let said: Vec<&str> =
        messages.iter().filter(|m| m["role"] == "user").map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["/etc/passwd, what is it?", "/help", "/ one"]);
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(lines[0].contains("/etc/passwd,") && lines[0].contains("/help lists"), "{error}");
    assert!(lines[1].contains("/save FILE") && lines[2].contains("messages in"), "{error}");
}

#[test]
fn what_it_cannot_do_ends_a_script() {
    assert!(failure(&["chat"], "/save /no/such/folder/file\n").contains("/no/such/folder/file"));
    assert_eq!(stdout(&["chat"]), "");
}
