// Calls a JavaScript SDK, of today or of early 2023, unmodified, as its README does.
//
// Runs in the directory where that SDK is installed; its first argument names the package. Standard
// input has jobs, standard output gets what came of each. All are done at once.

import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

const require = createRequire(`${process.cwd()}/`);
const Anthropic = require(process.argv[2]);

const PATIENCE = 20_000; // milliseconds of silence after which a call counts as hung

const METHODS = {
  async "messages.create"(client, asked, seen) {
    takeMessage(await opened(client.messages.create(asked), seen), seen);
  },

  async "messages.create+stream"(client, asked, seen) {
    const stream = await opened(client.messages.create({ ...asked, stream: true }), seen);
    let usage = {};
    for await (const event of stream) {
      seen.events.push(event.type);
      if (event.type === "message_start") {
        seen.model = event.message.model;
        usage = event.message.usage;
      } else if (event.type === "content_block_delta") {
        seen.pieces.push(event.delta.text);
      } else if (event.type === "message_delta") {
        seen.stop_reason = event.delta.stop_reason;
        seen.stop = event.delta.stop_sequence;
        usage = { ...usage, ...event.usage };
      }
    }
    seen.text = seen.pieces.join("");
    seen.usage = [usage.input_tokens, usage.output_tokens];
  },

  async "messages.stream"(client, asked, seen) {
    const stream = client.messages.stream(asked);
    stream.on("text", (piece) => seen.pieces.push(piece));
    takeMessage(await stream.finalMessage(), seen);
    seen.headers = Object.fromEntries(stream.response.headers);
  },

  async "messages.count_tokens"(client, asked, seen) {
    const counted = await opened(client.messages.countTokens(asked), seen);
    seen.usage = [counted.input_tokens, null];
  },

  async "completions.create"(client, asked, seen) {
    takeCompletion(await opened(client.completions.create(asked), seen), seen);
    seen.text = seen.pieces.pop();
  },

  async "completions.create+stream"(client, asked, seen) {
    const stream = await opened(client.completions.create({ ...asked, stream: true }), seen);
    for await (const part of stream) {
      seen.events.push(part.type);
      takeCompletion(part, seen);
    }
    seen.text = seen.pieces.join("");
  },

  async "models.list"(client, asked, seen) {
    const response = await client.models.list(asked).asResponse();
    seen.headers = Object.fromEntries(response.headers);
    seen.text = await response.text();
  },

  async complete(client, asked, seen) {
    takeOld(await client.complete(asked), seen);
  },

  async completeStream(client, asked, seen) {
    const onUpdate = (part) => seen.pieces.push(part.completion);
    takeOld(await client.completeStream(asked, { onUpdate }), seen);
  },
};

async function opened(call, seen) {
  const { data, response } = await call.withResponse();
  seen.headers = Object.fromEntries(response.headers);
  return data;
}

function takeMessage(message, seen) {
  seen.text = message.content.map((block) => block.text).join("");
  seen.model = message.model;
  seen.stop_reason = message.stop_reason;
  seen.stop = message.stop_sequence;
  seen.usage = [message.usage.input_tokens, message.usage.output_tokens];
}

function takeCompletion(part, seen) {
  seen.pieces.push(part.completion);
  seen.model = part.model;
  seen.stop_reason = part.stop_reason;
  seen.stop = part.stop;
}

function takeOld(part, seen) {
  takeCompletion(part, seen);
  seen.text = seen.pieces.pop();
  seen.exception = part.exception;
}

// A client as programs of its time made one.
function clientOf({ url, key, retries }) {
  if (Anthropic.Client) return new Anthropic.Client(key, { apiUrl: url });
  return new Anthropic({ apiKey: key, baseURL: url, maxRetries: retries, timeout: PATIENCE });
}

async function done(job) {
  const seen = { pieces: [], events: [] };
  const client = clientOf(job);
  try {
    await METHODS[job.call](client, { ...job.asked, ...job.unknown }, seen);
  } catch (error) {
    seen.error = {
      type: error.constructor.name,
      status: error.status ?? null,
      body: error.error ?? null,
      message: error.message,
    };
  }
  return seen;
}

const jobs = Object.entries(JSON.parse(await text(process.stdin)));
const outcomes = await Promise.all(jobs.map(async ([name, job]) => [name, await done(job)]));
process.stdout.write(JSON.stringify(Object.fromEntries(outcomes)));
