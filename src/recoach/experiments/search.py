"""Search settings of GRPO: one base, many trials, judged on the validation items alone.

The study lies in a file, and the same search goes on where it stopped. A trial is drawn from the
seed and the trials that ended before it, so an interrupted search ends where the whole one does.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from recoach.data.lock import LOCK_FILE
from recoach.errors import ConfigError, ModelError, RunError
from recoach.experiments.config import ExperimentConfig, resolve
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.space import Space, from_params, to_params
from recoach.experiments.stages import CallbackFactory, Run, open_run
from recoach.models.base import Recommender
from recoach.models.registry import model_entry
from recoach.training.callbacks import Callback, CallbackList
from recoach.training.loop import RunContext, derive
from recoach.training.supervised import validation

FORMAT = 1
_STUDY = "search.db"
_ENOUGH = 8
"""Complete trials below which the importance of settings is chance."""


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """What to search and where."""

    config: ExperimentConfig
    """The base, and settings of GRPO that do not vary."""
    space: Space
    trials: int
    """In total, those of earlier calls among them."""
    output: Path


class SearchCallback(Callback):
    """Receives what happens in a search: the steps of every trial, as of any training, and this."""

    def on_search(self, base: float, done: int) -> None:
        """Trials begin; `base` is the value to beat, `done` the trials that ended earlier."""

    def on_trial(self, trial: dict[str, Any], base: float) -> None:
        """A trial has ended; `trial` is its entry in the record."""


class _Pruning(Callback):
    """Ends a trial that is behind the median of those before it."""

    def __init__(self, trial: Trial, metric: str) -> None:
        self._trial, self._metric = trial, metric

    def on_row(self, row: dict[str, float]) -> None:
        """Report the value and ask whether it is worth going on."""
        self._trial.report(row[f"valid/{self._metric}"], int(row["step"]))
        if self._trial.should_prune():
            raise optuna.TrialPruned(f"behind the median at step {row['step']}")


def search(
    plan: SearchPlan, make_callback: CallbackFactory, callback: SearchCallback
) -> dict[str, Any]:
    """Train the base once, run the trials that are left, write trials.json and best.toml.

    The first trial is of the settings as they are, where the space holds them. best.toml is a whole
    experiment; it is written where a trial beats the base.

    Returns:
        The content of trials.json.

    Raises:
        ConfigError: nothing can be tuned, or no trial is asked for.
        RunError: the folder holds something else, or a search with other settings.
    """
    config = plan.config
    if plan.trials < 1:
        raise ConfigError(f"--trials must be at least 1, not {plan.trials}.")
    if not model_entry(config.model_name).model.needs:
        raise ConfigError(f"{config.model_name} has no weights that could be fine-tuned.")
    _check_folder(plan.output)
    folder, base = RunFolder(plan.output), RunFolder(plan.output / "base")
    with folder.lock(), base.lock():
        return _search(
            plan,
            open_run(
                replace(config, finetune=False), base.path, resume=True, make_callback=make_callback
            ),
            callback,
        )


def _search(plan: SearchPlan, run: Run, callback: SearchCallback) -> dict[str, Any]:
    config, folder = plan.config, RunFolder(plan.output)
    with _opened(plan) as study:
        run.base()
        base = _judge(run)(run.load_base())
        callback.on_search(base, len(_ended(study)))
        while len(_ended(study)) < plan.trials:
            _try(plan, run, _drawn(plan, study), callback)
            callback.on_trial(_entries(study)[-1], base)
        record = _record(plan, study, base)
    if record["best"] is not None:
        best = record["trials"][record["best"] - 1]["settings"]
        folder.write_text("best.toml", _changed(config, best).toml())
    folder.write_json("trials.json", record)
    return record


def _check_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; choose another --output for the search's folder.")
    entries = {entry.name for entry in path.iterdir()} if path.exists() else set()
    if _STUDY not in entries and entries - {"base", LOCK_FILE}:
        raise RunError(f"{path} holds something else than a search; choose another --output.")


@contextmanager
def _opened(plan: SearchPlan) -> Iterator[optuna.Study]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = plan.output / _STUDY
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        try:
            study = optuna.create_study(
                storage=storage,
                pruner=optuna.pruners.MedianPruner(),
                study_name="grpo",
                direction="maximize",
                load_if_exists=True,
            )
            _check_space(plan, study)
            for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study.tell(left.number, state=TrialState.FAIL)  # interrupted: it is run again
            yield study
        finally:
            storage.engine.dispose()
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        reason = str(error.__cause__ or error).splitlines()[0].rstrip(".")
        raise RunError(
            f"{path} cannot be used as a study: {reason}. Let no other search run there; where "
            "none does, restore it or choose another --output."
        ) from error


def _check_space(plan: SearchPlan, study: optuna.Study) -> None:
    here = {name: distribution_to_json(kind) for name, kind in plan.space.items()}
    there = study.user_attrs.get("space", here)
    different = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    if different:
        raise RunError(
            f"{plan.output} holds a search in which grpo.{different[0]} varies otherwise; choose "
            "another --output, or give the same --vary."
        )
    study.set_user_attr("space", here)


def _judge(run: Run) -> Callable[[Recommender], float]:
    """Return what measures a model on the validation items; no test item is looked at."""
    metric = run.config.grpo.metric
    measure = validation(run.dataset, metric, run.config.evaluation.mask_seen)
    return lambda model: measure(model)[metric]


def _drawn(plan: SearchPlan, study: optuna.Study) -> Trial:
    ended = len(_ended(study))
    study.sampler = optuna.samplers.TPESampler(seed=derive(plan.config.seed, f"trial {ended}"))
    present = to_params(plan.config.grpo, plan.space)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))  # a killed one's
    if not ended and present is not None and not waiting:
        study.enqueue_trial(present)
    return study.ask(plan.space)


def _try(plan: SearchPlan, run: Run, trial: Trial, callback: Callback) -> None:
    """Fine-tune the base as a run would and tell the study what came of it."""
    config = plan.config
    try:
        grpo = _changed(config, from_params(trial.params)).grpo
        context = RunContext(
            seed=config.seed,
            mask_seen=config.evaluation.mask_seen,
            callback=CallbackList([callback, _Pruning(trial, grpo.metric)]),
        )
        model = run.load_base()
        run.finetune(model, grpo, context)
        trial.study.tell(trial, _judge(run)(model))
    except (ConfigError, ModelError, optuna.TrialPruned) as error:  # at odds, diverged, behind
        trial.set_user_attr("reason", str(error))
        trial.study.tell(trial, state=TrialState.PRUNED)


def _changed(config: ExperimentConfig, grpo: Mapping[str, Any]) -> ExperimentConfig:
    tables = config.tables()
    return resolve(tables | {"finetune": True, "grpo": tables["grpo"] | grpo}, "a trial")


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _entries(study: optuna.Study) -> list[dict[str, Any]]:
    return [
        {
            "trial": number,
            "value": trial.value if trial.state == TrialState.COMPLETE else None,
            "pruned": trial.user_attrs.get("reason"),
            "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
            "settings": from_params(trial.params),
        }
        for number, trial in enumerate(_ended(study), 1)
    ]


def _record(plan: SearchPlan, study: optuna.Study, base: float) -> dict[str, Any]:
    entries = _entries(study)
    complete = [entry for entry in entries if entry["value"] is not None]
    best = max(complete, key=lambda entry: float(entry["value"]), default=None)
    importance: dict[str, float] = {}
    if len(complete) >= _ENOUGH:
        # Of ending in the better half: the top tenth of so few trials is one or two.
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.5)
        importance = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {
        "format": FORMAT,
        "metric": plan.config.grpo.metric,
        "base": base,
        "best": best["trial"] if best is not None and best["value"] > base else None,
        "trials": entries,
        "importance": importance,
    }
