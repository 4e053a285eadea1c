"""Holds `assay` to `CrossEncoder.predict` on the default model: `cargo xtask compare-cross-encoder` runs this.

    python compare.py --assay PROGRAM --data-dir DIR --work DIR

DIR is a data directory with a default model. Scores the pairs of texts.py with both, prints the largest difference of
each language, and ends with exit code 1 if a pair differs by more than the tolerance.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import common
import texts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("assay", "data-dir", "work"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    args = parser.parse_args()
    pairs = texts.pairs()
    languages = sorted({language for language, _, _ in pairs})
    only = [(query, document) for _, query, document in pairs]
    print(f"{len(pairs)} pairs in {len(languages)} kinds of text")
    ours = common.Assay(args.assay, args.data_dir).scores(only)
    theirs = common.predict(cross_encoder(args.data_dir, args.work), only)
    assert len(ours) == len(pairs), f"{len(ours)} answers for {len(pairs)} pairs"
    print("\nlargest difference by kind of text:")
    for language in languages:
        of = [index for index, pair in enumerate(pairs) if pair[0] == language]
        difference, _ = common.largest([ours[index] for index in of], [theirs[index] for index in of])
        print(f"  {language:8} {len(of):4} pairs {difference:9.1e}")
    difference, index = common.largest(ours, theirs)
    language, query, document = pairs[index]
    print(f"\nlargest difference {difference:.2e} (allowed {common.TOLERANCE:.0e}), pair {index}, {language}:")
    print(f"  query     {len(query):6} characters {query[:60]!r}")
    print(f"  document  {len(document):6} characters {document[:60]!r}")
    print(f"  assay {ours[index]:.6f}, CrossEncoder {theirs[index]:.6f}")
    wrong = [index for index in range(len(pairs)) if not abs(ours[index] - theirs[index]) <= common.TOLERANCE]
    for index in wrong[:20]:
        print(f"WRONG pair {index}: assay {ours[index]:.6f}, CrossEncoder {theirs[index]:.6f}: {pairs[index]!r:.300}")
    print(f"{len(pairs) - len(wrong)} pairs agree, {len(wrong)} differ")
    sys.exit(1 if wrong else 0)


def cross_encoder(data_dir, work):
    """The default model as sentence-transformers has it; an adapter is merged by PEFT."""
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification

    name = (data_dir / "models/default").read_text().strip()
    folder = data_dir / "models" / name.replace("/", "--")
    stored = folder / (folder / "current").read_text().strip()
    print(f"default model {name}, revision {stored.name}")
    if not (stored / "adapter").is_dir():
        return CrossEncoder(str(stored), device="cpu", max_length=512)
    from peft import PeftModel

    base = AutoModelForSequenceClassification.from_pretrained(stored, num_labels=1, dtype="float32")
    merged = PeftModel.from_pretrained(base, stored / "adapter").merge_and_unload()
    path = work / "default"
    shutil.rmtree(path, ignore_errors=True)
    merged.save_pretrained(path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        if (stored / file).is_file():
            shutil.copy(stored / file, path)
    if not (path / "tokenizer_config.json").is_file():
        (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return CrossEncoder(str(path), device="cpu", max_length=512)


if __name__ == "__main__":
    main()
