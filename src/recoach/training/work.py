"""What a training computes: states, encoder passes, multiply-adds, validations."""

from dataclasses import dataclass
from typing import NamedTuple


class StepWork(NamedTuple):
    """What one step computes in this process."""

    states: int
    """States and interactions in the losses; those of several updates count once."""
    encoder_passes: int
    """Histories that the trained model encodes; 0 for a model that reads none."""
    updates: int
    """Steps of the optimiser."""


@dataclass(slots=True)
class Work:
    """What a training has computed so far, summed over all processes; checkpoints hold it."""

    steps: int = 0
    updates: int = 0
    states: int = 0
    encoder_passes: int = 0
    validations: int = 0
    """Evaluations of weights on the validation items."""
    measured_states: int = 0
    """States of the steps whose multiply-adds were counted."""
    measured: int = 0
    """Multiply-adds of these steps."""

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds of all steps, from those counted for a state; None if none was counted."""
        if not self.measured_states:
            return None if self.states else 0
        return round(self.measured / self.measured_states * self.states)
