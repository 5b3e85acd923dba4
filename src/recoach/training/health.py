"""Messages about diverged trainings, collapsed policies and importance weights of few items."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from recoach.data.dataset import Dataset
from recoach.data.targets import Repeats, targets_of
from recoach.evaluation.evaluator import top_lists
from recoach.models.base import Recommender
from recoach.training.callbacks import Callback

ENTROPY_SHARE = 0.02
"""Fraction of the entropy of a uniform policy below which a few items have all probability."""
USELESS_KL = 1e-6
"""Nats; a KL below this has no effect on the loss."""
COVERAGE_SHARE = 0.2
"""Fraction of the coverage of the base's lists below which all users get nearly the same items."""
COVERAGE = "valid/coverage@10"
_STATES = 512
FAR_KL = 10.0
"""Nats; at this distance the policy has little in common with the reference."""
LEAST_ESS = 0.1
"""Effective sample size over the number of weights below which few items decide the gradient."""
MOST_CLAMPED = 0.01
"""Share of the targets of Q outside the possible returns above which Q is overestimated."""
MOST_OUTSIDE = 0.5
"""Share of Q of logged items outside the possible returns above which, if it grows, Q has diverged;
of an untrained head about half of the values are below the lowest return."""
TD_LOSS_GROWTH = 10.0
"""Factor by which the loss of temporal differences rises where Q diverges."""
SMALL_TD_LOSS = 0.1
"""Part of the squared mean target up to which such a loss may grow from nearly 0: where all rewards
are equal, Q starts at its fixed point."""


def divergence(
    value: float, step: int, model: Recommender, users: Sequence[str], folder: Path | None
) -> str:
    """Return the message for a loss that is not finite.

    Args:
        value: the loss.
        step: its step, from 1.
        model: its parameters are checked.
        users: ids of the first users of the batch.
        folder: of the checkpoints, where there are any.
    """
    names = non_finite_groups(model)
    groups = f", with non-finite numbers in the parameter group {', '.join(names)}" if names else ""
    batch = f" (in the batch of users {', '.join(users)}, ...)" if users else ""
    return (
        f"The loss is {value} at step {step}{groups}{batch}. {last_good(folder)}Train into another "
        "folder with a lower learning rate."
    )


def non_finite_groups(model: Recommender) -> list[str]:
    """Return the parameter groups that hold non-finite numbers."""
    return [
        name
        for name, tensors in model.parameter_groups().items()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    ]


def last_good(folder: Path | None) -> str:
    """Return a sentence with the path of the last good checkpoint and a space; "" without one."""
    path = folder and folder / "last.safetensors"
    return f"The last good checkpoint is {path}. " if path and path.exists() else ""


