"""RecBole's settings in our words: models, training, filters, protocol."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from recoach.errors import ConfigError
from recoach.evaluation.evaluator import KS
from recoach.experiments.recbole.log import SEQUENTIAL, bounds, table

_SEQUENCE = {
    "hidden_size": ("dim", 64),
    "n_layers": ("layers", 2),
    "n_heads": ("heads", 2),
    "inner_size": ("inner_dim", 256),
    "hidden_dropout_prob": ("dropout", 0.5),
    "MAX_ITEM_LIST_LENGTH": ("max_length", 50),
}
MODELS: dict[str, tuple[str, dict[str, tuple[str, Any]]]] = {
    "BPR": ("bprmf", {"embedding_size": ("dim", 64)}),
    "GRU4Rec": (
        "gru4rec",
        {
            "embedding_size": ("dim", 64),
            "hidden_size": ("hidden_dim", 128),
            "num_layers": ("layers", 1),
            "dropout_prob": ("dropout", 0.3),
            "MAX_ITEM_LIST_LENGTH": ("max_length", 50),
        },
    ),
    "GSAU": (
        "gsau",
        _SEQUENCE
        | {
            "gamma": ("gamma", 0.1),
            "rec": ("rec", False),
            "enable_u_i_uniformity": ("user_item_uniformity", True),
        },
    ),
    "LightGCN": (
        "lightgcn",
        {
            "embedding_size": ("dim", 64),
            "n_layers": ("layers", 2),
            "reg_weight": ("regularisation", 1e-5),
        },
    ),
    "SASRec": ("sasrec", _SEQUENCE),
}
"""RecBole's name -> ours, and its settings -> (ours, RecBole's default)."""
_FIXED: dict[str, dict[str, object]] = {
    "SASRec": {"hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "GSAU": {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "sequential_encoder": "SASRec",
        "graph_encoder": "LightGCN",
        "enable_graph_encoder": True,
        "enable_sequential_encoder": True,
    },
}
"""Settings that our architectures have built in."""
_CHOICES = {"loss_type", "require_pow", "predict_with_graph_encoder"}
_TRAINING = {
    "learning_rate": ("learning_rate", 1e-3),
    "train_batch_size": ("batch_size", 2048),
    "epochs": ("epochs", 300),
}
_METRICS = {"hit": "recall", "map": "mrr", "mrr": "mrr", "ndcg": "ndcg", "recall": "recall"}
"""RecBole's metrics in ours, which they equal where a user has one target."""
_COLUMNS = {
    "USER_ID_FIELD": ("user_id", "user_id"),
    "ITEM_ID_FIELD": ("item_id", "item_id"),
    "TIME_FIELD": ("timestamp", "timestamp"),
    "RATING_FIELD": ("rating", "rating"),
}
_READ = {
    *("model", "dataset", "data_path", "seed", "stopping_step", "valid_metric", "topk"),
    *("eval_args", "repeatable", "rm_dup_inter", "val_interval", "load_col"),
    *("user_inter_num_interval", "item_inter_num_interval"),
}


class ConvertedSettings(NamedTuple):
    """Settings in our words."""

    tables: dict[str, Any]
    """As `resolve` takes them."""
    dropped: dict[str, str]
    """RecBole's settings that have no counterpart here, and why."""


def convert_settings(config: Mapping[str, Any], where: str) -> ConvertedSettings:
    """Return what RecBole's settings mean here.

    Args:
        config: as a YAML file or a checkpoint holds them; what is missing has RecBole's default.
        where: named in errors.

    Raises:
        ConfigError: another model, or an architecture that is not built here.
    """
    name = str(config.get("model"))
    if name not in MODELS:
        raise ConfigError(
            f"{where}: model is {name!r}; what can be taken over is {', '.join(MODELS)}."
        )
    _check_fixed(name, config, where)
    dropped: dict[str, str] = {}
    tables = {
        "seed": _number(config.get("seed", 2020)),
        "data": _data(config, dropped),
        "model": {"name": MODELS[name][0]} | _model(name, config),
        "pretrain": _pretrain(config, dropped),
        "evaluation": {"mask_seen": _mask(name, config), "ks": _list_lengths(config)},
    }
    metric = tables["pretrain"].get("metric", "ndcg@10")
    tables["grpo"] = {"metric": metric}
    known = _READ | set(_TRAINING) | set(_COLUMNS) | set(MODELS[name][1])
    known |= set(_FIXED.get(name, {})) | _CHOICES | set(dropped)
    dropped |= {key: "no counterpart" for key in config if key not in known}
    return ConvertedSettings(tables, dropped)


