"""Beside table 3: every cut-off, what the lists are like, and who is served by popularity."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from recoach.report.table_cells import metric_cell
from recoach.report.table_formats import ResultTable
from recoach.report.tables import format_metric, metric_label
from recoach.reproduction.figures import NAMES

Record = Mapping[str, Any]

STAGES: Final = {"base": "", "control": " + supervised steps", "tuned": "-GRPO"}
_LISTS: Final = {
    "coverage@10": "Coverage",
    "gini@10": "Gini",
    "popularity@10": "Popularity",
    "novelty@10": "Novelty",
    "diversity@10": "Diversity",
}
_FIFTHS: Final = ("head", "2nd fifth", "3rd fifth", "4th fifth", "tail")


def cutoffs(name: str, found: Record) -> ResultTable:
    """Return Recall and NDCG at every cut-off that was measured."""
    models = list(_models(found))
    measures = models[0][2]["models"]["base"]["test"] if models else {}
    lengths = sorted({int(metric.partition("@")[2]) for metric in measures})
    names = [f"{kind}@{k}" for kind in ("recall", "ndcg") for k in lengths]
    rows = [
        (label, *(metric_cell(cell, stage, metric, change=False) for metric in names))
        for label, stage, cell in models
    ]
    note = "At 1 the two are the same where a user has one test item."
    return ResultTable(
        f"All cut-offs: {name}", ("Method", *(metric_label(m) for m in names)), rows, note
    )


def beyond(name: str, found: Record) -> ResultTable:
    """Return what the lists of ten are like, and recall by popularity of the target."""
    rows = []
    for label, stage, cell in _models(found):
        there = cell["models"][stage]
        lists = [format_metric(there["lists"][key]["mean"]) for key in _LISTS]
        fifths = [format_metric(bucket["recall@10"]) for bucket in there["popularity_buckets"]]
        rows.append((label, *lists, *fifths))
    note = (
        "Lists of ten. Popularity: mean training interactions; novelty: bits; diversity: 1 - mean "
        "cosine of items' users. Then Recall@10 by popularity of the target: fifths of the "
        "interactions, from the most popular items (head) to the least (tail)."
    )
    return ResultTable(
        f"Beyond accuracy: {name}", ("Method", *_LISTS.values(), *_FIFTHS), rows, note
    )


def _models(found: Record) -> Iterator[tuple[str, str, Record]]:
    """Yield (label, stage, cell) of the model that knows nobody, then of every trained one."""
    for cell in list(found["cells"].values())[:1]:
        yield "Popularity", "popularity", cell
    for model, cell in found["cells"].items():
        for stage, ending in STAGES.items():
            if stage in cell["models"]:
                yield f"{NAMES[model]}{ending}", stage, cell
