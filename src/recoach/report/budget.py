"""The training budget of the models of a run: a table and a sentence."""

from collections.abc import Mapping
from typing import Any, Final

from recoach.report.table_formats import ResultTable
from recoach.report.tables import MISSING, MODELS, Results, algorithm_label

_COLUMNS: Final = {
    "optimiser_steps": "Optimiser steps",
    "states": "States",
    "encoder_passes": "Encoder passes",
    "multiply_adds": "Multiply-adds, 10⁹",
    "validations": "Validations",
    "seconds": "Seconds",
    "device": "Device",
    "data": "Trained on",
    "parameters": "Parameters",
}
_NOTE: Final = (
    "States: those in the losses, counted in every epoch; of models that learn from interactions, "
    "interactions. Encoder passes: histories that the trained model encodes. Multiply-adds: of "
    "dense products in the training steps, extrapolated from the steps 1, 2, 4, 8 and so on; "
    "evaluations and sums over the edges of a graph are not counted. Validations: evaluations of "
    "weights on the validation items. Parameters: of the model as it is served."
)


def budget_table(record: Results) -> ResultTable | None:
    """Return the training budget of each model; None for a record of an earlier version.

    Args:
        record: the content of results.json; the models that were trained again follow the others.
    """
    budgets = _budgets(record)
    if not budgets:
        return None
    rows = [
        (label, *(_format(name, budget.get(name)) for name in _COLUMNS))
        for label, budget in budgets.items()
    ]
    note = " ".join(filter(None, [budget_sentence(record), _NOTE]))
    return ResultTable("Training budget", ("Model", *_COLUMNS.values()), rows, note)


def budget_sentence(record: Results) -> str:
    """Return what fine-tuning and control took of the base's multiply-adds; "" if not known."""
    counts = {
        stage: model["budget"].get("multiply_adds")
        for stage, model in record["models"].items()
        if "budget" in model
    }
    base, tuned, control = (counts.get(stage) for stage in ("base", "tuned", "control"))
    if not base or tuned is None:
        return ""
    text = f"{algorithm_label(record)} took {tuned / base:.0%} of the base's multiply-adds"
    if control is not None:
        text += f", continued training {control / base:.0%}"
    n_reward_models = record["models"]["tuned"]["budget"].get("reward_models", 0)
    if n_reward_models:
        text += f"; that includes the {n_reward_models} models of the cross-fitted reward"
    return text.replace("%", " %") + "."


def _budgets(record: Results) -> dict[str, Mapping[str, Any]]:
    """Return the budget of each model by its label."""
    parts = {"": record["models"], ", trained again": record.get("retrained", {}).get("models", {})}
    return {
        f"{label}{ending}": models[stage]["budget"]
        for ending, models in parts.items()
        for stage, label in MODELS.items()
        if "budget" in models.get(stage, {})
    }


def _format(name: str, value: float | str | None) -> str:
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    if name == "multiply_adds" and value < 1e11:
        return f"{value / 1e9:.3g}"
    return f"{value / 1e9 if name == 'multiply_adds' else value:,.0f}"
