"""All suites by name, and the folders of their runs."""

from collections.abc import Callable, Mapping
from typing import Final

from recoach.reproduction.event_cells import EVENT_SUITES
from recoach.reproduction.gains_cells import GAINS_SUITES
from recoach.reproduction.ladder_cells import LADDER_SUITES
from recoach.reproduction.paper_cells import PAPER_SUITES, Cell, Profile, Source
from recoach.reproduction.session_cells import SESSION_SUITES
from recoach.reproduction.verification_cells import VERIFICATION_SUITES

CellsOf = Callable[[Source, Profile, int], list[Cell]]

GROUPS: Final[Mapping[str, Mapping[str, CellsOf]]] = {
    "paper": PAPER_SUITES,
    "gains": GAINS_SUITES,
    "verification": VERIFICATION_SUITES,
    "sessions": SESSION_SUITES,
    "events": EVENT_SUITES,
    "ladder": LADDER_SUITES,
}
"""Suites that share runs: a cell that two suites of a group contain is run once."""


def cells_of(suite: str, source: Source, profile: Profile, seed: int) -> list[Cell]:
    """Return the cells of a suite for one log and seed."""
    return GROUPS[group_of(suite)][suite](source, profile, seed)


def group_of(suite: str) -> str:
    """Return the group that a suite belongs to."""
    return next(group for group, suites in GROUPS.items() if suite in suites)


def runs_folder(group: str, profile: Profile) -> str:
    """Return the name of the folder with a group's runs; only the paper's depend on a profile."""
    return profile if group == "paper" else group
