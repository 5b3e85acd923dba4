"""The algorithms by name; a new algorithm is its own file and one line here."""

from typing import Any, Final, NamedTuple

from recoach.errors import ConfigError, suggestion
from recoach.training.algorithms.base import Algorithm, Learner
from recoach.training.algorithms.csa import CSA, CSAConfig
from recoach.training.algorithms.dqn import DQN, DQNConfig
from recoach.training.algorithms.grpo.algorithm import GRPO
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.imitation import Imitation, ImitationConfig
from recoach.training.algorithms.mcrl import MCRL, MCRLConfig
from recoach.training.algorithms.off_policy_actor_critic import (
    OffPolicyActorCritic,
    OffPolicyActorCriticConfig,
)
from recoach.training.algorithms.ppo import PPO, PPOConfig
from recoach.training.algorithms.raft import RAFT, RAFTConfig
from recoach.training.algorithms.reinforce import Reinforce, ReinforceConfig
from recoach.training.algorithms.s_dpo import SDPO, SDPOConfig
from recoach.training.algorithms.sft import SFT, SFTConfig
from recoach.training.algorithms.supervised_q import (
    SA2CConfig,
    SNQNConfig,
    SQNActorCriticConfig,
    SQNConfig,
    SupervisedQ,
)
from recoach.training.algorithms.top_k_off_policy import TopKOffPolicy, TopKOffPolicyConfig
from recoach.training.algorithms.trpo import TRPO, TRPOConfig
from recoach.training.algorithms.ufrec import UFRec, UFRecConfig
from recoach.training.config import FinetuneConfig


class AlgorithmEntry(NamedTuple):
    """An algorithm and its settings."""

    config: type[FinetuneConfig]
    algorithm: type[Algorithm[Any, Any]]


ALGORITHMS: Final[dict[str, AlgorithmEntry]] = {
    "grpo": AlgorithmEntry(GRPOConfig, GRPO),
    "reinforce": AlgorithmEntry(ReinforceConfig, Reinforce),
    "raft": AlgorithmEntry(RAFTConfig, RAFT),
    "ppo": AlgorithmEntry(PPOConfig, PPO),
    "trpo": AlgorithmEntry(TRPOConfig, TRPO),
    "top_k_off_policy": AlgorithmEntry(TopKOffPolicyConfig, TopKOffPolicy),
    "off_policy_actor_critic": AlgorithmEntry(OffPolicyActorCriticConfig, OffPolicyActorCritic),
    "sft": AlgorithmEntry(SFTConfig, SFT),
    "imitation": AlgorithmEntry(ImitationConfig, Imitation),
    "s_dpo": AlgorithmEntry(SDPOConfig, SDPO),
    "sqn": AlgorithmEntry(SQNConfig, SupervisedQ),
    "snqn": AlgorithmEntry(SNQNConfig, SupervisedQ),
    "sqn_actor_critic": AlgorithmEntry(SQNActorCriticConfig, SupervisedQ),
    "sa2c": AlgorithmEntry(SA2CConfig, SupervisedQ),
    "csa": AlgorithmEntry(CSAConfig, CSA),
    "mcrl": AlgorithmEntry(MCRLConfig, MCRL),
    "dqn": AlgorithmEntry(DQNConfig, DQN),
    "ufrec": AlgorithmEntry(UFRecConfig, UFRec),
}


FORMER_NAMES: Final = {"sac": "sqn_actor_critic"}
"""Algorithms of earlier versions that are renamed."""


def algorithm_entry(name: str) -> AlgorithmEntry:
    """Return the entry of an algorithm.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in ALGORITHMS:
        raise ConfigError(f"there is no algorithm {name!r}. {suggestion(name, ALGORITHMS)}")
    return ALGORITHMS[name]


def build_algorithm(args: FinetuneConfig, learner: Learner) -> Algorithm[Any, Any]:
    """Return the algorithm of these settings."""
    return algorithm_entry(args.algorithm).algorithm(args, learner)
