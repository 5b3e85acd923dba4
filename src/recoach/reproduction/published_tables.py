"""Our base models beside reference results on the same files, split and masking."""

from collections.abc import Mapping
from typing import Any, Final

from recoach.report.table_formats import ResultTable
from recoach.report.tables import MISSING, metric_label

Record = Mapping[str, Any]

_REFERENCES: Final[dict[tuple[str, str], tuple[str, dict[str, float]]]] = {
    ("toys-2014", "gsau"): (
        "GSAU(rec), Toys 2014: the authors' log",
        {"recall@10": 0.0924, "ndcg@10": 0.0470, "recall@50": 0.1970, "ndcg@50": 0.0699},
    ),
    ("beauty-2014", "sasrec"): (
        "SASRec, Beauty 2014: the GSAU authors' log",
        {"recall@10": 0.0826, "ndcg@10": 0.0414, "recall@50": 0.1752, "ndcg@50": 0.0616},
    ),
    ("toys-2014", "lightgcn"): (
        "LightGCN, Toys 2014: our run of RecBole 1.2.1",
        {"recall@10": 0.0431, "ndcg@10": 0.0230, "recall@50": 0.1045, "ndcg@50": 0.0362},
    ),
    ("beauty-2014", "lightgcn"): (
        "LightGCN, Beauty 2014: our run of RecBole 1.2.1",
        {"recall@10": 0.0437, "ndcg@10": 0.0218, "recall@50": 0.1175, "ndcg@50": 0.0379},
    ),
    ("ml-latest-small", "fpmc"): (
        "FPMC, MovieLens (latest small): our run of RecBole 1.2.1",
        {"recall@10": 0.0566, "ndcg@10": 0.0331, "recall@50": 0.1848, "ndcg@50": 0.0601},
    ),
}
"""Reference test metrics of base models by log and cell of the suite `verification`.

GSAU's and SASRec's are published by GSAU's authors. LightGCN's and FPMC's are not published: they
are our runs of RecBole, which `docs/results/verification.md` describes.
"""


def verification(record: Record) -> list[ResultTable]:
    """Return our base models beside the reference result of the same model, a row per metric."""
    rows: list[tuple[str, ...]] = []
    for (log, cell_name), (name, metrics) in _REFERENCES.items():
        cell = record["data"].get(log, {"cells": {}})["cells"].get(cell_name)
        for metric, reference in metrics.items():
            ours = None if cell is None else cell["models"]["base"]["test"][metric]["mean"]
            rows.append((f"{name}, {metric_label(metric)}", *ratio_cells(reference, ours)))
    head = ("Reference result", "reference", "ours", "ours / reference")
    return [ResultTable("Base models compared with reference results", head, rows)]


def ratio_cells(reference: float, ours: float | None) -> tuple[str, str, str]:
    """Return the cells of a reference value, ours, and their ratio."""
    if ours is None:
        return f"{reference:.4f}", MISSING, MISSING
    return f"{reference:.4f}", f"{ours:.4f}", f"{ours / reference:.3f}"
