"""Our session models beside published results and independent reruns."""

from collections.abc import Mapping
from typing import Any, Final

from recoach.report.table_formats import ResultTable
from recoach.report.tables import MISSING
from recoach.reproduction.labels import cell_label
from recoach.reproduction.session_cells import METRICS

Record = Mapping[str, Any]

_PUBLISHED: Final[dict[str, dict[str, str]]] = {
    "yoochoose-64": {
        "session_popularity": "30.44 / 18.35",
        "fpmc": "45.62 / 15.01",
        "gru4rec": "60.64 / 22.89",
        "srgnn": "70.57 / 30.94",
        "fgnn": "71.75 / 31.71",
        "tagnn": "71.02 / 31.12",
        "gcegnn": "70.91 / 30.63",
    },
    "diginetica": {
        "session_popularity": "21.06 / 13.68",
        "fpmc": "26.53 / 6.95",
        "gru4rec": "29.45 / 8.33",
        "srgnn": "50.73 / 17.59",
        "fgnn": "51.36 / 18.47",
        "tagnn": "51.31 / 18.03",
        "gcegnn": "54.22 / 19.04",
        "cotrec": "54.18 / 19.07",
    },
    "tmall": {
        "fpmc": "16.06 / 7.32",
        "srgnn": "27.57 / 13.72",
        "fgnn": "25.24 / 10.39",
        "gcegnn": "33.42 / 15.42",
        "cotrec": "36.35 / 18.04",
    },
    "nowplaying": {
        "fpmc": "7.36 / 2.82",
        "srgnn": "18.87 / 7.47",
        "fgnn": "18.78 / 7.15",
        "gcegnn": "22.37 / 8.40",
    },
    "retailrocket-views": {
        "fpmc": "32.37 / 13.82",
        "srgnn": "50.32 / 26.57",
        "gcegnn": "55.78 / 28.72",
        "cotrec": "56.17 / 29.97",
    },
}
"""P@20 / MRR@20 in percent by log and model, as far as possible from the paper of the model."""

_RERUNS: Final[dict[str, dict[str, str]]] = {
    "yoochoose-64": {
        "session_popularity": "31.14 / 18.63 (a)",
        "vsknn": "69.34 / 28.39 (a)",
        "vstan": "70.66 / 28.45 (a)",
        "srgnn": "69.56 / 29.23 (a), 69.2 / 29.7 (b)",
        "srgnn-cosine": "70.62 / 30.79 (a)",
    },
    "diginetica": {
        "session_popularity": "21.08 / 13.69 (a)",
        "vsknn": "51.35 / 18.27 (a)",
        "vstan": "52.33 / 18.74 (a)",
        "fpmc": "31.83 / 8.79 (c)",
        "gru4rec": "45.43 / 14.77 (c)",
        "sasrec": "49.86 / 17.19 (c)",
        "srgnn": "50.5 / 17.3 (b), 48.76 / 16.93 (c)",
        "srgnn-cosine": "51.36 / 18.57 (c)",
        "fgnn": "50.58 / 16.84 (d)",
    },
    "tmall": {
        "session_popularity": "45.78 / 22.74 (a)",
        "vsknn": "33.81 / 15.12 (a)",
        "vstan": "30.96 / 14.77 (a)",
        "fpmc": "20.30 / 13.07 (c)",
        "srgnn": "33.65 / 25.27 (c)",
    },
    "nowplaying": {
        "session_popularity": "7.79 / 4.54 (a)",
        "vsknn": "21.69 / 7.18 (a)",
        "vstan": "22.01 / 7.46 (a)",
        "fpmc": "10.18 / 4.51 (c)",
        "srgnn": "15.28 / 6.10 (c)",
    },
    "retailrocket-views": {
        "session_popularity": "38.96 / 26.33 (a)",
        "vsknn": "53.48 / 26.17 (a)",
        "vstan": "56.53 / 28.05 (a)",
        "fpmc": "46.04 / 21.95 (c)",
        "srgnn": "58.71 / 36.42 (c)",
    },
}
"""The same of others, by log and cell; the letters are explained under the table."""

_COLUMNS: Final = (
    "Model",
    "P@20",
    "MRR@20",
    "before training again",
    "published",
    "independent reruns",
)
_NOTE: Final = (
    "P@20 is the hit rate; percent, means over test prefixes. P@20 and MRR@20: trained again on "
    "all training sessions for the steps that the most recent tenth of them selected; before "
    "training again: without that tenth. Published: the best epoch on test, chosen for each metric "
    "by itself; on Yoochoose 1/64 with 55,898 test prefixes and 16,766 items. Reruns: (a) the same "
    "files, another program, neighbours without tuning and SR-GNN after two epochs; (b) the same "
    "protocol, read off a plot; (c) CORE's tables: split 8:1:1 in time, selected on validation, so "
    "that only their order compares; (d) GCE-GNN's authors."
)


def sessions(record: Record) -> list[ResultTable]:
    """Return a table per log: ours, published results and independent reruns."""
    tables = []
    for log, results in record["data"].items():
        published, reruns = _PUBLISHED.get(log, {}), _RERUNS.get(log, {})
        rows = []
        for name, cell in results["cells"].items():
            label = cell_label(name)
            again = [_percent(cell["retrained"], metric) for metric in METRICS]
            before = " / ".join(_percent(cell["models"], metric) for metric in METRICS)
            other = (published.get(name, MISSING), reruns.get(name, MISSING))
            rows.append((label, *again, before, *other))
        tables.append(ResultTable(f"Session models: {log}", _COLUMNS, rows, _note(results)))
    return tables


def _percent(models: Record, metric: str) -> str:
    """Return a test metric of the trained model in percent, ± deviation over several seeds."""
    measured = models["base"]["test"][metric]
    text = f"{100 * measured['mean']:.2f}"
    return f"{text} ± {100 * measured['sd']:.2f}" if measured["sd"] else text


def _note(results: Record) -> str:
    cells = list(results["cells"].values())
    protocol = cells[0]["protocol"]
    seeds = max((cell["seeds"] for cell in cells), key=len)
    return (
        f"{protocol['n_states']:,} test prefixes, {protocol['n_items']:,} items, "
        f"{100 * protocol['repeated_targets'] / protocol['n_targets']:.1f} % of the targets are in "
        f"their prefix. Seeds {', '.join(map(str, seeds))}; a row without ± has one. {_NOTE}"
    )
