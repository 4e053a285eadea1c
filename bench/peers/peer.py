"""One peer, held in memory and told what to score: run by `assay-bench peers`, which interleaves the peers.

    python peer.py --peer NAME --model DIR --exported DIR --pairs FILE --max-length TOKENS --threads N

Speaks JSON lines. On start: {"ready": ..., "load_s": ..., "first_batch_s": ...}. For each {"first": i, "count": n} on
standard input: {"seconds": s, "scores": [...]}. At the end of input: {"peak_rss_bytes": ...}.

Every peer sees the pairs in their order, in batches of 32, and tokenises outside the timed part, except
sentence-transformers, whose public call takes text and sorts by length within each call. The score of a pair is its
first label's logit.
"""

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=sorted(PEERS), required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--exported", type=Path, required=True)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with open(args.pairs, encoding="utf-8") as file:
        pairs = json.load(file)
    # What libraries print would be taken for answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    reply = lambda message: print(json.dumps(message), file=answers, flush=True)
    started = time.perf_counter()
    prepare, score = PEERS[args.peer](args)
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


def batches(args):
    """Turns pairs into padded batches."""
    from network import tokenizer

    encode = tokenizer(args.model, args.max_length)
    return lambda pairs: [encode(pairs[i : i + BATCH]) for i in range(0, len(pairs), BATCH)]


def torch_peer(args, compiled: bool):
    import torch
    from network import Network

    torch.set_num_threads(args.threads)
    network = Network(args.model)
    inputs = network.inputs
    if compiled:
        network = torch.compile(network, backend="inductor", dynamic=True)
    encode = batches(args)
    prepare = lambda pairs: [[torch.from_numpy(batch[name]) for name in inputs] for batch in encode(pairs)]

    def score(prepared):
        with torch.inference_mode():
            return [value for batch in prepared for value in network(*batch)[:, 0].tolist()]

    return prepare, score


def sentence_transformers_peer(args):
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(args.threads)
    model = CrossEncoder(
        str(args.model), max_length=args.max_length, device="cpu", local_files_only=True,
        model_kwargs={"dtype": torch.float32},
    )
    identity = torch.nn.Identity()

    def score(pairs):
        scores = model.predict(pairs, batch_size=BATCH, show_progress_bar=False, activation_fn=identity)
        return scores if scores.ndim == 1 else scores[:, 0]

    return lambda pairs: pairs, score


def exported(args, file: str) -> str:
    """The path of an exported file; ends with the reason if there is none."""
    failed = args.exported / "model.onnx.failed"
    if failed.exists():
        sys.exit(failed.read_text())
    return str(args.exported / file)


def onnxruntime_peer(args, file: str):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(exported(args, file), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def score(prepared):
        runs = (session.run(["logits"], {name: batch[name] for name in names})[0] for batch in prepared)
        return [value for logits in runs for value in logits[:, 0]]

    return batches(args), score


def openvino_peer(args):
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": args.threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = core.compile_model(exported(args, "model.onnx"), "CPU", settings)
    names = [value.any_name for value in model.inputs]

    def score(prepared):
        runs = (model({name: batch[name] for name in names})[0] for batch in prepared)
        return [value for logits in runs for value in logits[:, 0]]

    return batches(args), score


PEERS = {
    "torch-eager": lambda args: torch_peer(args, compiled=False),
    "torch-compile": lambda args: torch_peer(args, compiled=True),
    "sentence-transformers": sentence_transformers_peer,
    "onnxruntime": lambda args: onnxruntime_peer(args, "model.onnx"),
    "onnxruntime-int8": lambda args: onnxruntime_peer(args, "model.int8.onnx"),
    "onnxruntime-int8-per-channel": lambda args: onnxruntime_peer(args, "model.int8-per-channel.onnx"),
    "openvino": openvino_peer,
}

if __name__ == "__main__":
    main()
