"""Settings that all fine-tuning algorithms share, in TRL's words where TRL has the word."""

import warnings
from importlib import import_module
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from recoach.config import StrictConfig
from recoach.data.batches import States
from recoach.data.dataset import Dataset
from recoach.data.episodes import DiscountUnit, EpisodeUnit
from recoach.data.targets import Repeats
from recoach.errors import ConfigError
from recoach.evaluation.evaluator import masks_seen
from recoach.evaluation.metrics import METRIC_NAME
from recoach.models.base import GROUP_NAMES, GroupName, Recommender
from recoach.policy.policy import Logits, calibrate_temperature
from recoach.policy.reward_funcs import DISCOUNTED, ITEM_REWARDS, LIST_REWARDS, RewardName
from recoach.policy.rewards import Aggregation
from recoach.policy.shuffling import ShuffleRewards
from recoach.training.constraint_config import ConstraintConfig
from recoach.training.context import Schedule
from recoach.training.optimizer_step import SchedulerType


class FinetuneConfig(StrictConfig):
    """Rewards, states, policy, optimiser and selection: everything but the algorithm itself.

    Each algorithm has a subclass with the settings that only it reads.
    """

    logged_rewards_only: ClassVar[bool] = False
    """Whether the algorithm learns only from the items that the log rewards, so that a reward
    function of items (`novelty`) has no effect."""

    algorithm: str
    """The algorithm of these settings; it selects the config class."""
    start: Literal["base", "scratch"] = "base"
    """Weights before the first step: those of the trained base, or fresh ones of the same model and
    seed. The base is then no candidate of the selection, and nothing is interpolated with it. In
    Python the weights are those of the model that is passed."""
    sft_coef: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """Weight of the model's own supervised loss, added to the algorithm's; `auto` is 0.3 for a
    model whose loss regularises its vectors (GSAU) and 0 for others. That loss weights every next
    item alike: neither `event_weights` nor `pretrain.event_weights` changes it."""
    reward_funcs: tuple[RewardName, ...] = Field(default=("future",), min_length=1)
    """`next`: the next item; `return`: the next item, rewarded with the sum of its own and all
    later rewards of its episode, each of which is `event_weights` (1 without them) times `discount`
    for each event in between; `future`: the next `horizon` items, discounted; `train_set`: every
    training item of the user; `rated`: `future`, graded by the user's rating; `cross_fitted`:
    `future`, weighted by base models that were not trained on the item; `value`: `future` times
    the column `value` of the log over its mean; `events`: `future` times `event_weights`;
    `rejected`: -1 for items that the user rejects later in train; `serendipity`: `future` without
    the ten most popular items; `novelty`: items that few users have interacted with, for every
    user; `exposure`: items with a small share of the exposure in the lists that are served; with
    estimator `slate` `diversity` and `calibration` of lists, by the categories of the items table
    or, without any, by the base's item vectors. Your own: `GRPOTrainer(reward_funcs=...)`."""
    reward_weights: tuple[float, ...] = ()
    """Weight of each function, also of those given to the trainer; empty for 1. Only their ratio
    matters where weights and groups are normalised."""
    multi_objective_aggregation: Aggregation = "sum_then_normalize"
    """Add several rewards, or normalise each first (GDPO)."""
    horizon: int = Field(default=10, gt=0)
    """Number of next interactions that are rewarded."""
    discount: float = Field(default=0.8, gt=0, le=1)
    """Reward of the item k interactions later: discount^(k-1)."""
    discount_unit: DiscountUnit = "event"
    """What one factor of the discount of a `return`, or of `gamma`, stands for: an event, or a day
    between two events."""
    episode: EpisodeUnit = "user"
    """Where the sum of a `return` and the value of the next state end: with the user's history, or
    with the session (the column `session_id`, or a pause of `session_gap`)."""
    session_gap: float = Field(default=30.0, gt=0)
    """Minutes without an event after which a session ends, in a log without `session_id`."""
    event_weights: dict[str, float] = Field(default_factory=dict)
    """With rewards `events` and `return`: the weight of each event type of the log, such as {view =
    0.1, cart = 0.5, purchase = 1, return = -1}. Of several events of an item within the horizon the
    one of the lowest weight counts if that is negative, else the one of the highest."""
    folds: int = Field(default=4, ge=2)
    """Base models of `cross_fitted`, each trained without its part of every history."""
    reward_smoothing: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    """Part of the log's reward for an item that goes to its neighbours, the items that the same
    users interact with (`recoach.policy.smoothing`); `auto` is 0.3, and 0 for a model whose own
    loss regularises its vectors (GSAU), where only logged actions are rewarded (`behaviour`), and
    with a split by time."""
    smoothing_neighbours: int = Field(default=50, ge=1)
    """Neighbours of an item among which that part is divided."""
    shuffle_rewards: ShuffleRewards = "none"
    """A control: reward each state with what another user did. `users`: users of equal training
    length (the nearest where there is none) exchange their futures. `last_item`: a future of
    another user that followed the same last item (as `users` where there is none). An algorithm
    that rewards only logged actions keeps its actions and exchanges their rewards."""
    state: States | Literal["auto"] = "auto"
    """Every prefix of a history, the last one, or the user with the whole history; `auto` is
    `prefix` for a model that reads a history, `last_prefix` for one with a vector per user."""
    hide_rewarded: bool = True
    """Remove the rewarded interactions of a batch from the graph of a model that propagates over
    the log, so that it cannot read off what is rewarded."""
    logits: Logits = "raw"
    """Scores as they are, with states of unit length, or cosines."""
    temperature: float | Literal["auto"] = "auto"
    """Temperature of the softmax; `auto` fits it to the validation likelihood before training, and
    is 1 with `start = "scratch"`: the scores of an untrained model have no scale yet."""
    mask_seen: bool | Literal["auto"] = "auto"
    """Mask seen items in the policy; `auto` does so where the validation does, so that the trained
    policy is the served one."""
    disable_dropout: bool = False
    """Train without the model's dropout."""
    shared_dropout: bool = True
    """With dropout, use one mask for all policies of a step; with different masks, policies of
    equal weights differ, and the ratio and the KL are noise."""
    trainable: tuple[GroupName, ...] = GROUP_NAMES
    """Parameter groups that are trained; the others stay bitwise unchanged."""
    level: Literal["ego", "final"] = "ego"
    """Train a graph model's tables, or its propagated vectors as if they were tables."""
    optim: Literal["adamw", "sgd"] = "adamw"
    """The optimiser, which starts anew for fine-tuning."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Step size of the optimiser."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay (decoupled with AdamW)."""
    max_grad_norm: float = Field(default=0.0, ge=0)
    """Scale the gradient of a step down to this norm if it is larger; 0 never does."""
    lr_scheduler_type: SchedulerType = "constant"
    """How the learning rate changes: `constant`, or down to 0 at the maximum number of steps, in a
    `linear` or `cosine` way. Steps that `patience` saves count."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises from 0."""
    batch_size: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """States in a step; `auto` is 2,048, or an eighth of all states if that is less."""
    epochs: int = Field(default=100, gt=0)
    """Maximum number of epochs."""
    epoch_unit: Literal["states", "users", "interactions"] = "states"
    """What one epoch passes over once; steps over users or interactions still sample states."""
    max_steps: int = Field(default=0, ge=0)
    """Maximum number of steps; 0 leaves it to `epochs`."""
    eval_steps: int = Field(default=0, ge=0)
    """Steps between evaluations; 0 evaluates after each epoch."""
    patience: int = Field(default=10, ge=0)
    """Evaluations in a row that do not improve on an earlier step before training stops; 0 never
    stops."""
    metric: str = Field(default="ndcg@10", pattern=METRIC_NAME)
    """Validation metric that selects the weights."""
    select: Literal["best", "best_tuned", "last"] = "best"
    """The best on validation with the base model among the candidates, or without it; or the
    last."""
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    """Evaluate and return an exponential moving average of the weights; 0 turns it off."""
    interpolate: bool = True
    """Return the best point on validation between the base and the best weights (WiSE-FT), or
    between the base and the last weights where no step improved on the base. For
    `select = "best"`."""

    @model_validator(mode="after")
    def _check_policy(self) -> Self:
        if self.temperature != "auto" and self.temperature <= 0:
            raise ValueError("temperature must be positive or 'auto'")
        if not self.trainable:
            raise ValueError("trainable names no table, so nothing would be trained; name one")
        if self.start == "scratch" and self.setting_with_base:
            raise ValueError(
                f"{self.setting_with_base} compares the policy with the base, and with start = "
                "'scratch' that would be an untrained model; change it, or set start = 'base'"
            )
        if (self.start, self.temperature) == ("scratch", "auto") and self.logits != "raw":
            raise ValueError(
                f"temperature 'auto' is 1 with start = 'scratch', where logits = {self.logits!r} "
                "are nearly equal for all items; set a temperature, such as 0.1"
            )
        return self

    @model_validator(mode="after")
    def _check_rewards(self) -> Self:
        if "train_set" in self.reward_funcs and self.mask_seen is not False:
            raise ValueError(
                "reward 'train_set' rewards items that the user has already interacted with; set "
                "mask_seen = false"
            )
        of_lists = LIST_REWARDS.intersection(self.reward_funcs)
        if of_lists and not (self.draws_lists and self.start == "base"):
            raise ValueError(
                f"reward {min(of_lists)!r} rewards lists, by vectors or categories of a trained "
                "base; set estimator = 'slate' and start = 'base'"
            )
        needs_weights = "events" in self.reward_funcs
        takes_weights = needs_weights or "return" in self.reward_funcs
        if needs_weights > bool(self.event_weights) or bool(self.event_weights) > takes_weights:
            raise ValueError(
                "reward 'events' (or 'return') and event_weights belong together; set both, such "
                "as event_weights = {view = 0.1, purchase = 1}"
            )
        if self.state == "user" and "train_set" not in self.reward_funcs:
            raise ValueError("state 'user' has no next item; use it with reward 'train_set'")
        discounted = DISCOUNTED.intersection(self.reward_funcs)
        if "return" in self.reward_funcs and discounted:
            raise ValueError(
                "reward 'return' credits the next item with what comes later, and "
                f"{sorted(discounted)[0]!r} rewards the later items themselves; use one of them"
            )
        future = {"next", "return", *DISCOUNTED}.intersection(self.reward_funcs)
        if "train_set" in self.reward_funcs and future:
            raise ValueError(
                f"reward 'train_set' rewards past items and {sorted(future)[0]!r} future items; "
                "use one of them"
            )
        return self

    @model_validator(mode="after")
    def _check_item_rewards(self) -> Self:
        of_items = ITEM_REWARDS.intersection(self.reward_funcs)
        if self.logged_rewards_only and of_items:
            raise ValueError(
                f"algorithm {self.algorithm!r} learns only from rewards of the log, not from "
                f"{min(of_items)!r}; leave {min(of_items)!r} out"
            )
        if "exposure" in self.reward_funcs and not self.accepts_served_rewards:
            raise ValueError(
                "reward 'exposure' changes with the lists that are served, which needs algorithm "
                "'grpo' with estimator 'exact'; take them, or 'novelty'"
            )
        return self

    @model_validator(mode="after")
    def _check_episodes(self) -> Self:
        where = "reward 'return' and algorithms that learn from transitions"
        names = ("discount_unit", "episode")
        self._check_effect(dict.fromkeys(names, (self.uses_episodes, where)))
        by_session = self.episode == "session", "episode = 'session'"
        self._check_effect({"session_gap": by_session})
        return self

    @property
    def uses_episodes(self) -> bool:
        """Whether it matters where an episode ends."""
        return "return" in self.reward_funcs

    @property
    def rewards_actions_only(self) -> bool:
        """Whether the algorithm is defined for rewards of logged actions, the next items, only."""
        return False

    @property
    def needs_propensities(self) -> bool:
        """Whether the log must have the column `propensity`."""
        return False

    @property
    def needs_logged_items(self) -> bool:
        """Whether the algorithm reads the logged items themselves, beside their rewards."""
        return False

    @property
    def learns_actions(self) -> bool:
        """Whether the loss has the cross-entropy of every logged action, rewarded or not."""
        return False

    @property
    def draws(self) -> bool:
        """Whether reward functions are called with items drawn from the policy."""
        return False

    @property
    def draws_lists(self) -> bool:
        """Whether reward functions are called with lists drawn from the policy."""
        return False

    @property
    def has_kl(self) -> bool:
        """Whether a step computes a KL over the catalogue."""
        return False

    @property
    def compares_policies(self) -> bool:
        """Whether a step uses the difference of two policies: a ratio, k1 to k3, a preference."""
        return False

    @property
    def setting_with_base(self) -> str:
        """The setting that compares the policy with the base; "" where none does."""
        return ""

    @property
    def accepts_negative_rewards(self) -> bool:
        """Whether the algorithm is defined for negative rewards of logged items."""
        return self.draws

    def normalizes_rewards(self, *, by_default: bool) -> bool:
        """Return whether the rewards of each state are divided by their sum."""
        del by_default
        return False

    @property
    def updates_per_batch(self) -> int:
        """Optimiser steps on each batch."""
        return 1

    @property
    def accepts_served_rewards(self) -> bool:
        """Whether rewards of items may change with the lists that the model serves."""
        return False

    @property
    def bounds(self) -> tuple[ConstraintConfig, ...]:
        """Constraints on the served lists."""
        return ()

    @property
    def catalogue_sample(self) -> int | None:
        """Number of draws that stand for the catalogue in a step; None computes it whole."""
        return None

    @property
    def distinct_draws(self) -> tuple[str, int]:
        """The setting and the number of different items that a draw must have; 0 for any."""
        return "", 0

    @property
    def shards_items(self) -> bool:
        """Whether the item table is sharded over the processes."""
        return False

    @property
    def largest_batch(self) -> int:
        """States in a step of a log with many states."""
        return 2048 if self.batch_size == "auto" else self.batch_size

    @property
    def fewest_steps(self) -> int:
        """Minimum number of steps in an epoch (docs/decisions/0016)."""
        return 8 if self.batch_size == "auto" else 1

    def masks(self, protocol: Repeats, model: Recommender) -> bool:
        """Return whether a model's policy masks the items that a user has interacted with.

        Args:
            protocol: of the validation, which `auto` follows.
            model: `recbole` masks only for models that read no history.
        """
        return masks_seen(protocol, model) if self.mask_seen == "auto" else self.mask_seen

    def temperature_of(
        self, model: Recommender, dataset: Dataset, protocol: Repeats, seed: int = 0
    ) -> float:
        """Return the temperature of a model's policy, fitted where it is `auto`.

        Args:
            model: any recommender.
            dataset: gives the validation items to fit on.
            protocol: of the validation.
            seed: draws the users to fit on.

        Raises:
            ConfigError: it is `auto` and the dataset has no validation events.
        """
        if self.temperature != "auto":
            return self.temperature
        if self.start == "scratch":
            return 1.0
        if not len(dataset.valid.values):
            raise ConfigError(
                "temperature = 'auto' is fitted to validation events, and the dataset has none; "
                "set finetune.temperature to a number."
            )
        masks = self.masks(protocol, model)
        return calibrate_temperature(model, dataset, mask_seen=masks, seed=seed, logits=self.logits)

    def schedule(self) -> Schedule:
        """Return the settings of the training loop."""
        names = ["epochs", "metric", "patience", "max_steps", "eval_steps", "ema_decay"]
        names += ["lr_scheduler_type", "warmup_steps"]
        return Schedule(
            **{name: getattr(self, name) for name in names},
            select="last" if self.select == "last" else "best",
            start_is_candidate=self.select != "best_tuned" and self.start == "base",
            interpolate=self.interpolate and self.select == "best" and self.start == "base",
        )

    def _check_effect(self, effective: dict[str, tuple[bool, str]]) -> None:
        """Refuse settings that have no effect.

        Args:
            effective: for each setting, whether it has an effect and what it belongs to.
        """
        for name, (has_effect, where) in effective.items():
            if not has_effect and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect here; it belongs to {where}")


def __getattr__(name: str) -> object:
    """Import `GRPOConfig`, which was defined here."""
    if name != "GRPOConfig":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        "recoach.training.config.GRPOConfig has moved; import it from recoach.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module("recoach.training.algorithms.grpo.config"), name)