def coverage(model: Recommender, dataset: Dataset, repeats: Repeats) -> float:
    """Return the share of the catalogue in the validation lists of some hundred states.

    Args:
        model: any recommender.
        dataset: the split log; some hundred of its states, evenly spaced, keep the cost low.
        repeats: protocol of the validation.
    """
    targets = targets_of(dataset, "valid", repeats)
    states = np.zeros(len(targets.users), dtype=np.bool_)
    states[:: -(-len(states) // _STATES)] = True
    lists = top_lists(model, dataset, targets.select(states), 10)
    return len(np.unique(lists[lists >= 0])) / dataset.n_items


def health_alarms(
    row: Mapping[str, float], first: Mapping[str, float], n_items: int
) -> dict[str, str]:
    """Return a sentence for each sign of a collapse or a divergence in a row of the training log.

    Args:
        row: averages since the last evaluation.
        first: the first value of each name.
        n_items: size of the catalogue.

    Returns:
        The sentences by the name of the logged value.
    """
    alarms = {
        "entropy": _collapsed_policy(row, first, n_items),
        COVERAGE: _collapsed_lists(row, first),
        "kl": _far_policy(row),
        "importance_sampling_ratio/ess": _few_effective_samples(row),
        "target_clamped": _clamped_targets(row, first),
        "q_outside": _impossible_values(row, first),
        "td_loss": _growing_differences(row, first),
    }
    return {name: sentence for name, sentence in alarms.items() if sentence}


def _collapsed_policy(
    row: Mapping[str, float], first: Mapping[str, float], n_items: int
) -> str | None:
    entropy = row.get("entropy")
    if (
        entropy is None
        or entropy >= ENTROPY_SHARE * math.log(max(n_items, 2))
        or entropy >= first.get("entropy", 0.0) / 2
    ):
        return None
    return (
        f"The policy has collapsed: its entropy fell from {first['entropy']:.3g} to "
        f"{entropy:.3g} nats. Set finetune.entropy_coef, raise finetune.beta, or lower "
        "finetune.learning_rate."
    )


def _collapsed_lists(row: Mapping[str, float], first: Mapping[str, float]) -> str | None:
    covered = row.get(COVERAGE)
    if covered is None or covered >= COVERAGE_SHARE * first.get(COVERAGE, 0.0):
        return None
    return (
        f"The lists have collapsed: the share of the catalogue in them fell from "
        f"{first[COVERAGE]:.3g} to {covered:.3g}. Lower finetune.learning_rate; algorithms "
        "that have finetune.entropy_coef or finetune.beta can raise those instead."
    )


def _far_policy(row: Mapping[str, float]) -> str | None:
    kl = row.get("kl")
    if kl is None or kl <= FAR_KL:
        return None
    return (
        f"The KL is {kl:.3g} nats: the policy has little in common with the base. Raise "
        "finetune.beta, or lower finetune.learning_rate."
    )


def _few_effective_samples(row: Mapping[str, float]) -> str | None:
    ess = row.get("importance_sampling_ratio/ess")
    if ess is None or ess >= LEAST_ESS:
        return None
    return (
        f"The effective sample size of the importance weights is {100 * ess:.2g} % of the logged "
        "items: a few of them have nearly all weight. Lower finetune.max_ratio or "
        "finetune.learning_rate, or raise finetune.beta."
    )


def _clamped_targets(row: Mapping[str, float], first: Mapping[str, float]) -> str | None:
    clamped, begin = row.get("target_clamped"), first.get("target_clamped", 0.0)
    # The scores of a base are no values: at first, targets that are read from them are too large.
    if clamped is None or clamped <= max(MOST_CLAMPED, begin):
        return None
    return (
        f"{100 * clamped:.2g} % of the targets of Q are beyond the returns that the rewards allow, "
        "and are clamped: Q is overestimated. Use double Q-learning, lower finetune.gamma or "
        "finetune.learning_rate, or slow the target network down (a lower finetune.tau)."
    )


def _impossible_values(row: Mapping[str, float], first: Mapping[str, float]) -> str | None:
    outside, begin = row.get("q_outside"), first.get("q_outside", 0.0)
    if outside is None or outside <= max(MOST_OUTSIDE, begin):
        return None
    return (
        f"Q has diverged: that of {100 * outside:.2g} % of the logged items is beyond the returns "
        f"that the rewards allow, after {100 * begin:.2g} % at first. Lower "
        "finetune.learning_rate, or slow the target network down (a lower finetune.tau)."
    )


def _growing_differences(row: Mapping[str, float], first: Mapping[str, float]) -> str | None:
    td_loss, begin = row.get("td_loss"), first.get("td_loss", 0.0)
    small = SMALL_TD_LOSS * row.get("target_mean", 0.0) ** 2
    if td_loss is None or not begin or td_loss <= max(TD_LOSS_GROWTH * begin, small):
        return None
    return (
        f"Q diverges: the loss of its temporal differences rose from {begin:.3g} to {td_loss:.3g}. "
        "Lower finetune.learning_rate or finetune.gamma, or slow the target network down (a lower "
        "finetune.tau)."
    )


def health_warnings(
    row: Mapping[str, float], first: Mapping[str, float], n_items: int, beta: float
) -> list[str]:
    """Return the alarms of the last row, and whether a KL of weight `beta` has no effect."""
    kl = row.get("kl")
    has_no_effect = beta and kl is not None and 0 <= kl < USELESS_KL
    return [*health_alarms(row, first, n_items).values()] + (
        [
            f"The KL is {kl:.1g} nats: finetune.beta = {beta:g} has no effect. Raise "
            "finetune.learning_rate, or leave finetune.beta at 0."
        ]
        if has_no_effect
        else []
    )


class CollapseMonitor(Callback):
    """Warns of collapsed policies and diverged values, once for each kind of alarm."""

    def __init__(self, n_items: int) -> None:
        self._n_items = n_items
        self._first: Mapping[str, float] = {}
        self._reported: set[str] = set()

    def on_row(self, row: dict[str, float]) -> None:
        """Check the averages since the last evaluation."""
        self._first = {**row, **self._first}
        for name, alarm in health_alarms(row, self._first, self._n_items).items():
            if name not in self._reported:
                self._reported.add(name)
                warnings.warn(f"Step {row['step']:.0f}: {alarm}", stacklevel=2)
