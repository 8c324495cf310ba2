// Markdown to DOM nodes, for text that nobody has checked. Text goes into the page as text nodes only: there is no HTML here to
// escape from. Nothing is loaded for it either, so an image is shown as a link to it.

const DEEPEST = 12;

/** Shows `source` in `element`. Blocks that are as they were keep their nodes, so a selection in them survives a stream. */
export function render(element, source) {
  const blocks = split(source.replace(/\r\n?/g, "\n").split("\n"));
  const old = element.blocks ?? [];
  let same = 0;
  while (same < blocks.length && same < old.length && blocks[same].key === old[same]) same += 1;
  while (element.childNodes.length > same) element.lastChild.remove();
  for (const block of blocks.slice(same)) element.append(build(block, 0));
  element.blocks = blocks.map((block) => block.key);
}

// --- blocks ---------------------------------------------------------------------------------------------------------------

const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const isBlank = (line) => line.trim() === "";
const begins = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || /^ {0,3}>/.test(line) || ITEM.test(line);
const indent = (line) => line.length - line.trimStart().length;

/** The blocks of some lines: each with what is needed to build it, and a key that changes when it does. */
function split(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const start = at;
    const line = lines[at];
    let block;
    const fence = FENCE.exec(line);
    if (isBlank(line)) {
      at += 1;
      continue;
    } else if (fence) {
      const closing = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},}[ \\t]*$`);
      for (at += 1; at < lines.length && !closing.test(lines[at]); at += 1);
      const margin = new RegExp(`^ {0,${indent(line)}}`);
      block = { kind: "code", language: fence[2].trim().split(/\s/, 1)[0], text: lines.slice(start + 1, at).map((one) => one.replace(margin, "")).join("\n") };
      at += 1;
    } else if (HEADING.test(line)) {
      const text = line.replace(HEADING, "").replace(/(^|[ \t])#+[ \t]*$/, "");
      block = { kind: "heading", level: HEADING.exec(line)[1].length, text };
      at += 1;
    } else if (RULE.test(line)) {
      block = { kind: "rule" };
      at += 1;
    } else if (/^ {0,3}>/.test(line)) {
      while (at < lines.length && !isBlank(lines[at]) && (/^ {0,3}>/.test(lines[at]) || !begins(lines[at]))) at += 1;
      block = { kind: "quote", lines: lines.slice(start, at).map((one) => one.replace(/^ {0,3}> ?/, "")) };
    } else if (ITEM.test(line)) {
      [block, at] = list(lines, at);
    } else if (isTable(lines, at)) {
      for (at += 2; at < lines.length && lines[at].includes("|") && !isBlank(lines[at]); at += 1);
      const alignments = cells(lines[start + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left"));
      block = { kind: "table", alignments, head: cells(lines[start]), rows: lines.slice(start + 2, at).map(cells) };
    } else {
      for (at += 1; at < lines.length && !isBlank(lines[at]) && !begins(lines[at]) && !isTable(lines, at); at += 1);
      block = { kind: "paragraph", text: lines.slice(start, at).map((one) => one.trim()).join("\n") };
    }
    blocks.push({ ...block, key: lines.slice(start, at).join("\n") });
  }
  return blocks;
}

function isTable(lines, at) {
  if (at + 1 >= lines.length || !lines[at].includes("|") || !lines[at + 1].includes("-")) return false;
  const rule = cells(lines[at + 1]);
  return rule.length === cells(lines[at]).length && rule.every((cell) => /^:?-+:?$/.test(cell));
}

/** A table row's cells; a bar behind a backslash, or in a code span, is part of one. */
function cells(line) {
  const all = [""];
  let isCode = false;
  for (let at = 0; at < line.length; at += 1) {
    if (line[at] === "\\" && line[at + 1] === "|") {
      all[all.length - 1] += "|";
      at += 1;
    } else if (line[at] === "|" && !isCode) {
      all.push("");
    } else {
      if (line[at] === "`") isCode = !isCode;
      all[all.length - 1] += line[at];
    }
  }
  const trimmed = all.map((cell) => cell.trim());
  if (trimmed[0] === "") trimmed.shift();
  if (trimmed.length > 1 && trimmed.at(-1) === "") trimmed.pop();
  return trimmed;
}

