"""What one writes first: a padded SASRec in float32, and sampled GRPO by multinomial and gather."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from recoach.data.split import Dataset
from recoach.models.base import Recommender
from recoach.training.config import GRPOConfig
from recoach.training.loop import stream
from recoach.training.trainer import GRPOTrainer

LENGTH = 50


class PlainSASRec(nn.Module):
    """Two post-norm blocks of torch's own transformer layer, the shared architecture."""

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
        """Return cross-entropy over all items at all positions; targets of -100 are padding."""
        history, targets = (part.to(self.mask.device) for part in (history, targets))
        vectors = self.items(history) + self.positions.weight
        states = self.encoder(self.dropout(self.norm(vectors)), mask=self.mask, is_causal=True)
        logits = states @ self.items.weight[:-1].T
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def padded_batches(data: Dataset, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield histories padded to 50 and the items that follow, for ever."""
    rows = [data.train.values[a:b] for a, b in itertools.pairwise(data.train.offsets)]
    rows = [torch.from_numpy(row.astype("int64")) for row in rows if len(row) > 1]
    history = torch.full((len(rows), LENGTH), data.n_items)
    targets = torch.full((len(rows), LENGTH), -100)
    for index, row in enumerate(rows):
        last = row[-LENGTH - 1 :]
        history[index, : len(last) - 1], targets[index, : len(last) - 1] = last[:-1], last[1:]
    while True:
        for chosen in torch.randperm(len(rows)).split(batch):
            yield history[chosen], targets[chosen]


def plain_grpo_step(model: Recommender, data: Dataset, group: int) -> Callable[[], None]:
    """Return one step after another of the paper's Algorithm 1, written straight down."""
    source = GRPOTrainer(
        model,
        args=GRPOConfig(
            batch_size=512, temperature=1.0, reward_funcs=("next",), reward_smoothing=0
        ),
        train_dataset=data,
    )
    model.requires_grad_(True)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    epochs = (source.epoch(stream(0, "batches", epoch)) for epoch in itertools.count())
    tasks = itertools.chain.from_iterable(epochs)

    def scores(queries: object) -> Tensor:
        users, items = model.embed(queries)
        logits = users @ items.T
        logits[queries.seen.states, queries.seen.items] = -torch.inf
        return logits

    def step() -> None:
        task = next(tasks)
        queries, rewards = task.queries, task.rewards
        model.eval()
        with torch.no_grad():
            p = scores(queries).softmax(dim=1)
            drawn = torch.multinomial(p, group, replacement=True)
            old = p.gather(1, drawn).log()
            wanted = torch.full((len(queries),), -1, device=p.device)
            wanted[rewards.states] = rewards.items
            reward = (drawn == wanted[:, None]).float()
            deviation = reward.std(dim=1, keepdim=True) + 1e-6
            advantage = (reward - reward.mean(dim=1, keepdim=True)) / deviation
        log_p = scores(queries).log_softmax(dim=1).gather(1, drawn)
        ratio = (log_p - old).exp()
        clipped = ratio.clamp(0.9, 1.1)
        loss = -torch.min(ratio * advantage, clipped * advantage).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step
