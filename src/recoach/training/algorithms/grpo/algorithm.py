"""GRPO: group-relative policy optimisation over a catalogue of items (Jeon et al. 2025)."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from recoach.policy.rewards import CombinedReward
from recoach.training.algorithms.base import Learner, RLBatch, Statistics
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.grpo.exact import ExactEstimator
from recoach.training.algorithms.grpo.passes import PassesEstimator, repeat_batch
from recoach.training.algorithms.grpo.sampled import SampledGRPOEstimator
from recoach.training.algorithms.grpo.slate import SlateEstimator
from recoach.training.algorithms.rollouts import Estimator, PreparedRollout, RolloutAlgorithm

_ESTIMATORS: Final[dict[str, Callable[[GRPOConfig, CombinedReward], Estimator]]] = {
    "exact": ExactEstimator,
    "stratified": ExactEstimator,
    "sampled": SampledGRPOEstimator,
    "slate": SlateEstimator,
    "passes": PassesEstimator,
}


class GRPO(RolloutAlgorithm[GRPOConfig]):
    """Climbs the clipped surrogate of Eq. 4 and 5 as its estimator computes it.

    The stratified estimator is the exact one over the candidates of the batch. For the passes
    estimator all states of a batch occur once for each pass.
    """

    def __init__(self, args: GRPOConfig, learner: Learner) -> None:
        super().__init__(args, learner, _ESTIMATORS[args.estimator](args, learner.reward))

    def prepare(self, batch: RLBatch, generator: torch.Generator) -> PreparedRollout:
        """Roll out the old policy and compute the reference."""
        return super().prepare(self._with_passes(batch), generator)

    def loss(
        self, batch: RLBatch, prepared: PreparedRollout, generator: torch.Generator
    ) -> tuple[Tensor, Statistics]:
        """Return the estimator's loss of the current policy."""
        return super().loss(self._with_passes(batch), prepared, generator)

    def _with_passes(self, batch: RLBatch) -> RLBatch:
        is_repeated = self.args.estimator == "passes"
        return repeat_batch(batch, self.args.group_size) if is_repeated else batch
