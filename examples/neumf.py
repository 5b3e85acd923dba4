"""NeuMF (He et al. 2017) in plain PyTorch: `recoach.wrap(score=...)`."""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

import recoach


class NeuMF(nn.Module):
    """Scores a user and an item by the product of two vectors and a network over two others."""

    def __init__(self, n_users: int, n_items: int, dim: int) -> None:
        super().__init__()
        self.n_items = n_items
        # Users who are not in the data have number -1, here row 0, which stays zero.
        self.gmf_user = nn.Embedding(n_users + 1, dim, padding_idx=0)
        self.mlp_user = nn.Embedding(n_users + 1, dim, padding_idx=0)
        self.gmf_item = nn.Embedding(n_items, dim)
        self.mlp_item = nn.Embedding(n_items, dim)
        self.mlp = nn.Sequential(
            nn.Linear(2 * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim), nn.ReLU()
        )
        self.output = nn.Linear(2 * dim, 1)
        for table in (self.gmf_user, self.mlp_user, self.gmf_item, self.mlp_item):
            with torch.no_grad():
                table.weight.mul_(0.1)

    def score(self, users: Tensor, histories: Tensor, items: Tensor) -> Tensor:
        """Return float[B, C] for int64[B] users and int64[C] or int64[B, C] items."""
        items = items.expand(len(users), -1)
        users = (users + 1)[:, None].expand_as(items)
        product = self.gmf_user(users) * self.gmf_item(items)
        hidden = self.mlp(torch.cat([self.mlp_user(users), self.mlp_item(items)], dim=-1))
        scores: Tensor = self.output(torch.cat([product, hidden], dim=-1))
        return scores.squeeze(-1)

    def loss(
        self, users: Tensor, histories: Tensor, targets: Tensor, generator: Generator
    ) -> Tensor:
        """Return the cross-entropy of the targets and of four random items for each."""
        negatives = torch.randint(self.n_items, (len(targets), 4), generator=generator)
        items = torch.cat([targets[:, None], negatives.to(targets.device)], dim=1)
        labels = torch.zeros(items.shape, device=items.device)
        labels[:, 0] = 1
        scores = self.score(users, histories, items)
        return functional.binary_cross_entropy_with_logits(scores, labels)


def build(
    dataset: recoach.Dataset, *, dim: int = 32, weights: str | None = None
) -> recoach.Recommender:
    """Build NeuMF for the users and items of a dataset."""
    module = NeuMF(dataset.n_users, dataset.n_items, dim)
    if weights is not None:
        module.load_state_dict(torch.load(weights, weights_only=True))
    return recoach.wrap(module, dataset, score=NeuMF.score, loss=NeuMF.loss)
