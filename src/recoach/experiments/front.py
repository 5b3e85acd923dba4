"""Fronts of accuracy and an objective: fine-tunings with growing reward weight, and re-rankers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from recoach.data.dataset import Dataset
from recoach.data.targets import Part
from recoach.errors import ConfigError
from recoach.experiments.front_objectives import (
    OBJECTIVES,
    random_lists,
    rerankers_for,
)
from recoach.experiments.front_points import (
    Axes,
    Front,
    Point,
    difference,
    front_of,
    joint_samples,
    matched,
    valid_hypervolume,
)
from recoach.experiments.front_trainings import FrontPlan, fine_tuned, imitated
from recoach.experiments.list_values import (
    ListMeasure,
    ListValues,
    States,
    hit_values,
    milliseconds_per_list,
    states_of,
)
from recoach.experiments.reranking import open_stage
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.stages import CallbackFactory
from recoach.models.base import Recommender
from recoach.models.registry import build_model
from recoach.rerank.base import Reranker
from recoach.rerank.candidates import candidates_of, rescored
from recoach.rerank.config import KNOBS, RerankConfig
from recoach.rerank.features import ItemFeatures
from recoach.rerank.registry import RERANKERS, build_reranker

FORMAT: Final = 1
RL: Final = "fine-tuning"
RL_CANDIDATES: Final = "fine-tuning, same candidates"
IMITATION: Final = "imitation"
TRAINED: Final = (RL, RL_CANDIDATES, IMITATION)
"""Methods that train a model."""
_N_KNOBS: Final = 8
Show = Callable[[str], None]


@dataclass(frozen=True)
class _Setting:
    """What all points of a front share."""

    plan: FrontPlan
    base: Recommender
    dataset: Dataset
    features: ItemFeatures
    measure: ListMeasure
    states: Mapping[Part, States]

    def point(self, knob: float, lists: Mapping[Part, np.ndarray]) -> Point:
        """Return the point of the lists of both parts."""
        values = {part: self._values(lists[part], part) for part in lists}
        return Point(knob, values["valid"].means(), values["test"], lists["test"])

    def _values(self, lists: np.ndarray, part: Part) -> ListValues:
        values = self.measure(lists, self.states[part])
        if self.plan.objective != "value":
            return values
        hits = hit_values(self.features, self.plan.column, lists, self.states[part])
        return ListValues(values.per_state | hits, values.catalogue)

    def own_lists(self, model: Recommender) -> dict[Part, np.ndarray]:
        """Return the best items of a model for the states of both parts."""
        return {
            part: candidates_of(model, self.dataset, states.targets, self.plan.k).items.numpy()
            for part, states in self.states.items()
        }


def compute_front(plan: FrontPlan, make_callback: CallbackFactory, show: Show) -> dict[str, Any]:
    """Return the fronts of fine-tuning and of all re-rankers, as a JSON object.

    Each method has one knob: the weight of the objective's reward, or the knob of the re-ranker
    (eight values). Objectives of lists have an imitation too, of the re-ranker with the best front
    on validation. Validation selects the settings that no other one of the method dominates; the
    base is a setting of every method. Test points are returned for all. Finished trainings of an
    interrupted call are loaded.

    Args:
        plan: what to compute.
        make_callback: returns the callback of a training.
        show: is called with a line of progress.

    Raises:
        ConfigError: the run has no validation items, its algorithm is not GRPO, or the data lack
            what the objective needs.
        RunError: the run has no trained base, or the output folder holds something else.
    """
    setting = _open(plan)
    base_lists = {p: s.candidates.top(plan.k).items.numpy() for p, s in setting.states.items()}
    base = setting.point(0.0, base_lists)
    methods: dict[str, list[Point]] = {}
    milliseconds: dict[str, float] = {"base": _milliseconds(setting, setting.base, None)}
    names = rerankers_for(plan.objective, setting.features)
    rerankers = {name: _rerankers(setting, name) for name in names}
    for by, of_method in rerankers.items():
        show(by)
        methods[by] = [setting.point(one.config.knob, _reranked(setting, one)) for one in of_method]
        milliseconds[by] = _milliseconds(setting, setting.base, of_method[-1])
    if OBJECTIVES[plan.objective].rewards_lists:
        of_lists = [name for name in names if not RERANKERS[name].optimum]
        axes = _axes(setting, base, methods)
        teacher = max(of_lists, key=lambda by: valid_hypervolume([base, *methods[by]], axes))
        methods[IMITATION] = []
        for one in rerankers[teacher]:
            show(f"{IMITATION} of {teacher}, knob {one.config.knob:g}")
            learned = imitated(plan, one.config, make_callback)
            methods[IMITATION].append(setting.point(one.config.knob, setting.own_lists(learned)))
    methods[RL], methods[RL_CANDIDATES] = [], []
    for weight in plan.weights:
        show(f"{RL}, weight {weight:g}")
        tuned = fine_tuned(plan, setting.features, weight, make_callback)
        methods[RL].append(setting.point(weight, setting.own_lists(tuned)))
        within = {
            part: rescored(tuned, setting.dataset, one.targets, one.candidates).top(plan.k)
            for part, one in setting.states.items()
        }
        lists = {part: top.items.numpy() for part, top in within.items()}
        methods[RL_CANDIDATES].append(setting.point(weight, lists))
        milliseconds[RL] = _milliseconds(setting, tuned, None)
    return _record(setting, base, methods, milliseconds)


def _open(plan: FrontPlan) -> _Setting:
    folder = RunFolder(plan.run)
    base, dataset = open_stage(folder, "base")
    config = folder.config()
    if not len(dataset.valid.values):
        raise ConfigError("the run has no validation items, which select the settings of a front.")
    if config.finetune.algorithm != "grpo":
        raise ConfigError(
            f"the run is set to algorithm {config.finetune.algorithm!r}, and fronts fine-tune with "
            "GRPO. Use a run of another configuration."
        )
    features = ItemFeatures(dataset, base, plan.category)
    objective = OBJECTIVES[plan.objective]
    names = dict.fromkeys(["ndcg", "recall", objective.metric, "coverage", "novelty"])
    repeats = config.evaluation.repeats
    parts: tuple[Part, ...] = ("valid", "test")
    states = {p: states_of(base, dataset, (p, repeats), features, plan.depth) for p in parts}
    measure = ListMeasure(dataset, features, list(names))
    return _Setting(plan, base, dataset, features, measure, states)


def _rerankers(setting: _Setting, by: str) -> list[Reranker]:
    """Return a re-ranker for each knob; offsets of limits are fitted on validation."""
    plan, candidates = setting.plan, setting.states["valid"].candidates
    column = {"column": plan.column} if by == "value" else {}
    knob = KNOBS[by]  # type: ignore[index]
    neutral = RerankConfig(
        by=by, knob=knob.neutral, depth=plan.depth, category=plan.category, **column
    )
    unit = build_reranker(neutral, setting.features).unit(candidates, plan.k)
    rerankers = []
    for value in knob.values[:_N_KNOBS]:
        values = neutral.model_dump() | {"knob": value * unit}
        reranker = build_reranker(RerankConfig(**values), setting.features)
        reranker.fit(candidates, plan.k)
        rerankers.append(reranker)
    return rerankers


def _reranked(setting: _Setting, reranker: Reranker) -> dict[Part, np.ndarray]:
    return {
        part: reranker(states.candidates, setting.plan.k).items.numpy()
        for part, states in setting.states.items()
    }


def _axes(setting: _Setting, base: Point, methods: Mapping[str, Sequence[Point]]) -> Axes:
    """Return the metrics with their scale, which is fixed on validation.

    0 is the NDCG of the most popular items and the objective of the base; 1 is the best NDCG and
    the objective of random lists: 0 for calibration, the best value for value.
    """
    objective, k = OBJECTIVES[setting.plan.objective], setting.plan.k
    metric = f"{objective.metric}@{k}"
    axes = Axes(f"ndcg@{k}", metric, objective.sign, np.zeros(2), np.ones(2))
    popularity = build_model("popularity", setting.dataset)
    popular = setting.point(0.0, setting.own_lists(popularity)).valid
    random = {
        part: random_lists(len(states.targets.users), setting.dataset.n_items, k)
        for part, states in setting.states.items()
    }
    points = [axes.of(p.valid) for of_method in methods.values() for p in of_method]
    best = np.stack([axes.of(base.valid), *points]).max(axis=0)
    nadir = np.array([axes.of(popular)[0], axes.of(base.valid)[1]])
    ideal = np.array([best[0], axes.of(setting.point(0.0, random).valid)[1]])
    if setting.plan.objective == "calibration":
        ideal[1] = 0.0
    if setting.plan.objective == "value":
        nadir[1] = axes.of(popular)[1]
    # A metric without room between the two: popularity is the best, or random lists are no better.
    nadir[0] = nadir[0] if nadir[0] < ideal[0] else 0.0
    ideal[1] = max(ideal[1], best[1], nadir[1] + 1e-9)
    return axes._replace(nadir=nadir, ideal=ideal)


def _record(
    setting: _Setting,
    base: Point,
    methods: Mapping[str, Sequence[Point]],
    milliseconds: Mapping[str, float],
) -> dict[str, Any]:
    plan, targets = setting.plan, setting.states["test"].targets
    axes = _axes(setting, base, methods)
    points = [base, *(point for of_method in methods.values() for point in of_method)]
    samples = joint_samples(points, axes, targets.users, setting.dataset.n_items)
    fronts = {name: front_of([base, *found], axes, samples) for name, found in methods.items()}
    others = {name: front for name, front in fronts.items() if name not in TRAINED}
    best = max(others, key=lambda name: others[name].valid_hypervolume)
    joined = [base, *(point for name in others for point in methods[name])]
    compared = {"best re-ranker": fronts[best], "all re-rankers": front_of(joined, axes, samples)}
    compared |= {name: fronts[name] for name in fronts if name == IMITATION}
    return {
        "format": FORMAT,
        "run": str(plan.run),
        "objective": plan.objective,
        "accuracy": axes.accuracy,
        "metric": axes.objective,
        "larger_is_better": axes.sign > 0,
        "k": plan.k,
        "depth": plan.depth,
        "categories": "items table" if setting.features.has_categories else "clusters of the base",
        "nadir": axes.nadir.tolist(),
        "ideal": axes.ideal.tolist(),
        "users": len(np.unique(targets.users)),
        "base": _means(base),
        "methods": {name: _method(front) for name, front in fronts.items()},
        "best_reranker": best,
        "differences": {
            name: {other: difference(fronts[name], front) for other, front in compared.items()}
            for name in (RL, RL_CANDIDATES)
        },
        "matched": matched(fronts[RL], others, axes, samples),
        "milliseconds": dict(milliseconds),
        "optimum": OBJECTIVES[plan.objective].optimum,
    }


def _method(front: Front) -> dict[str, Any]:
    settings = zip(front.points[1:], front.on_front[1:], strict=True)
    return {
        "hypervolume": round(front.value, 6),
        "valid_hypervolume": round(front.valid_hypervolume, 6),
        "base_on_front": bool(front.on_front[0]),
        "settings": [_means(point) | {"on_front": bool(is_on)} for point, is_on in settings],
    }


def _means(point: Point) -> dict[str, Any]:
    parts = {"valid": point.valid, "test": point.test.means()}
    rounded = {
        part: {name: round(value, 6) for name, value in means.items()}
        for part, means in parts.items()
    }
    return {"knob": point.knob} | rounded


def _milliseconds(setting: _Setting, model: Recommender, reranker: Reranker | None) -> float:
    targets, k = setting.states["test"].targets, setting.plan.k
    return round(milliseconds_per_list(model, setting.features, reranker, targets, k), 3)
