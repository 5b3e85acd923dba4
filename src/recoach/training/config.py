"""Settings of GRPO, in TRL's words where TRL has the word."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recoach.data.batches import States
from recoach.data.split import Dataset
from recoach.evaluation.evaluator import MaskSeen, masks_seen
from recoach.evaluation.metrics import METRIC_NAME
from recoach.models.base import GROUP_NAMES, GroupName, Recommender
from recoach.policy.objective import LossType, ScaleRewards
from recoach.policy.policy import Logits, calibrate_temperature
from recoach.policy.reward_funcs import DISCOUNTED, RewardName
from recoach.policy.rewards import Aggregation
from recoach.training.loop import Schedule

Algorithm = Literal["grpo", "reinforce", "raft", "ppo", "top_k_off_policy", "s_dpo", "sac"]

_TAKES: Final = {
    "reinforce": "sampled",
    "raft": "sampled",
    "ppo": "sampled",
    "top_k_off_policy": "exact",
    "s_dpo": "exact",
    "sac": "exact",
}
"""The estimator of a rival."""
HEARS_THE_LOG: Final = tuple(rival for rival, takes in _TAKES.items() if takes == "exact")
"""Rivals that learn from what the log rewards alone."""


class GRPOConfig(BaseModel):
    """Settings of GRPO; the defaults are what works, `GRPOConfig.paper()` is the paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    algorithm: Algorithm = "grpo"
    """GRPO, or a rival in its place: `reinforce` (no baseline), `raft` (rejection sampling),
    `ppo` (a value head), `top_k_off_policy` (REINFORCE corrected for the base's choices), `s_dpo`
    (preferences over drawn negatives), `sac` (an actor under a Q head)."""
    estimator: Literal["exact", "sampled", "stratified", "slate"] = "exact"
    """Enumerate the catalogue; draw groups from the old policy as the paper does; enumerate the
    rewarded items and let `num_negatives` draws stand for the rest (very large catalogues); or
    draw groups of lists (Plackett-Luce)."""
    loss_type: LossType = "log"
    """Transform f of the probability p of a rewarded item: `grpo` 2 arcsin(sqrt p), `dr_grpo` p,
    `log` log p, `pass_at_k` 1-(1-p)^k, `power` p^q/q. `sampled` knows `grpo` and `dr_grpo`."""
    pass_k: int = Field(10, gt=0)
    """The k of `pass_at_k`."""
    power: float = Field(0.5, gt=0, le=1)
    """The q of `power`: near 0 it is `log`, at 1 `dr_grpo`."""
    num_generations: int | None = Field(None, ge=2)
    """Size of a group (G) where groups are drawn: 4096 items, or 16 lists, unless set."""
    slate_length: int = Field(10, ge=1)
    """Items of a list of estimator `slate`."""
    replacement: bool = True
    """Draw groups with replacement; without it all G items of a group differ."""
    dead_groups: Literal["zero", "resample", "force_positive"] = "zero"
    """A drawn group whose rewards are all equal teaches nothing: leave it so; draw it again, three
    times at the most; or put a rewarded item in (biased)."""
    num_negatives: int = Field(8192, ge=1)
    """Draws of the stratified estimator, shared by the states of a step."""
    num_iterations: int = Field(1, ge=1)
    """Updates on each batch (mu); ratio and clip act from the second on."""
    old_model_sync_steps: int = Field(1, ge=1)
    """Steps for which the old policy stays as it is; 1 takes it from the weights of the moment."""
    epsilon: float = Field(0.2, gt=0, lt=1)
    """Clip of the ratio: 1 - epsilon .. 1 + epsilon."""
    advantage_clip: float | None = Field(None, gt=0)
    """Bound of GRPO's advantages: of A+ = f'(p)(1-p) for `exact`, of all for what draws."""
    scale_rewards: ScaleRewards = "group"
    """What `grpo` divides a drawn group's rewards by: its own deviation, the batch's, or nothing.
    `exact` knows the policy's own deviation, `normalize_then_sum` each reward's in its group."""
    epsilon_high: float | None = Field(None, gt=0)
    """Upper clip, where it differs."""
    beta: float = Field(0.0, ge=0)
    """Weight of the KL to the reference; recommender-sized p needs .3 to 10 for an effect."""
    kl_estimator: Literal["exact", "k1", "k2", "k3", "literal"] = "exact"
    """Over the catalogue, from samples, or the paper's KL(old || reference), which is constant."""
    ref_model_sync_steps: int = Field(0, ge=0)
    """Steps after which the reference becomes the policy of the moment; 0 keeps the base."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of the policy's entropy, a bonus."""
    entropy_floor: float | None = Field(None, gt=0)
    """Entropy (nats) from which on the bonus pays nothing more; None always pays."""
    sft_coef: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """Weight of the model's own supervised loss, carried on beside GRPO's; `auto` is .3 for a model
    whose loss regularises its vectors (GSAU) and 0 for others."""
    reward_funcs: tuple[RewardName, ...] = Field(("future",), min_length=1)
    """`next`: the next item; `future`: the coming `horizon` items, discounted; `train_set`: every
    training item of the user; `rated`: `future`, graded by the user's rating; `cross_fitted`:
    `future`, weighed by bases that have not seen the item taken; `novelty`: what few users know,
    whoever is shown it. Functions of your own: `GRPOTrainer(reward_funcs=...)`."""
    reward_weights: tuple[float, ...] = ()
    """Weight of each function, of those given to the trainer too; empty for 1. What counts is
    their proportion where weights and groups are normalised."""
    multi_objective_aggregation: Aggregation = "sum_then_normalize"
    """Add several rewards, or normalise each first (GDPO)."""
    horizon: int = Field(10, gt=0)
    """Coming interactions that earn a reward."""
    discount: float = Field(0.8, gt=0, le=1)
    """Reward of an item taken k interactions later: discount^(k-1)."""
    folds: int = Field(4, ge=2)
    """Bases of `cross_fitted`, each trained without its part of every history."""
    reward_smoothing: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    """Part of what the log pays for an item that goes to its neighbours, the items that the same
    users take (`recoach.policy.smoothing`); `auto` is .3, and 0 for a model whose own loss
    regularises its vectors (GSAU)."""
    smoothing_neighbours: int = Field(50, ge=1)
    """Neighbours of an item among which that part is shared."""
    state: States | Literal["auto"] = "auto"
    """Every prefix of a history, the last one, or the user with all of the history; `auto` is
    `prefix` for a model that reads a history, `last_prefix` for one whose user is one vector."""
    hide_rewarded: bool = True
    """A model that propagates over the log must earn a reward without the edge it is for."""
    logits: Logits = "raw"
    """Scores as they are, states of unit length, or cosines."""
    temperature: float | Literal["auto"] = "auto"
    """Of the softmax; `auto` fits it on the validation likelihood before the first step."""
    mask_seen: bool | Literal["auto"] = "auto"
    """Keep seen items out of the policy; `auto` does where the validation does: the trained policy
    is the one that serves."""
    disable_dropout: bool = False
    """Train without the model's dropout."""
    shared_dropout: bool = True
    """Where dropout is on, one mask for all policies of a step; with several they differ at equal
    weights, and the ratio and the KL are noise."""
    trainable: tuple[GroupName, ...] = GROUP_NAMES
    """Tables that move; the others stay bitwise as they are."""
    level: Literal["ego", "final"] = "ego"
    """Move a graph model's tables, or its propagated vectors as if they were tables."""
    normalize_weights: bool = True
    """Scale the exact loss so that its weights average 1: a learning rate means the same for all
    transforms."""
    optim: Literal["adamw", "sgd"] = "adamw"
    """The optimiser, new for GRPO."""
    learning_rate: float = Field(2e-3, gt=0)
    """Its step size."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay (decoupled with AdamW)."""
    batch_size: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """States in a step; `auto` is 2,048, or an eighth of all where that is less."""
    epochs: int = Field(100, gt=0)
    """Epochs at the most."""
    epoch_unit: Literal["states", "users", "interactions"] = "states"
    """What an epoch goes through once; steps over users or interactions still draw states."""
    max_steps: int = Field(0, ge=0)
    """Steps at the most; 0 leaves it to `epochs`."""
    eval_steps: int = Field(0, ge=0)
    """Steps between evaluations; 0 evaluates after each epoch."""
    patience: int = Field(10, ge=0)
    """Evaluations in a row no better than an earlier step's before stopping; 0 never stops."""
    metric: str = Field("ndcg@10", pattern=METRIC_NAME)
    """Validation metric that selects the weights."""
    select: Literal["best", "best_tuned", "last"] = "best"
    """Best on validation with the base itself among the candidates, or without it; or the last."""
    ema_decay: float = Field(0.99, ge=0, lt=1)
    """What is judged and returned is a moving average of the weights; 0 takes them as they are."""
    interpolate: bool = True
    """Return the point between base and best that validation likes most (WiSE-FT); between base and
    last where no step was better than the base. For `select = "best"`."""
    shard_items: bool = False
    """Under torchrun, give each process a part of the item table in place of a part of the batch
    (SASRec and GRU4Rec with loss `ce`, estimator `exact`)."""

    @classmethod
    def paper(cls, **changes: object) -> Self:
        """Return the paper's setting, quirks included, with your changes.

        Its states are one for each user, as in the cells of `recoach reproduce`. For graph models
        add `state="user", reward_funcs=("train_set",)`; the paper's table 3 moves GSAU's items and
        users alone, `trainable=("item", "user")`.
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
        return cls.model_validate(quirks | changes)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.draws and self.algorithm == "grpo" and self.loss_type not in ("grpo", "dr_grpo"):
            raise ValueError(
                f"loss_type {self.loss_type!r} needs estimator 'exact' or 'stratified'; "
                f"{self.estimator!r} knows loss_type 'grpo' and 'dr_grpo'"
            )
        if self.estimator != "sampled" and self.kl_estimator not in ("exact", "literal"):
            raise ValueError(
                f"kl_estimator {self.kl_estimator!r} needs samples; estimator "
                f"{self.estimator!r} takes 'exact' or 'literal'"
            )
        if self.temperature != "auto" and self.temperature <= 0:
            raise ValueError("temperature must be positive or 'auto'")
        if self.estimator != "sampled" and not (self.replacement and self.dead_groups == "zero"):
            raise ValueError("replacement and dead_groups belong to estimator 'sampled'")
        if self.shard_items and (self.algorithm != "grpo" or self.estimator != "exact"):
            raise ValueError("shard_items needs algorithm 'grpo' and estimator 'exact'")
        if not self.trainable:
            raise ValueError("trainable names no table; nothing would move")
        return self

    @model_validator(mode="after")
    def _rewards_agree(self) -> Self:
        if "train_set" in self.reward_funcs and self.mask_seen is not False:
            raise ValueError(
                "reward 'train_set' pays for items the user has taken; set mask_seen = false"
            )
        if self.state == "user" and "train_set" not in self.reward_funcs:
            raise ValueError("state 'user' has no next item; use it with reward 'train_set'")
        if self.algorithm in HEARS_THE_LOG and "novelty" in self.reward_funcs:
            raise ValueError(
                f"algorithm {self.algorithm!r} learns from what the log rewards, not 'novelty'"
            )
        ahead = {"next", *DISCOUNTED}.intersection(self.reward_funcs)
        if "train_set" in self.reward_funcs and ahead:
            raise ValueError(
                f"reward 'train_set' looks back and {sorted(ahead)[0]!r} ahead; take one of them"
            )
        return self

    @model_validator(mode="after")
    def _all_act(self) -> Self:
        compared = self.draws and self.algorithm == "grpo"
        divided = compared and self.loss_type == "grpo"
        undivided = compared and self.scale_rewards == "none"  # what dr_grpo stands for in TRL
        summed = self.multi_objective_aggregation == "sum_then_normalize"
        acts = {
            "scale_rewards": (
                (divided or undivided) and summed,
                "the estimators that draw groups, with algorithm and loss_type 'grpo' and "
                "multi_objective_aggregation 'sum_then_normalize'",
            ),
            "multi_objective_aggregation": (
                divided or not self.draws,
                "estimator 'exact' or 'stratified', or groups with algorithm and loss_type 'grpo'",
            ),
            "advantage_clip": (self.algorithm == "grpo", "algorithm 'grpo'"),
            "entropy_coef": (self.algorithm != "s_dpo", "the other algorithms"),
            "entropy_floor": (self.entropy_coef > 0, "entropy_coef > 0"),
        }
        for name, (does, where) in acts.items():
            if not does and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no meaning here; it belongs to {where}")
        return self

    @model_validator(mode="after")
    def _rival_agrees(self) -> Self:
        needed = _TAKES.get(self.algorithm, self.estimator)
        if self.estimator != needed:
            raise ValueError(f"algorithm {self.algorithm!r} takes estimator {needed!r}")
        if self.algorithm == "s_dpo" and not self.beta:
            raise ValueError("algorithm 's_dpo' needs beta > 0, the strength of a preference")
        return self

    @property
    def draws(self) -> bool:
        """Whether groups are drawn."""
        return self.estimator in ("sampled", "slate")

    @property
    def compares_policies(self) -> bool:
        """Whether a step looks at the difference of two policies: a ratio, a KL, a preference."""
        updates = max(self.num_iterations, self.old_model_sync_steps)
        rival = self.algorithm in ("s_dpo", "top_k_off_policy")
        return self.beta > 0 or updates > 1 or rival

    @property
    def group_size(self) -> int:
        """Items or lists in a group."""
        return self.num_generations or (16 if self.estimator == "slate" else 4096)

    @property
    def largest_batch(self) -> int:
        """States in a step of a log that has many."""
        return 2048 if self.batch_size == "auto" else self.batch_size

    @property
    def fewest_steps(self) -> int:
        """Steps of an epoch, however few its states are (docs/decisions/0016)."""
        return 8 if self.batch_size == "auto" else 1

    def masks(self, protocol: MaskSeen, model: Recommender) -> bool:
        """Return whether a model's policy masks what a user has taken.

        Args:
            protocol: of the validation, which `auto` follows.
            model: `recbole` masks for some.
        """
        return masks_seen(protocol, model) if self.mask_seen == "auto" else self.mask_seen

    def temperature_of(
        self, model: Recommender, dataset: Dataset, protocol: MaskSeen, seed: int = 0
    ) -> float:
        """Return the temperature of a model's policy, fitted where it is `auto`.

        Args:
            model: its scores are what is divided.
            dataset: gives the validation items to fit on.
            protocol: of the validation.
            seed: draws the users to fit on.
        """
        if self.temperature != "auto":
            return self.temperature
        masks = self.masks(protocol, model)
        return calibrate_temperature(model, dataset, mask_seen=masks, seed=seed, logits=self.logits)

    def schedule(self) -> Schedule:
        """Return the part the loop needs."""
        names = ("epochs", "metric", "patience", "max_steps", "eval_steps", "ema_decay")
        return Schedule(
            **{name: getattr(self, name) for name in names},
            select="last" if self.select == "last" else "best",
            start_is_candidate=self.select != "best_tuned",
            interpolate=self.interpolate and self.select == "best",
        )
