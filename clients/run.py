"""Real client libraries against a running server, unchanged: `cargo xtask clients` starts the server and runs this.

Usage: run.py URL KEY EXPECTED KEYLESS_URL GROUP [CLIENT...]

EXPECTED is a JSON file with what `assay rerank` answers for the same query and documents. KEYLESS_URL is a server
without tenants, for the snippets of the documentation, which are run as they stand there. GROUP is one of the files of
requirements beside this one, whose packages are installed: not all can be installed together. The variable
ASSAY_NARROW_KEY has the key of a tenant whose limits a few requests meet. Each client is a function;
its answer must have the same order and, where the client gives them, the same scores. Prints a line for each client, and
ends with exit code 1 if one failed.
"""

import asyncio
import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
import traceback
import urllib.request

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

QUERY = "why is the sky blue"
DOCUMENTS = [
    "Bread is baked from flour, water and yeast.",
    "Air scatters blue light more than red light.",
    "The sea looks blue because it reflects the sky.",
]
TOLERANCE = 1e-4

URL, KEY, EXPECTED, KEYLESS_URL, GROUP = sys.argv[1:6]
with open(EXPECTED, encoding="utf-8") as file:
    HITS = json.load(file)["hits"]
ORDER = [hit["index"] for hit in HITS]
SCORES = {hit["index"]: hit["score"] for hit in HITS}

CLIENTS = {}

# The modules whose snippets a group can run.
PACKAGES = {
    "component": [],
    "cohere": ["cohere", "rerankers"],
    "frameworks": ["langchain_cohere", "llama_index", "haystack"],
    "infinity": ["infinity_client"],
    "litellm": ["litellm"],
}


def client(group, package):
    """Registers a function as a client of a package, which a group's requirements have."""

    def register(function):
        if group == GROUP:
            CLIENTS[function.__name__.replace("_", "-")] = (package, function)
        return function

    return register


def check(pairs, count=None):
    """Checks (index, score) pairs against the command's answer; a score may be None."""
    pairs = list(pairs)
    expected = ORDER[:count]
    assert [index for index, _ in pairs] == expected, f"order {pairs}, expected {expected}"
    for index, score in pairs:
        if score is not None:
            assert math.isclose(score, SCORES[index], abs_tol=TOLERANCE), f"score {index}: {score}, not {SCORES[index]}"


def refused(call, *words):
    """Checks that a call raises an error whose text or body has one of the words, and gives the error."""
    try:
        call()
    except Exception as error:
        text = f"{error!r} {getattr(error, 'body', '')} {getattr(error, 'text', '')}"
        assert any(word in text for word in words), f"an error without any of {words}: {text[:400]}"
        return error
    raise AssertionError("no error")


@client("cohere", "cohere")
def cohere_v1():
    import cohere

    asked = cohere.Client(api_key=KEY, base_url=URL)
    answer = asked.rerank(query=QUERY, documents=DOCUMENTS, model="rerank-v3.5", return_documents=True)
    check((hit.index, hit.relevance_score) for hit in answer.results)
    assert answer.results[0].document.text == DOCUMENTS[ORDER[0]]
    assert answer.meta.billed_units.search_units == 1
    wrong = cohere.Client(api_key="wrong", base_url=URL)
    refused(lambda: wrong.rerank(query=QUERY, documents=DOCUMENTS, model="rerank-v3.5"), "Unauthorized", "401")


@client("cohere", "cohere")
def cohere_v2():
    import cohere

    asked = cohere.ClientV2(api_key=KEY, base_url=URL)
    answer = asked.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, top_n=2)
    check(((hit.index, hit.relevance_score) for hit in answer.results), 2)
    assert answer.id and answer.meta.api_version.version == "2"
    refused(lambda: asked.rerank(model="rerank-v3.5", query="", documents=DOCUMENTS), "query")
    refused(lambda: asked.rerank(model="no-such-model", query=QUERY, documents=DOCUMENTS), "no-such-model")

    async def later():
        return await cohere.AsyncClientV2(api_key=KEY, base_url=URL).rerank(
            model="rerank-v3.5", query=QUERY, documents=DOCUMENTS
        )

    check((hit.index, hit.relevance_score) for hit in asyncio.run(later()).results)


