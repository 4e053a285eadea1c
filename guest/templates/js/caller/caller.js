// A program that asks a tenant: its arguments are a query and documents, and it prints them in the tenant's order.

import { rerank } from 'assay:rerank/reranker@0.2.0';
import { getArguments } from 'wasi:cli/environment@0.2.0';

export const run = {
  run() {
    const [, query, ...documents] = getArguments();
    if (query === undefined) {
      console.error('usage: caller QUERY DOCUMENT…');
      throw undefined;
    }
    let response;
    try {
      response = rerank({ query, documents, truncation: 'longest-first', activation: 'none', settings: [] });
    } catch (error) {
      console.error(JSON.stringify(error.payload, (_, value) => (typeof value === 'bigint' ? Number(value) : value)));
      throw undefined;
    }
    // Whether it could be written, the console does not say: import `wasi:cli/stdout` where that matters.
    for (const { index, score } of response.hits) {
      console.log(`${score}\t${documents[index]}`);
    }
  },
};
