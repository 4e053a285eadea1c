"""A program that asks a tenant: its arguments are a query and documents, and it prints them in the tenant's order."""

import sys

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import environment, reranker


class Run(exports.Run):
    def run(self) -> None:
        arguments = environment.get_arguments()
        if len(arguments) < 2:
            print("usage: caller QUERY DOCUMENT…", file=sys.stderr)
            raise Err(None)
        _, query, *documents = arguments
        cut, logits = reranker.Truncation.LONGEST_FIRST, reranker.Activation.NONE
        try:
            response = reranker.rerank(reranker.Request(query, documents, None, None, cut, logits, []))
        except Err as error:
            print(error.value, file=sys.stderr)
            raise Err(None)
        try:
            for hit in response.hits:
                print(hit.score, documents[hit.index], sep="\t")
            sys.stdout.flush()
        except OSError as error:
            print(f"the answer cannot be written: {error}", file=sys.stderr)
            raise Err(None)
