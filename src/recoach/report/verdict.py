"""The verdict on a run in one line, and its primary metric."""

from collections.abc import Mapping
from typing import Any, Final

from recoach.report.tables import find_comparison, main_metric, metric_label

Results = Mapping[str, Any]

_AGAINST_BASE: Final = {
    "better": "Better than the base",
    "worse": "Worse than the base",
    "no difference": "Not shown to be better than the base",
}
_ORDINARY: Final = "the same amount of ordinary training"
_AGAINST_CONTROL: Final = {
    "better": f"better than {_ORDINARY}",
    "worse": f"worse than {_ORDINARY}",
    "no difference": f"not shown to be better than {_ORDINARY}",
}


def primary_metric(results: Results) -> str:
    """Return the metric that selected the checkpoints, such as "ndcg@10".

    NDCG at the cutoff nearest to 10, if the test metrics do not have that one.
    """
    protocol = results["protocol"]
    selection = str(protocol.get("selection", "")).partition(",")[0].removeprefix("valid/")
    metric: str = protocol.get("primary", selection)
    return metric if metric in results["models"]["base"]["test"] else main_metric(results, "ndcg")


def verdict_sentence(results: Results) -> str:
    """Return whether fine-tuning is better than the base and than continued training, in one line.

    Both comparisons are those of the primary metric on the test items, whose intervals are not
    adjusted.

    Args:
        results: the content of results.json, of the retrained models if there are any
            (`recoach.report.tables.headline`).
    """
    models, metric = results["models"], primary_metric(results)
    if "tuned" not in models:
        return "The base is not fine-tuned yet: nothing is compared."
    if models["tuned"].get("best_step") == 0:
        return "No improvement: base kept."
    gain = find_comparison(results, "tuned", "base", metric)
    if gain is None:
        return "The fine-tuned model was not compared to the base."
    lead = find_comparison(results, "tuned", "control", metric)
    if lead is not None:
        first, second = _AGAINST_BASE[gain["verdict"]], _AGAINST_CONTROL[lead["verdict"]]
        if gain["verdict"] == lead["verdict"] == "better":
            return f"Better than the base and than {_ORDINARY} ({metric_label(metric)})."
        return f"{first}; {second} ({metric_label(metric)})."
    return (
        f"{_AGAINST_BASE[gain['verdict']]} ({metric_label(metric)}); there is no control: not "
        f"compared to {_ORDINARY}."
    )


def control_warning(results: Results) -> str:
    """Return why a fine-tuned run has no control; "" if it has one or is not fine-tuned."""
    models = results["models"]
    if "tuned" not in models or "control" in models:
        return ""
    reason = results["protocol"].get("control_missing")
    because = f" because {reason}" if reason else ""
    return (
        f"Warning: this run has no continued-training control{because}. A gain over the base "
        "may be due to more training and not to the rewards."
    )
