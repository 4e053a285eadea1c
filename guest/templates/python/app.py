"""A guest in Python. The standard guest, which it is composed with, tokenises and scores; this file has the rules.

As it stands, it answers as the standard guest does. `rerank` is the place for code of your own.
"""

import wit_world
from wit_world import exports
from wit_world.imports import reranker


class WitWorld(wit_world.WitWorld):
    def prepare(self) -> None:
        # Without documents, the standard guest only loads its tokenizer.
        cut, logits = reranker.Truncation.LONGEST_FIRST, reranker.Activation.NONE
        reranker.rerank(reranker.Request("", [], None, None, cut, logits, []))


class Reranker(exports.Reranker):
    def rerank(self, request: reranker.Request) -> reranker.Response:
        return reranker.rerank(request)
