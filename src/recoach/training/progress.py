"""How far a training is."""

import math
from dataclasses import dataclass, field

from recoach.training.work import Work


@dataclass(slots=True)
class Progress:
    """How far a training is; checkpoints hold it."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best_step: int = 0
    best_value: float = -math.inf
    top: float = -math.inf
    """Best value of a step; the start is left out, because a value below it may still rise."""
    start_value: float | None = None
    bad: int = 0
    seconds: float = 0.0
    evaluated: int = -1
    finished: bool = False
    share: float | None = None
    work: Work = field(default_factory=Work)

    def __post_init__(self) -> None:
        if isinstance(self.work, dict):  # read from a checkpoint
            self.work = Work(**self.work)

    @property
    def known_work(self) -> Work | None:
        """What was computed; None where a part was by an earlier version or elsewhere."""
        return self.work if self.work.steps == self.step else None
