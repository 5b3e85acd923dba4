"""Hyperparameter search for GRPO with Optuna: one base model, many trials, validation items only.

The study is stored in a file, so an interrupted search can be resumed. The settings of a trial
depend on the seed and the trials that ended before it, so a resumed search gives the same trials as
an uninterrupted one.
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
from recoach.experiments.data import check_has_weights
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.space import Space, from_params, to_params
from recoach.experiments.stages import CallbackFactory, Run, open_run
from recoach.models.base import Recommender
from recoach.training.callbacks import Callback, CallbackList
from recoach.training.context import RunContext
from recoach.training.loop import derive
from recoach.training.supervised import validation

FORMAT = 1
_STUDY = "search.db"
_MIN_TRIALS_FOR_IMPORTANCE = 8
"""With fewer complete trials, the importance of settings is mostly chance."""


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """A search: configuration, space, number of trials and output folder."""

    config: ExperimentConfig
    """The base model, and the settings of GRPO that are not searched."""
    space: Space
    trials: int
    """Total number of trials, including those of earlier calls."""
    output: Path


class SearchCallback(Callback):
    """Receives the events of a search besides those of the training in every trial."""

    def on_search(self, base: float, done: int) -> None:
        """Called before the first trial.

        Args:
            base: validation metric of the base model.
            done: number of trials that ended in earlier calls.
        """

    def on_trial(self, trial: dict[str, Any], base: float) -> None:
        """Called after a trial; `trial` is its entry in trials.json."""


class _Pruning(Callback):
    """Stops a trial whose metric is below the median of earlier trials at the same step."""

    def __init__(self, trial: Trial, metric: str) -> None:
        self._trial, self._metric = trial, metric

    def on_row(self, row: dict[str, float]) -> None:
        """Report the metric to Optuna and stop the trial if it is pruned."""
        self._trial.report(row[f"valid/{self._metric}"], int(row["step"]))
        if self._trial.should_prune():
            raise optuna.TrialPruned(f"below the median at step {row['step']}")


def search(
    plan: SearchPlan, make_callback: CallbackFactory, callback: SearchCallback
) -> dict[str, Any]:
    """Train the base model once, run the remaining trials, write trials.json and best.toml.

    The first trial has the settings of the plan, if the space contains them. best.toml is a
    complete configuration; it is written only if a trial is better than the base model.

    Returns:
        The content of trials.json.

    Raises:
        ConfigError: the model has no trainable weights, or the number of trials is below 1.
        RunError: the folder holds something else, or a search with other settings.
    """
    config = plan.config
    if plan.trials < 1:
        raise ConfigError(f"--trials must be at least 1, not {plan.trials}.")
    check_has_weights(config, None)
    folder, base = RunFolder(plan.output), RunFolder(plan.output / "base")
    with folder.lock(), base.lock():
        _check_folder(plan.output)
        base_config = replace(config, finetune_enabled=False)
        run = open_run(base_config, base.path, resume=True, make_callback=make_callback)
        check_has_weights(config, run.dataset)
        with _open_study(plan) as study:
            run.train_base()
            value = _validation_metric(run)(run.load_base())
            callback.on_search(value, len(_ended_trials(study)))
            while len(_ended_trials(study)) < plan.trials:
                _run_trial(plan, run, _next_trial(plan, study), callback)
                callback.on_trial(_trial_entries(study)[-1], value)
            results = _search_results(plan, study, value)
        if results["best"] is not None:
            best = results["trials"][results["best"] - 1]["settings"]
            folder.write_text("best.toml", _with_settings(config, best).toml())
        folder.write_json("trials.json", results)
    return results


def _check_folder(path: Path) -> None:
    entries = {entry.name for entry in path.iterdir()}
    if _STUDY not in entries and entries - {"base", LOCK_FILE}:
        raise RunError(f"{path} holds something else than a search; choose another --output.")


@contextmanager
def _open_study(plan: SearchPlan) -> Iterator[optuna.Study]:
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
            for interrupted in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study.tell(interrupted.number, state=TrialState.FAIL)  # it is repeated
            yield study
        finally:
            storage.engine.dispose()
    except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        reason = str(error.__cause__ or error).splitlines()[0].rstrip(".")
        raise RunError(
            f"{path} cannot be used as a study: {reason}. If another search uses it, wait; "
            "otherwise restore the file or choose another --output."
        ) from error


def _check_space(plan: SearchPlan, study: optuna.Study) -> None:
    space = {name: distribution_to_json(kind) for name, kind in plan.space.items()}
    stored = study.user_attrs.get("space", space)
    different = [name for name in sorted({*space, *stored}) if space.get(name) != stored.get(name)]
    if different:
        raise RunError(
            f"{plan.output} holds a search with another range of finetune.{different[0]}; choose "
            "another --output, or give the same --vary."
        )
    study.set_user_attr("space", space)


def _validation_metric(run: Run) -> Callable[[Recommender], float]:
    """Return a function that evaluates a model on the validation items."""
    metric = run.config.finetune.metric
    evaluate = validation(run.dataset, metric, run.config.evaluation.repeats)
    return lambda model: evaluate(model)[metric]


def _next_trial(plan: SearchPlan, study: optuna.Study) -> Trial:
    """Sample the settings of the next trial; the first one has the settings of the plan."""
    n_ended = len(_ended_trials(study))
    study.sampler = optuna.samplers.TPESampler(seed=derive(plan.config.seed, f"trial {n_ended}"))
    initial = to_params(plan.config.finetune, plan.space)
    # A killed process may have left the initial trial in the queue.
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if not n_ended and initial is not None and not waiting:
        study.enqueue_trial(initial)
    return study.ask(plan.space)


def _run_trial(plan: SearchPlan, run: Run, trial: Trial, callback: Callback) -> None:
    """Fine-tune the base model with the settings of a trial and report the metric to the study."""
    config = plan.config
    try:
        args = _with_settings(config, from_params(trial.params)).finetune
        context = RunContext(
            seed=config.seed,
            repeats=config.evaluation.repeats,
            callback=CallbackList([callback, _Pruning(trial, args.metric)]),
            progress=False,
        )
        model = run.start_model(args)
        run.finetune(model, args, context)
        trial.study.tell(trial, _validation_metric(run)(model))
    except (ConfigError, ModelError, optuna.TrialPruned) as error:
        # Settings that exclude each other, divergence, or a metric below the median.
        trial.set_user_attr("reason", str(error))
        trial.study.tell(trial, state=TrialState.PRUNED)


def _with_settings(config: ExperimentConfig, settings: Mapping[str, Any]) -> ExperimentConfig:
    tables = config.tables()
    return resolve(
        tables | {"finetune": tables["finetune"] | {"enabled": True} | settings}, "a trial"
    )


def _ended_trials(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _trial_entries(study: optuna.Study) -> list[dict[str, Any]]:
    return [
        {
            "trial": number,
            "value": trial.value if trial.state == TrialState.COMPLETE else None,
            "pruned": trial.user_attrs.get("reason"),
            "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
            "settings": from_params(trial.params),
        }
        for number, trial in enumerate(_ended_trials(study), 1)
    ]


def _search_results(plan: SearchPlan, study: optuna.Study, base: float) -> dict[str, Any]:
    entries = _trial_entries(study)
    complete = [entry for entry in entries if entry["value"] is not None]
    best = max(complete, key=lambda entry: float(entry["value"]), default=None)
    importance: dict[str, float] = {}
    if len(complete) >= _MIN_TRIALS_FOR_IMPORTANCE:
        # The better half against the rest: the default top tenth would be one or two trials.
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.5)
        importance = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {
        "format": FORMAT,
        "metric": plan.config.finetune.metric,
        "base": base,
        "best": best["trial"] if best is not None and best["value"] > base else None,
        "trials": entries,
        "budget": {
            "trials": len(entries),
            "pruned": len(entries) - len(complete),
            "seconds": round(sum(entry["seconds"] or 0.0 for entry in entries), 1),
        },
        "importance": importance,
    }
