"""Settings of supervised training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recoach.config import StrictConfig
from recoach.data.batches import Rows
from recoach.evaluation.metrics import METRIC_NAME
from recoach.training.context import Schedule
from recoach.training.optimizer_step import SchedulerType
from recoach.training.optimizers import OptimizerName


class PretrainConfig(StrictConfig):
    """Settings of supervised training."""

    epochs: int = Field(default=200, gt=0)
    """Maximum number of passes over the training states (or edges)."""
    batch_size: int = Field(default=512, gt=0)
    """States (and edges) in a step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Step size of the optimiser."""
    optim: OptimizerName = "adamw"
    """The optimiser; `adagrad` is that of GRU4Rec's official code."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of `adagrad`."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay: decoupled with `adamw`, added to the gradient (L2) with the others."""
    max_grad_norm: float = Field(default=0.0, ge=0)
    """Scale the gradient of a step down to this norm if it is larger; 0 never does."""
    lr_scheduler_type: SchedulerType | Literal["step"] = "constant"
    """How the learning rate changes: `constant`, times `lr_gamma` after every `lr_step_epochs`
    epochs (`step`), or down to 0 at the maximum number of steps, in a `linear` or `cosine` way.
    Steps that `patience` saves count."""
    lr_step_epochs: int = Field(default=3, gt=0)
    """Epochs between two changes of the learning rate with `step`."""
    lr_gamma: float = Field(default=0.1, gt=0, le=1)
    """Factor of such a change."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises from 0."""
    objective: Literal["own", "future"] = "own"
    """What the model is trained by: its own loss, or cross-entropy with the next ten items of each
    state, discounted and smoothed to neighbours as in fine-tuning (`sft`)."""
    rows: Rows = "all_positions"
    """Read all states of a history in one pass, or give each prefix a row of its own (RecBole)."""
    patience: int = Field(default=10, ge=0)
    """Evaluations without improvement before stopping; 0 never stops."""
    metric: str = Field(default="ndcg@10", pattern=METRIC_NAME)
    """Validation metric that selects the weights."""
    eval_steps: int = Field(default=0, ge=0)
    """Steps between evaluations; 0 evaluates after each epoch."""
    max_steps: int = Field(default=0, ge=0)
    """Maximum number of steps; 0 leaves it to `epochs`."""
    select: Literal["best", "last"] = "best"
    """Which weights to keep."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Above 0, evaluate and keep an exponential moving average of the weights."""
    interpolate: bool = False
    """Return the best point on validation between start and best."""
    hold_out: int = Field(default=0, ge=0)
    """Last training items of every user that are left out here, so that fine-tuning rewards items
    the base was not trained on; a graph model must be built without them too (`recoach run` does).
    """
    event_weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    """Weight of a next item in the loss by its event type, such as {view = 1, cart = 3.5}; the
    weights of a step are divided by their mean. Next items of a type with weight 0 are left out.
    Empty: all next items weigh the same."""
    shard_items: bool = False
    """Under torchrun, shard the item table over the processes instead of the batch (SASRec and
    GRU4Rec with loss `ce`)."""

    @model_validator(mode="after")
    def _check_effect(self) -> Self:
        if self.momentum and self.optim != "adagrad":
            raise ValueError(
                f"momentum has no effect with optim {self.optim!r}; set optim = 'adagrad', or "
                "leave momentum out"
            )
        if self.objective == "future":
            self._check_future()
        if self.event_weights and not any(self.event_weights.values()):
            raise ValueError(
                "event_weights is 0 for every event type, so nothing would be learned; set one "
                "above 0, or leave event_weights out"
            )
        fields = type(self).model_fields
        for name in ("lr_step_epochs", "lr_gamma"):
            has_effect = self.lr_scheduler_type == "step"
            if not has_effect and getattr(self, name) != fields[name].default:
                raise ValueError(
                    f"{name} has no effect with lr_scheduler_type {self.lr_scheduler_type!r}; set "
                    f"lr_scheduler_type = 'step', or leave {name} out"
                )
        return self

    def _check_future(self) -> None:
        """Refuse settings that only the model's own loss reads."""
        names = ("optim", "rows", "hold_out", "event_weights", "shard_items")
        changed = [
            n
            for n in names
            if getattr(self, n) != type(self).model_fields[n].get_default(call_default_factory=True)
        ]
        if self.lr_scheduler_type == "step":
            changed.append("lr_scheduler_type")
        if changed:
            raise ValueError(
                f"{changed[0]} = {getattr(self, changed[0])!r} has no effect with objective "
                "'future'; leave it out, or set objective = 'own'"
            )

    def schedule(self, *, start_is_candidate: bool = False) -> Schedule:
        """Return the settings of the training loop."""
        names = ["epochs", "metric", "patience", "max_steps", "eval_steps", "select", "ema_decay"]
        names += ["interpolate", "lr_scheduler_type", "lr_step_epochs", "lr_gamma"]
        names += ["warmup_steps"]
        values = {name: getattr(self, name) for name in names}
        return Schedule(**values, start_is_candidate=start_is_candidate)
