"""One peer, held in memory and told what to score: run by `assay-bench peers`, which interleaves the peers.

    python peer.py --peer NAME --model DIR --pairs FILE --threads N

Speaks JSON lines. On start: {"ready": ..., "load_s": ..., "first_batch_s": ...}. For each {"first": i, "count": n} on
standard input: {"seconds": s, "scores": [...]}. At the end of input: {"peak_rss_bytes": ...}.

Every peer sees the pairs in their order, in batches of 32, and tokenises outside the timed part, except
sentence-transformers, whose public call takes text and sorts by length within each call.
"""

import argparse
import json
import os
import resource
import sys
import time

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=sorted(PEERS), required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with open(args.pairs, encoding="utf-8") as file:
        pairs = json.load(file)
    started = time.perf_counter()
    prepare, score = PEERS[args.peer](args.model, args.threads)
    load_s = time.perf_counter() - started
    prepared = prepare(pairs[:BATCH])
    started = time.perf_counter()
    score(prepared)
    reply({"ready": args.peer, "load_s": load_s, "first_batch_s": time.perf_counter() - started})
    for line in sys.stdin:
        order = json.loads(line)
        prepared = prepare(pairs[order["first"] : order["first"] + order["count"]])
        started = time.perf_counter()
        scores = score(prepared)
        reply({"seconds": time.perf_counter() - started, "scores": [float(value) for value in scores]})
    reply({"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024})


def reply(message: dict) -> None:
    print(json.dumps(message), flush=True)


def batches(tokenizer, tensors: str):
    """Turns pairs into padded batches."""

    def prepare(pairs):
        return [
            tokenizer(
                [query for query, _ in pairs[i : i + BATCH]],
                [document for _, document in pairs[i : i + BATCH]],
                padding=True,
                truncation=True,
                max_length=512,
                return_tensors=tensors,
            )
            for i in range(0, len(pairs), BATCH)
        ]

    return prepare


def torch_peer(model_dir: str, threads: int, compiled: bool):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(threads)
    model = AutoModelForSequenceClassification.from_pretrained(model_dir).eval()
    if compiled:
        model = torch.compile(model, backend="inductor", dynamic=True)

    def score(prepared):
        with torch.inference_mode():
            return [value for batch in prepared for value in model(**batch).logits[:, 0].tolist()]

    return batches(AutoTokenizer.from_pretrained(model_dir), "pt"), score


def sentence_transformers_peer(model_dir: str, threads: int):
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(threads)
    model = CrossEncoder(model_dir, max_length=512, device="cpu", activation_fn=torch.nn.Identity())
    return lambda pairs: pairs, lambda pairs: model.predict(pairs, batch_size=BATCH, show_progress_bar=False)


def onnxruntime_peer(model_dir: str, threads: int, file: str):
    import onnxruntime
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(f"{model_dir}/{file}", options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def score(prepared):
        runs = (session.run(["logits"], {name: batch[name] for name in names})[0] for batch in prepared)
        return [value for logits in runs for value in logits[:, 0]]

    return batches(AutoTokenizer.from_pretrained(model_dir), "np"), score


def openvino_peer(model_dir: str, threads: int):
    import openvino
    from transformers import AutoTokenizer

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = core.compile_model(f"{model_dir}/model.onnx", "CPU", settings)
    names = [value.any_name for value in model.inputs]

    def score(prepared):
        runs = (model({name: batch[name] for name in names})[0] for batch in prepared)
        return [value for logits in runs for value in logits[:, 0]]

    return batches(AutoTokenizer.from_pretrained(model_dir), "np"), score


PEERS = {
    "torch-eager": lambda model, threads: torch_peer(model, threads, compiled=False),
    "torch-compile": lambda model, threads: torch_peer(model, threads, compiled=True),
    "sentence-transformers": sentence_transformers_peer,
    "onnxruntime": lambda model, threads: onnxruntime_peer(model, threads, "model.onnx"),
    "onnxruntime-int8": lambda model, threads: onnxruntime_peer(model, threads, "model.int8.onnx"),
    "onnxruntime-int8-per-channel": lambda model, threads: onnxruntime_peer(
        model, threads, "model.int8-per-channel.onnx"
    ),
    "openvino": openvino_peer,
}

if __name__ == "__main__":
    main()
