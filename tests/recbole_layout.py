"""Logs and checkpoints in RecBole's layout, and its scores, made without RecBole."""

import contextlib
import enum
import sys
import types
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

DIM, HIDDEN, INNER, LAYERS, LENGTH = 8, 12, 16, 2, 6
N_USERS, N_ITEMS = 40, 25
TABLES = {"user_embedding.weight": N_USERS + 1, "item_embedding.weight": N_ITEMS + 1}
BLOCK = {
    "multi_head_attention.query": (DIM, DIM),
    "multi_head_attention.key": (DIM, DIM),
    "multi_head_attention.value": (DIM, DIM),
    "multi_head_attention.dense": (DIM, DIM),
    "multi_head_attention.LayerNorm": (DIM,),
    "feed_forward.dense_1": (INNER, DIM),
    "feed_forward.dense_2": (DIM, INNER),
    "feed_forward.LayerNorm": (DIM,),
}
SEQUENCE = {"hidden_size": DIM, "n_layers": LAYERS, "n_heads": 2, "inner_size": INNER}
SEQUENCE |= {"hidden_dropout_prob": 0.1, "MAX_ITEM_LIST_LENGTH": LENGTH}
SETTINGS = {
    "BPR": {"embedding_size": DIM},
    "GRU4Rec": {"embedding_size": DIM, "hidden_size": HIDDEN, "MAX_ITEM_LIST_LENGTH": LENGTH},
    "GSAU": SEQUENCE | {"embedding_size": DIM, "gamma": 0.2, "sequential_encoder": "SASRec"},
    "LightGCN": {"embedding_size": DIM, "n_layers": 2},
    "SASRec": SEQUENCE,
}
MODELS = sorted(SETTINGS)
SEQUENTIAL = ("GRU4Rec", "GSAU", "SASRec")


def settings(name, **changes):
    """Return a final config of RecBole's, as far as anybody asks for it."""
    common = {
        "model": name,
        "dataset": "log",
        "seed": 2020,
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "user_inter_num_interval": "[0,inf)",
        "item_inter_num_interval": "[0,inf)",
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "group_by": "user",
            "mode": {"valid": "full", "test": "full"},
        },
        "repeatable": name in SEQUENTIAL,
        "valid_metric": "NDCG@10",
        "metric_decimal_place": 4,
        "learning_rate": 0.01,
        "train_batch_size": 64,
    }
    return common | SETTINGS[name] | changes


def histories(seed=0):
    """Return rows of items by user: ids as RecBole numbers them, less one."""
    random = np.random.default_rng(seed)
    return [random.permutation(N_ITEMS)[: 4 + user % 6] for user in range(N_USERS)]


def write_log(path):
    """Write the histories, one step of all users after the other, and return them by number."""
    rows = histories()
    items, lines = {}, ["user_id:token\titem_id:token\ttimestamp:float"]
    for step in range(max(map(len, rows))):
        for user, row in enumerate(rows):
            if step < len(row):
                item = items.setdefault(int(row[step]), len(items))
                lines.append(f"u{user}\ti{row[step]}\t{1e9 + 1000 * step:.1f}")
                row[step] = item
    assert len(items) == N_ITEMS
    path.write_text("\n".join(lines) + "\n")
    return rows


def weights(name, seed=1):
    """Return random weights under RecBole's names."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return 0.5 * torch.randn(shape, generator=generator)

    if name in ("BPR", "LightGCN"):
        return OrderedDict((key, drawn(rows, DIM)) for key, rows in TABLES.items())
    state = OrderedDict({"item_embedding.weight": drawn(N_ITEMS + 1, DIM)})
    if name == "GRU4Rec":
        state["gru_layers.weight_ih_l0"] = drawn(3 * HIDDEN, DIM)
        state["gru_layers.weight_hh_l0"] = drawn(3 * HIDDEN, HIDDEN)
        state["dense.weight"], state["dense.bias"] = drawn(DIM, HIDDEN), drawn(DIM)
        return state
    state["position_embedding.weight"] = drawn(LENGTH, DIM)
    parts = {f"trm_encoder.layer.{n}.{k}": v for n in range(LAYERS) for k, v in BLOCK.items()}
    for key, shape in (parts | {"LayerNorm": (DIM,)}).items():
        state[f"{key}.weight"], state[f"{key}.bias"] = drawn(*shape), drawn(shape[0])
    return state if name == "SASRec" else _as_gsau(state, drawn(N_USERS + 1, DIM))


def _as_gsau(state, users):
    """Return the state under the names of GSAU's fork, whose encoders share their tables."""
    items = state["item_embedding.weight"]
    own = OrderedDict()
    for place in ("embedding_layer", "graph_encoder.embedding_layer"):
        own[f"{place}.user_embedding.weight"] = users
        own[f"{place}.item_embedding.weight"] = items
    return own | {f"sequential_encoder.{key}": value for key, value in state.items()}


class ModelType(enum.Enum):
    GENERAL = 1
    SEQUENTIAL = 2


@contextlib.contextmanager
def classes():
    """Let RecBole's classes be where a pickle of RecBole's says they are."""
    if "recbole.config.configurator" in sys.modules:
        yield sys.modules["recbole.config.configurator"].Config
        return
    config = type("Config", (), {"__module__": "recbole.config.configurator"})
    ModelType.__module__ = "recbole.utils.enum_type"
    names = ("recbole", "recbole.config", "recbole.config.configurator")
    names += ("recbole.utils", "recbole.utils.enum_type")
    modules = {name: types.ModuleType(name) for name in names}
    modules["recbole.config.configurator"].Config = config
    modules["recbole.utils.enum_type"].ModelType = ModelType
    sys.modules.update(modules)
    try:
        yield config
    finally:
        for name in modules:
            del sys.modules[name]


