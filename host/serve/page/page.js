// The chat page: the conversation is an array of messages, and each has its item in the list.

import { answer, AnswerError, defaults, models } from "./answer.js";
import { render } from "./markdown.js";

const at = (id) => document.getElementById(id);
const [scroller, list, empty, input, settings] = ["scroller", "messages", "empty", "input", "settings"].map(at);
const form = settings.querySelector("form");

const EXAMPLES = [
  'Write a haiku about rain that includes the word "lantern"',
  'Write a haiku about GPU computing that includes the word "forty-six"',
];
// What a body may say of sampling. An empty field is left out of it.
const SAMPLING = ["temperature", "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty", "seed", "max_completion_tokens"];

// `{role, content, reasoning?, stats?, notice?, isError?}` each.
let messages = [];
let model = null;
// What ends the answer that is being written; none while there is none.
let writing = null;

// --- what is kept ---------------------------------------------------------------------------------------------------------

// Settings outlive the tab. The conversation and the key do not: others may use this browser.
function kept(store, name, otherwise) {
  try {
    return JSON.parse(store.getItem(`ferrowarp.${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function keep(store, name, value) {
  try {
    store.setItem(`ferrowarp.${name}`, JSON.stringify(value));
  } catch {
    // A browser that keeps nothing, or is full: the page works on.
  }
}

const keepConversation = () => keep(sessionStorage, "messages", messages);

// --- messages -------------------------------------------------------------------------------------------------------------

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function button(text, className, action) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

const say = (text) => {
  at("status").textContent = text;
};

/** The item of a message, empty as yet. */
function item(message) {
  const isUser = message.role === "user";
  const reasoning = element("details", "reasoning", element("summary", "", "Reasoning"), element("div", "text"));
  const actions = element("div", "actions", button("Copy", "plain copy", () => copy(message.content)));
  actions.append(button("Edit", "plain edit", () => edit(message)));
  if (!isUser) actions.append(button("Retry", "plain retry", () => retry(message)));
  const made = element("li", message.role, element("h2", "unseen", isUser ? "You" : "The model"));
  made.append(reasoning, element("div", "text content"), element("p", "notice"), element("div", "foot", element("p", "stats"), actions));
  return made;
}

/** Shows a message in its item. */
function show(message) {
  const shown = list.children[messages.indexOf(message)];
  const part = (name) => shown.querySelector(`:scope > ${name}`);
  const content = part(".content");
  if (message.role === "user") content.textContent = message.content;
  else render(content, message.content);
  part(".reasoning").hidden = !message.reasoning;
  if (message.reasoning) render(part(".reasoning").lastChild, message.reasoning);
  const isBeingWritten = writing !== null && message === messages.at(-1);
  shown.classList.toggle("writing", isBeingWritten);
  shown.setAttribute("aria-busy", String(isBeingWritten));
  part(".notice").textContent = message.notice ?? "";
  part(".notice").hidden = !message.notice;
  part(".notice").classList.toggle("error", Boolean(message.isError));
  shown.querySelector(".stats").textContent = message.stats ?? "";
  for (const one of shown.querySelectorAll(".actions button")) one.disabled = writing !== null;
}

/** Shows the conversation as it now is: items that are too many go, missing ones come. */
function showAll() {
  while (list.children.length > messages.length) list.lastChild.remove();
  for (const message of messages.slice(list.children.length)) list.append(item(message));
  messages.forEach(show);
  empty.hidden = messages.length > 0;
  at("new").disabled = messages.length === 0;
  at("send").hidden = writing !== null;
  at("stop").hidden = writing === null;
}

/** Forgets a message and what came behind it. */
function cut(message) {
  messages.length = messages.indexOf(message);
  while (list.children.length > messages.length) list.lastChild.remove();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without TLS, on any machine but this one, a browser has no clipboard for a page; the old way works there.
    const field = element("textarea", "unseen");
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  say("Copied");
}

// --- answers --------------------------------------------------------------------------------------------------------------

function body() {
  const values = kept(localStorage, "settings", {});
  const asked = { messages: [] };
  if (model) asked.model = model;
  if (values.system) asked.messages.push({ role: "system", content: values.system });
  // A message without words, such as an answer that failed, is no part of what was said.
  for (const { role, content } of messages) if (content) asked.messages.push({ role, content });
  for (const name of SAMPLING) if (typeof values[name] === "number") asked[name] = values[name];
  return asked;
}

const ENDS = {
  length: "The answer was cut: it reached the most tokens, or the context is full.",
  content_filter: "The server withheld the rest.",
};

/** Has the model answer the conversation as it is. */
async function ask() {
  const asked = body();
  const message = { role: "assistant", content: "" };
  const clock = { begin: performance.now(), first: 0, last: 0, parts: 0, usage: null };
  const control = new AbortController();
  messages.push(message);
  writing = control;
  showAll();
  toEnd();
  say("The model is answering");
  let frame = 0;
  const showSoon = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      // While it is written, the conversation may be begun anew.
      if (!messages.includes(message)) return;
      // Whoever reads further up stays there.
      const isAtEnd = isNearEnd();
      message.stats = stats(clock);
      show(message);
      if (isAtEnd) toEnd();
    });
  };
  try {
    for await (const part of answer(asked, key(), control.signal)) {
      if (part.text || part.reasoning) {
        clock.last = performance.now();
        clock.first ||= clock.last;
        clock.parts += 1;
      }
      if (part.text) message.content += part.text;
      if (part.reasoning) message.reasoning = (message.reasoning ?? "") + part.reasoning;
      if (part.finish) message.notice = ENDS[part.finish];
      if (part.usage) clock.usage = part.usage;
      showSoon();
    }
    if (!message.content && !message.notice) message.notice = "The answer is empty.";
    say("The answer is complete");
  } catch (error) {
    if (control.signal.aborted) {
      message.notice = "Stopped.";
      say("Stopped");
    } else {
      message.isError = true;
      message.notice = error instanceof AnswerError ? error.message : `The server cannot be reached: ${error.message}`;
      say(`Failed: ${message.notice}`);
      if (error.status === 401) openSettings("key");
    }
  }
  cancelAnimationFrame(frame);
  writing = null;
  const isAtEnd = isNearEnd();
  message.stats = stats(clock);
  showAll();
  if (isAtEnd) toEnd();
  keepConversation();
  if (!settings.open && matchMedia("(hover: hover)").matches) input.focus({ preventScroll: true });
}

/** Tokens, tokens a second after the first, and how long the first took. */
function stats({ begin, first, last, parts, usage }) {
  if (!first) return "";
  // Until the server has counted, a part counts as a token.
  const n = usage?.completion_tokens ?? parts;
  const seconds = (last - first) / 1000;
  const shown = [`${n} ${n === 1 ? "token" : "tokens"}`];
  if (n > 1 && seconds > 0) shown.push(`${((n - 1) / seconds).toFixed(1)} tokens/s`);
  shown.push(`first after ${((first - begin) / 1000).toFixed(2)} s`);
  return shown.join(" · ");
}

function send(text) {
  if (writing || !text.trim()) return false;
  messages.push({ role: "user", content: text });
  keepConversation();
  ask();
  return true;
}

const stop = () => writing?.abort();

function retry(message) {
  if (writing) return;
  cut(message);
  ask();
}

/** Puts an editor in a message's place. What was asked is asked anew; what was answered is only changed. */
function edit(message) {
  const shown = list.children[messages.indexOf(message)];
  if (writing || shown.classList.contains("editing")) return;
  const isUser = message.role === "user";
  const field = element("textarea");
  field.value = message.content;
  field.setAttribute("aria-label", "Edit the message");
  const close = () => {
    editor.remove();
    shown.classList.remove("editing");
    shown.querySelector(".edit").focus({ preventScroll: true });
  };
  const save = () => {
    if (writing || !field.value.trim()) return;
    close();
    if (isUser) {
      cut(message);
      send(field.value);
    } else {
      Object.assign(message, { content: field.value, reasoning: undefined, stats: "edited", notice: undefined, isError: false });
      showAll();
      keepConversation();
    }
  };
  field.addEventListener("input", () => grow(field));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (isEnter(event)) {
      event.preventDefault();
      save();
    }
  });
  const row = element("div", "row", button("Cancel", "plain bordered", close), button(isUser ? "Send" : "Save", "primary", save));
  const editor = element("div", "editor", field, row);
  shown.classList.add("editing");
  shown.append(editor);
  grow(field);
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}

// --- the place in the conversation ----------------------------------------------------------------------------------------

const isNearEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;

function toEnd() {
  scroller.scrollTop = scroller.scrollHeight;
}

scroller.addEventListener("scroll", () => {
  at("to-end").hidden = isNearEnd();
});
at("to-end").addEventListener("click", toEnd);

// --- writing --------------------------------------------------------------------------------------------------------------

/** A field as high as its text, up to what the style allows. */
function grow(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
}

// Enter that ends a word of an input method sends nothing.
const isEnter = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing;

function submit() {
  if (!send(input.value)) return;
  input.value = "";
  grow(input);
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
input.addEventListener("input", () => grow(input));
input.addEventListener("keydown", (event) => {
  if (isEnter(event)) {
    event.preventDefault();
    submit();
  } else if (event.key === "ArrowUp" && !input.value && !writing) {
    const last = messages.findLast((message) => message.role === "user");
    if (last) {
      event.preventDefault();
      edit(last);
    }
  }
});
at("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !settings.open) stop();
});
list.addEventListener("click", (event) => {
  const copied = event.target.closest(".copy-code");
  if (copied) copy(copied.closest("figure").querySelector("code").textContent);
});
at("new").addEventListener("click", () => {
  stop();
  messages = [];
  showAll();
  keepConversation();
  say("A new conversation");
  input.focus();
});
for (const example of EXAMPLES) at("examples").append(button(example, "plain bordered", () => send(example)));

// --- settings -------------------------------------------------------------------------------------------------------------

const key = () => kept(sessionStorage, "key", "");

function openSettings(field) {
  const values = { ...kept(localStorage, "settings", {}), key: key() };
  for (const one of form.querySelectorAll("[name]")) one.value = values[one.name] ?? "";
  if (!settings.open) settings.showModal();
  form.elements[field ?? "system"].focus();
}

function saveSettings() {
  const values = { system: form.elements.system.value.trim() };
  for (const name of SAMPLING) {
    const field = form.elements[name];
    if (field.value !== "" && field.validity.valid) values[name] = field.valueAsNumber;
  }
  keep(localStorage, "settings", values);
  if (form.elements.key.value !== key()) {
    keep(sessionStorage, "key", form.elements.key.value);
    findModel();
  }
}

at("open-settings").addEventListener("click", () => openSettings());
at("defaults").addEventListener("click", () => {
  for (const one of form.querySelectorAll("[name]:not([name=key])")) one.value = "";
});
// However it is closed, what is valid counts. Escape has no submit event.
settings.addEventListener("close", saveSettings);
settings.addEventListener("click", (event) => {
  if (event.target === settings) settings.close();
});

// --- colours --------------------------------------------------------------------------------------------------------------

const THEMES = { system: "as the system", light: "light", dark: "dark" };

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  at("theme").setAttribute("aria-label", `Colours: ${THEMES[theme]}`);
  at("theme").title = `Colours: ${THEMES[theme]}`;
}

at("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(kept(localStorage, "theme", "system")) + 1) % names.length];
  keep(localStorage, "theme", next);
  setTheme(next);
  say(`Colours: ${THEMES[next]}`);
});

// --- begin ----------------------------------------------------------------------------------------------------------------

/** Shows in empty fields what they leave the choice to. A seed that is drawn, and no limit, are no numbers to show. */
function showDefaults(values) {
  for (const name of SAMPLING.filter((name) => name !== "seed" && values[name] >= 0)) {
    form.elements[name].placeholder = Number(values[name].toPrecision(6));
  }
}

async function findModel() {
  try {
    [model] = await models(key());
    at("model").textContent = model;
    document.title = `${model} · ferrowarp`;
    showDefaults(await defaults(key()));
  } catch (error) {
    at("model").textContent = error.status === 401 ? "the server wants an API key" : "the server cannot be reached";
    if (error.status === 401) openSettings("key");
  }
}

const theme = kept(localStorage, "theme", "system");
setTheme(Object.hasOwn(THEMES, theme) ? theme : "system");
messages = kept(sessionStorage, "messages", []);
showAll();
toEnd();
grow(input);
findModel();
