"""Every model the house can build: a new one is its file and its line here."""

from typing import NamedTuple

import torch
from pydantic import BaseModel, ValidationError

from recoach.data.split import Dataset, RaggedArray
from recoach.errors import ConfigError, suggestion
from recoach.models.base import Recommender
from recoach.models.factorization.bprmf import BPRMF, BPRMFConfig
from recoach.models.graph.gsau import GSAU, GSAUConfig
from recoach.models.graph.lightgcn import LightGCN, LightGCNConfig
from recoach.models.neighbours.popularity import Popularity, PopularityConfig
from recoach.models.sequence.gru4rec import GRU4Rec, GRU4RecConfig
from recoach.models.sequence.sasrec import SASRec, SASRecConfig


class Entry(NamedTuple):
    """A model and the class of its settings."""

    model: type[Recommender]
    config: type[BaseModel]


MODELS: dict[str, Entry] = {
    "bprmf": Entry(BPRMF, BPRMFConfig),
    "gru4rec": Entry(GRU4Rec, GRU4RecConfig),
    "gsau": Entry(GSAU, GSAUConfig),
    "lightgcn": Entry(LightGCN, LightGCNConfig),
    "popularity": Entry(Popularity, PopularityConfig),
    "sasrec": Entry(SASRec, SASRecConfig),
}


def model_entry(name: str) -> Entry:
    """Return the entry of a model, or raise a ConfigError that names the nearest one."""
    if name in MODELS:
        return MODELS[name]
    raise ConfigError(f"There is no model called {name!r}; {suggestion(name, MODELS)}")


def build_model(name: str, dataset: Dataset, *, seed: int = 0, **settings: object) -> Recommender:
    """Build an untrained model for a dataset.

    Args:
        name: a key of `MODELS`.
        dataset: gives the training histories and the catalogue.
        seed: draws the initial weights; the global random state is left as it was.
        settings: fields of the model's config.

    Raises:
        ConfigError: for an unknown model or setting.
    """
    entry = model_entry(name)
    try:
        config = entry.config.model_validate(settings)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"Model {name}, setting {where!r}: {problem['msg']}.") from error
    return build_from_config(entry, config, dataset.train, dataset.n_items, seed=seed)


def build_from_config(
    entry: Entry, config: BaseModel, train: RaggedArray, n_items: int, *, seed: int
) -> Recommender:
    """Build a model with weights drawn from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return entry.model(config, train, n_items)


def model_name(model: Recommender) -> str:
    """Return the key of a model in `MODELS`.

    Raises:
        ConfigError: a wrapped module, which only its author's code can build again.
    """
    for name, entry in MODELS.items():
        if entry.model is type(model):
            return name
    raise ConfigError(
        f"a {type(model).__name__} model cannot be kept in a folder: no file says how to build it. "
        "Train without a folder and save your module's own state_dict()."
    )
