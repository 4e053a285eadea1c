// A guest in JavaScript: what a tenant does with a request.
//
// As it stands, it answers as the tenant that it is linked to does. That one tokenises and scores; this file has the
// rules.

import { rerank } from 'assay:rerank/reranker@0.2.0';

// Called once, at deployment: later instances start with the memory that this leaves.
export function prepare() {}

export const reranker = {
  // The place for code of your own. An error of the other tenant goes to the caller as it is.
  rerank(request) {
    return rerank(request);
  },
};
