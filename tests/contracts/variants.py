"""The models of the contract tests: all of the registry, and one with attention that is not in it.

`AttentionScorer` scores an item by what the item itself attends to in the history, so that its
scores are no dot products of a state's and an item's vector.
"""

import numpy as np
import torch
from pydantic import Field
from torch import nn

from recoach.config import StrictConfig
from recoach.data.queries import histories, user_queries
from recoach.data.split import leave_last_out
from recoach.models.base import DotProductRecommender, Recommender
from recoach.models.losses import sampled_cross_entropy
from recoach.models.registry import MODELS, build_model
from toy_logs import block_graph, with_event_types

ENCODER = {"dim": 16, "layers": 1, "heads": 2, "inner_dim": 32, "max_length": 6, "dropout": 0.2}
ORIGINAL_GRU = {
    "architecture": "original",
    "dim": 16,
    "item_bias": True,
    "hidden_dropout": 0.1,
    "negatives": 16,
}
NEUMF = {"dim": 8, "mlp_dim": 8, "hidden_dims": (16, 8), "dropout": 0.1}
COTREC = {"dim": 16, "max_length": 6, "item_maps": False, "positions": "none"}
GCEGNN = {"dim": 16, "max_length": 6, "neighbours": 4}
ATTENTION = "attention"
VARIANTS = {name: (name, {}) for name in MODELS} | {
    "sasrec": ("sasrec", ENCODER),
    "sasrec-original": ("sasrec", ENCODER | {"architecture": "original", "position": "from_end"}),
    "sasrec-hstu": ("sasrec", ENCODER | {"architecture": "hstu"}),
    "sasrec-ligr": ("sasrec", ENCODER | {"architecture": "ligr"}),
    "sasrec-events": ("sasrec", ENCODER | {"event_embedding": True}),
    "graphsage": ("graphsage", {"dim": 16, "dropout": 0.1}),
    "graphsage-bpr": ("graphsage", {"dim": 16, "loss": "bpr", "share_weights": False}),
    "lightgcn": ("lightgcn", {"dim": 16}),
    "lightgcn-bpr": ("lightgcn", {"dim": 16, "loss": "bpr"}),
    "lightgcn-sampled": ("lightgcn", {"dim": 16, "loss": "sampled_ce", "negatives": 5}),
    "ngcf": ("ngcf", {"dim": 16}),
    "ngcf-paper": (
        "ngcf",
        {
            "dim": 16,
            "layers": 2,
            "normalisation": "symmetric",
            "activations": "one",
            "loss": "bpr",
        },
    ),
    "bprmf": ("bprmf", {"dim": 16}),
    "fpmc": ("fpmc", {"dim": 16}),
    "fpmc-anonymous": ("fpmc", {"dim": 16, "users": False, "loss": "ce"}),
    "neumf": ("neumf", NEUMF),
    "gcegnn": ("gcegnn", GCEGNN),
    "gcegnn-two-hops": ("gcegnn", GCEGNN | {"hops": 2, "weights": "raw", "normalise": True}),
    "gcegnn-no-positions": ("gcegnn", GCEGNN | {"positions": "none", "dropout_local": 0.5}),
    "gru4rec": ("gru4rec", {"dim": 16, "hidden_dim": 24, "max_length": 6, "dropout": 0.2}),
    "gru4rec-bpr": ("gru4rec", {"dim": 16, "hidden_dim": 24, "max_length": 6, "loss": "bpr"}),
    "gru4rec-events": (
        "gru4rec",
        {"dim": 16, "hidden_dim": 24, "max_length": 6, "event_embedding": True},
    ),
    "prl": ("prl", ENCODER),
    "prl-gru4rec": (
        "prl",
        {
            "encoder": "gru4rec",
            "dim": 16,
            "hidden_dim": 24,
            "max_length": 6,
            "episode": "session",
            "session_gap": 0.5,
            "returns": "closed",
            "event_weights": {"view": 0.2, "buy": 1},
            "event_embedding": True,
        },
    ),
    "prl-step": ("prl", ENCODER | {"prompt": "step"}),
    "prl-shuffled": ("prl", ENCODER | {"prompt": "shuffled_return"}),
    "fgnn": ("fgnn", {"dim": 16, "max_length": 6, "heads": 2, "dropout": 0.2}),
    "fgnn-elu": ("fgnn", {"dim": 16, "max_length": 6, "layers": 3, "activation": "elu"}),
    "gag": ("gag", {"dim": 16, "max_length": 6}),
    "gag-anonymous": ("gag", {"dim": 16, "max_length": 6, "users": False}),
    "gru4rec-bpr-max": ("gru4rec", ORIGINAL_GRU | {"loss": "bpr_max", "sampling_alpha": 0.5}),
    "gru4rec-original": (
        "gru4rec",
        ORIGINAL_GRU | {"loss": "sampled_ce", "constrained_embedding": False},
    ),
    "srgnn": ("srgnn", {"dim": 16, "max_length": 6}),
    "srgnn-cosine": ("srgnn", {"dim": 16, "max_length": 6, "normalise": True, "edges": "count"}),
    "cotrec": ("cotrec", {"dim": 16, "max_length": 6}),
    "cotrec-views": ("cotrec", COTREC | {"con": 0.5, "diff": 0.5}),
    "tagnn": ("tagnn", {"dim": 16, "max_length": 6}),
    "tagnn-count": ("tagnn", {"dim": 16, "max_length": 6, "steps": 2, "edges": "count"}),
    "gsau": ("gsau", ENCODER),
    "gsau-fused": ("gsau", ENCODER | {"scorer": "fuse_score", "rec": True}),
    "gsau-graph": ("gsau", ENCODER | {"scorer": "graph"}),
    "itemknn-last": ("itemknn", {"query": "last", "shrinkage": 0.0}),
    "vsknn-few": ("vsknn", {"neighbours": 3, "sample": 5, "weighting": "log", "idf_weight": 0}),
    "vstan-short": ("vstan", {"preset": "short_decay", "max_length": 3}),
    ATTENTION: (ATTENTION, {"dim": 16}),
}
"""Variant -> the model and its settings; a model that is not named here has its defaults."""
SCORERS = tuple(
    variant
    for variant, (name, _) in VARIANTS.items()
    if name == ATTENTION or not issubclass(MODELS[name].model, DotProductRecommender)
)
"""Variants whose scores are no dot products."""
UNTRAINED = tuple(
    variant
    for variant, (name, _) in VARIANTS.items()
    if name != ATTENTION and not MODELS[name].model.needs
)
"""Variants that are computed from train without gradient steps."""
TUNABLE_SCORERS = tuple(variant for variant in SCORERS if variant not in UNTRAINED)
"""Variants whose scores are no dot products, and that have weights to fine-tune."""
SAME_FOR_ALL = ("popularity", "recent_popularity")
"""Variants that rank the items in the same way for all users."""
REPEATING = ("repeat_last", "session_popularity")
"""Variants that recommend the items of the history only."""
N_USERS, N_ITEMS = 30, 20
DATASET = leave_last_out(with_event_types(block_graph(N_USERS, N_ITEMS, n_blocks=2, length=9)))


