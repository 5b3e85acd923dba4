"""Benchmark tasks run with PyTorch Geometric."""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from common import DIM, THREADS, EpochTimer, Log, main, read, write_result
from torch.utils.data import DataLoader
from torch_geometric.nn.models import GraphSAGE, LightGCN

torch.set_num_threads(THREADS)


def lightgcn_epoch(folder: Path, out: Path, epochs: int = 3) -> None:
    """Time PyG's documented training loop: one random negative per positive, no rejection."""
    log = read(folder)
    edges, interactions = _graph(log)
    torch.manual_seed(2020)
    model = LightGCN(sum(log.shape), DIM, num_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(pairs: torch.Tensor) -> None:
        optimizer.zero_grad()
        positive_scores, negative_scores = model(edges, pairs).chunk(2)
        loss = model.recommendation_loss(positive_scores, negative_scores, node_id=pairs.unique())
        loss.backward()
        optimizer.step()

    _write_epoch(out, epochs, interactions, log.shape[0], step)


def graphsage_epoch(folder: Path, out: Path, epochs: int = 3) -> None:
    """Time the same loop with three SAGEConv layers over the whole graph, unit vectors and BPR."""
    log = read(folder)
    edges, interactions = _graph(log)
    torch.manual_seed(2020)
    nodes = torch.nn.Embedding(sum(log.shape), DIM)
    model = GraphSAGE(DIM, DIM, num_layers=3)
    optimizer = torch.optim.Adam([*nodes.parameters(), *model.parameters()], lr=1e-3)

    def step(pairs: torch.Tensor) -> None:
        optimizer.zero_grad()
        vectors = torch.nn.functional.normalize(model(nodes.weight, edges))
        positive, negative = (vectors[pairs[0]] * vectors[pairs[1]]).sum(dim=1).chunk(2)
        (-torch.nn.functional.logsigmoid(10 * (positive - negative)).mean()).backward()
        optimizer.step()

    _write_epoch(out, epochs, interactions, log.shape[0], step)


def _graph(log: Log) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the edges in both directions, and the training interactions (user, item)."""
    train = log.select(log.from_end > 1)
    columns = [torch.from_numpy(train.user), torch.from_numpy(train.item) + log.shape[0]]
    interactions = torch.stack(columns)
    return torch.cat([interactions, interactions.flip(0)], dim=1), interactions


def _write_epoch(
    out: Path,
    epochs: int,
    interactions: torch.Tensor,
    users: int,
    step: Callable[[torch.Tensor], None],
) -> None:
    """Time epochs of steps, each with the pairs of a batch, then those of its negatives."""
    loader = DataLoader(range(interactions.size(1)), batch_size=2048, shuffle=True)
    nodes = int(interactions.max()) + 1
    timer = EpochTimer(epochs)
    while not timer.is_done:
        timer.begin_epoch(len(loader))
        for rows in loader:
            positive = interactions[:, rows]
            negatives = torch.randint(users, nodes, (len(rows),))
            step(torch.cat([positive, torch.stack([positive[0], negatives])], dim=1))
        timer.end_epoch()
    write_result(out, {"seconds_per_epoch": timer.result}, "torch-geometric", "torch")


if __name__ == "__main__":
    main({"lightgcn_epoch": lightgcn_epoch, "graphsage_epoch": graphsage_epoch})
