"""PyTorch Geometric's part of the benchmarks."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from common import DIM, THREADS, Epochs, answer, main, read
from torch.utils.data import DataLoader
from torch_geometric.nn.models import LightGCN

torch.set_num_threads(THREADS)


def lightgcn_epoch(folder: Path, out: Path, epochs: int = 3) -> None:
    """Time the loop its documentation leads to: one random negative a positive, not rejected."""
    log = read(folder)
    users, items = log.shape
    train = log.part(log.back > 1)
    taken = torch.stack([torch.from_numpy(train.user), torch.from_numpy(train.item) + users])
    edges = torch.cat([taken, taken.flip(0)], dim=1)
    torch.manual_seed(2020)
    model = LightGCN(users + items, DIM, num_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(range(taken.size(1)), batch_size=2048, shuffle=True)
    clock = Epochs(epochs)
    model.train()
    while not clock.done:
        clock.begin(len(loader))
        for rows in loader:
            positive = taken[:, rows]
            drawn = torch.randint(users, users + items, (len(rows),))
            pairs = torch.cat([positive, torch.stack([positive[0], drawn])], dim=1)
            optimizer.zero_grad()
            better, worse = model(edges, pairs).chunk(2)
            model.recommendation_loss(better, worse, node_id=pairs.unique()).backward()
            optimizer.step()
        clock.end()
    answer(out, {"seconds_per_epoch": clock.result}, "torch-geometric", "torch")


if __name__ == "__main__":
    main({"lightgcn_epoch": lightgcn_epoch})
