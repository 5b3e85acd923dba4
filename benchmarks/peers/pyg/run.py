"""Benchmark tasks run with PyTorch Geometric."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from common import DIM, THREADS, EpochTimer, main, read, write_result
from torch.utils.data import DataLoader
from torch_geometric.nn.models import LightGCN

torch.set_num_threads(THREADS)


def lightgcn_epoch(folder: Path, out: Path, epochs: int = 3) -> None:
    """Time PyG's documented training loop: one random negative per positive, no rejection."""
    log = read(folder)
    users, items = log.shape
    train = log.select(log.from_end > 1)
    interactions = torch.stack([torch.from_numpy(train.user), torch.from_numpy(train.item) + users])
    edges = torch.cat([interactions, interactions.flip(0)], dim=1)
    torch.manual_seed(2020)
    model = LightGCN(users + items, DIM, num_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(range(interactions.size(1)), batch_size=2048, shuffle=True)
    timer = EpochTimer(epochs)
    model.train()
    while not timer.is_done:
        timer.begin_epoch(len(loader))
        for rows in loader:
            positive = interactions[:, rows]
            negatives = torch.randint(users, users + items, (len(rows),))
            pairs = torch.cat([positive, torch.stack([positive[0], negatives])], dim=1)
            optimizer.zero_grad()
            positive_scores, negative_scores = model(edges, pairs).chunk(2)
            model.recommendation_loss(
                positive_scores, negative_scores, node_id=pairs.unique()
            ).backward()
            optimizer.step()
        timer.end_epoch()
    write_result(out, {"seconds_per_epoch": timer.result}, "torch-geometric", "torch")


if __name__ == "__main__":
    main({"lightgcn_epoch": lightgcn_epoch})
