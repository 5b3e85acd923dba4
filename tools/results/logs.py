"""The logs of the committed results."""

from typing import Final

from recoach.reproduction.paper_cells import Source

# The committed results were measured on files in this folder.
_DATA: Final = "../shared/data"
_INDUSTRIAL: Final = Source("industrial-2018", f"{_DATA}/industrial-2018/sequences.txt")
_GAMES: Final = Source("video-games-2023", f"{_DATA}/video-games-2023/sequences.txt.gz")
_GAMES_10: Final = _GAMES._replace(name="video-games-2023-10-core", k_core=10)
_BABY: Final = Source("baby-2023", f"{_DATA}/baby-2023", ready_split=True)
_TOYS: Final = Source("toys-2014", f"{_DATA}/toys-2014/Toys_and_Games.txt")
_TOYS_TIMED: Final = Source("toys-2014-timed", f"{_DATA}/toys-2014-timed/interactions.csv.gz")
_BEAUTY: Final = Source("beauty-2014", f"{_DATA}/beauty-2014/Beauty.txt")
_BEAUTY_TIMED: Final = Source("beauty-2014-timed", f"{_DATA}/beauty-2014-timed/interactions.csv.gz")
_MOVIES: Final = Source("ml-latest-small", f"{_DATA}/ml-latest-small/ratings.csv")
_YOOCHOOSE: Final = Source("yoochoose-64", f"{_DATA}/yoochoose-64")
_RETAILROCKET: Final = Source("retailrocket-views", f"{_DATA}/retailrocket-views")
_RETAILROCKET_EVENTS: Final = Source(
    "retailrocket-events", f"{_DATA}/retailrocket-events/events.csv.gz"
)
_DIGINETICA: Final = Source("diginetica", f"{_DATA}/diginetica")
_TMALL: Final = Source("tmall", f"{_DATA}/tmall")
_NOWPLAYING: Final = Source("nowplaying", f"{_DATA}/nowplaying")
_GAMES_2018: Final = Source("video-games-2018", f"{_DATA}/video-games-2018/ratings.csv.gz")
_GAMES_2018_10: Final = _GAMES_2018._replace(name="video-games-2018-10-core", k_core=10)

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
    "verification": (_TOYS, _BEAUTY, _MOVIES),
    "events": (_RETAILROCKET_EVENTS,),
    "ladder": (_INDUSTRIAL, _TOYS_TIMED, _BEAUTY_TIMED, _GAMES_2018_10, _RETAILROCKET_EVENTS),
    "sessions": (_YOOCHOOSE, _RETAILROCKET, _DIGINETICA, _TMALL, _NOWPLAYING),
}
"""The logs that a suite's committed tables show, in this order."""