/** The list that begins at a line, and the line behind it. */
function list(lines, at) {
  const first = ITEM.exec(lines[at]);
  const isOrdered = /\d/.test(first[2]);
  const margin = first[1].length;
  const items = [];
  let isLoose = false;
  let blanks = 0;
  while (at < lines.length) {
    const marker = ITEM.exec(lines[at]);
    if (!marker || RULE.test(lines[at]) || marker[1].length > margin + 3 || marker[1].length < margin || /\d/.test(marker[2]) !== isOrdered) break;
    // What is written further in than the marker belongs to the item, and so does a paragraph's next line wherever it begins.
    const inner = marker[1].length + 2;
    const item = [lines[at].slice(marker[0].length)];
    at += 1;
    if (blanks > 0) isLoose = true;
    blanks = 0;
    while (at < lines.length) {
      const line = lines[at].replace(/^\t+/, (tabs) => "    ".repeat(tabs.length));
      if (isBlank(line)) blanks += 1;
      else if (indent(line) >= inner || (blanks === 0 && !begins(line))) {
        if (blanks > 0) isLoose = true;
        for (; blanks > 0; blanks -= 1) item.push("");
        item.push(line.replace(new RegExp(`^ {0,${marker[0].length}}`), ""));
      } else break;
      at += 1;
    }
    items.push(item);
  }
  return [{ kind: "list", isOrdered, start: parseInt(first[2], 10), isLoose, items }, at];
}

function make(name, ...children) {
  const element = document.createElement(name);
  element.append(...children);
  return element;
}

function build(block, depth) {
  switch (block.kind) {
    case "code":
      return codeBlock(block);
    case "heading":
      // The page has its own first and second level.
      return make(`h${Math.min(6, block.level + 2)}`, ...inline(block.text));
    case "rule":
      return make("hr");
    case "quote":
      return make("blockquote", ...nested(block.lines, depth));
    case "list": {
      const element = make(block.isOrdered ? "ol" : "ul");
      if (block.isOrdered && block.start !== 1) element.start = block.start;
      for (const item of block.items) element.append(listItem(item, block.isLoose, depth));
      return element;
    }
    case "table": {
      const row = (all, name) => make("tr", ...block.alignments.map((alignment, column) => {
        const cell = make(name, ...inline(all[column] ?? ""));
        cell.className = alignment;
        return cell;
      }));
      const table = make("table", make("thead", row(block.head, "th")), make("tbody", ...block.rows.map((cells) => row(cells, "td"))));
      const wide = make("div", table);
      wide.className = "wide";
      wide.tabIndex = 0;
      return wide;
    }
    default:
      return make("p", ...inline(block.text));
  }
}

function nested(lines, depth) {
  if (depth >= DEEPEST) return [document.createTextNode(lines.join("\n"))];
  return split(lines).map((block) => build(block, depth + 1));
}

function listItem(lines, isLoose, depth) {
  const task = /^\[([ xX])\] /.exec(lines[0]);
  if (task) lines[0] = lines[0].slice(4);
  let children = nested(lines, depth);
  if (!isLoose) children = children.flatMap((child) => (child.nodeName === "P" ? [...child.childNodes] : [child]));
  if (task) {
    const box = make("input");
    box.type = "checkbox";
    box.disabled = true;
    box.checked = task[1] !== " ";
    box.setAttribute("aria-label", box.checked ? "done" : "to do");
    // In front of the words, which are a paragraph's where the list is loose.
    if (children[0]?.nodeName === "P") children[0].prepend(box, " ");
    else children.unshift(box, " ");
  }
  return make("li", ...children);
}

function codeBlock({ language, text }) {
  const copy = make("button", "Copy");
  copy.type = "button";
  copy.className = "plain copy-code";
  copy.setAttribute("aria-label", "Copy the code");
  const code = make("pre", make("code", text));
  code.tabIndex = 0;
  const element = make("figure", make("figcaption", make("span", language || "text"), copy), code);
  element.className = "code";
  return element;
}

// --- inline ---------------------------------------------------------------------------------------------------------------

const ADDRESS = /https?:\/\/[^\s<>"]{1,2000}/y;
const MARKS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "del"],
  ["*", "em"],
  ["_", "em"],
];
const isWord = (character) => character !== undefined && /[\p{L}\p{N}]/u.test(character);
const isSpace = (character) => character === undefined || /\s/.test(character);

/** The nodes of a line of text, or of several. */
function inline(text, depth = 0) {
  const nodes = [];
  let plain = "";
  // What was looked for up to the end and is not there need not be looked for again: without this, the time would grow with
  // the square of the text's length.
  const absent = new Set();
  const flush = () => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
  };
  const put = (node) => {
    flush();
    nodes.push(node);
  };
  let at = 0;
  while (at < text.length) {
    const here = text[at];
    if (here === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else if (here === "\n") {
      put(make("br"));
      at += 1;
    } else if (here === "`") {
      const run = runLength(text, at);
      const end = closingTicks(text, at + run, run, absent);
      if (end < 0) {
        plain += text.slice(at, at + run);
        at += run;
      } else {
        const code = text.slice(at + run, end).replace(/\n/g, " ");
        put(make("code", /^ .*\S.* $/.test(code) ? code.slice(1, -1) : code));
        at = end + run;
      }
    } else if (here === "[" || (here === "!" && text[at + 1] === "[")) {
      const isImage = here === "!";
      const found = depth < DEEPEST ? linkAt(text, at + (isImage ? 1 : 0), absent) : null;
      if (found) {
        put(link(found.address, inline(found.label || "image", depth + 1)));
        at = found.end;
      } else {
        plain += here;
        at += 1;
      }
    } else if (here === "<" && /^<https?:\/\/[^\s<>]+>/.test(text.slice(at, at + 2048))) {
      const end = text.indexOf(">", at);
      const address = text.slice(at + 1, end);
      put(link(address, [document.createTextNode(address)]));
      at = end + 1;
    } else if (here === "h" && !isWord(text[at - 1]) && text.startsWith("http", at)) {
      ADDRESS.lastIndex = at;
      const address = withoutTrail(ADDRESS.exec(text)?.[0] ?? "");
      if (address) put(link(address, [document.createTextNode(address)]));
      else plain += "http";
      at += address.length || 4;
    } else {
      const marked = depth < DEEPEST ? markedAt(text, at, absent) : null;
      if (marked) {
        put(make(marked.name, ...inline(marked.text, depth + 1)));
        at = marked.end;
      } else if ("*_~".includes(here)) {
        const run = runLength(text, at);
        plain += text.slice(at, at + run);
        at += run;
      } else {
        plain += here;
        at += 1;
      }
    }
  }
  flush();
  return nodes;
}

