"""The results of the demonstration as tables, a picture and one sentence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from recoach.demonstration.lists import ACCURACY, REVENUE, K
from recoach.demonstration.pipeline import CONTROL, GRPO
from recoach.experiments.run_folder import RunFolder
from recoach.report.front import RL, front_picture
from recoach.report.table_formats import ResultTable, html_page, markdown
from recoach.report.tables import format_change, format_metric

Record = Mapping[str, Any]
_TITLE: Final = "A simulated shop: more revenue at the same accuracy"
_LOWEST: Final = -0.2
"""Change of accuracy below which settings are not drawn."""
_LISTS: Final = 100
_TRUE_ACCURACY: Final = f"true NDCG@{K}"


def demo_tables(record: Record) -> list[ResultTable]:
    """Return the four kinds of lists with their true values, and the forecasts."""
    return [_lists_table(record), _forecast_table(record)]


def demo_sentence(record: Record) -> str:
    """Return the result in one sentence, whatever it is; all figures are true values."""
    base, control, rule, grpo = record["rows"]
    gains = [_round(row, base, REVENUE) for row in (control, rule, grpo)]
    is_ahead = gains[2] > max(0.0, *gains[:2])
    subject = "GRPO's lists bring in" if is_ahead else "GRPO is not ahead: its lists bring in"
    control_gain, rule_gain, gain = (_more(value) for value in gains)
    relation = "as the base's" if gains[2] == 0 else "than the base's"
    quantity = gain if gains[2] else "as much"
    limit = "" if grpo["keeps"] else _limit_clause(record["tolerance"])
    return (
        f"{subject} {quantity} revenue {relation}, those of continued training {control_gain}, "
        f"those of the best re-ranker ({_name(rule)}) {rule_gain}; "
        f"{_price(_round(grpo, base, 'true_ndcg'))}{limit}."
    )


def forecast_sentences(record: Record) -> list[str]:
    """Return a sentence for each reason for which a forecast was refused."""
    return [
        f"{row['model']}: no forecast. {reason}"
        for row in record["forecasts"]
        for reason in row.get("reasons", ())
    ]


def write_demo(record: Record, folder: Path) -> list[Path]:
    """Write demo.html, demo.md and demo.svg into a run folder; return their paths."""
    run, tables = RunFolder(folder), demo_tables(record)
    picture = _picture_record(record)
    lines = [demo_sentence(record), *forecast_sentences(record)]
    page = html_page(_TITLE, tables, lead="\n".join(lines), picture=front_picture(picture, "png"))
    run.write_text("demo.html", page)
    run.write_text("demo.md", "\n\n".join([f"# {_TITLE}", *lines, markdown(tables)]))
    run.write_bytes("demo.svg", front_picture(picture, "svg"))
    return [folder / f"demo.{ending}" for ending in ("html", "md", "svg")]


def _lists_table(record: Record) -> ResultTable:
    base = record["rows"][0]["test"]
    rows: list[tuple[str, ...]] = []
    for row in record["rows"]:
        test = row["test"]
        accuracy = (
            format_metric(base[name]) if test is base else format_change(test[name], base[name])
            for name in (ACCURACY, "true_ndcg")
        )
        sums = (f"{_LISTS * test[f'true_{name}']:.1f}" for name in ("clicks", "purchases"))
        gain = format_change(test[REVENUE], base[REVENUE])
        rows.append((_label(row), *accuracy, *sums, f"{_LISTS * test[REVENUE]:.0f}", gain))
    columns = (
        "lists of ten",
        "test NDCG@10",
        "true NDCG@10",
        "clicks",
        "purchases",
        "revenue",
        "vs. base",
    )
    note = (
        f"Clicks, purchases and revenue of {_LISTS} lists are true values of the simulated shop. "
        "NDCG@10 below the base is the change against it. Validation selects the settings: the "
        "most revenue among those whose NDCG@10 falls by at most "
        f"{100 * record['tolerance']:g} %."
    )
    return ResultTable("Revenue and accuracy", columns, rows, note)


def _forecast_table(record: Record) -> ResultTable:
    rows: list[tuple[str, ...]] = []
    for row in record["forecasts"]:
        truth = f"{_LISTS * row['truth']:.1f}"
        if "reasons" in row:
            rows.append((row["model"], "refused", "", truth, ""))
            continue
        interval = f"{_LISTS * row['low']:.1f} to {_LISTS * row['high']:.1f}"
        inside = "yes" if row["is_inside"] else "no"
        rows.append((row["model"], f"{_LISTS * row['forecast']:.1f}", interval, truth, inside))
    columns = ("model", "forecast", "95 % interval", "truth", "inside")
    note = (
        f"Revenue of {_LISTS} recommendations of one item, sampled with exploration; forecast by "
        "recoach ope from what the base's service logged, before the others are served."
    )
    return ResultTable("Forecast from logged lists", columns, rows, note)


def _picture_record(record: Record) -> dict[str, Any]:
    """Return what `front_picture` reads; settings that lose much accuracy are left out."""
    base = _place(record["base"])
    methods = {}
    for name, entries in record["methods"].items():
        least = (1 + _LOWEST) * base["test"][_TRUE_ACCURACY]
        kept = [one for one in map(_place, entries) if one["test"][_TRUE_ACCURACY] >= least]
        if kept:
            # An offset on the scores of the base becomes the base where its knob is 0.
            begins_at_base = name not in (CONTROL, GRPO) and "," not in name
            label = RL if name == GRPO else name
            methods[label] = {"settings": kept, "base_on_front": begins_at_base}
    return {
        "base": base,
        "methods": methods,
        "accuracy": _TRUE_ACCURACY,
        "metric": REVENUE,
        "objective": "revenue",
        "larger_is_better": True,
    }


def _place(entry: Record) -> dict[str, Any]:
    test = entry["test"]
    return {
        "test": {_TRUE_ACCURACY: test["true_ndcg"], REVENUE: test[REVENUE]},
        "on_front": True,
    }


def _label(row: Record) -> str:
    knob = f"{row['knob']:.2g}"
    if row["method"] == GRPO:
        return f"GRPO, weight {knob}"
    return f"{_name(row)}, knob {knob}" if row["knob"] else str(row["method"])


def _name(row: Record) -> str:
    """Return the name of an offset and of the model whose scores it is added to."""
    offset, comma, model = str(row["method"]).partition(", ")
    return f"{offset} offset" + (f" on {model}" if comma else "")


def _round(row: Record, base: Record, name: str) -> float:
    """Return the change of a metric against the base in per cent, as it is printed."""
    return round(100 * (float(row["test"][name]) / float(base["test"][name]) - 1), 1)


def _more(percent: float) -> str:
    if percent == 0:
        return "as much"
    return f"{abs(percent):.1f} % {'more' if percent > 0 else 'less'}"


def _price(percent: float) -> str:
    if percent == 0:
        return "NDCG@10 stays the same"
    if percent > 0:
        return f"NDCG@10 rises by {percent:.1f} %"
    return f"the price is {-percent:.1f} % of NDCG@10"


def _limit_clause(tolerance: float) -> str:
    return f" (no weight kept it within {100 * tolerance:g} % on validation)"
