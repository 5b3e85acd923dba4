"""Settings that all algorithms share that learn in an environment."""

from typing import Literal

from pydantic import Field

from recoach.config import StrictConfig
from recoach.training.context import Schedule


class OnlineConfig(StrictConfig):
    """Episodes, policy, optimiser and selection; each algorithm has a subclass.

    A step of the training plays one episode in every environment and then learns from it.
    """

    algorithm: str
    """The algorithm of these settings."""
    gamma: float = Field(default=0.99, ge=0, le=1)
    """Discount of the reward of each later turn."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the scores."""
    max_turns: int = Field(default=0, ge=0)
    """Turns after which an episode is truncated; 0 leaves it to the environment."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Step size of Adam for the model."""
    max_grad_norm: float = Field(default=0.5, ge=0)
    """Scale the gradient of an update down to this norm if it is larger; 0 never does."""
    max_steps: int = Field(default=100, gt=0)
    """Number of steps, of one episode in every environment each."""
    eval_steps: int = Field(default=10, gt=0)
    """Steps between evaluations of the greedy policy."""
    patience: int = Field(default=0, ge=0)
    """Evaluations in a row without a higher return before stopping; 0 never stops."""
    select: Literal["best", "last"] = "best"
    """Return the weights of the highest evaluated return, or the last ones."""

    def schedule(self) -> Schedule:
        """Return the settings of the training loop."""
        return Schedule(
            epochs=1,
            metric="return",
            patience=self.patience,
            max_steps=self.max_steps,
            eval_steps=self.eval_steps,
            select=self.select,
            start_is_candidate=True,
        )
