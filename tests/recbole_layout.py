"""Write logs and checkpoints in RecBole's layout and compute its metrics, without RecBole."""

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
    """Return a final config of RecBole with the settings that the import reads."""
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
    """Return the items of each user, numbered arbitrarily."""
    random = np.random.default_rng(seed)
    return [random.permutation(N_ITEMS)[: 4 + user % 6] for user in range(N_USERS)]


def write_log(path):
    """Write the histories as a log and return them with RecBole's item ids less 1.

    The rows are ordered by time: first the first item of every user, then the second, and so on.
    """
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

    def random(*shape):
        return 0.5 * torch.randn(shape, generator=generator)

    if name in ("BPR", "LightGCN"):
        return OrderedDict((key, random(rows, DIM)) for key, rows in TABLES.items())
    state = OrderedDict({"item_embedding.weight": random(N_ITEMS + 1, DIM)})
    if name == "GRU4Rec":
        state["gru_layers.weight_ih_l0"] = random(3 * HIDDEN, DIM)
        state["gru_layers.weight_hh_l0"] = random(3 * HIDDEN, HIDDEN)
        state["dense.weight"], state["dense.bias"] = random(DIM, HIDDEN), random(DIM)
        return state
    state["position_embedding.weight"] = random(LENGTH, DIM)
    parts = {f"trm_encoder.layer.{n}.{k}": v for n in range(LAYERS) for k, v in BLOCK.items()}
    for key, shape in (parts | {"LayerNorm": (DIM,)}).items():
        state[f"{key}.weight"], state[f"{key}.bias"] = random(*shape), random(shape[0])
    return state if name == "SASRec" else _as_gsau(state, random(N_USERS + 1, DIM))


def _as_gsau(state, users):
    """Return the state under the names of GSAU's fork, whose encoders share their embeddings."""
    items = state["item_embedding.weight"]
    gsau = OrderedDict()
    for module in ("embedding_layer", "graph_encoder.embedding_layer"):
        gsau[f"{module}.user_embedding.weight"] = users
        gsau[f"{module}.item_embedding.weight"] = items
    return gsau | {f"sequential_encoder.{key}": value for key, value in state.items()}


class ModelType(enum.Enum):
    GENERAL = 1
    SEQUENTIAL = 2


@contextlib.contextmanager
def classes():
    """Provide RecBole's classes under the names that RecBole's pickles refer to."""
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
    with classes() as config_class:
        final_config = config_class()
        final_config.yaml_loader = None
        final_config.final_config_dict = config | {
            "MODEL_TYPE": kind,
            "device": torch.device("cpu"),
        }
        content = {
            "config": final_config,
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
    """Read a checkpoint as RecBole does, executing its pickle."""
    with classes():
        return torch.load(path, weights_only=False)


def vectors(name, state, rows, held_out):
    """Return the vectors RecBole ranks with: users, and items with the padding in row 0.

    Args:
        name: RecBole's name of the model.
        state: its weights.
        rows: whole histories.
        held_out: number of items at the end of each history that the encoder does not read; the
            graph always excludes two.
    """
    if name in ("BPR", "LightGCN"):
        users, items = (state[key] for key in TABLES)
        if name == "LightGCN":
            users, items = propagate(users, items, rows)
        return users[1:], items
    state = {key.removeprefix("sequential_encoder."): value for key, value in state.items()}
    items = state["item_embedding.weight"]
    inputs = [torch.tensor(row[: len(row) - held_out][-LENGTH:] + 1) for row in rows]
    encode = _recurrent if name == "GRU4Rec" else _transformer
    return torch.stack([encode(state, items[ids]) for ids in inputs]), items


def propagate(users, items, rows):
    """Return LightGCN's propagated embeddings, computed with dense matrices."""
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
        block = {
            key.split(f"layer.{number}.")[1]: value
            for key, value in state.items()
            if f"layer.{number}." in key
        }
        layer = nn.TransformerEncoderLayer(
            DIM, 2, INNER, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True
        )
        layer.load_state_dict(_as_torch(block))
        x = layer(x, src_mask=mask)
    return x[0, -1]


def _as_torch(block):
    names = {
        "multi_head_attention.dense": "self_attn.out_proj",
        "multi_head_attention.LayerNorm": "norm1",
        "feed_forward.dense_1": "linear1",
        "feed_forward.dense_2": "linear2",
        "feed_forward.LayerNorm": "norm2",
    }
    state = {}
    for kind in ("weight", "bias"):
        parts = [block[f"multi_head_attention.{part}.{kind}"] for part in ("query", "key", "value")]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
        state |= {f"{new}.{kind}": block[f"{old}.{kind}"] for old, new in names.items()}
    return state


@torch.no_grad()
def expected_ndcg(name, state, rows, split="valid", k=10):
    """Return RecBole's NDCG@k, which masks histories for general models only."""
    held_out = {"valid": 2, "test": 1}[split]
    users, items = vectors(name, state, rows, held_out)
    scores = users @ items.T
    scores[:, 0] = -torch.inf
    gains = []
    for row, user_scores in zip(rows, scores, strict=True):
        target = row[len(row) - held_out] + 1
        if name not in SEQUENTIAL:
            user_scores[row[: len(row) - held_out] + 1] = -torch.inf
        rank = int((user_scores > user_scores[target]).sum()) + 1
        gains.append(1 / np.log2(rank + 1) if rank <= k else 0.0)
    return round(float(np.mean(gains)), 4)


def make_files(folder, name, **changes):
    """Write a log and a checkpoint of a model with random weights; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = write_log(folder / "log.inter")
    state, cached = weights(name), {}
    if name == "LightGCN":  # views of one tensor, as in RecBole
        both = torch.cat(propagate(*(state[key] for key in TABLES), rows))
        users, items = both.split([N_USERS + 1, N_ITEMS + 1])
        cached = {"restore_user_e": users, "restore_item_e": items}
    score = changes.pop("score", None)
    score = expected_ndcg(name, state, rows) if score is None else score
    file = save(folder / f"{name}.pth", settings(name, **changes), state, score, cached=cached)
    return file, folder / "log.inter"
