"""Grow a model to more users and items, whose numbers follow those that it knows."""

from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from recoach.data.dataset import Dataset
from recoach.data.queries import Queries
from recoach.errors import ModelError
from recoach.models.base import GroupName, Recommender, check_ids
from recoach.models.content import predicted_rows
from recoach.models.neighbours.item_table import interaction_matrix
from recoach.models.registry import build_from_config, origin_of

_LOWEST = -1e30
"""A score below all others, of which a sum over a catalogue is still finite."""


class _Sides(NamedTuple):
    """The number of rows of tables of users and of items, before and after."""

    n_users: tuple[int, int]
    n_items: tuple[int, int]


def grow(model: Recommender, old: Dataset, new: Dataset, *, seed: int = 0) -> Recommender:
    """Return the model for a dataset with more users and items; the rows of old ones are copied.

    The model is built again for the new dataset, so that a graph and models without weights are
    computed from all of it. Then all weights are copied; a table with a row for each user or item
    keeps its rows bit for bit, and the rows of new users and items are, where possible,

    1. for items, predicted from their content (`recoach.models.content`),
    2. else the mean of the rows of the items that the same users interacted with; for users, of the
       users who interacted with the same items,
    3. else the mean of the table.

    A table is recognised by its number of rows, the number of users or items, or of items and a row
    for padding. An `nn.Embedding` with `padding_idx = 0` has its padding first, others last.

    Args:
        model: built for the old dataset.
        old: its users and items.
        new: begins with the same users and items in the same order, see `recoach.data.extend`; only
            its train part is read.
        seed: of weights that a function builds and that are not copied.

    Raises:
        ModelError: the new dataset does not begin with the old users and items, or a weight is
            neither of the same shape nor such a table.
        ConfigError: nothing tells how to build the model again.
    """
    check_ids(model, old)
    for name, before, after in (
        ("users", old.user_ids, new.user_ids),
        ("items", old.item_ids, new.item_ids),
    ):
        if not after.head(len(before)).equals(before):
            raise ModelError(
                f"The new dataset does not begin with the {name} of the old one in their order, so "
                "that the rows of the model would stand for others. Extend the old dataset."
            )
    name, config = origin_of(model)
    grown = build_from_config(name, config, new, seed=seed, pretrained=False)
    padding = _padding_rows(grown)
    sides = _Sides((old.n_users, new.n_users), (old.n_items, new.n_items))
    weights = model.state_dict()
    expected = grown.state_dict()
    if weights.keys() != expected.keys():
        different = sorted(weights.keys() ^ expected.keys())[0]
        raise ModelError(
            f"The model cannot grow: built for the new data, {name} has other weights than before "
            f"({different}). Train again on all data."
        )
    tables = _Neighbours(old, new)
    grown.load_state_dict(
        {
            key: _grown(key, value, expected[key], sides, padding.get(key), tables)
            for key, value in weights.items()
        }
    )
    return grown.to(model.device).eval()


def _grown(
    name: str,
    old: Tensor,
    new: Tensor,
    sides: _Sides,
    padding: int | None,
    neighbours: "_Neighbours",
) -> Tensor:
    if old.shape == new.shape:
        return old.clone()
    kind = _kind(name, old, new, sides, is_padded=padding is not None)
    if kind == "users":
        return torch.cat([old, neighbours.new_users(old)])
    if kind == "items":
        return torch.cat([old, neighbours.new_items(old)])
    if padding == 0:
        return torch.cat([old, neighbours.new_items(old[1:])])
    return torch.cat([old[:-1], neighbours.new_items(old[:-1]), old[-1:]])


def _kind(name: str, old: Tensor, new: Tensor, sides: _Sides, *, is_padded: bool) -> str:
    """Return what the rows of a table stand for; ModelError if that is not known."""
    kinds = []
    if old.ndim and old.shape[1:] == new.shape[1:]:
        rows, n_items = (len(old), len(new)), sides.n_items
        kinds += ["users"] * (rows == sides.n_users)
        kinds += ["items"] * (rows == n_items)
        kinds += ["padded items"] * (rows == (n_items[0] + 1, n_items[1] + 1))
    if not kinds:
        raise ModelError(
            f"The model cannot grow: its weight {name} has shape {tuple(old.shape)}, and "
            f"{tuple(new.shape)} for the new data, which is not a row for each user or item. Train "
            "again on all data."
        )
    if is_padded and "padded items" in kinds:
        return "padded items"
    if len(kinds) > 1:
        raise ModelError(
            f"The model cannot grow: the {len(old):,} rows of its weight {name} can be those of "
            f"{kinds[0]} or of {kinds[1]}. Train again on all data."
        )
    return kinds[0]


def _padding_rows(model: nn.Module) -> dict[str, int]:
    """Return the padding row of each embedding that has one, 0 or the last."""
    return {
        f"{name}.weight": module.padding_idx
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    }


class _Neighbours:
    """Computes the rows of new users and items from those of old ones."""

    def __init__(self, old: Dataset, new: Dataset) -> None:
        self._old, self._new = old, new
        self._matrix = interaction_matrix(new.train, new.n_items).tocsr()

    def new_items(self, table: Tensor) -> Tensor:
        """Return the rows of new items, of a table of the old ones."""
        n_old, n_new = self._old.n_items, self._new.n_items - self._old.n_items
        if not n_new:
            return table[:0].clone()
        users_of_new = self._matrix[:, n_old:].T.tocsr()
        rows = _means(users_of_new @ self._matrix[:, :n_old], table)
        trained = np.bincount(self._old.train.values, minlength=n_old) > 0
        predicted = predicted_rows(self._new.item_table, table, trained)
        if predicted is not None:
            has_content, values = predicted
            rows[has_content[n_old:]] = values[n_old:][has_content[n_old:]].to(rows)
        return rows

    def new_users(self, table: Tensor) -> Tensor:
        """Return the rows of new users, of a table of the old ones."""
        n_old = self._old.n_users
        if self._new.n_users == n_old:
            return table[:0].clone()
        old_users = self._matrix[:n_old]
        return _means(self._matrix[n_old:] @ old_users.T, table)


def _means(weights: sparse.csr_matrix, table: Tensor) -> Tensor:
    """Return the weighted means of the rows of a table; of all rows without any weight."""
    values = table.detach().reshape(len(table), -1).double().cpu().numpy()
    sums = weights @ values
    totals = np.asarray(weights.sum(axis=1)).reshape(-1, 1)
    means = np.where(totals > 0, sums / np.maximum(totals, 1), values.mean(axis=0))
    return torch.from_numpy(means).to(table).reshape(-1, *table.shape[1:])


class WithoutNewItems(Recommender):
    """A grown model whose lists hold none of the new items, as those of the model before."""

    def __init__(self, model: Recommender, n_known: int) -> None:
        nn.Module.__init__(self)
        self.model, self.config, self.ids = model, model.config, model.ids
        self.n_users, self.n_items, self.n_known = model.n_users, model.n_items, n_known
        for name in ("reads", "scores_at_once", "knows_users"):
            setattr(self, name, getattr(model, name))

    @property
    def history_length(self) -> int:
        """Number of last items that the model reads."""
        return self.model.history_length

    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Return the scores of the model; those of new items are below all others."""
        scores = self.model.score(queries, items)
        items = torch.arange(self.n_items, device=scores.device) if items is None else items
        return scores.masked_fill(items >= self.n_known, _LOWEST)

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the parameters of the model."""
        return self.model.parameter_groups()
