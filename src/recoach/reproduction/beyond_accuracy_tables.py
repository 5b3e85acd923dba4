"""Tables that follow table 3: all cut-offs, properties of the lists, recall by popularity."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from recoach.evaluation.metrics import cutoff
from recoach.report.table_cells import metric_cell
from recoach.report.table_formats import ResultTable
from recoach.report.tables import format_metric, metric_label
from recoach.reproduction.labels import NAMES, STAGES

Record = Mapping[str, Any]

_LIST_METRICS: Final = {
    "coverage@10": "Coverage",
    "gini@10": "Gini",
    "popularity@10": "Popularity",
    "novelty@10": "Novelty",
    "diversity@10": "Diversity",
}
_FIFTHS: Final = ("head", "2nd fifth", "3rd fifth", "4th fifth", "tail")


def cutoffs(log: str, results: Record) -> ResultTable:
    """Return recall and NDCG of every model at every cut-off that was measured.

    Args:
        log: named in the heading.
        results: the cells of one log of the aggregated suite `table3`.
    """
    models = list(_models(results))
    metrics = models[0][2]["models"]["base"]["test"] if models else {}
    ks = sorted({k for metric in metrics if (k := cutoff(metric))})
    names = [f"{kind}@{k}" for kind in ("recall", "ndcg") for k in ks]
    rows = [
        (label, *(metric_cell(cell, stage, metric, change=False) for metric in names))
        for label, stage, cell in models
    ]
    head = ("Method", *(metric_label(name) for name in names))
    note = "At cut-off 1, recall and NDCG are equal for users with one test item."
    return ResultTable(f"All cut-offs: {log}", head, rows, note)


def beyond_accuracy(log: str, results: Record) -> ResultTable:
    """Return coverage, novelty, … of the top-10 lists, and recall by popularity of the target."""
    rows = []
    for label, stage, cell in _models(results):
        model = cell["models"][stage]
        lists = [format_metric(model["lists"][metric]["mean"]) for metric in _LIST_METRICS]
        fifths = [format_metric(bucket["recall@10"]) for bucket in model["popularity_buckets"]]
        rows.append((label, *lists, *fifths))
    note = (
        "Lists of 10 items. Popularity: mean number of training interactions; novelty in bits; "
        "diversity: 1 - mean cosine of the items' users. Then Recall@10 by popularity of the "
        "target: fifths of the interactions, from the most popular items (head) to the least "
        "popular (tail)."
    )
    head = ("Method", *_LIST_METRICS.values(), *_FIFTHS)
    return ResultTable(f"Beyond accuracy: {log}", head, rows, note)


def _models(results: Record) -> Iterator[tuple[str, str, Record]]:
    """Yield label, stage and cell of the popularity baseline, then of every trained model."""
    for cell in list(results["cells"].values())[:1]:
        yield "Popularity", "popularity", cell
    for model, cell in results["cells"].items():
        for stage, suffix in STAGES.items():
            if stage in cell["models"]:
                yield f"{NAMES[model]}{suffix}", stage, cell
