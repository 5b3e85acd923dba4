"""Which estimator a setting asks for."""

from recoach.models.base import Recommender
from recoach.policy.policy import Policy
from recoach.policy.rewards import CombinedReward
from recoach.training.config import GRPOConfig
from recoach.training.estimators import Estimator
from recoach.training.exact import ExactEstimator
from recoach.training.rivals import PPO, RAFT, SAC, SDPO, Reinforce, TopKOffPolicy
from recoach.training.sampled import SampledEstimator
from recoach.training.slates import SlateEstimator


def estimator_for(
    args: GRPOConfig, policy: Policy, rewarder: CombinedReward, model: Recommender
) -> Estimator:
    """Return GRPO's own estimator, or a rival in its place.

    Args:
        args: names both.
        policy: how scores become probabilities.
        rewarder: what is paid.
        model: tells the size of vectors to a rival that trains a head.
    """
    if args.algorithm == "ppo":
        return PPO(args, policy, rewarder, model)
    if args.algorithm == "sac":
        return SAC(args, policy, rewarder, model)
    if args.algorithm != "grpo":
        rivals: dict[str, type[Reinforce | RAFT | TopKOffPolicy | SDPO]] = {
            "reinforce": Reinforce,
            "raft": RAFT,
            "top_k_off_policy": TopKOffPolicy,
            "s_dpo": SDPO,
        }
        return rivals[args.algorithm](args, policy, rewarder)
    if args.estimator == "slate":
        return SlateEstimator(args, policy, rewarder)
    own = SampledEstimator if args.estimator == "sampled" else ExactEstimator
    return own(args, policy, rewarder)
