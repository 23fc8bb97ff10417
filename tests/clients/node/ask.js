// What the official client in JavaScript gets: node ask.js BASE_URL MODEL (the key is in OPENAI_API_KEY)
import OpenAI from "openai";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello." }];
const tools = [{ type: "function", function: { name: "look_up", parameters: { type: "object", properties: {} } } }];

const whole = await client.chat.completions.create({ model, messages });
const stream = await client.chat.completions.create({
  model,
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
let streamed = "";
let usage = null;
for await (const piece of stream) {
  streamed += piece.choices[0]?.delta.content ?? "";
  usage = piece.usage ?? usage;
}
const response = await client.responses.create({ model, input: "Hello." });
const called = await client.chat.completions.create({ model: "caller", messages, tools });
const { data: vectors } = await client.embeddings.create({ model, input: ["one", "two"] });
const models = [];
for await (const one of client.models.list()) models.push(one.id);

const left = await client.chat.completions.create({ model: "slow", messages, stream: true }).withResponse();
for await (const _ of left.data) break;

const errors = [];
for (const ask of [
  () => client.chat.completions.create({ model: "none", messages }),
  () => client.chat.completions.create({ model, messages, max_tokens: 1_000_000 }),
  () => new OpenAI({ baseURL, apiKey: "sk-unknown" }).models.list(),
]) {
  try {
    await ask();
  } catch (error) {
    errors.push([error.constructor.name, error.status, error.code, Boolean(error.requestID)]);
  }
}

console.log(
  JSON.stringify({
    whole: whole.choices[0].message.content,
    job: whole._request_id,
    streamed,
    usage,
    response: response.output_text,
    called: called.choices[0].message.tool_calls[0].function.name,
    dimensions: vectors.map((one) => one.embedding.length),
    models,
    left: left.request_id,
    errors,
  }),
);
