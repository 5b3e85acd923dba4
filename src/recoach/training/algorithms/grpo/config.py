"""Settings of GRPO, in TRL's words where TRL has the word."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from recoach.policy.objective import LossType, ScaleRewards
from recoach.policy.reward_funcs import ITEM_REWARDS
from recoach.training.algorithms.rollouts import RolloutConfig
from recoach.training.constraint_config import ConstraintConfig

_OTHER_CONFIGS = {
    "reinforce": "reinforce.ReinforceConfig",
    "raft": "raft.RAFTConfig",
    "ppo": "ppo.PPOConfig",
    "top_k_off_policy": "top_k_off_policy.TopKOffPolicyConfig",
    "s_dpo": "s_dpo.SDPOConfig",
    "sac": "supervised_q.SQNActorCriticConfig",
}
"""Where the settings are that GRPOConfig(algorithm=...) had in earlier versions."""


class GRPOConfig(RolloutConfig):
    """Settings of GRPO; the defaults are recommended, `GRPOConfig.paper()` is the paper's."""

    algorithm: Literal["grpo"] = "grpo"
    """The algorithm of these settings."""

    estimator: Literal["exact", "sampled", "stratified", "slate", "passes"] = "exact"
    """Enumerate the catalogue; draw groups from the old policy as the paper does; enumerate the
    rewarded items and let `num_negatives` draws stand for the rest (very large catalogues); draw
    groups of lists (Plackett-Luce); or compare passes of the model under different dropout masks
    (LARES), each of which is rewarded with the rank of the rewarded item."""
    loss_type: LossType = "log"
    """Transform f of the probability p of a rewarded item: `grpo` 2 arcsin(sqrt p), `dr_grpo` p,
    `log` log p, `pass_at_k` 1-(1-p)^k, `power` p^q/q. `sampled` has `grpo` and `dr_grpo`. A
    negative reward lowers p: -f(p) for `dr_grpo` and `pass_at_k`, f(1-p) for `log` and `power`."""
    pass_k: int = Field(default=10, gt=0)
    """The k of `pass_at_k`."""
    power: float = Field(default=0.5, gt=0, le=1)
    """The q of `power`: near 0 it is `log`, at 1 `dr_grpo`."""
    slate_length: int = Field(default=10, ge=1)
    """Items of a list of estimator `slate`."""
    rank_reward: Literal["recall@10", "ndcg@10"] = "ndcg@10"
    """Reward of a pass of estimator `passes`: the metric of the rewarded item in its ranking."""
    pass_weight: Literal["advantage", "absolute", "one"] = "advantage"
    """What multiplies log p of the rewarded item in estimator `passes`: the advantage of the pass;
    or, as controls, its absolute value, or 1 (cross-entropy)."""
    num_negatives: int = Field(default=8192, ge=1)
    """Draws of the stratified estimator, shared by the states of a step."""
    advantage_clip: float | None = Field(default=None, gt=0)
    """Bound of the advantages: of A+ = f'(p)(1-p) for `exact`, of all for drawn groups."""
    scale_rewards: ScaleRewards = "group"
    """What `grpo` divides the rewards of a drawn group by: the group's standard deviation, the
    batch's, or nothing. `exact` uses the policy's own standard deviation, `normalize_then_sum`
    each reward's in its group."""
    whitening: Literal["item", "state"] = "item"
    """With loss_type `grpo` and `exact` or `stratified`: whiten each rewarded item against the rest
    of the catalogue and weight it by its reward; or whiten all rewards of the state together, by
    their mean and standard deviation under the policy, as a drawn group does. Negative rewards need
    `state`, which has no rewards of items (`novelty`, `exposure`, constraints)."""
    normalize_rewards: bool | Literal["auto"] = "auto"
    """With `exact` or `stratified`: divide the rewards of a state by their sum, so that every state
    weighs the same; else a state weighs as much as the sum of its rewards, those at the end of a
    history less. `auto` divides those of reward `future` with a split by time and loss_type `log`,
    which makes the objective the cross-entropy of `sft`."""
    normalize_weights: bool = True
    """Scale the exact loss so that its weights average 1: a learning rate then has the same meaning
    for all transforms."""
    constraints: tuple[ConstraintConfig, ...] = ()
    """Bounds that the served lists are to keep, with estimator `exact` and `select = "best"`: on
    the exposure of groups of items, and on what the selecting metric may lose against the base.
    Their multipliers are rewards of items; of the weights that keep all bounds on validation the
    best are returned."""
    exposure_column: str | None = None
    """Column of the items table, such as providers, whose groups the reward `exposure` compares;
    without one it compares items."""
    shard_items: bool = False
    """Under torchrun, shard the item table over the processes instead of the batch (SASRec and
    GRU4Rec with loss `ce`, estimator `exact`)."""

    @classmethod
    def paper(cls, **changes: object) -> Self:
        """Return the settings of the paper, quirks included, with your changes.

        Its states are one for each user, as in the cells of `recoach reproduce`. For graph models
        add `state="user", reward_funcs=("train_set",)`; the paper's table 3 trains only GSAU's
        items and users, `trainable=("item", "user")`.
        """
        quirks: dict[str, Any] = {
            "estimator": "sampled",
            "loss_type": "grpo",
            "epsilon": 0.1,
            "beta": 0.01,
            "kl_estimator": "literal",
            "reward_funcs": ("next",),
            "reward_smoothing": 0.0,
            "sft_coef": 0.0,
            "state": "last_prefix",
            "hide_rewarded": False,
            "temperature": 1.0,
            "mask_seen": False,
            "shared_dropout": False,
            "trainable": ("item", "user", "position"),
            "normalize_weights": False,
            "learning_rate": 1e-4,
            "batch_size": 2048,
            "epochs": 1000,
            "patience": 0,
            "select": "last",
            "ema_decay": 0.0,
            "interpolate": False,
        }
        return cls(**quirks | changes)

    @classmethod
    def lares(cls, **changes: object) -> Self:
        """Return the settings of the RL stage of LARES in RecBole 3.0, with your changes.

        As far as they are settings of fine-tuning: LARES has a SASRec with recurrent depth, dropout
        0.5 and a history of 20 items. The reference is the base without dropout.
        """
        settings: dict[str, Any] = {
            "estimator": "passes",
            "num_generations": 4,
            "beta": 1.0,
            "kl_estimator": "k3",
            "reward_funcs": ("next",),
            "reward_smoothing": 0.0,
            "temperature": 1.0,
            "mask_seen": False,
            "shared_dropout": False,
            "learning_rate": 1e-3,
            "batch_size": 256,
            "select": "best_tuned",
            "ema_decay": 0.0,
            "interpolate": False,
        }
        return cls(**settings | changes)

    @field_validator("algorithm", mode="before")
    @classmethod
    def _name_other_config(cls, name: object) -> object:
        """Name the config class of another algorithm; earlier versions had one for all."""
        if isinstance(name, str) and name in _OTHER_CONFIGS:
            module, config = _OTHER_CONFIGS[name].split(".")
            raise ValueError(
                f"algorithm {name!r} has settings of its own; use {config} from "
                f"recoach.training.algorithms.{module}"
            )
        return name

    @model_validator(mode="after")
    def _check_estimator(self) -> Self:
        if self.draws and self.loss_type not in ("grpo", "dr_grpo"):
            raise ValueError(
                f"loss_type {self.loss_type!r} needs estimator 'exact' or 'stratified'; "
                f"{self.estimator!r} has loss_type 'grpo' and 'dr_grpo'"
            )
        if self.estimator != "sampled" and not (self.replacement and self.dead_groups == "zero"):
            raise ValueError("replacement and dead_groups belong to estimator 'sampled'")
        if self.constraints and not (
            (self.estimator, self.select, self.start) == ("exact", "best", "base")
        ):
            raise ValueError(
                "constraints need estimator 'exact', select 'best' and start 'base': their "
                "multipliers are rewards of items, and validation selects the weights that keep "
                "the bounds"
            )
        if self.estimator == "passes" and (self.disable_dropout or self.compares_old_policy):
            raise ValueError(
                "estimator 'passes' compares passes under different dropout masks, and has no "
                "ratio; leave disable_dropout, num_iterations and old_model_sync_steps out"
            )
        is_scaled = self.draws and self.loss_type == "grpo"
        is_unscaled = self.draws and self.scale_rewards == "none"  # what dr_grpo is in TRL
        is_summed = self.multi_objective_aggregation == "sum_then_normalize"
        self._check_effect(
            {
                "scale_rewards": (
                    (is_scaled or is_unscaled) and is_summed,
                    "the estimators that draw groups, with loss_type 'grpo' and "
                    "multi_objective_aggregation 'sum_then_normalize'",
                ),
                "normalize_rewards": (self.is_exact, "estimator 'exact' or 'stratified'"),
                "shard_items": (self.estimator == "exact", "estimator 'exact'"),
                "rank_reward": (self.estimator == "passes", "estimator 'passes'"),
                "pass_weight": (self.estimator == "passes", "estimator 'passes'"),
                "whitening": (
                    self.is_exact and self.loss_type == "grpo",
                    "loss_type 'grpo' with estimator 'exact' or 'stratified'",
                ),
                "multi_objective_aggregation": (
                    is_scaled or not self.draws,
                    "estimator 'exact' or 'stratified', or groups with loss_type 'grpo'",
                ),
            }
        )
        return self

    @model_validator(mode="after")
    def _check_rewards_of_items(self) -> Self:
        of_items = ITEM_REWARDS.intersection(self.reward_funcs)
        if self.whitening == "state" and (self.constraints or of_items):
            raise ValueError(
                "whitening 'state' whitens the rewards of the log, and 'novelty', 'exposure' and "
                "constraints reward items; leave them out, or set whitening = 'item' or another "
                "loss_type"
            )
        has_exposure = "exposure" in self.reward_funcs
        weights = dict(zip(self.reward_funcs, self.reward_weights, strict=False))
        if has_exposure and weights.get("exposure", 1) < 0:
            raise ValueError(
                "the weight of reward 'exposure' is below 0, which would reward what is already "
                "shown most; set it to 0 or above in reward_weights"
            )
        if has_exposure and self.multi_objective_aggregation == "normalize_then_sum":
            raise ValueError(
                "reward 'exposure' becomes smaller as the exposure becomes even, and "
                "'normalize_then_sum' would give it the same size for ever; weigh the rewards by "
                "reward_weights instead"
            )
        self._check_effect({"exposure_column": (has_exposure, "reward 'exposure'")})
        return self

    def normalizes_rewards(self, *, by_default: bool) -> bool:
        """Return whether the rewards of each state are divided by their sum."""
        if self.normalize_rewards != "auto":
            return self.normalize_rewards
        return by_default and self.is_exact and self.loss_type == "log"

    @property
    def accepts_served_rewards(self) -> bool:
        """Whether rewards of items may change with the lists that the model serves."""
        return self.estimator == "exact"

    @property
    def bounds(self) -> tuple[ConstraintConfig, ...]:
        """Constraints on the served lists."""
        return self.constraints

    @property
    def draws(self) -> bool:
        """Whether groups are drawn from the policy."""
        return self.estimator in ("sampled", "slate")

    @property
    def draws_lists(self) -> bool:
        """Whether groups of lists are drawn from the policy."""
        return self.estimator == "slate"

    @property
    def is_exact(self) -> bool:
        """Whether expectations over the catalogue, or over candidates, are computed."""
        return self.estimator in ("exact", "stratified")

    @property
    def accepts_negative_rewards(self) -> bool:
        """Whether rewards of logged items may be negative; GRPO whitens them in their state."""
        is_defined = self.loss_type != "grpo" or self.whitening == "state"
        return self.draws or (self.is_exact and is_defined)

    @property
    def compares_policies(self) -> bool:
        """Whether a ratio, a KL or a rank compares two policies."""
        return super().compares_policies or self.estimator == "passes"

    @property
    def has_item_samples(self) -> bool:
        """Whether a KL can be evaluated at single items: drawn ones, or the rewarded ones."""
        return self.estimator in ("sampled", "passes")

    @property
    def distinct_draws(self) -> tuple[str, int]:
        """The setting and the number of different items in a draw; 0 for any."""
        if self.estimator == "slate":
            return "slate_length", self.slate_length
        return super().distinct_draws

    @property
    def catalogue_sample(self) -> int | None:
        """Number of draws that stand for the catalogue in a step; None computes it whole."""
        return self.num_negatives if self.estimator == "stratified" else None

    @property
    def shards_items(self) -> bool:
        """Whether the item table is sharded over the processes."""
        return self.shard_items

    @property
    def group_size(self) -> int:
        """Number of items, lists or passes in a group."""
        sizes = {"slate": 16, "passes": 4}
        return self.num_generations or sizes.get(self.estimator, 4096)
