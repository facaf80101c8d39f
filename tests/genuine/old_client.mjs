// Calls the genuine JavaScript SDK of early 2023, unmodified, as its examples of then did.
//
// Runs in the directory where that SDK is installed; the argument is the name that it has there.
// Standard input has jobs, see scenarios.py; standard output gets what came of each. All are
// done at once, so that one that hangs costs no other its time. The process ends by itself,
// unless the SDK still has work to do: it posts a stream that failed again each second, for ever.

import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

const require = createRequire(`${process.cwd()}/`);
const name = process.argv[2];
const { AI_PROMPT, Client, HUMAN_PROMPT } = require(name);
const [, minor, patch] = require(`${name}/package.json`).version.split(".").map(Number);
const takesSignal = minor === 4 && patch >= 3;

const PATIENCE = 10_000; // milliseconds after which a job counts as hung

const METHODS = {
  // What examples/basic_sync.ts does.
  complete: (client, asked) => client.complete(asked),

  // What examples/basic_stream.ts and examples/cancellation.ts do.
  completeStream(client, asked, outcome, leave) {
    const leaving = new AbortController();
    const onOpen = (response) => {
      outcome.opened = response.status;
    };
    const onUpdate = (completion) => {
      outcome.events.push(completion);
      if (!leave) return undefined;
      leaving.abort();
      return takesSignal ? undefined : Promise.reject(new Error("left"));
    };
    const callbacks = { onOpen, onUpdate, signal: leaving.signal };
    return client.completeStream(asked, minor === 2 ? onUpdate : callbacks);
  },
};

function hung(timer) {
  return new Promise((_, reject) => {
    timer.id = setTimeout(() => reject(new Error("the promise never settled")), PATIENCE);
  });
}

async function done({ method, url, key, ask, parameters, leave }) {
  const outcome = { events: [], result: null, error: null, opened: null };
  const client = new Client(key, { apiUrl: url });
  const asked = {
    prompt: `${HUMAN_PROMPT} ${ask}${AI_PROMPT}`,
    stop_sequences: [HUMAN_PROMPT],
    ...parameters,
  };
  const timer = {};
  try {
    const call = METHODS[method](client, asked, outcome, leave);
    outcome.result = await Promise.race([call, hung(timer)]);
  } catch (error) {
    outcome.error = { type: error.name, args: [error.message] };
  } finally {
    clearTimeout(timer.id);
  }
  return outcome;
}

const jobs = Object.entries(JSON.parse(await text(process.stdin)));
const outcomes = await Promise.all(jobs.map(async ([name, job]) => [name, await done(job)]));
process.stdout.write(JSON.stringify(Object.fromEntries(outcomes)));
