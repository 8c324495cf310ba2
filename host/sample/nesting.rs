//! How deep the rules of a grammar, or the references of a schema, lead into each other.
//!
//! The constraint engine follows rules by recursion, as deep as they lead. Its stack is large but has an end, so the depth
//! is looked at before: nothing here recurses over rules.

use std::collections::HashMap;

use serde_json::Value;

/// The deepest that rules may lead into each other, groups and values inside them included.
pub const MAX_NESTING: usize = 4_000;

/// A bound on the depth to which nodes lead into each other: node `i` is `weights[i]` deep itself and leads to the nodes
/// `edges[i]`. Nodes that lead to themselves by way of others count once each.
pub fn depth(edges: &[Vec<usize>], weights: &[usize]) -> usize {
    // Kosaraju: nodes in the order in which a depth-first search leaves them; then, against the edges and from the last to the first,
    // whatever is reached together leads to each other. Such components come out in the order of their edges.
    let left = postorder(edges, 0..edges.len());
    let mut backwards = vec![Vec::new(); edges.len()];
    for (from, to) in edges.iter().enumerate().flat_map(|(from, to)| to.iter().map(move |&to| (from, to))) {
        backwards[to].push(from);
    }
    let mut component = vec![usize::MAX; edges.len()];
    let mut deepest: Vec<usize> = Vec::new();
    for &start in left.iter().rev() {
        if component[start] != usize::MAX {
            continue;
        }
        let number = deepest.len();
        let (mut own, mut before) = (0, 0);
        let mut open = vec![start];
        component[start] = number;
        while let Some(node) = open.pop() {
            own += weights[node];
            for &from in &backwards[node] {
                if component[from] == usize::MAX {
                    component[from] = number;
                    open.push(from);
                } else if component[from] != number {
                    before = before.max(deepest[component[from]]);
                }
            }
        }
        deepest.push(own + before);
    }
    deepest.into_iter().max().unwrap_or(0)
}

/// The nodes in the order in which a depth-first search from each of `starts` in turn is done with them.
fn postorder(edges: &[Vec<usize>], starts: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut seen = vec![false; edges.len()];
    let mut order = Vec::with_capacity(edges.len());
    let mut open: Vec<(usize, usize)> = Vec::new();
    for start in starts {
        if std::mem::replace(&mut seen[start], true) {
            continue;
        }
        open.push((start, 0));
        while let Some((node, next)) = open.last_mut() {
            match edges[*node].get(*next) {
                Some(&to) => {
                    *next += 1;
                    if !std::mem::replace(&mut seen[to], true) {
                        open.push((to, 0));
                    }
                }
                None => {
                    order.push(*node);
                    open.pop();
                }
            }
        }
    }
    order
}

/// Says no to what leads deeper than [`MAX_NESTING`].
pub fn check(what: &str, depth: usize) -> Result<(), String> {
    match depth {
        0..=MAX_NESTING => Ok(()),
        _ => Err(format!("{what} lead {depth} deep into each other, expected at most {MAX_NESTING}")),
    }
}

/// Checks how deep the references of a JSON schema lead.
pub fn check_schema(schema: &Value) -> Result<(), String> {
    let mut names = HashMap::new();
    collect_names(schema, &mut names);
    // Every value that something refers to is a node, the schema itself the first. A value is known by its address.
    let mut nodes = vec![schema];
    let mut numbers = HashMap::from([(std::ptr::from_ref(schema), 0)]);
    let (mut edges, mut weights): (Vec<Vec<usize>>, Vec<usize>) = (Vec::new(), Vec::new());
    while let Some(&node) = nodes.get(edges.len()) {
        let mut references = Vec::new();
        weights.push(collect_references(node, &mut references));
        let targets = references.into_iter().filter_map(|reference| target(schema, &names, reference));
        let edge = |to: &'_ Value| std::ptr::from_ref(to);
        let mut to = Vec::new();
        for value in targets {
            let number = *numbers.entry(edge(value)).or_insert_with(|| {
                nodes.push(value);
                nodes.len() - 1
            });
            to.push(number);
        }
        to.sort_unstable();
        to.dedup();
        edges.push(to);
    }
    check("references", depth(&edges, &weights))
}

/// Values that have a name of their own.
fn collect_names<'a>(value: &'a Value, names: &mut HashMap<&'a str, &'a Value>) {
    match value {
        Value::Object(fields) => {
            for key in ["$id", "$anchor", "$dynamicAnchor"] {
                if let Some(name) = fields.get(key).and_then(Value::as_str) {
                    names.insert(name, value);
                }
            }
            fields.values().for_each(|field| collect_names(field, names));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_names(item, names)),
        _ => {}
    }
}

