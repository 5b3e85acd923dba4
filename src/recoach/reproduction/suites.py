"""All suites by name, the folders of their runs, and the logs of the committed results."""

from collections.abc import Callable, Mapping
from typing import Final

from recoach.reproduction.gains_cells import GAINS_SUITES
from recoach.reproduction.paper_cells import PAPER_SUITES, Cell, Profile, Source
from recoach.reproduction.verification_cells import VERIFICATION_SUITES

CellsOf = Callable[[Source, Profile, int], list[Cell]]

GROUPS: Final[Mapping[str, Mapping[str, CellsOf]]] = {
    "paper": PAPER_SUITES,
    "gains": GAINS_SUITES,
    "verification": VERIFICATION_SUITES,
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


# The committed results were measured on files in this folder.
_DATA: Final = "../shared/data"
_INDUSTRIAL: Final = Source("industrial-2018", f"{_DATA}/industrial-2018/sequences.txt")
_GAMES: Final = Source("video-games-2023", f"{_DATA}/video-games-2023/sequences.txt.gz")
_GAMES_10: Final = _GAMES._replace(name="video-games-2023-10-core", k_core=10)
_BABY: Final = Source("baby-2023", f"{_DATA}/baby-2023", ready_split=True)
_TOYS: Final = Source("toys-2014", f"{_DATA}/toys-2014/Toys_and_Games.txt")
_BEAUTY: Final = Source("beauty-2014", f"{_DATA}/beauty-2014/Beauty.txt")
_MOVIES: Final = Source("ml-latest-small", f"{_DATA}/ml-latest-small/ratings.csv")
_GAMES_2018: Final = Source("video-games-2018", f"{_DATA}/video-games-2018/ratings.csv.gz")

CLOSEST: Final = (_INDUSTRIAL, _GAMES, _BABY)
"""The logs that are closest to the paper's, in the order of its tables' columns."""

LOGS: Final = (
    _INDUSTRIAL,
    _TOYS,
    _BEAUTY,
    _BABY,
    _MOVIES,
    _GAMES_10,
    _GAMES_2018,
    _GAMES,
)

COMMITTED: Final[dict[str, tuple[Source, ...]]] = {
    "table3": CLOSEST,
    "table4": CLOSEST,
    "factors": CLOSEST,
    "gains": LOGS,
    "future": LOGS,
    "ablation": (_INDUSTRIAL,),
    "algorithms": (_INDUSTRIAL,),
    "tail": (_INDUSTRIAL, _TOYS),
    "verification": (_TOYS, _BEAUTY),
}
"""The logs that a suite's committed tables show, in this order."""