class AttentionConfig(StrictConfig):
    dim: int = Field(16, gt=0)
    max_length: int = Field(6, gt=0)
    dropout: float = Field(0.2, ge=0, lt=1)


class AttentionScorer(Recommender):
    """Deep interest network (Zhou et al. 2018) with attention by scaled products."""

    needs = ("states",)
    config: AttentionConfig
    scores_at_once = 512

    def __init__(self, config, train, n_items):
        super().__init__(config, train, n_items)
        self.items = nn.Embedding(n_items + 1, config.dim, padding_idx=n_items)
        self.places = nn.Embedding(config.max_length + 1, config.dim)
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.hidden = nn.Linear(3 * config.dim, config.dim)
        self.output = nn.Linear(config.dim, 1)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def history_length(self):
        return self.config.max_length

    def score(self, queries, items=None):
        history = queries.history[queries.rows]
        from_end = queries.ends[:, None] - torch.arange(history.shape[1])
        is_past = from_end > 0
        places = self.places(from_end.clamp(min=0, max=self.config.max_length))
        vectors = self.dropout(self.items(history) + places)
        targets = self.items(torch.arange(self.n_items) if items is None else items)
        targets = targets.expand(len(history), -1, -1)
        logits = self.query(targets) @ vectors.mT / self.config.dim**0.5
        logits = logits.masked_fill(~is_past[:, None], -1e9)
        weights = logits.softmax(dim=2) * is_past[:, None]
        interest = weights @ vectors
        pairs = torch.cat([interest, targets, interest * targets], dim=2)
        return self.output(self.hidden(pairs).relu())[..., 0]

    def loss(self, batch, generator):
        if batch.states is None:
            raise ValueError("AttentionScorer learns from states; the batch has none.")
        queries, targets = batch.states.queries, batch.states.targets
        negatives = torch.randint(self.n_items, (len(targets), 10), generator=generator)
        scores = self.score(queries, torch.cat([targets[:, None], negatives], dim=1))
        return sampled_cross_entropy(scores[:, 0], scores[:, 1:])

    def parameter_groups(self):
        layers = (self.query, self.hidden, self.output)
        return {
            "item": [self.items.weight],
            "position": [self.places.weight],
            "encoder": [p for layer in layers for p in layer.parameters()],
        }


def build(variant, dataset=DATASET, **settings):
    name, defaults = VARIANTS[variant]
    model = name if name in MODELS else AttentionScorer
    return build_model(model, dataset, **defaults | settings, seed=2)


def make_queries(model, users, *, mask_seen=False):
    past = histories(DATASET, "test", model.reads)
    length = model.history_length or 4
    return user_queries(past, np.array(users), length, N_ITEMS, mask_seen=mask_seen)
