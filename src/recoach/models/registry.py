"""The registry of models by name. A new model is one file and one line in `MODELS`."""

from typing import NamedTuple

import torch
from pydantic import BaseModel, ValidationError

from recoach.data.dataset import Dataset, RaggedArray
from recoach.errors import ConfigError, suggestion
from recoach.models.base import Recommender
from recoach.models.factorization.bprmf import BPRMF, BPRMFConfig
from recoach.models.factorization.neumf import NeuMF, NeuMFConfig
from recoach.models.graph.gsau import GSAU, GSAUConfig
from recoach.models.graph.lightgcn import LightGCN, LightGCNConfig
from recoach.models.neighbours.ease import EASE, EASEConfig
from recoach.models.neighbours.itemknn import ItemKNN, ItemKNNConfig
from recoach.models.neighbours.popularity import Popularity, PopularityConfig
from recoach.models.neighbours.recent_popularity import RecentPopularity, RecentPopularityConfig
from recoach.models.neighbours.repeat_last import RepeatLast, RepeatLastConfig
from recoach.models.neighbours.sequential_rules import SequentialRules, SequentialRulesConfig
from recoach.models.neighbours.session_popularity import SessionPopularity, SessionPopularityConfig
from recoach.models.neighbours.vsknn import VSKNN, VSKNNConfig
from recoach.models.neighbours.vstan import VSTAN, VSTANConfig
from recoach.models.sequence.gru4rec import GRU4Rec, GRU4RecConfig
from recoach.models.sequence.sasrec import SASRec, SASRecConfig


class Entry(NamedTuple):
    """A model and the class of its settings."""

    model: type[Recommender]
    config: type[BaseModel]


MODELS: dict[str, Entry] = {
    "bprmf": Entry(BPRMF, BPRMFConfig),
    "ease": Entry(EASE, EASEConfig),
    "gru4rec": Entry(GRU4Rec, GRU4RecConfig),
    "gsau": Entry(GSAU, GSAUConfig),
    "itemknn": Entry(ItemKNN, ItemKNNConfig),
    "lightgcn": Entry(LightGCN, LightGCNConfig),
    "neumf": Entry(NeuMF, NeuMFConfig),
    "popularity": Entry(Popularity, PopularityConfig),
    "recent_popularity": Entry(RecentPopularity, RecentPopularityConfig),
    "repeat_last": Entry(RepeatLast, RepeatLastConfig),
    "sasrec": Entry(SASRec, SASRecConfig),
    "sequential_rules": Entry(SequentialRules, SequentialRulesConfig),
    "session_popularity": Entry(SessionPopularity, SessionPopularityConfig),
    "vsknn": Entry(VSKNN, VSKNNConfig),
    "vstan": Entry(VSTAN, VSTANConfig),
}


def model_entry(name: str) -> Entry:
    """Return the registry entry of a model.

    Raises:
        ConfigError: there is no such model; the message suggests the closest name.
    """
    if name in MODELS:
        return MODELS[name]
    raise ConfigError(f"There is no model called {name!r}. {suggestion(name, MODELS)}")


def build_model(name: str, dataset: Dataset, *, seed: int = 0, **settings: object) -> Recommender:
    """Build an untrained model for a dataset.

    Args:
        name: a key of `MODELS`.
        dataset: gives the training histories and the number of items.
        seed: of the initial weights; the global random state is not changed.
        settings: fields of the model's config class.

    Raises:
        ConfigError: the model or a setting is unknown, or a value is invalid.
    """
    entry = model_entry(name)
    try:
        config = entry.config.model_validate(settings)
    except ValidationError as error:
        first_error = error.errors()[0]
        key = ".".join(str(part) for part in first_error["loc"])
        raise ConfigError(f"Model {name}, setting {key!r}: {first_error['msg']}.") from error
    return build_from_config(entry, config, dataset.train, dataset.n_items, seed=seed)


def build_from_config(
    entry: Entry, config: BaseModel, train: RaggedArray, n_items: int, *, seed: int
) -> Recommender:
    """Build a model whose initial weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return entry.model(config, train, n_items)


def model_name(model: Recommender) -> str:
    """Return the name of a model in `MODELS`.

    Raises:
        ConfigError: the model is not in the registry, such as a wrapped module.
    """
    for name, entry in MODELS.items():
        if entry.model is type(model):
            return name
    raise ConfigError(
        f"A {type(model).__name__} model cannot be saved in a run folder, because only models of "
        "the registry can be rebuilt from model.json. Train without a folder and save your "
        "module's own state_dict()."
    )
