"""The model that the peers run: a directory as transformers or sentence-transformers load it, of any family, as one
function from ids to logits; and its tokenizer.json, whose ids all peers get but sentence-transformers.
"""

import inspect
import json
from pathlib import Path

import torch


def has_modules(directory: Path) -> bool:
    """Whether the head is in folders of sentence-transformers beside a bare encoder."""
    path = Path(directory) / "modules.json"
    return path.exists() and len(json.loads(path.read_text())) > 1


class Network(torch.nn.Module):
    """Takes the tensors that `inputs` names, in order, each `[rows, tokens]`; gives logits, `[rows, labels]`."""

    def __init__(self, directory: Path, **options):
        super().__init__()
        # A file in f16 is computed in f32, as Assay's processor engine does.
        options = {"dtype": torch.float32, **options}
        self.has_modules = has_modules(directory)
        if self.has_modules:
            from sentence_transformers import CrossEncoder

            self.model = CrossEncoder(str(directory), device="cpu", local_files_only=True, model_kwargs=options)
            encoder = self.model[0].model
        else:
            from transformers import AutoModelForSequenceClassification

            self.model = AutoModelForSequenceClassification.from_pretrained(directory, **options)
            encoder = self.model
        self.config = encoder.config
        self.eval()
        self.inputs = ["input_ids", "attention_mask"]
        typed = getattr(self.config, "type_vocab_size", 0) > 1
        if typed and "token_type_ids" in inspect.signature(encoder.forward).parameters:
            self.inputs.append("token_type_ids")

    def forward(self, *tensors):
        features = dict(zip(self.inputs, tensors))
        return self.model(features)["scores"] if self.has_modules else self.model(**features).logits


def tokenizer(directory: Path, max_length: int):
    """From pairs to padded `[rows, tokens]` arrays by name."""
    import numpy
    from tokenizers import Tokenizer

    pad = json.loads((Path(directory) / "config.json").read_text()).get("pad_token_id") or 0
    tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    tokenizer.enable_padding(pad_id=pad)

    def batch(pairs):
        rows = tokenizer.encode_batch([tuple(pair) for pair in pairs])
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        of = lambda column: numpy.array([getattr(row, column) for row in rows], dtype=numpy.int64)
        return {name: of(column) for name, column in columns.items()}

    return batch
