"""Models as a user of the library writes them, named by their import paths."""

import torch
from torch import nn
from torch.nn import functional

from recoach import wrap
from recoach.config import StrictConfig
from recoach.models.base import DotProductRecommender, Embeddings


class LastItem(nn.Module):
    """Two towers: one reads the last item, the other is a table."""

    def __init__(self, n_items, dim):
        super().__init__()
        self.n_items = n_items
        self.last = nn.Embedding(n_items + 1, dim)
        self.table = nn.Embedding(n_items, dim)


def last_of(module, users, histories):
    places = (histories != module.n_items).sum(dim=1) - 1
    return module.last(histories.gather(1, places.clamp(min=0)[:, None])[:, 0])


def table_of(module):
    return module.table.weight


def next_item_loss(module, users, histories, targets, generator):
    return functional.cross_entropy(last_of(module, users, histories) @ table_of(module).T, targets)


def build(dataset, *, dim: int = 8, weights: str | None = None):
    """Two towers with a loss."""
    module = LastItem(dataset.n_items, dim)
    if weights is not None:
        module.load_state_dict(torch.load(weights))
    return wrap(
        module, dataset, query=last_of, items=table_of, loss=next_item_loss, history_length=5
    )


def build_without_loss(dataset, *, dim: int = 8):
    """Two towers that were trained elsewhere."""
    module = LastItem(dataset.n_items, dim)
    return wrap(module, dataset, query=last_of, items=table_of, history_length=5)


class BiasConfig(StrictConfig):
    start: float = 0.0


class Bias(DotProductRecommender):
    """A weight for each item."""

    needs = ("edges",)
    config: BiasConfig

    def __init__(self, config, train, n_items):
        super().__init__(config, train, n_items)
        self.bias = nn.Parameter(torch.full((n_items, 1), config.start))

    def embed(self, queries):
        return Embeddings(self.bias.new_ones(len(queries), 1), self.bias)

    def loss(self, batch, generator):
        return functional.cross_entropy(
            self.bias.T.expand(len(batch.edges.targets), -1), batch.edges.targets
        )

    def parameter_groups(self):
        return {"item": [self.bias]}


def misbehaves(dataset):
    return dataset


def raises(dataset, *, n_rows: int = 3):
    """Its module has too few rows for the padding."""
    module = LastItem(n_rows, 8)
    return wrap(module, dataset, query=last_of, items=table_of, history_length=5)


def needs_a_gpu(dataset):
    return build(dataset).to("cuda:99")


def without_storage(dataset):
    return build(dataset).to("meta")


def takes_anything(dataset, **settings):
    return build(dataset)


not_callable = 3
