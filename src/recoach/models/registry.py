"""The registry of models by name. A new model is one file and one line in `MODELS`."""

from typing import NamedTuple

import torch
from pydantic import BaseModel, ValidationError

from recoach.config import validation_message
from recoach.data.dataset import Dataset
from recoach.errors import ConfigError, clipped, suggestion
from recoach.models.base import Origin, Recommender
from recoach.models.external import (
    CODE_ERRORS,
    WEIGHTS,
    Builder,
    BuilderEntry,
    Entry,
    entry_point_names,
    find_external,
    located,
    register,
)
from recoach.models.factorization.bprmf import BPRMF, BPRMFConfig
from recoach.models.factorization.fpmc import FPMC, FPMCConfig
from recoach.models.factorization.neumf import NeuMF, NeuMFConfig
from recoach.models.graph.graphsage import GraphSAGE, GraphSAGEConfig
from recoach.models.graph.gsau import GSAU, GSAUConfig
from recoach.models.graph.lightgcn import LightGCN, LightGCNConfig
from recoach.models.graph.ngcf import NGCF, NGCFConfig
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
from recoach.models.sequence.prl import PRL, PRLConfig
from recoach.models.sequence.sasrec import SASRec, SASRecConfig
from recoach.models.session.cotrec import COTREC, COTRECConfig
from recoach.models.session.fgnn import FGNN, FGNNConfig
from recoach.models.session.gag import GAG, GAGConfig
from recoach.models.session.gcegnn import GCEGNN, GCEGNNConfig
from recoach.models.session.srgnn import SRGNN, SRGNNConfig
from recoach.models.session.tagnn import TAGNN, TAGNNConfig


class ModelTraits(NamedTuple):
    """What can be trained in a model."""

    needs: tuple[str, ...]
    """Kinds of batches of its own loss; empty if it has none."""
    has_weights: bool
    """Whether it has weights that rewards can train."""


MODELS: dict[str, Entry] = {
    "bprmf": Entry(BPRMF, BPRMFConfig),
    "cotrec": Entry(COTREC, COTRECConfig),
    "ease": Entry(EASE, EASEConfig),
    "fpmc": Entry(FPMC, FPMCConfig),
    "fgnn": Entry(FGNN, FGNNConfig),
    "gag": Entry(GAG, GAGConfig),
    "gcegnn": Entry(GCEGNN, GCEGNNConfig),
    "graphsage": Entry(GraphSAGE, GraphSAGEConfig),
    "gru4rec": Entry(GRU4Rec, GRU4RecConfig),
    "gsau": Entry(GSAU, GSAUConfig),
    "itemknn": Entry(ItemKNN, ItemKNNConfig),
    "lightgcn": Entry(LightGCN, LightGCNConfig),
    "neumf": Entry(NeuMF, NeuMFConfig),
    "ngcf": Entry(NGCF, NGCFConfig),
    "popularity": Entry(Popularity, PopularityConfig),
    "prl": Entry(PRL, PRLConfig),
    "recent_popularity": Entry(RecentPopularity, RecentPopularityConfig),
    "repeat_last": Entry(RepeatLast, RepeatLastConfig),
    "sasrec": Entry(SASRec, SASRecConfig),
    "sequential_rules": Entry(SequentialRules, SequentialRulesConfig),
    "session_popularity": Entry(SessionPopularity, SessionPopularityConfig),
    "srgnn": Entry(SRGNN, SRGNNConfig),
    "tagnn": Entry(TAGNN, TAGNNConfig),
    "vsknn": Entry(VSKNN, VSKNNConfig),
    "vstan": Entry(VSTAN, VSTANConfig),
}


def model_entry(name: str) -> Entry | BuilderEntry:
    """Return the entry of a model.

    Args:
        name: a key of `MODELS`, the name of an entry point of the group "recoach.models", or the
            import path "package.module:attribute" of a subclass of `Recommender` or of a function
            that builds one (`recoach.models.external`).

    Raises:
        ConfigError: there is no such model; the message suggests the closest name.
    """
    entry = MODELS.get(name) or find_external(name)
    if entry is not None:
        return entry
    names = [*MODELS, *entry_point_names()]
    raise ConfigError(
        f"There is no model called {name!r}. {suggestion(name, names)} A model of your own is "
        "named by its import path, package.module:function."
    )


