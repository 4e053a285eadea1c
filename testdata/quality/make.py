"""Makes golden.json: measures of small rankings by ir_measures, which computes them with trec_eval's code.

    python3 -m venv target/measures/venv
    target/measures/venv/bin/pip install -r testdata/quality/requirements.txt
    target/measures/venv/bin/python testdata/quality/make.py [--check [REPORT ...]]

`--check` compares instead, and ends with exit code 1 if a value differs: `cargo xtask compare-measures` runs it. A
REPORT is a folder of `assay-bench quality`, whose runs are measured again.

Rankings are random with a fixed seed, and a few by hand: ties, unjudged and missing documents, negative grades, no
relevant document. ir_measures' reciprocal rank has no cut-off in this provider: beyond rank 10 the value is 0 here,
which is what RR@10 means.
"""

import json
import random
import sys
from pathlib import Path

import ir_measures
from ir_measures import AP, RR, R, nDCG

CUT = 10
MEASURES = [nDCG @ CUT, RR, AP, R @ 5]


def cases():
    yield "ties, all equal", [("a", 1.0), ("b", 1.0), ("c", 1.0)], [("a", 1)]
    tied = [("d9", 0.5), ("d10", 0.5), ("D9", 0.5)]
    yield "ties of ids that differ in case and length", tied, [("d10", 2), ("D9", 1)]
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


def make():
    made = []
    for about, run, qrels in cases():
        made.append({"about": about, "run": run, "qrels": qrels, "values": values(run, qrels)})
    return made


def write(path):
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in make())
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{path} is written")


def check(path, reports):
    made, kept = json.loads(json.dumps(make())), json.loads(path.read_text(encoding="utf-8"))
    assert made == kept, f"{path} is not what ir_measures computes"
    print(f"{len(kept)} cases of {path.name} are as ir_measures computes them")
    return all([check_report(Path(report)) for report in reports])


def check_report(folder):
    """Measures each run of a report again, query by query."""
    report = json.loads((folder / "quality.json").read_text(encoding="utf-8"))
    recall_at = int(report["variants"][0]["measures"][3]["name"].removeprefix("R@"))
    measures = [nDCG @ CUT, RR, AP, R @ recall_at]
    qrels = list(ir_measures.read_trec_qrels(str(folder / "runs/qrels.txt")))
    agree = True
    for variant in report["variants"]:
        path, found = folder / "runs" / variant["run"], {}
        for result in ir_measures.iter_calc(measures, qrels, ir_measures.read_trec_run(str(path))):
            value = result.value if result.measure != RR or result.value >= 1 / CUT else 0.0
            found[result.query_id, measures.index(result.measure)] = value
        worst = 0.0
        for query, row in zip(report["query_ids"], variant["values"]):
            for measure, value in enumerate(row):
                # A query whose judged documents are all irrelevant may have no line.
                worst = max(worst, abs(found.get((query, measure), 0.0) - value))
        agree = agree and worst < 1e-9
        print(f"{folder}: {variant['name']}: {len(report['query_ids'])} queries, largest difference {worst:.1e}")
    return agree


def main(arguments):
    path = Path(__file__).with_name("golden.json")
    if not arguments:
        return write(path)
    assert arguments[0] == "--check", f"unknown argument {arguments[0]}"
    sys.exit(0 if check(path, arguments[1:]) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
