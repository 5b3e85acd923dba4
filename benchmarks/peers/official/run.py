"""Benchmark tasks run with the official code of session models, which `official=DIR` contains.

The code is not part of this project; benchmarks/README.md lists the repositories. It is imported
from the clones as it is. What does not run on a CPU, or with present versions of NumPy and PyTorch
Geometric, is replaced here at run time. Only training steps are timed, with the clock of the
process: reading the data and building what is built once for all epochs are not.
"""

import collections
import contextlib
import importlib
import itertools
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from common import THREADS, EpochTimer, main, read_sessions, write_result
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

torch.set_num_threads(THREADS)
torch.cuda.FloatTensor = torch.FloatTensor
torch.nn.Module.cuda = lambda self: self

SEED = 2020
Step = Callable[[], object]


class Sessions:
    """Random prefixes of the training sessions with their next items, and the sizes of the data.

    The longest prefix is the last one, so that padding to the longest prefix of the data is as wide
    as with all prefixes; no step trains on it.
    """

    def __init__(self, folder: Path, batch: int, steps: int) -> None:
        self.all = read_sessions(folder)
        lengths = np.array([len(session) for session in self.all])
        self.n_items = max(max(session) for session in self.all)
        self.n_prefixes = int((lengths - 1).sum())
        self.n_batches = -(-self.n_prefixes // batch)
        self.batch, count = batch, batch * (steps + EpochTimer.warm_up_steps)
        last = np.cumsum(lengths - 1)
        chosen = np.random.default_rng(SEED).choice(self.n_prefixes, count, replace=False)
        rows = np.append(np.searchsorted(last, chosen, side="right"), lengths.argmax())
        ends = np.append(lengths[rows[:-1]] - (last[rows[:-1]] - chosen), lengths.max() - 1)
        self.prefixes = [self.all[row][:end] for row, end in zip(rows, ends, strict=True)]
        self.targets = [self.all[row][end] for row, end in zip(rows, ends, strict=True)]

    def batches(self) -> Iterator[np.ndarray]:
        """Yield the numbers of the prefixes of each step."""
        for start in range(0, len(self.prefixes) - 1, self.batch):
            yield np.arange(start, start + self.batch)


def official_modules(folder: Path, *names: str) -> list[types.ModuleType]:
    """Import modules of a clone."""
    sys.path.insert(0, str(folder))
    return [importlib.import_module(name) for name in names]


def write_seconds(out: Path, steps: int, n_batches: int, step: Step) -> None:
    """Time steps and write the CPU seconds of an epoch."""
    torch.manual_seed(SEED)
    timer = EpochTimer(0, steps, clock=time.process_time)
    timer.begin_epoch(n_batches)
    while not timer.is_done:
        step()
        timer.end_step()
    _write(out, timer)


def _write(out: Path, timer: EpochTimer) -> None:
    result = {"seconds_per_epoch": timer.result, "batches_per_epoch": timer.n_batches}
    write_result(out, result, "torch", "torch-geometric")


def srgnn(folder: Path, out: Path, *, official: Path, steps: int = 30, batch: int = 100) -> None:
    _gated(folder, out, official / "SR-GNN" / "pytorch_code", steps, batch)


def tagnn(folder: Path, out: Path, *, official: Path, steps: int = 3, batch: int = 100) -> None:
    _gated(folder, out, official / "TAGNN", steps, batch)


def _gated(folder: Path, out: Path, code: Path, steps: int, batch: int) -> None:
    sessions = Sessions(folder, batch, steps)
    model, utils = official_modules(code, "model", "utils")
    settings = {"hiddenSize": 100, "batchSize": batch, "nonhybrid": False, "step": 1}
    settings |= {"lr": 1e-3, "l2": 1e-5, "lr_dc_step": 3, "lr_dc": 0.1}
    network = model.SessionGraph(types.SimpleNamespace(**settings), sessions.n_items + 1)
    data = utils.Data((sessions.prefixes, sessions.targets))
    rows = sessions.batches()

    def step() -> None:
        network.optimizer.zero_grad()
        targets, scores = model.forward(network, next(rows), data)
        network.loss_function(scores, torch.Tensor(targets).long() - 1).backward()
        network.optimizer.step()

    write_seconds(out, steps, sessions.n_batches, step)


def gcegnn(
    folder: Path, out: Path, *, official: Path, steps: int = 3, batch: int = 100, hops: int = 1
) -> None:
    sessions = Sessions(folder, batch, steps)
    model, utils = official_modules(official / "GCE-GNN", "model", "utils")
    settings = {"hiddenSize": 100, "batch_size": batch, "n_iter": hops, "n_sample": 12}
    settings |= {"dropout_gcn": 0.2, "dropout_local": 0.0, "dropout_global": 0.5, "alpha": 0.2}
    settings |= {"activate": "relu", "lr": 1e-3, "l2": 1e-5, "lr_dc_step": 3, "lr_dc": 0.1}
    n_nodes = sessions.n_items + 1
    graph = utils.handle_adj(*_neighbours(sessions, n_nodes))
    network = model.CombineGraph(types.SimpleNamespace(**settings), n_nodes, *graph)
    data = utils.Data((sessions.prefixes, sessions.targets))
    # The official loader has four worker processes; here everything runs in one thread.
    loader = iter(torch.utils.data.DataLoader(data, batch_size=batch))

    def step() -> None:
        network.optimizer.zero_grad()
        targets, scores = model.forward(network, next(loader))
        network.loss_function(scores, targets.long() - 1).backward()
        network.optimizer.step()

    write_seconds(out, steps, sessions.n_batches, step)


def _neighbours(sessions: Sessions, n_nodes: int, most: int = 12) -> tuple:
    """Return the arguments of `handle_adj`: items within distance 3, the most frequent ones."""
    items = np.concatenate(sessions.all)
    rows = np.repeat(np.arange(len(sessions.all)), [len(session) for session in sessions.all])
    pairs = []
    for lag in (1, 2, 3):
        same = rows[lag:] == rows[:-lag]
        before, after = items[:-lag][same], items[lag:][same]
        pairs += [before * n_nodes + after, after * n_nodes + before]
    keys, counts = np.unique(np.concatenate(pairs), return_counts=True)
    order = np.lexsort((-counts, keys // n_nodes))
    neighbours: list[list[int]] = [[] for _ in range(n_nodes)]
    weights: list[list[int]] = [[] for _ in range(n_nodes)]
    for key, count in zip(keys[order].tolist(), counts[order].tolist(), strict=True):
        if len(neighbours[key // n_nodes]) < most:
            neighbours[key // n_nodes].append(key % n_nodes)
            weights[key // n_nodes].append(count)
    return neighbours, n_nodes, most, weights


def cotrec(folder: Path, out: Path, *, official: Path, steps: int = 5, batch: int = 100) -> None:
    sessions = Sessions(folder, batch, steps)
    model, util = official_modules(official / "COTREC", "model", "util")
    model.np = _TensorSums()
    prefixes = np.empty(len(sessions.prefixes), dtype=object)
    prefixes[:] = sessions.prefixes
    with np.errstate(divide="ignore"):
        data = util.Data((prefixes, sessions.targets), sessions.all, n_node=sessions.n_items)
    network = getattr(model, "COTREC", None) or model.CoT
    network = network(
        adjacency=data.adjacency.tocoo(),
        n_node=sessions.n_items,
        lr=1e-3,
        layers=2,
        l2=1e-5,
        beta=0.001,
        lam=0.005,
        eps=0.5,
        dataset="diginetica",
        batch_size=batch,
    )
    rows = sessions.batches()

    def step() -> None:
        network.zero_grad()
        _, _, *losses = model.forward(network, next(rows), data, 0, train=True)
        sum(losses).backward()
        network.optimizer.step()

    write_seconds(out, steps, sessions.n_batches, step)


class _TensorSums:
    """NumPy, except that `sum` adds a list of tensors, as old versions did."""

    def __getattr__(self, name: str) -> object:
        return getattr(np, name)

    @staticmethod
    def sum(values, axis):
        is_tensors = isinstance(values, list) and torch.is_tensor(values[0])
        return torch.stack(values).sum(axis) if is_tensors else np.sum(values, axis)


def fgnn(folder: Path, out: Path, *, official: Path, steps: int = 30, batch: int = 100) -> None:
    sessions = Sessions(folder, batch, steps)
    _provide_torch_scatter()
    model, attention = official_modules(official / "FGNN", "model", "weighted_gat")
    attention.torch = _CPUTorch()
    settings = {"item_num": sessions.n_items, "hidden_size": 100, "WGAT_heads": 8}
    network = model.FGNN(settings | {"dropout": 0, "leaky_relu": 0.2})
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, weight_decay=1e-5, amsgrad=True)
    graphs = iter(_graph_loader(sessions))

    def step() -> None:
        graph = next(graphs)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(graph), graph.y - 1).backward()
        optimizer.step()

    write_seconds(out, steps, sessions.n_batches, step)


def gag(folder: Path, out: Path, *, official: Path, steps: int = 30, batch: int = 100) -> None:
    """Time GAG with one user for all sessions, which are anonymous."""
    sessions = Sessions(folder, batch, steps)
    _provide_torch_scatter()
    (model,) = official_modules(official / "GAG" / "src", "model")
    network = model.GNNModel(100, sessions.n_items, n_user=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, weight_decay=1e-5)
    graphs = iter(_graph_loader(sessions))

    def step() -> None:
        graph = next(graphs)
        optimizer.zero_grad()
        scores = network(graph, sessions.n_items)
        network.loss_function(scores, graph.y - 1).backward()
        optimizer.step()

    write_seconds(out, steps, sessions.n_batches, step)


def _provide_torch_scatter() -> None:
    """Provide `torch_scatter.scatter_add`, whose package has no build for present versions."""

    def scatter_add(values, index, dim=0, dim_size=None):
        size = (int(index.max()) + 1 if dim_size is None else dim_size, *values.shape[1:])
        return values.new_zeros(size).index_add_(dim, index, values)

    sys.modules["torch_scatter"] = types.SimpleNamespace(scatter_add=scatter_add)


class _CPUTorch:
    """torch for old code: each device is the CPU, `full` returns floats, `tensor` reads pandas."""

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)

    @staticmethod
    def device(_: str) -> torch.device:
        return torch.device("cpu")

    @staticmethod
    def full(size, value):
        return torch.full(size, float(value))

    @staticmethod
    def tensor(values, **options):
        return torch.tensor(values.to_numpy() if hasattr(values, "to_numpy") else values, **options)


def _graph_loader(sessions: Sessions) -> object:
    """Return PyG's loader of the graphs of the prefixes, with the attributes that FGNN and GAG use.

    Nodes are numbered in the order of their first click; an edge counts its transitions; a prefix
    of one click has an edge to itself.
    """
    graphs = []
    for prefix, target in zip(sessions.prefixes, sessions.targets, strict=True):
        counts = collections.Counter(prefix)
        nodes = {item: node for node, item in enumerate(counts)}
        path = [nodes[item] for item in prefix]
        steps = list(itertools.pairwise(path)) or [(path[0], path[0])]
        edges = collections.Counter(steps)
        senders, receivers = (collections.Counter(edge[end] for edge in edges) for end in (0, 1))
        transitions = torch.tensor(list(edges.values()), dtype=torch.float)
        graph = Data(
            x=torch.tensor([[item] for item in nodes]),
            y=torch.tensor([target]),
            edge_index=torch.tensor(list(edges)).T.contiguous(),
            edge_attr=transitions,
            edge_count=transitions,
            num_count=torch.tensor(list(counts.values()), dtype=torch.float),
            out_degree_inv=torch.tensor([1 / senders[edge[0]] for edge in edges]),
            in_degree_inv=torch.tensor([1 / receivers[edge[1]] for edge in edges]),
            sequence=torch.tensor(prefix),
            userid=torch.tensor([1]),
        )
        graphs.append(graph)
    return DataLoader(graphs[:-1], batch_size=sessions.batch, shuffle=True)


def gru4rec_bprmax(
    folder: Path, out: Path, *, official: Path, steps: int = 200, batch: int = 128
) -> None:
    settings = {"loss": "bpr-max", "dropout_p_embed": 0.5, "dropout_p_hidden": 0.3}
    settings |= {"momentum": 0.15, "sample_alpha": 0.3, "bpreg": 0.9, "elu_param": 1.0}
    _gru4rec(folder, out, official, steps, batch, settings)


def gru4rec_ce(
    folder: Path, out: Path, *, official: Path, steps: int = 200, batch: int = 128
) -> None:
    settings = {"loss": "cross-entropy", "dropout_p_embed": 0.5, "dropout_p_hidden": 0.3}
    _gru4rec(folder, out, official, steps, batch, settings | {"logq": 1.0, "sample_alpha": 0.5})


def _gru4rec(
    folder: Path, out: Path, official: Path, steps: int, batch: int, settings: dict[str, object]
) -> None:
    """Time the official `fit`: batches of parallel sessions, 2,048 negatives, embeddings tied."""
    (code,) = official_modules(official / "GRU4Rec_PyTorch_Official", "gru4rec_pytorch")
    code.torch = _CPUTorch()
    sessions = read_sessions(folder)
    lengths = [len(session) for session in sessions]
    clicks = {
        "SessionId": np.repeat(np.arange(len(sessions)), lengths),
        "ItemId": np.concatenate(sessions),
        "Time": np.arange(sum(lengths)),
    }
    timer = EpochTimer(0, steps, clock=time.process_time)
    timer.begin_epoch(-(-(sum(lengths) - len(sessions)) // batch))
    optimizer_step = code.IndexedAdagradM.step

    def timed_step(self, *arguments: object) -> None:
        optimizer_step(self, *arguments)
        if timer.end_step():
            raise _StopTraining

    code.IndexedAdagradM.step = timed_step
    model = code.GRU4Rec(
        layers=[100], batch_size=batch, n_sample=2048, device=torch.device("cpu"), **settings
    )
    samples = 2048 * (steps + EpochTimer.warm_up_steps + 1)
    with contextlib.suppress(_StopTraining):
        model.fit(pd.DataFrame(clicks), sample_cache_max_size=samples, compatibility_mode=False)
    _write(out, timer)


class _StopTraining(Exception):  # noqa: N818
    """Raised after the last timed step."""


if __name__ == "__main__":
    tasks = (srgnn, tagnn, gcegnn, cotrec, fgnn, gag, gru4rec_bprmax, gru4rec_ce)
    main({task.__name__: task for task in tasks})
