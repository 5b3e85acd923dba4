"""Which estimator a setting asks for."""

from recoach.models.base import Recommender
from recoach.policy.rewards import CombinedReward
from recoach.training.config import GRPOConfig
from recoach.training.estimators import Estimator
from recoach.training.exact import ExactEstimator
from recoach.training.rivals import PPO, RAFT, SAC, SDPO, Reinforce, TopKOffPolicy
from recoach.training.sampled import SampledEstimator
from recoach.training.slates import SlateEstimator


def estimator_for(args: GRPOConfig, rewarder: CombinedReward, model: Recommender) -> Estimator:
    """Return GRPO's own estimator, or the other algorithm that is configured.

    Args:
        args: names both.
        rewarder: what is rewarded.
        model: tells the size of vectors and of the catalogue.
    """
    with_model: dict[str, type[PPO | SAC | SDPO]] = {"ppo": PPO, "sac": SAC, "s_dpo": SDPO}
    if args.algorithm in with_model:
        return with_model[args.algorithm](args, rewarder, model)
    others: dict[str, type[Reinforce | RAFT | TopKOffPolicy]] = {
        "reinforce": Reinforce,
        "raft": RAFT,
        "top_k_off_policy": TopKOffPolicy,
    }
    if args.algorithm != "grpo":
        return others[args.algorithm](args, rewarder)
    if args.estimator == "slate":
        return SlateEstimator(args, rewarder)
    own = SampledEstimator if args.estimator == "sampled" else ExactEstimator
    return own(args, rewarder)
