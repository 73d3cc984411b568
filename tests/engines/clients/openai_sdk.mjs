// One request with the npm SDK `openai`; what went over the wire and what the SDK made of it, as JSON on stdout.
//
//     node openai_sdk.mjs NODE_MODULES < {"base_url", "api_key", "path", "payload", "garbled": string | null}
//     -> {"status", "request": base64, "body": base64, "error": class name | null, "items": count}
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const { OpenAI } = createRequire(`${process.argv[2]}/`)("openai");
const job = JSON.parse(readFileSync(0, "utf8"));
const wire = { status: 0, request: "", body: null };

// Hands the SDK one branch of the body and keeps the other as it came.
async function listening(url, init) {
  const sent = job.garbled === null ? init.body : job.garbled;
  wire.request = Buffer.from(sent ?? "").toString("base64");
  const answer = await fetch(url, { ...init, body: sent });
  wire.status = answer.status;
  const [ours, theirs] = answer.body.tee();
  // Of a body that is cut off there are no bytes to show.
  wire.body = new Response(ours).arrayBuffer().catch(() => null);
  return new Response(theirs, { status: answer.status, headers: answer.headers });
}

const client = new OpenAI({ baseURL: job.base_url, apiKey: job.api_key, maxRetries: 0, fetch: listening });
const verbs = {
  "/v1/chat/completions": (payload) => client.chat.completions.create(payload),
  "/v1/completions": (payload) => client.completions.create(payload),
  "/v1/responses": (payload) => client.responses.create(payload),
};

let error = null;
let items = 0;
try {
  const answer = await verbs[job.path](job.payload);
  if (job.payload.stream) for await (const _ of answer) items += 1;
  else items = 1;
} catch (raised) {
  error = raised.constructor.name;
}
const body = Buffer.from((await wire.body) ?? new ArrayBuffer(0)).toString("base64");
process.stdout.write(JSON.stringify({ status: wire.status, request: wire.request, body, error, items }) + "\n");