def build_model(
    name: str | type[Recommender] | Builder, dataset: Dataset, *, seed: int = 0, **settings: object
) -> Recommender:
    """Build an untrained model for a dataset.

    Args:
        name: see `model_entry`; or a subclass of `Recommender`, or a function that builds a model.
        dataset: gives the training histories and the items.
        seed: of the initial weights; the global random state is not changed.
        settings: fields of the model's config class.

    Raises:
        ConfigError: the model or a setting is unknown, or a value is invalid.
    """
    name = name if isinstance(name, str) else register(name)
    kind = model_entry(name).config
    try:
        config = kind.model_validate(settings)
    except ValidationError as error:
        where = f"Model {name}"
        raise ConfigError(validation_message(error, kind, settings, where)) from error
    return build_from_config(name, config, dataset, seed=seed)


def build_from_config(
    name: str, config: BaseModel, dataset: Dataset, *, seed: int, pretrained: bool = True
) -> Recommender:
    """Build a model whose initial weights depend on the seed only, and bind it to the dataset.

    Args:
        name: see `model_entry`.
        config: an instance of the model's config class.
        dataset: gives the training histories and the items.
        seed: of the initial weights.
        pretrained: whether a function that builds the model reads the file of weights that it is
            given; False where weights are loaded afterwards.

    Raises:
        ConfigError: the function raises an error, or returns something else than a model for this
            dataset.
    """
    entry = model_entry(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in MODELS and isinstance(entry, Entry):
            model = entry.model(config, dataset.train, dataset.n_items)
        else:
            model = _build_external(name, entry, config, dataset, pretrained=pretrained)
    model.bind(dataset)
    model.origin, model.ids = Origin(name, config), dataset.ids
    return model


def _build_external(
    name: str, entry: Entry | BuilderEntry, config: BaseModel, dataset: Dataset, *, pretrained: bool
) -> Recommender:
    settings = {field: getattr(config, field) for field in type(config).model_fields}
    if not pretrained and WEIGHTS in settings:
        settings[WEIGHTS] = None
    try:
        if isinstance(entry, Entry):
            model = entry.model(config, dataset.train, dataset.n_items)
        else:
            model = entry.build(dataset, **settings)
    except CODE_ERRORS as error:
        raise ConfigError(f"The model {name} cannot be built: {located(error)}") from error
    if not isinstance(model, Recommender) or model.n_items != dataset.n_items:
        raise ConfigError(
            f"{name} must return a Recommender for the {dataset.n_items:,} items of the dataset, "
            f"such as recoach.wrap(module, dataset, ...); it returned {clipped(repr(model))}."
        )
    meta = [key for key, tensor in model.state_dict().items() if tensor.is_meta]
    if meta:
        raise ConfigError(
            f"{name} must return a model with weights; those of {meta[0]} are on the device meta."
        )
    return model


def model_traits(name: str, config: BaseModel, dataset: Dataset | None) -> ModelTraits:
    """Return what can be trained in a model, which is built for it unless it is in `MODELS`.

    Only the models of `MODELS` do without a dataset.
    """
    if dataset is None or name in MODELS:
        needs = MODELS[name].model.needs
        return ModelTraits(needs, has_weights=bool(needs))
    entry = model_entry(name)  # a name that is registered again stands for other code
    code = entry.model if isinstance(entry, Entry) else entry.build
    key = (code, config.model_dump_json(), dataset.fingerprint)
    if key not in _TRAITS:
        model = build_from_config(name, config, dataset, seed=0, pretrained=False)
        has_weights = any(True for _ in model.parameters())
        _TRAITS[key] = ModelTraits(model.needs, has_weights)
    return _TRAITS[key]


_TRAITS: dict[tuple[Builder, str, str], ModelTraits] = {}


def origin_of(model: Recommender) -> Origin:
    """Return the name and settings from which a model can be built again.

    Raises:
        ConfigError: they are not known, as for a module wrapped without a function that builds it.
    """
    if model.origin is not None:
        name, config = model.origin
        # Fine-tuning can change the settings of a class; a function builds with its own.
        same_class = isinstance(model.config, type(config))
        return Origin(name, model.config if same_class else config)
    for name, entry in MODELS.items():
        if entry.model is type(model):
            return Origin(name, model.config)
    raise ConfigError(
        f"A {type(model).__name__} model cannot be saved in a run folder, because nothing tells "
        "how to build it again. Write a function build(dataset) that returns it and pass that to "
        "recoach.run or recoach.build_model."
    )