/// How deep `value` is, by its own braces and brackets; what it refers to goes to `references`.
fn collect_references<'a>(value: &'a Value, references: &mut Vec<&'a str>) -> usize {
    let inner = match value {
        Value::Object(fields) => {
            references.extend(["$ref", "$dynamicRef"].iter().filter_map(|key| fields.get(*key)?.as_str()));
            fields.values().map(|field| collect_references(field, references)).max()
        }
        Value::Array(items) => items.iter().map(|item| collect_references(item, references)).max(),
        _ => return 0,
    };
    1 + inner.unwrap_or(0)
}

/// What a reference refers to, if that is in `schema`.
fn target<'a>(schema: &'a Value, names: &HashMap<&str, &'a Value>, reference: &str) -> Option<&'a Value> {
    let (base, fragment) = reference.split_once('#').unwrap_or((reference, ""));
    let base = if base.is_empty() { schema } else { names.get(base).copied()? };
    let fragment = percent_decoded(fragment);
    match fragment.as_str() {
        "" => Some(base),
        pointer if pointer.starts_with('/') => base.pointer(pointer),
        anchor => names.get(anchor).copied(),
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match code.filter(|_| byte == b'%') {
            Some(code) => {
                bytes.push(code);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Checks how deep the rules of a Lark grammar, and the schemas in it, lead. A name of a rule counts wherever it stands, in quotes too: the
/// result is only ever too large, and too large by at most the number of rules.
pub fn check_lark(text: &str) -> Result<(), String> {
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut bodies: Vec<&str> = Vec::new();
    let (mut number, mut start) = (0, 0);
    numbers.insert("", 0);
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if let Some(name) = defined(line) {
            bodies.push(&text[start..at]);
            number += 1;
            numbers.insert(name, number);
            start = at;
        }
        at += line.len();
    }
    bodies.push(&text[start..]);
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let edges: Vec<Vec<usize>> = bodies
        .iter()
        .map(|body| {
            let mut to: Vec<usize> =
                body.split(|c| !is_name(c)).skip(1).filter_map(|word| numbers.get(word).copied()).collect();
            to.sort_unstable();
            to.dedup();
            to.retain(|&to| to != 0);
            to
        })
        .collect();
    let weights: Vec<usize> = bodies.iter().map(|body| 1 + brackets(body)).collect();
    check("rules and groups", depth(&edges, &weights))?;
    for (at, _) in text.match_indices("%json") {
        let mut schemas = serde_json::Deserializer::from_str(&text[at + "%json".len()..]).into_iter::<Value>();
        if let Some(Ok(schema)) = schemas.next() {
            check_schema(&schema)?;
        }
    }
    Ok(())
}

/// The name that a line of Lark defines.
fn defined(line: &str) -> Option<&str> {
    let line = line.trim_start().trim_start_matches(['?', '!']);
    let length = line.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(line.len());
    let (name, rest) = line.split_at(length);
    (!name.is_empty() && rest.contains(':')).then_some(name)
}

/// How deep brackets nest, those in quotes too.
fn brackets(text: &str) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn chains_add_up_and_circles_count_once() {
        assert_eq!(depth(&[], &[]), 0);
        assert_eq!(depth(&[vec![1, 2], vec![2], vec![]], &[1, 10, 100]), 111);
        assert_eq!(depth(&[vec![1], vec![2], vec![0, 3], vec![]], &[1, 1, 1, 5]), 8);
        let chain: Vec<Vec<usize>> = (0..100_000).map(|i| if i < 99_999 { vec![i + 1] } else { vec![0] }).collect();
        assert_eq!(depth(&chain, &vec![1; 100_000]), 100_000);
    }

    #[test]
    fn references_are_followed_however_they_are_written() {
        let chain = |reference: &dyn Fn(usize) -> String, definition: &dyn Fn(usize, Value) -> Value| {
            let definitions: serde_json::Map<String, Value> =
                (0..3000).map(|i| (format!("d/{i}"), definition(i, json!({"$ref": reference(i + 1)})))).collect();
            check_schema(&json!({"$ref": reference(0), "$defs": definitions}))
        };
        let pointer = |i| format!("#/$defs/d~1{i}");
        let encoded = |i| format!("#/%24defs/d~1{i}");
        let anchor = |i| format!("#a{i}");
        let plain = |_, schema: Value| schema;
        let all_of = |_, schema: Value| json!({"allOf": [schema, {"type": "string"}]});
        let named = |i, schema: Value| json!({"$anchor": format!("a{i}"), "items": schema});
        assert_eq!(chain(&pointer, &plain), Ok(()));
        for error in [chain(&pointer, &all_of), chain(&encoded, &all_of), chain(&anchor, &named)] {
            assert!(error.unwrap_err().contains("at most 4000"));
        }
        assert_eq!(check_schema(&json!({"items": {"$ref": "#"}})), Ok(()));
    }
}