def save(path, config, state, score, *, cached=None, protocol=4):
    """Write a checkpoint as RecBole's trainer does."""
    kind = ModelType.SEQUENTIAL if config["model"] in SEQUENTIAL else ModelType.GENERAL
    with classes() as own:
        settled = own()
        settled.yaml_loader = None
        settled.final_config_dict = config | {"MODEL_TYPE": kind, "device": torch.device("cpu")}
        content = {
            "config": settled,
            "epoch": 3,
            "cur_step": 0,
            "best_valid_score": np.float64(score),
            "state_dict": state,
            "other_parameter": cached or {},
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
        }
        torch.save(content, path, pickle_protocol=protocol)
    return path


def load(path):
    """Read a checkpoint as RecBole would, running what is in it."""
    with classes():
        return torch.load(path, weights_only=False)


def vectors(name, state, rows, held_out):
    """Return what RecBole would rank with: users and items, row 0 for padding.

    Args:
        name: RecBole's name of the model.
        state: its weights.
        rows: histories, all of them.
        held_out: items at the end of each that are not yet known; the graph never knows two.
    """
    if name in ("BPR", "LightGCN"):
        users, items = (state[key] for key in TABLES)
        if name == "LightGCN":
            users, items = propagated(users, items, rows)
        return users[1:], items
    state = {key.removeprefix("sequential_encoder."): value for key, value in state.items()}
    items = state["item_embedding.weight"]
    read = [torch.tensor(row[: len(row) - held_out][-LENGTH:] + 1) for row in rows]
    encode = _recurrent if name == "GRU4Rec" else _transformer
    return torch.stack([encode(state, items[ids]) for ids in read]), items


def propagated(users, items, rows):
    """Return the mean of the powers of the normalised adjacency, done densely."""
    edges = torch.zeros(len(users), len(items))
    for user, row in enumerate(rows):
        edges[user + 1, row[:-2] + 1] = 1
    size = len(users) + len(items)
    matrix = torch.zeros(size, size)
    matrix[: len(users), len(users) :], matrix[len(users) :, : len(users)] = edges, edges.T
    scale = (matrix.sum(dim=1) + 1e-7) ** -0.5
    layers = [torch.cat([users, items])]
    for _ in range(2):
        layers.append((scale[:, None] * matrix * scale) @ layers[-1])
    return torch.stack(layers).mean(dim=0).split([len(users), len(items)])


def _recurrent(state, vectors):
    gru = nn.GRU(DIM, HIDDEN, bias=False, batch_first=True)
    gru.load_state_dict({k: state[f"gru_layers.{k}"] for k in ("weight_ih_l0", "weight_hh_l0")})
    output, _ = gru(vectors[None])
    return output[0, -1] @ state["dense.weight"].T + state["dense.bias"]


def _transformer(state, vectors):
    norm = (state["LayerNorm.weight"], state["LayerNorm.bias"], 1e-12)
    x = vectors + state["position_embedding.weight"][: len(vectors)]
    x = nn.functional.layer_norm(x, (DIM,), *norm)[None]
    mask = nn.Transformer.generate_square_subsequent_mask(len(vectors))
    for number in range(LAYERS):
        own = {
            key.split(f"layer.{number}.")[1]: value
            for key, value in state.items()
            if f"layer.{number}." in key
        }
        layer = nn.TransformerEncoderLayer(
            DIM, 2, INNER, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True
        )
        layer.load_state_dict(_as_torch(own))
        x = layer(x, src_mask=mask)
    return x[0, -1]


def _as_torch(own):
    theirs = {
        "multi_head_attention.dense": "self_attn.out_proj",
        "multi_head_attention.LayerNorm": "norm1",
        "feed_forward.dense_1": "linear1",
        "feed_forward.dense_2": "linear2",
        "feed_forward.LayerNorm": "norm2",
    }
    state = {}
    for kind in ("weight", "bias"):
        parts = [own[f"multi_head_attention.{part}.{kind}"] for part in ("query", "key", "value")]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
        state |= {f"{new}.{kind}": own[f"{old}.{kind}"] for old, new in theirs.items()}
    return state


@torch.no_grad()
def measured(name, state, rows, split="valid", k=10):
    """Return RecBole's NDCG@k: histories masked for general models only."""
    back = {"valid": 2, "test": 1}[split]
    users, items = vectors(name, state, rows, back)
    scores = users @ items.T
    scores[:, 0] = -torch.inf
    gains = []
    for row, own in zip(rows, scores, strict=True):
        target = row[len(row) - back] + 1
        if name not in SEQUENTIAL:
            own[row[: len(row) - back] + 1] = -torch.inf
        rank = int((own > own[target]).sum()) + 1
        gains.append(1 / np.log2(rank + 1) if rank <= k else 0.0)
    return round(float(np.mean(gains)), 4)


def made(folder, name, **changes):
    """Write a log and a checkpoint of a model with random weights; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = write_log(folder / "log.inter")
    state, cached = weights(name), {}
    if name == "LightGCN":  # as views of one tensor, which they are in RecBole
        both = torch.cat(propagated(*(state[key] for key in TABLES), rows))
        users, items = both.split([N_USERS + 1, N_ITEMS + 1])
        cached = {"restore_user_e": users, "restore_item_e": items}
    score = changes.pop("score", None)
    score = measured(name, state, rows) if score is None else score
    file = save(folder / f"{name}.pth", settings(name, **changes), state, score, cached=cached)
    return file, folder / "log.inter"
