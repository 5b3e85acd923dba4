"""Two towers that read the text and the category of items: `recoach.wrap(query=..., items=...)`."""

from typing import Any

import polars as pl
import torch
from sklearn.feature_extraction.text import HashingVectorizer  # type: ignore[import-untyped]
from torch import Generator, Tensor, nn
from torch.nn import functional

import recoach

HISTORY_LENGTH = 20


class TwoTowers(nn.Module):
    """The item tower adds vectors of number, category and words; the user tower reads a history."""

    words: Tensor
    categories: Tensor

    def __init__(self, words: Tensor, categories: Tensor, dim: int) -> None:
        super().__init__()
        self.n_items = len(words)
        # Not saved with the weights: they are read from the table of items whenever it is built.
        self.register_buffer("words", words, persistent=False)
        self.register_buffer("categories", categories, persistent=False)
        self.item = nn.Embedding(len(words), dim)
        self.category = nn.Embedding(int(categories.max()) + 1, dim)
        self.text = nn.Linear(words.shape[1], dim, bias=False)
        self.user = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        nn.init.normal_(self.item.weight, std=0.1)

    def items(self) -> Tensor:
        """Return float[I, D]."""
        content: Tensor = self.category(self.categories) + self.text(self.words)
        return self.item.weight + content

    def query(self, users: Tensor, histories: Tensor) -> Tensor:
        """Return float[B, D] for int64[B, T] histories, which are padded with n_items."""
        vectors = functional.pad(self.items(), (0, 0, 0, 1))  # the row of the padding is zero
        lengths = (histories < self.n_items).sum(dim=1, keepdim=True).clamp(min=1)
        means: Tensor = self.user(vectors[histories].sum(dim=1) / lengths)
        return means

    def loss(
        self, users: Tensor, histories: Tensor, targets: Tensor, generator: Generator
    ) -> Tensor:
        """Return the cross-entropy of the next items over the catalogue."""
        return functional.cross_entropy(self.query(users, histories) @ self.items().T, targets)


def build(
    dataset: recoach.Dataset, *, dim: int = 32, n_words: int = 512, weights: str | None = None
) -> recoach.Recommender:
    """Build the towers from the columns `title` and `category` of the table of items."""
    table = dataset.item_table
    if table is None or not {"title", "category"} <= set(table.columns):
        raise ValueError("set data.items to a table of items with the columns title and category")
    vectorizer: Any = HashingVectorizer(n_features=n_words, alternate_sign=False)
    texts = vectorizer.transform(table["title"].fill_null("").to_list()).toarray()
    categories = table["category"].fill_null("").rank("dense").cast(pl.Int64) - 1
    towers = TwoTowers(torch.as_tensor(texts, dtype=torch.float32), categories.to_torch(), dim)
    if weights is not None:
        towers.load_state_dict(torch.load(weights, weights_only=True))
    return recoach.wrap(
        towers,
        dataset,
        query=TwoTowers.query,
        items=TwoTowers.items,
        loss=TwoTowers.loss,
        history_length=HISTORY_LENGTH,
    )
