"""A guest in Python: what a tenant does with a request.

As it stands, it answers as the tenant that it is linked to does. That one tokenises and scores; this file has the
rules.
"""

import wit_world
from wit_world import exports
from wit_world.imports import reranker


class WitWorld(wit_world.WitWorld):
    def prepare(self) -> None:
        """Called once, at deployment: later instances start with the memory that this leaves."""


class Reranker(exports.Reranker):
    def rerank(self, request: reranker.Request) -> reranker.Response:
        # The place for code of your own. An error of the other tenant goes to the caller as it is.
        return reranker.rerank(request)
