// OpenAI's client for JavaScript: asks a question in some ways, and prints what came of each as JSON.
//
//   node openai.mjs say|ask|parse BASE_URL QUESTION

import { createRequire } from "node:module";

// The packages lie in the working folder.
const require = createRequire(`${process.cwd()}/`);
const { OpenAI } = require("openai");
const { zodResponseFormat, zodFunction } = require("openai/helpers/zod");
const { z } = require("zod");

const [what, baseURL, question] = process.argv.slice(2);
const chat = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 600_000 }).chat.completions;
const asked = { model: "any", temperature: 0, messages: [{ role: "user", content: question }] };
const said = {};

if (what === "say") {
  said.whole = (await chat.create({ ...asked, max_tokens: 6 })).choices[0].message.content;
} else if (what === "ask") {
  said.whole = (await chat.create(asked)).choices[0].message.content;
  said.streamed = "";
  for await (const chunk of await chat.create({ ...asked, stream: true })) said.streamed += chunk.choices[0]?.delta?.content ?? "";
  try {
    await chat.create({ ...asked, temperature: -1 });
  } catch (error) {
    said.refused = { status: error.status, param: error.param };
  }
} else {
  const Plant = z.object({ kind: z.enum(["fern", "moss", "reed"]), is_wet: z.boolean(), name: z.string().max(8) });
  const parsed = await chat.parse({ ...asked, response_format: zodResponseFormat(Plant, "plant") });
  said.parsed = parsed.choices[0].message.parsed;
  const tools = [zodFunction({ name: "Plant", parameters: Plant })];
  const called = await chat.parse({ ...asked, tools, tool_choice: "required" });
  said.called = called.choices[0].message.tool_calls[0].function.parsed_arguments;
}
console.log(JSON.stringify(said));