def valid_metric(config: Mapping[str, Any]) -> str | None:
    """Return the metric RecBole selected by under our name, like "ndcg@10"; None if it has none."""
    found = re.fullmatch(r"(\w+)@([1-9]\d*)", str(config.get("valid_metric", "MRR@10")))
    ours = _METRICS.get(found[1].lower()) if found else None
    return f"{ours}@{found[2]}" if found and ours else None


def _model(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    fields = MODELS[name][1]
    settings = {ours: _number(config.get(key, usual)) for key, (ours, usual) in fields.items()}
    if config.get("loss_type", "CE") == "BPR":
        # A softmax over the target and one other item is BPR.
        settings |= {"SASRec": {"loss": "sampled_ce"}, "GRU4Rec": {"loss": "bpr"}}.get(name, {})
    if name == "LightGCN" and config.get("require_pow"):
        settings["penalty"] = "squared"
    if name == "GSAU" and config.get("predict_with_graph_encoder"):
        settings["scorer"] = "graph"
    return settings


def _check_fixed(name: str, config: Mapping[str, Any], where: str) -> None:
    for key, wanted in _FIXED.get(name, {}).items():
        found = _number(config.get(key, wanted))
        if found != wanted:
            raise ConfigError(f"{where}: {key} is {found!r}; our {name} has {wanted!r} built in.")


def _pretrain(config: Mapping[str, Any], dropped: dict[str, str]) -> dict[str, Any]:
    settings = {ours: _number(config.get(k, usual)) for k, (ours, usual) in _TRAINING.items()}
    # RecBole stops when more than so many evaluations were worse, we when so many were.
    worse = _number(config.get("stopping_step", 10))
    settings["patience"] = worse + 1 if isinstance(worse, int) else worse
    metric = valid_metric(config)
    if metric is None:
        dropped["valid_metric"] = "no counterpart; ndcg@10 selects"
    else:
        settings["metric"] = metric
    if config.get("weight_decay"):
        dropped["weight_decay"] = "RecBole adds it to the gradient; pretrain.weight_decay does not"
    if str(config.get("learner", "adam")).lower() != "adam":
        dropped["learner"] = "it is Adam here"
    return settings


def _data(config: Mapping[str, Any], dropped: dict[str, str]) -> dict[str, Any]:
    name = str(config.get("dataset", "log"))
    settings: dict[str, Any] = {
        "path": f"{str(config.get('data_path', 'dataset')).rstrip('/')}/{name}/{name}.inter",
        "name": name,
        "k_core": _k_core(config, dropped),
        "dedup": config.get("rm_dup_inter") or "none",
    }
    columns = {
        ours: str(config[key])
        for key, (ours, usual) in _COLUMNS.items()
        if config.get(key, usual) != usual
    }
    if columns:
        settings["columns"] = columns
    rating = str(config.get("RATING_FIELD", "rating"))
    for field, interval in table(config, "val_interval").items():
        low = _least(interval)
        if field == rating and low is not None:
            settings["min_rating"] = low
        else:
            dropped["val_interval"] = (
                f"only a least rating can be asked for, not {field} {interval}"
            )
    wanted = table(config, "eval_args")
    if not wanted and str(config.get("model")) in SEQUENTIAL:
        return settings  # RecBole's default for these is what we do
    if (wanted.get("split"), wanted.get("order")) != ({"LS": "valid_and_test"}, "TO"):
        dropped["eval_args"] = "the last item is test and the one before valid, by time"
    return settings


def _k_core(config: Mapping[str, Any], dropped: dict[str, str]) -> int:
    keys = ("user_inter_num_interval", "item_inter_num_interval")
    least = [_least(config.get(key) or "[0,inf)") for key in keys]
    if least[0] is None or least[0] != least[1]:
        dropped |= dict.fromkeys(keys, "k_core asks for one least number of both")
        return 0
    return math.ceil(least[0]) if least[0] > 1 else 0


def _least(interval: object) -> float | None:
    """Return the x of "[x,inf)", None for any other interval."""
    if not isinstance(interval, str) or ";" in interval:
        return None
    low, high, (left, _) = bounds(interval)
    return low if left == "[" and high == float("inf") else None


def _mask(name: str, config: Mapping[str, Any]) -> str:
    return "none" if config.get("repeatable") and name not in SEQUENTIAL else "recbole"


def _list_lengths(config: Mapping[str, Any]) -> list[Any]:
    given = config.get("topk", 10)
    asked = given if isinstance(given, list) else [given]
    numbers = [_number(k) for k in asked]
    known = all(isinstance(k, int) for k in numbers)
    return sorted({*KS, *numbers}) if known else numbers


def _number(value: object) -> Any:  # noqa: ANN401 - whatever it is
    """Return a number for text like "1e-3", which YAML takes for text, anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if re.search(r"[.eE]", value) else int(value)
    except ValueError:
        return value
