"""Makes passages.json and other-head.json: token ids and float64 logits of the embedded default model, and of its
encoder with another head, by Hugging Face's own code.

    python3 -m venv target/golden-venv
    target/golden-venv/bin/pip install torch==2.15.0 transformers==5.23.0
    cargo xtask build && target/release/assay --data-dir target/test-data model pull --embedded
    target/golden-venv/bin/python testdata/golden/make.py target/test-data/models/assay--minilm-l6-debian/*/

Pairs are the passages and queries of examples/, a few texts that are awkward to tokenise, and some that are too long,
under both kinds of truncation. The adapter is merged here by its formula, in float64, independently of Assay's code.

Texts are passed as lists of one, as a reranker passes its batches: `tokenizer(query, "")` would leave the document out
of the row, `tokenizer([query], [""])` does not.
"""

import json
import random
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "examples"

AWKWARD = [
    ("", ""),
    ("", "only a document"),
    ("only a query", ""),
    ("only a query", " \t\r\n"),
    ("only a query", "\u0000\u200b\ufffd"),
    ("\u200b", "only a document"),
    ("\u0301", "\u0007"),
    ("[SEP] in a query", "and a [CLS] and a [MASK] in a document"),
    ("Überfluß, naïve café", "ﬁligree ½ ① Å İstanbul"),
    ("東京の天気", "明日は雨が降るでしょう。"),
    ("👩‍👩‍👧‍👦 family", "emoji 🏳️‍🌈 with\u200bzero\u200dwidth\ufeff characters"),
    ("tabs\tand\nnewlines", "control\u0000 and \u0007 characters \r\n"),
    ("a" * 250, "one word longer than the tokenizer takes"),
]


def pairs():
    lines = lambda name: [json.loads(line) for line in (EXAMPLES / name).read_text().splitlines()]
    queries, passages = lines("queries.jsonl"), lines("passages.jsonl")
    for number, query in enumerate(queries):
        for passage in passages[4 * number : 4 * number + 4]:
            yield query, passage, "longest_first"
    for query, document in AWKWARD:
        yield query, document, "longest_first"
    long_query, long_document = " ".join(queries * 12), " ".join(passages)
    yield long_query, long_document, "longest_first"
    yield long_document, long_query, "longest_first"
    yield queries[0], long_document, "longest_first"
    yield queries[0], long_document, "only_second"


def model(directory):
    """The encoder with the adapter merged: W' = W + (alpha / r) B A."""
    config = BertConfig.from_json_file(directory / "config.json")
    config.num_labels = 1
    settings = json.loads((directory / "adapter/adapter_config.json").read_text())
    scale = settings["lora_alpha"] / settings["r"]
    state = {f"bert.{name}": tensor.double() for name, tensor in load_file(directory / "model.safetensors").items()}
    adapter = {
        name.removeprefix("base_model.model."): tensor.double()
        for name, tensor in load_file(directory / "adapter/adapter_model.safetensors").items()
    }
    for name, tensor in adapter.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            state[f"{module}.weight"] += scale * adapter[f"{module}.lora_B.weight"] @ tensor
        elif ".lora_" not in name:
            state[name] = tensor
    model = BertForSequenceClassification(config).double().eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing and set(unexpected) <= {"bert.embeddings.position_ids"}, (missing, unexpected)
    return model


@torch.no_grad()
def main(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    network = model(directory)
    cases = []
    for query, document, truncation in pairs():
        encoded = tokenizer([query], [document], truncation=truncation, max_length=512, return_tensors="pt")
        cases.append({
            "query": query,
            "document": document,
            "truncation": truncation,
            "ids": encoded["input_ids"][0].tolist(),
            "type_ids": encoded["token_type_ids"][0].tolist(),
            "logits": network(**encoded).logits[0].tolist(),
        })
    note = "float64 logits of assay/minilm-l6-debian by torch and transformers; made by make.py"
    write("passages.json", {"note": note, "max_length": 512}, cases)


def write(name, head, cases):
    body = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    (HERE / name).write_text(f'{json.dumps(head)[:-1]}, "cases": [\n{body}\n]}}\n')
    print(f"{name}: {len(cases)} cases")


@torch.no_grad()
def other_head(directory):
    """The encoder as it is, with its own pooler and a random classifier of three labels."""
    random.seed(1)
    labels, hidden = 3, 384
    weight = [[round(random.gauss(0, 0.1), 3) for _ in range(hidden)] for _ in range(labels)]
    bias = [0.25, -0.5, 0.125]
    encoder = BertModel.from_pretrained(directory, dtype=torch.float64, attn_implementation="eager").eval()
    # The engines hold weights in f32: what they cannot represent would count as their error.
    linear = torch.tensor(weight, dtype=torch.float32).double()
    cases = []
    for length in [1, 2, 3, 16, 31, 33, 64, 65, 100, 127, 129, 511, 512]:
        ids = [101, *(random.randrange(999, encoder.config.vocab_size) for _ in range(length - 1))]
        second = random.randint(1, length)
        types = [int(index >= second) for index in range(length)]
        pooled = encoder(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types])).pooler_output[0]
        logits = linear @ pooled + torch.tensor(bias, dtype=torch.float64)
        cases.append({"ids": ids, "type_ids": types, "logits": logits.tolist()})
    note = "float64 logits by torch and transformers; made by make.py"
    flat = [value for row in weight for value in row]
    write("other-head.json", {"note": note, "classifier_weight": flat, "classifier_bias": bias}, cases)


main(Path(sys.argv[1]))
other_head(Path(sys.argv[1]))