@client("frameworks", "langchain-cohere")
def langchain_cohere():
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    reranker = CohereRerank(model="rerank-v3.5", base_url=URL, cohere_api_key=KEY, top_n=2)
    documents = [Document(page_content=text, metadata={"place": at}) for at, text in enumerate(DOCUMENTS)]
    best = reranker.compress_documents(documents, QUERY)
    check(((document.metadata["place"], document.metadata["relevance_score"]) for document in best), 2)


@client("frameworks", "llama-index-postprocessor-tei-rerank")
def llama_index_tei():
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    reranker = TextEmbeddingInference(base_url=URL, top_n=3, auth_token=f"Bearer {KEY}")
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(at))) for at, text in enumerate(DOCUMENTS)]
    best = reranker.postprocess_nodes(nodes, query_str=QUERY)
    check((int(node.node.id_), node.score) for node in best)


@client("frameworks", "llama-index-postprocessor-cohere-rerank")
def llama_index_cohere():
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    reranker = CohereRerank(api_key=KEY, base_url=URL, model="rerank-v3.5", top_n=3)
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(at))) for at, text in enumerate(DOCUMENTS)]
    best = reranker.postprocess_nodes(nodes, query_str=QUERY)
    check((int(node.node.id_), node.score) for node in best)


@client("frameworks", "haystack-ai")
def haystack_tei():
    from haystack import Document
    from haystack.components.rankers import HuggingFaceTEIRanker
    from haystack.utils import Secret

    ranker = HuggingFaceTEIRanker(url=URL, top_k=3, token=Secret.from_token(KEY))
    documents = [Document(content=text, meta={"place": at}) for at, text in enumerate(DOCUMENTS)]
    best = ranker.run(query=QUERY, documents=documents)["documents"]
    check((document.meta["place"], document.score) for document in best)


def litellm_route(model, base, **more):
    import litellm

    answer = litellm.rerank(model=model, api_base=base, api_key=KEY, query=QUERY, documents=DOCUMENTS, **more)
    check((hit["index"], hit["relevance_score"]) for hit in answer.results)
    return answer


@client("litellm", "litellm")
def litellm_cohere():
    litellm_route("cohere/rerank-v3.5", URL)


@client("litellm", "litellm")
def litellm_jina():
    litellm_route("jina_ai/jina-reranker-v2-base-multilingual", URL)


@client("litellm", "litellm")
def litellm_infinity():
    answer = litellm_route("infinity/default", URL, return_documents=True)
    assert answer.results[0]["document"]["text"] == DOCUMENTS[ORDER[0]]


@client("litellm", "litellm")
def litellm_hosted_vllm():
    litellm_route("hosted_vllm/default", f"{URL}/vllm")


@client("litellm", "litellm")
def litellm_huggingface():
    litellm_route("huggingface/default", URL)


@client("infinity", "infinity_client")
def infinity_client():
    from infinity_client import AuthenticatedClient
    from infinity_client.api.default import rerank
    from infinity_client.models import RerankInput

    asked = AuthenticatedClient(base_url=URL, token=KEY)
    answer = rerank.sync(client=asked, body=RerankInput(query=QUERY, documents=DOCUMENTS, return_documents=True))
    check((hit.index, hit.relevance_score) for hit in answer.results)
    assert answer.results[0].document == DOCUMENTS[ORDER[0]]


def rerankers_provider(provider, model, path):
    from rerankers import Reranker

    url = f"{URL}{path}"
    reranker = Reranker(model, model_type="APIRanker", api_provider=provider, api_key=KEY, url=url, verbose=0)
    answer = reranker.rank(query=QUERY, docs=DOCUMENTS)
    check((hit.doc_id, hit.score) for hit in answer.results)


@client("cohere", "rerankers")
def rerankers_cohere():
    rerankers_provider("cohere", "rerank-v3.5", "/v1/rerank")


