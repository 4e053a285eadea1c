// The npm client of Cohere's API, version 2, against a running server: node cohere.mjs URL KEY EXPECTED
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { CohereClientV2 } from "cohere-ai";

const [url, key, expected] = process.argv.slice(2);
const documents = [
  "Bread is baked from flour, water and yeast.",
  "Air scatters blue light more than red light.",
  "The sea looks blue because it reflects the sky.",
];
const { hits } = JSON.parse(readFileSync(expected, "utf8"));

const client = new CohereClientV2({ token: key, environment: url });
const answer = await client.rerank({ model: "rerank-v3.5", query: "why is the sky blue", documents });
assert.deepEqual(answer.results.map((hit) => hit.index), hits.map((hit) => hit.index));
for (const [at, hit] of answer.results.entries()) {
  assert.ok(Math.abs(hit.relevanceScore - hits[at].score) < 1e-4);
}

const stranger = new CohereClientV2({ token: "wrong", environment: url });
await assert.rejects(stranger.rerank({ model: "rerank-v3.5", query: "q", documents }), { statusCode: 401 });
console.log("ok       cohere-ai (npm)");
