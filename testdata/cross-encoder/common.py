"""What compare.py and saves.py share: the program's scores, and CrossEncoder's."""

import json
import os
import subprocess
import warnings

for name, value in {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}.items():
    os.environ.setdefault(name, value)
warnings.filterwarnings("ignore")

# Most that two scores may differ.
TOLERANCE = 5e-5


class Assay:
    """The program `assay` with a data directory."""

    def __init__(self, program, data_dir):
        self.program, self.data_dir = program, data_dir

    def run(self, *arguments, text=None):
        command = [self.program, "--data-dir", str(self.data_dir), *map(str, arguments)]
        return subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8")

    def scores(self, pairs, model=None):
        """The logit of each pair, or raises ValueError with the program's message."""
        line = lambda pair: json.dumps({"query": pair[0], "documents": [pair[1]]})
        # Otherwise scores are what the model's files say, as CrossEncoder's are.
        options = ["--requests", "-", "--json", "--engine", "cpu", "--scores", "raw"] + (["--model", model] if model else [])
        done = self.run("rerank", *options, text="".join(line(pair) + "\n" for pair in pairs))
        if done.returncode:
            raise ValueError(done.stderr.strip())
        return [json.loads(answer)["hits"][0]["score"] for answer in done.stdout.splitlines()]


def predict(cross_encoder, pairs):
    """The logit of each pair by `CrossEncoder.predict`."""
    import torch

    scores = cross_encoder.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    return [float(score) for score in scores]


def largest(ours, theirs):
    """The largest difference, and the index of its pair."""
    assert len(ours) == len(theirs), (len(ours), len(theirs))
    differences = [abs(a - b) if a == a and b == b else float("inf") for a, b in zip(ours, theirs)]
    return max(zip(differences, range(len(differences))), key=lambda found: found[0])
