"""Re-rankers by name."""

from typing import Final

from recoach.rerank.base import Reranker
from recoach.rerank.categories import Calibration, XQuAD
from recoach.rerank.config import RerankConfig, RerankName
from recoach.rerank.exposure import ExposureCap, ExposureFloor
from recoach.rerank.features import ItemFeatures
from recoach.rerank.offsets import Cost, Popularity, Value
from recoach.rerank.similarity import DPP, MMR

RERANKERS: Final[dict[RerankName, type[Reranker]]] = {
    "calibration": Calibration,
    "cost": Cost,
    "dpp": DPP,
    "exposure_cap": ExposureCap,
    "exposure_floor": ExposureFloor,
    "mmr": MMR,
    "popularity": Popularity,
    "value": Value,
    "xquad": XQuAD,
}


def build_reranker(config: RerankConfig, features: ItemFeatures) -> Reranker:
    """Return the re-ranker of some settings.

    Raises:
        ConfigError: the data lack what the re-ranker reads.
    """
    return RERANKERS[config.by](config, features)
