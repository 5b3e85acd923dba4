"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Words = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]
Run = Annotated[Path, Parameter(help="A run folder.")]
Stage = Annotated[
    Literal["base", "tuned", "control"] | None,
    Parameter(
        help="Which model to use. Default: the fine-tuned one if there is one, otherwise the base."
    ),
]
Resume = Annotated[bool, Parameter(help="Continue an interrupted run.")]
