// One answer from the server, as it comes.

/** An answer that the server refused, or broke off. */
export class AnswerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const headers = (key) => ({ "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) });

async function get(path, key) {
  const response = await fetch(path, { headers: headers(key) });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** The names of the models that the server has. */
export async function models(key) {
  return (await get("v1/models", key)).data.map((model) => model.id);
}

/** How the server samples where a body says nothing: values by the names of a body's fields. */
export async function defaults(key) {
  return (await get("props", key)).default_generation_settings?.params ?? {};
}

/**
 * Asks for an answer and gives its parts: `{text}`, `{reasoning}`, `{finish}`, `{usage}`.
 * Throws an `AnswerError`, or what `fetch` throws where `signal` ends it.
 */
export async function* answer(body, key, signal) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await fetch("v1/chat/completions", { method: "POST", headers: headers(key), body: JSON.stringify(asked), signal });
  if (!response.ok) throw await refusal(response);
  let isWhole = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const part = JSON.parse(data);
    if (part.error) throw new AnswerError(part.error.message ?? "the server broke the answer off");
    const choice = part.choices?.[0];
    const reasoning = choice?.delta?.reasoning_content ?? choice?.delta?.reasoning;
    if (reasoning) yield { reasoning };
    if (choice?.delta?.content) yield { text: choice.delta.content };
    if (choice?.finish_reason) {
      isWhole = true;
      yield { finish: choice.finish_reason };
    }
    if (part.usage) yield { usage: part.usage };
  }
  if (!isWhole) throw new AnswerError("the connection ended before the answer did");
}

/** The data of a stream's events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((line) => line.replace(/\r$/, ""))) {
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      else if (line === "" && data.length > 0) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}

async function refusal(response) {
  let message = `the server answered ${response.status} ${response.statusText}`.trim();
  try {
    message = (await response.json()).error.message;
  } catch {
    // No error object: the status says what is known.
  }
  const wait = response.headers.get("retry-after");
  return new AnswerError(wait ? `${message} (try again in ${wait} s)` : message, response.status);
}
