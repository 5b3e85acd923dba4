"""GRPO: group-relative policy optimisation over a catalogue of items (Jeon et al. 2025)."""

from typing import Final

from recoach.training.algorithms.base import Learner
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.grpo.exact import ExactEstimator
from recoach.training.algorithms.grpo.sampled import SampledGRPOEstimator
from recoach.training.algorithms.grpo.slate import SlateEstimator
from recoach.training.algorithms.rollouts import RolloutAlgorithm

_ESTIMATORS: Final[
    dict[str, type[ExactEstimator] | type[SampledGRPOEstimator] | type[SlateEstimator]]
] = {
    "exact": ExactEstimator,
    "stratified": ExactEstimator,
    "sampled": SampledGRPOEstimator,
    "slate": SlateEstimator,
}


class GRPO(RolloutAlgorithm[GRPOConfig]):
    """Climbs the clipped surrogate of Eq. 4 and 5 as its estimator computes it.

    The stratified estimator is the exact one over the candidates of the batch.
    """

    def __init__(self, args: GRPOConfig, learner: Learner) -> None:
        super().__init__(args, learner, _ESTIMATORS[args.estimator](args, learner.reward))
