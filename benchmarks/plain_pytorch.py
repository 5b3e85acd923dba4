"""Baselines in plain PyTorch: padded SASRec in float32, sampled GRPO, NeuMF's lists by user."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from recoach.data.dataset import Dataset
from recoach.data.queries import Queries
from recoach.experiments.trainer import GRPOTrainer
from recoach.models.base import Recommender
from recoach.models.factorization.neumf import NeuMF
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.loop import stream

LENGTH = 50


class PlainSASRec(nn.Module):
    """The benchmark's SASRec built from two post-norm `nn.TransformerEncoderLayer`s."""

    def __init__(self, n_items: int, dim: int = 64) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=n_items)
        self.positions = nn.Embedding(LENGTH, dim)
        layer = nn.TransformerEncoderLayer(dim, 2, 256, 0.5, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(0.5)
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        self.register_buffer("mask", mask)

    def loss(self, history: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy over all items at all positions; targets of -100 are padding."""
        history, targets = (tensor.to(self.mask.device) for tensor in (history, targets))
        vectors = self.items(history) + self.positions.weight
        states = self.encoder(self.dropout(self.norm(vectors)), mask=self.mask, is_causal=True)
        logits = states @ self.items.weight[:-1].T
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def padded_batches(data: Dataset, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield histories padded to 50 items and their next items, without end."""
    rows = [data.train.values[a:b] for a, b in itertools.pairwise(data.train.offsets)]
    rows = [torch.from_numpy(row.astype("int64")) for row in rows if len(row) > 1]
    history = torch.full((len(rows), LENGTH), data.n_items)
    targets = torch.full((len(rows), LENGTH), -100)
    for index, row in enumerate(rows):
        last = row[-LENGTH - 1 :]
        history[index, : len(last) - 1], targets[index, : len(last) - 1] = last[:-1], last[1:]
    while True:
        for indices in torch.randperm(len(rows)).split(batch_size):
            yield history[indices], targets[indices]


def plain_grpo_step(model: Recommender, data: Dataset, group: int) -> Callable[[], None]:
    """Return a function that trains for one step of the paper's Algorithm 1."""
    trainer = GRPOTrainer(
        model,
        args=GRPOConfig(
            batch_size=512, temperature=1.0, reward_funcs=("next",), reward_smoothing=0
        ),
        train_dataset=data,
    )
    model.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    epochs = (trainer.epoch(stream(0, "batches", epoch)) for epoch in itertools.count())
    batches = itertools.chain.from_iterable(epochs)

    def masked_scores(queries: object) -> Tensor:
        logits = model.score(queries)
        logits[queries.seen.states, queries.seen.items] = -torch.inf
        return logits

    def step() -> None:
        batch = next(batches)
        queries, rewards = batch.queries, batch.rewards
        model.eval()
        with torch.no_grad():
            probs = masked_scores(queries).softmax(dim=1)
            sampled_items = torch.multinomial(probs, group, replacement=True)
            old_log_probs = probs.gather(1, sampled_items).log()
            target_items = torch.full((len(queries),), -1, device=probs.device)
            target_items[rewards.states] = rewards.items
            reward = (sampled_items == target_items[:, None]).float()
            std = reward.std(dim=1, keepdim=True) + 1e-6
            advantage = (reward - reward.mean(dim=1, keepdim=True)) / std
        log_probs = masked_scores(queries).log_softmax(dim=1).gather(1, sampled_items)
        ratio = (log_probs - old_log_probs).exp()
        clipped = ratio.clamp(0.9, 1.1)
        loss = -torch.min(ratio * advantage, clipped * advantage).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


@torch.no_grad()
def plain_neumf_lists(model: NeuMF, queries: Queries, k: int) -> Tensor:
    """Return int64[B, k], the unseen items with the highest scores, by a loop over the users.

    The scores of a user are those of the paper's network, with the user's vectors beside those of
    all items.
    """
    gmf_items, mlp_items = model.gmf_items.weight, model.mlp_items.weight
    lists = []
    for state, user in enumerate(queries.state_users.tolist()):
        pairs = torch.cat([model.mlp_users.weight[user].expand_as(mlp_items), mlp_items], dim=1)
        hidden = model.other_layers(functional.relu(model.first_layer(pairs)))
        products = model.gmf_users.weight[user] * gmf_items
        scores = model.output(torch.cat([products, hidden], dim=1))[:, 0]
        scores[queries.seen.items[queries.seen.states == state]] = -torch.inf
        lists.append(scores.topk(k).indices)
    return torch.stack(lists)
