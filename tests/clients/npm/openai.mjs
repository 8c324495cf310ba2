// OpenAI's client for JavaScript: asks a question in several ways, and prints what came of each as JSON.
//
//   node openai.mjs BASE_URL QUESTION [TOKENS]     with TOKENS only the plain way

import { createRequire } from "node:module";

// The packages lie in the working folder.
const require = createRequire(`${process.cwd()}/`);
const { OpenAI } = require("openai");
const { zodResponseFormat, zodFunction } = require("openai/helpers/zod");
const { z } = require("zod");

const [baseURL, question, tokens] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 60_000 });
const asked = { model: "any", temperature: 0, messages: [{ role: "user", content: question }] };

const answer = await client.chat.completions.create({ ...asked, ...(tokens && { max_tokens: Number(tokens) }) });
const said = { whole: answer.choices[0].message.content };

if (!tokens) {
  const stream = await client.chat.completions.create({ ...asked, stream: true });
  said.streamed = "";
  for await (const chunk of stream) said.streamed += chunk.choices[0]?.delta?.content ?? "";

  const Plant = z.object({ kind: z.enum(["fern", "moss", "reed"]), is_wet: z.boolean(), name: z.string().max(8) });
  const parsed = await client.chat.completions.parse({ ...asked, response_format: zodResponseFormat(Plant, "plant") });
  said.parsed = parsed.choices[0].message.parsed;

  const tools = [zodFunction({ name: "Plant", parameters: Plant })];
  const called = await client.chat.completions.parse({ ...asked, tools, tool_choice: "required" });
  said.called = called.choices[0].message.tool_calls[0].function.parsed_arguments;

  try {
    await client.chat.completions.create({ ...asked, temperature: -1 });
  } catch (error) {
    said.refused = { status: error.status, param: error.param };
  }
}
console.log(JSON.stringify(said));
