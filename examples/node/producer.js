// A producer in JavaScript, with the official NATS client and JSON: node producer.js NATS_URL MODEL
//
// It makes a batch, submits three jobs and reads their results, then asks two questions and waits: for one whole answer,
// and for one in pieces. Before its first run: npm ci

import { randomBytes } from "node:crypto";
import { jetstream } from "@nats-io/jetstream";
import { connect, createInbox, headers } from "@nats-io/transport-node";

// The API key, imq_<tenant>_<key id>_<secret>. Where brokers ask for none, tenant and key are called `default`.
const API_KEY = process.env.INFERMQ_API_KEY;
const [TENANT, KEY] = API_KEY ? API_KEY.split("_").slice(1, 3) : ["default", "default"];
const INBOX = API_KEY ? `_INBOX_${KEY}` : "_INBOX"; // answers come to the inbox of the key
const TIMEOUT_MS = 60_000;

/** Make an id out of the time in milliseconds and random bits (RFC 9562, version 7). */
function uuid7() {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(Date.now(), 0, 6);
  bytes[6] = 0x70 | (bytes[6] & 0x0f);
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** Escape a name for a subject: all but ASCII letters, digits and `-`. */
function token(name) {
  return name.replace(/[^A-Za-z0-9-]/gu, (c) => `_${c.codePointAt(0).toString(16)}_`);
}

function json() {
  const fields = headers();
  fields.set("Content-Type", "application/json");
  return fields;
}

/** Call the broker's API. */
async function call(nc, verb, ask) {
  const reply = await nc.request(`infermq.api.${verb}.${TENANT}.${KEY}`, JSON.stringify(ask), { timeout: 10_000 });
  const answer = reply.json();
  if (reply.headers?.get("Infermq-Kind") === "error") throw new Error(answer.error.message);
  return answer;
}

function chat(question) {
  return { messages: [{ role: "user", content: question }], max_tokens: 32 };
}

async function runBatch(nc, model) {
  const js = jetstream(nc);
  const batch = await call(nc, "batch-create", { id: uuid7() });
  const cities = ["Paris", "Rome", "Oslo"];
  for (const [index, city] of cities.entries()) {
    const job = {
      id: uuid7(), // if you send it again, it is the same job
      batch: batch.id,
      line: index + 1,
      custom_id: city,
      endpoint: "/v1/chat/completions",
      body: chat(`Name one sight in ${city}.`),
    };
    const subject = `infermq.submit.bulk.${token(model)}.${TENANT}.${KEY}`;
    await js.publish(subject, JSON.stringify(job), { headers: json() }); // returns once it is accepted
  }
  await call(nc, "batch-seal", { id: batch.id, jobs: cities.length });
  for (let page = { cursor: null, completed: false }; !page.completed; ) {
    page = await call(nc, "batch-results", { id: batch.id, cursor: page.cursor });
    for (const { custom_id, state, body, failure } of page.results) {
      console.log(`${custom_id}: ${state}: ${body?.choices[0].message.content ?? JSON.stringify(failure)}`);
    }
    if (page.results.length === 0) await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

/** Ask and wait. Yields OpenAI's streaming objects as they come if the body has `stream`; returns the whole response. */
async function* infer(nc, model, body) {
  const inbox = createInbox(INBOX);
  const replies = nc.subscribe(inbox, { timeout: TIMEOUT_MS }); // how long until the first reply; keepalives follow
  const job = JSON.stringify({ endpoint: "/v1/chat/completions", body });
  nc.publish(`infermq.infer.${token(model)}.${TENANT}.${KEY}`, job, { reply: inbox, headers: json() });
  try {
    for await (const message of replies) {
      switch (message.headers?.get("Infermq-Kind")) {
        case "chunk":
          yield message.json();
          break;
        case "keepalive":
          break;
        case "final":
          return message.json();
        case "error":
          throw new Error(message.json().error.message);
        default:
          throw new Error("no broker listens");
      }
    }
  } finally {
    replies.unsubscribe();
  }
  throw new Error("the connection was closed");
}

async function ask(nc, model) {
  const { value: answer } = await infer(nc, model, chat("Say hello.")).next();
  console.log("whole", answer.choices[0].message.content, answer.usage.completion_tokens);
}

async function askStreamed(nc, model) {
  const pieces = infer(nc, model, { ...chat("Say hello."), stream: true });
  let step = await pieces.next();
  for (; !step.done; step = await pieces.next()) {
    console.log("chunk", JSON.stringify(step.value.choices));
  }
  console.log("final", JSON.stringify(step.value.usage));
}

/** Connect to a URL, which may hold a user and a password. */
function open(text) {
  const url = new URL(text);
  const password = { user: decodeURIComponent(url.username), pass: decodeURIComponent(url.password) };
  const login = API_KEY ? { token: API_KEY } : url.username ? password : {};
  return connect({ servers: url.host, inboxPrefix: INBOX, ...login });
}

async function main(url, model) {
  const nc = await open(url);
  try {
    await runBatch(nc, model);
    await ask(nc, model);
    await askStreamed(nc, model);
  } finally {
    await nc.close();
  }
}

if (process.argv.length === 4) {
  await main(process.argv[2], process.argv[3]).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
} else {
  console.error("how to use it: node producer.js NATS_URL MODEL");
  process.exitCode = 1;
}
