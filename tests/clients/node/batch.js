// From files to the results of batches: node batch.js BASE_URL FOLDER (the key is in OPENAI_API_KEY)
import fs from "node:fs";
import path from "node:path";
import OpenAI, { toFile } from "openai";

const [baseURL, folder] = process.argv.slice(2);
const client = new OpenAI({ baseURL, maxRetries: 0 });
const CHAT = "/v1/chat/completions";
const OVER = ["completed", "failed", "expired", "cancelled"];

const body = (content) => ({ model: "echo", max_tokens: 4, messages: [{ role: "user", content }] });
const line = (n, content) => JSON.stringify({ custom_id: `n${n}`, method: "POST", url: CHAT, body: body(content) });
const batchOf = (input_file_id, more = {}) =>
  client.batches.create({ input_file_id, endpoint: CHAT, completion_window: "24h", ...more });
const read = async (id) => (await (await client.files.content(id)).text()).trim().split("\n").map(JSON.parse);
const until = async (id, holds) => {
  for (;;) {
    const batch = await client.batches.retrieve(id);
    if (holds(batch)) return batch;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
};
const ended = (id) => until(id, (batch) => OVER.includes(batch.status));
const error = async (ask) => {
  try {
    await ask();
  } catch (error) {
    return [error.constructor.name, error.status, error.code, error.param ?? null];
  }
};

const asked = [...Array(30).keys()].map((n) => line(n, `Hello ${n}.`)).concat(line(30, "cannot be answered"));
const source = path.join(folder, "requests.jsonl");
fs.writeFileSync(source, asked.join("\n"));
const expires_after = { anchor: "created_at", seconds: 7200 };
const file = await client.files.create({ file: fs.createReadStream(source), purpose: "batch", expires_after });
const shown = await client.files.retrieve(file.id);
const sent = await (await client.files.content(file.id)).text();

const created = await batchOf(file.id, { metadata: { for: "a test" }, output_expires_after: expires_after });
const done = await ended(created.id);
const output = await read(done.output_file_id);
const errors = await read(done.error_file_id);
const outputFile = await client.files.retrieve(done.output_file_id);
const part = await (await client.files.content(done.output_file_id, { headers: { range: "bytes=0-9" } })).text();

const bad = await client.files.create({ file: await toFile(Buffer.from(`${line(0, "Hi.")}\n{`), "b.jsonl"), purpose: "batch" });
const failed = await ended((await batchOf(bad.id)).id);
const hanging = [...Array(80).keys()].map((n) => line(n, "never answered")).join("\n");
const long = await client.files.create({ file: await toFile(Buffer.from(hanging), "c.jsonl"), purpose: "batch" });
const runs = await until((await batchOf(long.id)).id, (batch) => batch.status !== "validating");
const cancelling = await client.batches.cancel(runs.id);
const cancelled = await ended(runs.id);

const files = [];
for await (const one of client.files.list({ limit: 2, purpose: "batch" })) files.push(one.id);
const batches = [];
for await (const one of client.batches.list({ limit: 1 })) batches.push(one.id);
const oldest = await client.files.list({ limit: 1, order: "asc" });

const wrong = {
  file: await error(() => client.files.retrieve("file-none")),
  content: await error(() => client.files.content("file-none")),
  batch: await error(() => client.batches.retrieve("batch_none")),
  input: await error(() => batchOf("file-none")),
  purpose: await error(() => batchOf(done.output_file_id)),
  upload: await error(async () => client.files.create({ file: await toFile(Buffer.from("{}"), "d.jsonl"), purpose: "vision" })),
  endpoint: await error(() => client.batches.create({ input_file_id: file.id, endpoint: "/v1/videos", completion_window: "24h" })),
  over: await error(() => client.batches.cancel(done.id)),
};
const deleted = [];
for (const id of [file.id, done.output_file_id, done.error_file_id]) deleted.push(await client.files.delete(id));
wrong.deleted = await error(() => client.files.content(done.output_file_id));

console.log(
  JSON.stringify({ file, shown, sent, source: asked.join("\n"), created, done, output, errors, outputFile, part, failed,
    cancelling, cancelled, files, batches, oldest: oldest.data.length, more: oldest.has_more, wrong, deleted }),
);
