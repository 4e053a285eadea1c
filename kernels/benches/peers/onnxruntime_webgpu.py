#!/usr/bin/env python3
"""The same forward pass by onnxruntime's WebGPU provider, to hold `gpu_forward` against on the same driver.

Question: useful tokens/s of a model of MiniLM-L6's shape with random weights, all of the last layer computed, as an
exported model does: on rows of equal length, so that nothing is padding, or of given lengths, padded to the longest, as
such a model needs them. The attention mask is left out in its favour. Baseline of `cargo bench -p assay-kernels --bench
gpu_forward`. Excluded: loading, and the first pass.

usage: onnxruntime_webgpu.py [--rows 16] [--row-tokens 100] [--lengths N,N,…] [--runs 3]
needs: pip install onnxruntime-webgpu onnx numpy; to run on lavapipe, start Python with target/vulkan/run-lavapipe
"""
import argparse
import statistics
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

HIDDEN, HEADS, LAYERS, INTERMEDIATE, VOCABULARY = 384, 12, 6, 1536, 30522


class Graph:
    """Nodes and weights of an ONNX graph, each output named by a counter."""

    def __init__(self):
        self.nodes, self.weights, self.random = [], [], np.random.default_rng(1)

    def constant(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape):
        return self.constant((self.random.standard_normal(shape) * 0.05).astype(np.float32))

    def op(self, kind, *inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def linear(self, x, inputs, outputs):
        return self.op("Add", self.op("MatMul", x, self.weight(inputs, outputs)), self.weight(outputs))

    def norm(self, x):
        return self.op("LayerNormalization", x, self.weight(HIDDEN), self.weight(HIDDEN), axis=-1, epsilon=1e-12)


def model(rows, tokens):
    g, head = Graph(), HIDDEN // HEADS
    split = g.constant(np.array([rows, tokens, HEADS, head], np.int64))
    join = g.constant(np.array([rows, tokens, HIDDEN], np.int64))
    scale = g.constant(np.array(head**-0.5, np.float32))
    x = g.op("Add", g.op("Gather", g.weight(VOCABULARY, HIDDEN), "ids"), g.weight(tokens, HIDDEN))
    x = g.norm(x)
    for _ in range(LAYERS):
        heads = lambda perm: g.op("Transpose", g.op("Reshape", g.linear(x, HIDDEN, HIDDEN), split), perm=perm)
        q, k, v = heads([0, 2, 1, 3]), heads([0, 2, 3, 1]), heads([0, 2, 1, 3])
        weights = g.op("Softmax", g.op("Mul", g.op("MatMul", q, k), scale), axis=-1)
        context = g.op("Transpose", g.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        x = g.norm(g.op("Add", g.linear(g.op("Reshape", context, join), HIDDEN, HIDDEN), x))
        inner = g.op("Gelu", g.linear(x, HIDDEN, INTERMEDIATE))
        x = g.norm(g.op("Add", g.linear(inner, INTERMEDIATE, HIDDEN), x))
    first = g.op("Gather", x, g.constant(np.array(0, np.int64)), axis=1)
    scores = g.linear(g.op("Tanh", g.linear(first, HIDDEN, HIDDEN)), HIDDEN, 1)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [rows, tokens])
    out = helper.make_tensor_value_info(scores, TensorProto.FLOAT, [rows, 1])
    graph = helper.make_graph(g.nodes, "minilm", [ids], [out], g.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--row-tokens", type=int, default=100)
    parser.add_argument("--lengths", type=lambda text: [int(length) for length in text.split(",")])
    parser.add_argument("--runs", type=int, default=3)
    a = parser.parse_args()
    lengths = a.lengths or [a.row_tokens] * a.rows
    shape = (len(lengths), max(lengths))
    session = ort.InferenceSession(model(*shape), providers=["WebGpuExecutionProvider"])
    if "WebGpuExecutionProvider" not in session.get_providers():
        raise SystemExit(f"the WebGPU provider did not load: {session.get_providers()}")
    ids = {"ids": np.random.default_rng(2).integers(0, VOCABULARY, shape)}
    if not np.isfinite(session.run(None, ids)[0]).all():
        raise SystemExit("scores are not finite")
    seconds = []
    for _ in range(a.runs):
        start = time.perf_counter()
        session.run(None, ids)
        seconds.append(time.perf_counter() - start)
    median, tokens = statistics.median(seconds), sum(lengths)
    spread = f"fastest {min(seconds) * 1e3:.0f}, slowest {max(seconds) * 1e3:.0f}"
    print(f"onnxruntime {ort.__version__} webgpu: {median * 1e3:.0f} ms ({spread}), {tokens / median:.0f} useful tokens/s")


if __name__ == "__main__":
    main()
