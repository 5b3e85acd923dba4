"""Evaluate a re-ranker beside the model whose lists it changes; validation selects its knob."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recoach.data.dataset import Dataset
from recoach.data.targets import Part, Targets
from recoach.errors import ConfigError, RunError
from recoach.evaluation.significance import paired_bootstrap
from recoach.experiments.list_values import (
    ACCURACY,
    LISTS,
    OBJECTIVES,
    OF_FEATURES,
    ListMeasure,
    ListValues,
    States,
    milliseconds_per_list,
    own_values,
    states_of,
)
from recoach.experiments.results import StageName
from recoach.experiments.run_folder import RunFolder
from recoach.models.base import Recommender
from recoach.models.checkpoint import load_model
from recoach.rerank.base import Reranker
from recoach.rerank.config import KNOBS, RerankConfig
from recoach.rerank.exposure import ExposureCap, ExposureFloor
from recoach.rerank.features import ItemFeatures
from recoach.rerank.registry import build_reranker

FORMAT = 1


@dataclass(frozen=True)
class RerankPlan:
    """A re-ranker with one or several values of its knob."""

    run: RunFolder
    """The run of the model."""
    configs: Sequence[RerankConfig]
    """Settings that differ in the knob only."""
    stage: StageName = "base"
    """The model of the run whose lists are re-ranked."""
    k: int = 10
    """List length."""
    margin: float = 0.01
    """Relative loss of NDCG on validation up to which a knob can be selected."""


@dataclass(frozen=True)
class _Evaluated:
    """The lists of one value of the knob on both parts; `reranker` is None for the model's own."""

    knob: float
    reranker: Reranker | None
    parts: dict[str, ListValues]


def open_stage(folder: RunFolder, stage: StageName) -> tuple[Recommender, Dataset]:
    """Return the model of a stage as it was before any training on validation, and the dataset.

    Raises:
        RunError: the folder is not a run, or the stage is not trained yet.
    """
    folder.config()
    if not folder.is_complete(stage):
        raise RunError(f"{folder.path} has no trained {stage} model yet. Finish the run first.")
    dataset = folder.load_dataset()
    return load_model(folder.checkpoints(stage), dataset).eval(), dataset


def evaluate_rerankers(plan: RerankPlan) -> dict[str, Any]:
    """Return the metrics of a model's lists and of the re-ranked ones, as a JSON object.

    Of several knobs the one is selected that is best in the metric of its objective on validation
    among those whose NDCG there is at most `margin` below the model's, or the one of the highest
    NDCG if there is none. Offsets of exposure limits are fitted on validation. Test lists are
    measured for all knobs.

    Raises:
        ConfigError: the data lack what the re-ranker reads, or several knobs are given and there
            are no validation items.
        RunError: see `open_stage`.
    """
    model, dataset = open_stage(plan.run, plan.stage)
    config = plan.configs[0]
    if len(plan.configs) > 1 and not len(dataset.valid.values):
        raise ConfigError("the run has no validation items to select a knob on. Give one knob.")
    features = ItemFeatures(dataset, model, config.category)
    names = [*ACCURACY, *LISTS, *(OF_FEATURES if features.has_vectors else ())]
    measure = ListMeasure(dataset, features, names)
    repeats = plan.run.config().evaluation.repeats
    parts: list[Part] = ["valid", "test"] if len(dataset.valid.values) else ["test"]
    states = {
        part: states_of(model, dataset, (part, repeats), features, config.depth) for part in parts
    }
    rerankers = [build_reranker(config, features) for config in plan.configs]
    for reranker in rerankers:
        reranker.fit(states[parts[0]].candidates, plan.k)
    neutral = _Evaluated(
        KNOBS[config.by].neutral, None, _own_lists(plan, rerankers[0], measure, states)
    )
    evaluated = [
        _Evaluated(one.config.knob, one, _values(plan, one, measure, states)) for one in rerankers
    ]
    chosen = _select(plan, neutral, evaluated)
    return {
        "format": FORMAT,
        "run": str(plan.run.path),
        "stage": plan.stage,
        "k": plan.k,
        "config": config.model_dump(exclude={"knob"}, exclude_none=True),
        "objective": f"{OBJECTIVES[config.by][0]}@{plan.k}",
        "margin": plan.margin,
        "base": _means(neutral),
        "knobs": [_means(one) | _limits(one) for one in evaluated],
        "chosen": chosen.knob,
        "comparisons": _comparisons(chosen, neutral, states["test"].targets),
        "milliseconds": {
            name: round(
                milliseconds_per_list(model, features, one, states["test"].targets, plan.k), 3
            )
            for name, one in (("base", None), ("reranked", chosen.reranker))
        },
        "optimum": rerankers[0].optimum,
    }


def _values(
    plan: RerankPlan, reranker: Reranker, measure: ListMeasure, states: dict[Part, States]
) -> dict[str, ListValues]:
    lists = {part: reranker(one.candidates, plan.k).items.numpy() for part, one in states.items()}
    return {part: _joined(reranker, measure, lists[part], one) for part, one in states.items()}


def _own_lists(
    plan: RerankPlan, reranker: Reranker, measure: ListMeasure, states: dict[Part, States]
) -> dict[str, ListValues]:
    return {
        part: _joined(reranker, measure, one.candidates.top(plan.k).items.numpy(), one)
        for part, one in states.items()
    }


def _joined(
    reranker: Reranker, measure: ListMeasure, lists: np.ndarray, states: States
) -> ListValues:
    common, own = measure(lists, states), own_values(reranker, lists, states)
    return ListValues(common.per_state | own.per_state, common.catalogue | own.catalogue)


def _select(plan: RerankPlan, base: _Evaluated, evaluated: Sequence[_Evaluated]) -> _Evaluated:
    if len(evaluated) == 1:
        return evaluated[0]
    name, sign = OBJECTIVES[plan.configs[0].by]
    accuracy, objective = f"ndcg@{plan.k}", f"{name}@{plan.k}"
    means = [one.parts["valid"].means() for one in evaluated]
    least = (1 - plan.margin) * base.parts["valid"].means()[accuracy]
    within = [place for place, values in enumerate(means) if values[accuracy] >= least]
    if not within:
        return evaluated[max(range(len(means)), key=lambda place: means[place][accuracy])]
    return evaluated[max(within, key=lambda place: sign * means[place][objective])]


def _means(evaluated: _Evaluated) -> dict[str, Any]:
    parts = {
        part: {name: round(value, 6) for name, value in values.means().items()}
        for part, values in evaluated.parts.items()
    }
    return {"knob": evaluated.knob} | parts


def _limits(evaluated: _Evaluated) -> dict[str, Any]:
    if not isinstance(evaluated.reranker, ExposureCap | ExposureFloor):
        return {}
    fitted = evaluated.reranker.fitted
    return {"violation": round(fitted.violation, 6), "feasible": fitted.is_feasible}


def _comparisons(chosen: _Evaluated, base: _Evaluated, targets: Targets) -> list[dict[str, Any]]:
    """Return the difference of each metric from the model's own lists, with its interval."""
    entries = []
    ours, theirs = chosen.parts["test"].per_state, base.parts["test"].per_state
    for name, values in ours.items():
        is_defined = np.isfinite(values) & np.isfinite(theirs[name])
        if is_defined.any():
            users = targets.users[is_defined]
            found = paired_bootstrap(values[is_defined], theirs[name][is_defined], clusters=users)
            entries.append({"metric": name} | found.to_record())
    return entries
