"""A ranker in which each candidate attends to the history: `recoach.wrap(score=...)`."""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

import recoach


class CrossAttention(nn.Module):
    """Candidates are the queries of an attention whose keys and values are the history."""

    def __init__(self, n_items: int, history_length: int, dim: int, heads: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.item = nn.Embedding(n_items, dim)
        # The last row, n_items, is the padding of histories; it also stands for their beginning.
        self.past = nn.Embedding(n_items + 1, dim)
        self.position = nn.Embedding(history_length + 1, dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.output = nn.Sequential(nn.Linear(3 * dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def score(self, users: Tensor, histories: Tensor, items: Tensor) -> Tensor:
        """Return float[B, C] for int64[B, T] histories and int64[C] or int64[B, C] items."""
        candidates = self.item(items.expand(len(histories), -1))
        # An item of its own before the history, so that an empty one can be attended to as well.
        histories = functional.pad(histories, (1, 0), value=self.n_items)
        is_padding = histories == self.n_items
        is_padding[:, 0] = False
        from_end = (~is_padding).sum(dim=1, keepdim=True) - 1
        from_end = from_end - torch.arange(histories.shape[1], device=histories.device)
        keys = self.past(histories) + self.position(from_end.clamp(min=0))
        interest, _ = self.attention(
            candidates, keys, keys, key_padding_mask=is_padding, need_weights=False
        )
        features = torch.cat([candidates, interest, candidates * interest], dim=-1)
        scores: Tensor = self.output(features)
        return scores.squeeze(-1)

    def loss(
        self, users: Tensor, histories: Tensor, targets: Tensor, generator: Generator
    ) -> Tensor:
        """Return the cross-entropy of the next item among it and 50 random items."""
        negatives = torch.randint(self.n_items, (len(targets), 50), generator=generator)
        items = torch.cat([targets[:, None], negatives.to(targets.device)], dim=1)
        # A negative that is the target itself is left out.
        logits = self.score(users, histories, items)
        logits[:, 1:].masked_fill_(items[:, 1:] == targets[:, None], -torch.inf)
        return functional.cross_entropy(logits, torch.zeros_like(targets))


def build(
    dataset: recoach.Dataset,
    *,
    dim: int = 32,
    heads: int = 2,
    history_length: int = 20,
    weights: str | None = None,
) -> recoach.Recommender:
    """Build the ranker for the items of a dataset."""
    module = CrossAttention(dataset.n_items, history_length, dim, heads)
    if weights is not None:
        module.load_state_dict(torch.load(weights, weights_only=True))
    return recoach.wrap(
        module,
        dataset,
        score=CrossAttention.score,
        loss=CrossAttention.loss,
        history_length=history_length,
    )