@client("cohere", "rerankers")
def rerankers_jina():
    rerankers_provider("jina", "jina-reranker-v2-base-multilingual", "/v1/rerank")


@client("cohere", "rerankers")
def rerankers_tei():
    rerankers_provider("text-embeddings-inference", "any", "/rerank")


@client("component", "wasmtime")
def component():
    import component as host

    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path, documents = os.path.join(root, host.RANK), "\t".join(DOCUMENTS)

    def asked(text, url=URL, key=KEY):
        printed, _ = host.run(path, text, {"ASSAY_URL": url, "ASSAY_KEY": key})
        return [line.split("\t") for line in printed.splitlines() if line]

    # The same scores as over HTTP, bit by bit: both are the shortest text of the same float.
    body = json.dumps({"query": QUERY, "documents": DOCUMENTS}).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{URL}/llama/v1/rerank", body, headers)) as answer:
        over_http = [(hit["index"], hit["relevance_score"]) for hit in json.load(answer)["results"]]
    hits = [(int(index), float(score)) for index, score in asked(f"{QUERY}\t{documents}\n")]
    assert hits == over_http, f"{hits}, over HTTP {over_http}"
    check((index, 1 / (1 + math.exp(-score))) for index, score in hits)
    assert len(asked(f"{QUERY}\t" + "\t".join([DOCUMENTS[0]] * 900) + "\n")) == 900
    # Errors stay what they are, with their figures. The tenant of this key has few tokens, and at most three documents.
    narrow = os.environ["ASSAY_NARROW_KEY"]
    errors = asked(f"{QUERY}\ta\tb\tc\td\n" + f"{QUERY}\t{documents}\n" * 3, key=narrow)
    too_large, overloaded = errors[0], errors[-1]
    assert too_large[0] == "error" and "TooLarge" in too_large[1], errors
    assert '"max_documents"' in too_large[1] and "requested: 4" in too_large[1] and "allowed: 3" in too_large[1], errors
    time_ms = re.fullmatch(r"Error::Overloaded\((\d+)\)", overloaded[1])
    assert time_ms and 1000 < int(time_ms[1]) < 100_000 and int(time_ms[1]) % 1000, errors
    for text, url, key, word in [
        ("q\td\n", URL, "wrong", "ASSAY_KEY"),
        ("q\td\n", "http://127.0.0.1:9", KEY, "Error::Unavailable"),
        ("q\td\n", "127.0.0.1", KEY, "ASSAY_URL"),
        ("q\td\n", f"{URL}/nowhere", KEY, "status 404"),
    ]:
        (line,) = asked(text, url, key)
        assert line[0] == "error" and word in line[1] and KEY not in line[1], line


def snippets():
    """The documentation's snippets of Python for packages of the group, each as the name of its page and its code."""
    for page in ["README.md", "docs/clients.md"]:
        with open(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), page), encoding="utf-8") as file:
            blocks = file.read().split("```python\n")[1:]
        for code in (block.split("```")[0] for block in blocks):
            package = code.split()[1].split(".")[0]
            if package in PACKAGES[GROUP]:
                yield f"{page}, {package}", code


def run_snippet(code):
    """Runs a snippet as it stands, but for the address. It must print something."""
    code = code.replace("http://127.0.0.1:8790", KEYLESS_URL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "it printed nothing"


def main():
    asked = [name for name in CLIENTS if not sys.argv[6:] or name in sys.argv[6:]]
    failed = 0
    for name in asked:
        package, function = CLIENTS[name]
        label = f"{name} ({package} {importlib.metadata.version(package)})"
        try:
            function()
            print(f"ok       {label}", flush=True)
        except Exception:
            failed += 1
            print(f"failed   {label}", flush=True)
            traceback.print_exc()
    for label, code in [] if sys.argv[6:] else snippets():
        try:
            run_snippet(code)
            print(f"ok       {label}: the snippet", flush=True)
        except Exception:
            failed += 1
            print(f"failed   {label}: the snippet", flush=True)
            traceback.print_exc()
    sys.exit(1 if failed else 0)


main()
