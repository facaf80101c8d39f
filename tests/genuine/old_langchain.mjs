// Calls the genuine LangChain.js of June 2023, unmodified, as its documentation of then did.
//
// Runs in the directory where it is installed. Standard input has jobs, see scenarios.py;
// standard output gets what came of each. All are done at once, so that one that hangs costs
// no other its time. It is told not to retry: of its own accord it tries a refused call six times
// more, longer and longer apart.

import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

const require = createRequire(`${process.cwd()}/`);
const { ChatAnthropic } = require("langchain/chat_models/anthropic");
const { HumanChatMessage } = require("langchain/schema");

const PATIENCE = 10_000; // milliseconds after which a job counts as hung

console.log = console.error; // it shows errors there

async function done({ method, url, key, ask, parameters }) {
  const outcome = { events: [], result: null, error: null };
  const chat = new ChatAnthropic({
    anthropicApiKey: key,
    anthropicApiUrl: url,
    modelName: parameters.model,
    maxTokensToSample: parameters.max_tokens_to_sample,
    streaming: method === "chat_stream",
    maxRetries: 0,
    callbacks: [
      {
        handleLLMNewToken(token) {
          outcome.events.push(token);
        },
      },
    ],
  });
  try {
    const options = { stop: parameters.stop_sequences, timeout: PATIENCE };
    const answer = await chat.call([new HumanChatMessage(ask)], options);
    outcome.result = answer.text;
  } catch (error) {
    outcome.error = { type: error.name, args: [error.message] };
  }
  return outcome;
}

const jobs = Object.entries(JSON.parse(await text(process.stdin)));
const outcomes = await Promise.all(jobs.map(async ([name, job]) => [name, await done(job)]));
process.stdout.write(JSON.stringify(Object.fromEntries(outcomes)));
