"""Numbers that have gone wrong, in words: which step, which tables, whose batch, what is saved."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from recoach.data.split import Dataset
from recoach.evaluation.evaluator import MaskSeen, top_lists
from recoach.models.base import Recommender
from recoach.training.callbacks import Callback

ENTROPY_SHARE = 0.02
"""Of a uniform policy's entropy; below it nearly all probability lies on a handful of items."""
USELESS_KL = 1e-6
"""Nats; a penalty times this changes nothing."""
COVERAGE_SHARE = 0.2
"""Of the items that the base's lists held; below it all users are shown much the same few."""
COVERAGE = "valid/coverage@10"
_USERS = 512
FAR_KL = 10.0
"""Nats; this far from the reference little of it is left."""


def divergence(
    value: float, step: int, model: Recommender, users: Sequence[str], folder: Path | None
) -> str:
    """Return what to say where the loss of a step is not finite.

    Args:
        value: the loss.
        step: after how many steps.
        model: its tables are looked through.
        users: the first ones of the batch.
        folder: of the checkpoints, where there are any.
    """
    names = non_finite_groups(model)
    what = f", and so are numbers of the table {', '.join(names)}" if names else ""
    whose = f" (in the batch of users {', '.join(users)}, ...)" if users else ""
    return (
        f"The loss is {value} at step {step}{what}{whose}. {last_good(folder)}Train into another "
        "folder with a lower learning rate."
    )


def non_finite_groups(model: Recommender) -> list[str]:
    """Return the tables that hold numbers which are not finite."""
    return [
        name
        for name, tensors in model.parameter_groups().items()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    ]


def last_good(folder: Path | None) -> str:
    """Return where the last good checkpoint lies, as a sentence and a blank; "" without one."""
    path = folder and folder / "last.safetensors"
    return f"The last good checkpoint is {path}. " if path and path.exists() else ""


def coverage(model: Recommender, dataset: Dataset, mask_seen: MaskSeen) -> float:
    """Return the share of the catalogue in the validation lists of some hundred users.

    Args:
        model: any recommender.
        dataset: the split log; users evenly from all of it are asked, so that it costs little.
        mask_seen: protocol of the validation.
    """
    users = np.flatnonzero(dataset.valid.lengths)
    users = users[:: -(-len(users) // _USERS)]
    lists = top_lists(model, dataset, users, 10, split="valid", mask_seen=mask_seen)
    return len(np.unique(lists[lists >= 0])) / dataset.n_items


def health_alarms(row: Mapping[str, float], first: Mapping[str, float], n_items: int) -> list[str]:
    """Return what is wrong in a row of GRPO's log, each a sentence; mostly nothing.

    Args:
        row: averages since the last evaluation.
        first: what each name in it was at first.
        n_items: size of the catalogue.
    """
    found = []
    entropy, kl = row.get("entropy"), row.get("kl")
    if (
        entropy is not None
        and entropy < ENTROPY_SHARE * math.log(max(n_items, 2))
        and entropy < first.get("entropy", 0.0) / 2
    ):
        found.append(
            f"The policy has collapsed: its entropy fell from {first['entropy']:.3g} to "
            f"{entropy:.3g} nats. Set grpo.entropy_coef, raise grpo.beta, or lower "
            "grpo.learning_rate."
        )
    shown = row.get(COVERAGE)
    if shown is not None and shown < COVERAGE_SHARE * first.get(COVERAGE, 0.0):
        found.append(
            f"The lists have collapsed: the share of the catalogue in them fell from "
            f"{first[COVERAGE]:.3g} to {shown:.3g}. Set grpo.entropy_coef, raise grpo.beta, or "
            "lower grpo.learning_rate."
        )
    if kl is not None and kl > FAR_KL:
        found.append(
            f"The KL is {kl:.3g} nats: little of the base is left. Raise grpo.beta, or lower "
            "grpo.learning_rate."
        )
    return found


def health_warnings(
    row: Mapping[str, float], first: Mapping[str, float], n_items: int, beta: float
) -> list[str]:
    """Return the alarms of the last row, and whether a KL of weight `beta` has done nothing."""
    kl = row.get("kl")
    useless = beta and kl is not None and 0 <= kl < USELESS_KL
    return health_alarms(row, first, n_items) + (
        [
            f"The KL is {kl:.1g} nats: grpo.beta = {beta:g} holds back nothing. Raise "
            "grpo.learning_rate, or leave grpo.beta at 0."
        ]
        if useless
        else []
    )


class CollapseMonitor(Callback):
    """Warns of what is worrying, once of each kind."""

    def __init__(self, n_items: int) -> None:
        self._n_items = n_items
        self._first: Mapping[str, float] = {}
        self._said: set[str] = set()

    def on_row(self, row: dict[str, float]) -> None:
        """Look at the averages since the last evaluation."""
        self._first = {**row, **self._first}
        for words in health_alarms(row, self._first, self._n_items):
            if words[:10] not in self._said:
                self._said.add(words[:10])
                warnings.warn(f"Step {row['step']:.0f}: {words}", stacklevel=2)
