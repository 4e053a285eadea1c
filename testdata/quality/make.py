"""Makes golden.json: measures of small rankings by ir_measures, which computes them with trec_eval's code.

    python3 -m venv target/quality-venv
    target/quality-venv/bin/pip install -r testdata/quality/requirements.txt
    target/quality-venv/bin/python testdata/quality/make.py

Rankings are random with a fixed seed, and a few by hand: ties, unjudged and missing documents, negative grades, no
relevant document. ir_measures' reciprocal rank has no cut-off in this provider: beyond rank 10 the value is 0 here, which
is what RR@10 means.
"""

import json
import random
from pathlib import Path

import ir_measures
from ir_measures import AP, RR, R, nDCG

CUT = 10
MEASURES = [nDCG @ CUT, RR, AP, R @ 5]


def cases():
    yield "ties, all equal", [("a", 1.0), ("b", 1.0), ("c", 1.0)], [("a", 1)]
    yield "ties of ids that differ in case and length", [("d9", 0.5), ("d10", 0.5), ("D9", 0.5)], [("d10", 2), ("D9", 1)]
    yield "ties beyond ASCII", [("é", 0.5), ("e", 0.5), ("z", 0.5)], [("e", 1)]
    yield "unjudged first", [("x", 3.0), ("a", 2.0), ("y", 1.0)], [("a", 1), ("b", 0)]
    yield "relevant ones not ranked", [("a", 1.0)], [("a", 1), ("b", 3), ("c", 1)]
    yield "none ranked", [("x", 1.0)], [("a", 1)]
    yield "none relevant", [("a", 1.0), ("b", 0.5)], [("a", 0), ("b", 0)]
    yield "negative grades", [("a", 3.0), ("b", 2.0), ("c", 1.0)], [("a", -1), ("b", 2), ("c", -2)]
    yield "only negative grades", [("a", 3.0)], [("a", -1)]
    yield "scores that are equal as floats of 32 bits", [("a", 1.0), ("b", 1.00000001)], [("a", 1)]
    yield "two zeros", [("a", 0.0), ("b", -0.0)], [("a", 1)]
    yield "relevant at rank 11", [(f"d{n:02}", -float(n)) for n in range(12)], [("d10", 1)]
    draw = random.Random(20)
    for number in range(260):
        documents = [f"d{n}" for n in range(draw.choice([1, 3, 10, 30]))]
        scores = draw.choice([[0.0, 0.5], [n / 7 for n in range(40)], [-3.0]])
        run = [(document, draw.choice(scores)) for document in documents if draw.random() < 0.8]
        others = [f"x{n}" for n in range(draw.choice([0, 0, 3]))]
        grades = draw.choice([[0, 1], [0, 0, 0, 1], [-1, 0, 1, 2, 3]])
        qrels = [(document, draw.choice(grades)) for document in documents + others if draw.random() < 0.7]
        if run and qrels:
            yield f"random {number}", run, qrels


def values(run, qrels):
    run = [ir_measures.ScoredDoc("q", document, score) for document, score in run]
    qrels = [ir_measures.Qrel("q", document, grade) for document, grade in qrels]
    found = {result.measure: result.value for result in ir_measures.iter_calc(MEASURES, qrels, run)}
    ndcg, rank, precision, recall = (found[measure] for measure in MEASURES)
    return [ndcg, rank if rank >= 1 / CUT else 0.0, precision, recall]


def main():
    made = []
    for about, run, qrels in cases():
        made.append({"about": about, "run": run, "qrels": qrels, "values": values(run, qrels)})
    path = Path(__file__).with_name("golden.json")
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in made)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(made)} cases in {path}")


if __name__ == "__main__":
    main()
