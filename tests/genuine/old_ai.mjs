// Reads streams with the genuine "ai" package of 2023, unmodified, as its documentation of then did.
//
// Runs in the directory where that package is installed; the argument is the name that it has there.
// Standard input has jobs, see scenarios.py; standard output gets what came of each. All are
// done at once, so that one that hangs costs no other its time.

import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

const require = createRequire(`${process.cwd()}/`);
const { AnthropicStream, StreamingTextResponse } = require(process.argv[2]);

const PATIENCE = 10_000; // milliseconds after which a job counts as hung

// The package leaves the request to the program; this is how programs named the version.
const VERSION = {
  stream: {},
  stream_of_january: { "anthropic-version": "2023-01-01" },
  stream_of_june: { "anthropic-version": "2023-06-01" },
};

async function done({ method, url, key, ask, parameters }) {
  const outcome = { events: [], result: null, error: null };
  try {
    const response = await fetch(`${url}/v1/complete`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "x-api-key": key, ...VERSION[method] },
      body: JSON.stringify({
        prompt: `\n\nHuman: ${ask}\n\nAssistant:`,
        temperature: 1,
        stream: true,
        ...parameters,
      }),
      signal: AbortSignal.timeout(PATIENCE),
    });
    const stream = AnthropicStream(response, {
      onToken(token) {
        outcome.events.push(token);
      },
    });
    outcome.result = await new StreamingTextResponse(stream).text();
  } catch (error) {
    outcome.error = { type: error.name, args: [error.message] };
  }
  return outcome;
}

const jobs = Object.entries(JSON.parse(await text(process.stdin)));
const outcomes = await Promise.all(jobs.map(async ([name, job]) => [name, await done(job)]));
process.stdout.write(JSON.stringify(Object.fromEntries(outcomes)));