/** How often the character at a place stands there in a row. */
function runLength(text, at) {
  let end = at + 1;
  while (text[end] === text[at]) end += 1;
  return end - at;
}

/** Where the run of backticks is that ends a code span, or −1. */
function closingTicks(text, from, run, absent) {
  if (absent.has(run)) return -1;
  for (let at = text.indexOf("`", from); at >= 0; at = text.indexOf("`", at)) {
    const length = runLength(text, at);
    if (length === run) return at;
    at += length;
  }
  absent.add(run);
  return -1;
}

/** The text between marks that begin at a place, and what they make of it. */
function markedAt(text, at, absent) {
  for (const [mark, name] of MARKS) {
    if (!text.startsWith(mark, at) || isSpace(text[at + mark.length]) || absent.has(mark)) continue;
    if (mark[0] === "_" && isWord(text[at - 1])) continue;
    const end = closingMark(text, at + mark.length, mark);
    if (end < 0) absent.add(mark);
    else if (end > at + mark.length) return { name, text: text.slice(at + mark.length, end), end: end + mark.length };
  }
  return null;
}

/** Where the mark is that ends what one began, or −1. */
function closingMark(text, from, mark) {
  const ticks = new Set();
  let at = from;
  while (at < text.length) {
    if (text[at] === "\\") {
      at += 2;
    } else if (text[at] === "`") {
      const run = runLength(text, at);
      const end = closingTicks(text, at + run, run, ticks);
      at = end < 0 ? at + run : end + run;
    } else if (text[at] === mark[0]) {
      const run = runLength(text, at);
      // A single mark passes over double ones; of a longer run the outer marks take the last ones.
      const fits = mark.length === 2 ? run >= 2 : run !== 2;
      if (fits && !isSpace(text[at - 1]) && !(mark[0] === "_" && isWord(text[at + run]))) return at + run - mark.length;
      at += run;
    } else {
      at += 1;
    }
  }
  return -1;
}

/** The link `[label](address "title")` that begins at a place. */
function linkAt(text, at, absent) {
  if (absent.has("](")) return null;
  const middle = text.indexOf("](", at);
  if (middle < 0) absent.add("](");
  if (middle < 0 || middle - at > 1000) return null;
  let depth = 0;
  for (let inner = at; inner < middle; inner += 1) {
    if (text[inner] === "\\") inner += 1;
    else if (text[inner] === "[") depth += 1;
    else if (text[inner] === "]") depth -= 1;
  }
  if (depth !== 1) return null;
  let end = middle + 2;
  for (let open = 1; end < text.length && end - middle < 4000; end += 1) {
    if (text[end] === "\n") return null;
    if (text[end] === "(") open += 1;
    if (text[end] === ")") open -= 1;
    if (open === 0) {
      const [address] = text.slice(middle + 2, end).trim().split(/\s/, 1);
      return { label: text.slice(at + 1, middle), address: address.replace(/^<(.*)>$/, "$1"), end: end + 1 };
    }
  }
  return null;
}

/** An address without what ends the sentence around it. */
function withoutTrail(address) {
  let end = address.length;
  const count = (character) => address.slice(0, end).split(character).length - 1;
  while (end > 0 && (/[.,;:!?'*_~]/.test(address[end - 1]) || (address[end - 1] === ")" && count(")") > count("(")))) end -= 1;
  return address.slice(0, end);
}

/** A link, where the address is of a kind that does nothing but lead somewhere; else its text. */
function link(address, children) {
  let url = null;
  try {
    url = new URL(address);
  } catch {
    // Not an address: its text is shown.
  }
  if (!url || !["http:", "https:", "mailto:"].includes(url.protocol)) return make("span", ...children);
  const element = make("a", ...children);
  element.href = url.href;
  element.title = url.href;
  element.target = "_blank";
  element.rel = "noopener noreferrer";
  return element;
}
