"""Settings of updates."""

from typing import Literal

from pydantic import Field

from recoach.config import StrictConfig
from recoach.errors import ConfigError
from recoach.evaluation.metrics import METRIC_NAME
from recoach.models.base import Recommender

Method = Literal["supervised", "finetune"]


class UpdateConfig(StrictConfig):
    """How a model is trained on new events."""

    replay: tuple[float, ...] = Field(default=(0.8,), min_length=1)
    """Share of the training states that are drawn from earlier events, below 1. Of several, the one
    that is best on validation."""
    methods: tuple[Method, ...] = ()
    """`supervised`: the model's own loss; `finetune`: the run's fine-tuning. Of several, the better
    one on validation. Empty: `supervised` for a model with a loss, else `finetune`."""
    learning_rate: float | Literal["auto"] = "auto"
    """Step size; `auto` is that of the run's pre-training or fine-tuning."""
    epochs: int = Field(default=40, gt=0)
    """Maximum number of passes over the training states."""
    patience: int = Field(default=5, ge=0)
    """Evaluations without improvement before stopping; 0 never stops."""
    valid_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the events that the served version was not trained on, the newest, on which versions
    are compared; the next update trains on them."""
    metric: str = Field(default="ndcg@10", pattern=METRIC_NAME)
    """Validation metric that selects the weights and the version."""
    keep: int = Field(default=7, ge=1)
    """Number of latest versions whose folders are kept, beside the served one and its parent."""

    def settings(self, model: Recommender) -> list[tuple[Method, float]]:
        """Return the combinations of method and replay that are tried."""
        for share in self.replay:
            if not 0 <= share < 1:
                raise ConfigError(f"update.replay must be at least 0 and below 1, not {share:g}.")
        has_weights = any(True for _ in model.parameters())
        if not has_weights:
            return []
        methods = self.methods or (("supervised",) if model.needs else ("finetune",))
        if "supervised" in methods and not model.needs:
            raise ConfigError(
                "update.methods: the model has no loss of its own for 'supervised'; use "
                "['finetune']."
            )
        return [(method, share) for method in methods for share in self.replay]
