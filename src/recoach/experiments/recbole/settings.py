"""Convert RecBole's settings to ours: model, training, filters, evaluation."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from recoach.errors import ConfigError
from recoach.evaluation.evaluator import KS
from recoach.experiments.recbole.log import bounds, table
from recoach.experiments.recbole.split import SEQUENTIAL, described_split, eval_settings

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
"""RecBole's name of a model -> ours, and its settings -> (our name, RecBole's default)."""
_TRANSFORMER: dict[str, object] = {"hidden_act": "gelu", "layer_norm_eps": 1e-12}
_FIXED_SETTINGS: dict[str, dict[str, object]] = {
    "SASRec": _TRANSFORMER,
    "GSAU": {
        **_TRANSFORMER,
        "sequential_encoder": "SASRec",
        "graph_encoder": "LightGCN",
        "enable_graph_encoder": True,
        "enable_sequential_encoder": True,
    },
}
"""Settings that have only one possible value in our models."""
_CHOICES = {"loss_type", "require_pow", "predict_with_graph_encoder"}
_TRAINING = {
    "learning_rate": ("learning_rate", 1e-3),
    "train_batch_size": ("batch_size", 2048),
    "epochs": ("epochs", 300),
}
_METRICS = frozenset({"hit", "map", "mrr", "ndcg", "precision", "recall"})
"""Metrics of the same name here; RecBole divides "map" by min(k, number of targets), we do not."""
_COLUMNS = {
    "USER_ID_FIELD": ("user_id", "user_id"),
    "ITEM_ID_FIELD": ("item_id", "item_id"),
    "TIME_FIELD": ("timestamp", "timestamp"),
    "RATING_FIELD": ("rating", "rating"),
}
_CONVERTED_ELSEWHERE = {
    *("model", "dataset", "data_path", "seed", "stopping_step", "valid_metric", "topk"),
    *("eval_args", "benchmark_filename", "repeatable", "rm_dup_inter", "val_interval", "load_col"),
    "weight_decay",
    *("user_inter_num_interval", "item_inter_num_interval"),
}


class ConvertedSettings(NamedTuple):
    """RecBole's settings as ours."""

    tables: dict[str, Any]
    """Nested plain values, for `resolve`."""
    dropped: dict[str, str]
    """RecBole's settings that were not converted, and the reason."""


def convert_settings(config: Mapping[str, Any], where: str) -> ConvertedSettings:
    """Convert RecBole's settings, from a YAML file or a checkpoint that `where` names in errors.

    Missing settings have RecBole's default.

    Raises:
        ConfigError: a model or an architecture that is not supported.
        DataError: a table or an interval of the settings is not valid.
    """
    name = str(config.get("model"))
    if name not in MODELS:
        raise ConfigError(
            f"{where}: model {name!r} is not supported; supported are {', '.join(MODELS)}."
        )
    _check_fixed(name, config, where)
    dropped: dict[str, str] = {}
    tables = {
        "seed": _number(config.get("seed", 2020)),
        "data": _data(config, dropped),
        "model": {"name": MODELS[name][0]} | _model(name, config),
        "pretrain": _pretrain(config, dropped),
        "evaluation": {"repeats": _mask(name, config), "ks": _list_lengths(config)},
    }
    metric = tables["pretrain"].get("metric", "ndcg@10")
    tables["finetune"] = {"metric": metric}
    converted = _CONVERTED_ELSEWHERE | set(_TRAINING) | set(_COLUMNS) | set(MODELS[name][1])
    converted |= set(_FIXED_SETTINGS.get(name, {})) | _CHOICES | set(dropped)
    dropped |= {key: "no counterpart" for key in config if key not in converted}
    return ConvertedSettings(tables, dropped)


def valid_metric(config: Mapping[str, Any]) -> str | None:
    """Return our name of the metric that RecBole selects by, like "ndcg@10"; None if we lack it."""
    match = re.fullmatch(r"(\w+)@([1-9]\d*)", str(config.get("valid_metric", "MRR@10")))
    name = match[1].lower() if match else ""
    return f"{name}@{match[2]}" if match and name in _METRICS else None


def _model(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    fields = MODELS[name][1]
    settings = {ours: _number(config.get(key, default)) for key, (ours, default) in fields.items()}
    if config.get("loss_type", "CE") == "BPR":
        # A softmax over the target and one sampled item is BPR.
        settings |= {"SASRec": {"loss": "sampled_ce"}, "GRU4Rec": {"loss": "bpr"}}.get(name, {})
    if name == "LightGCN":
        settings["loss"] = "bpr"
        if config.get("require_pow"):
            settings["penalty"] = "squared"
    if name == "GSAU" and config.get("predict_with_graph_encoder"):
        settings["scorer"] = "graph"
    return settings


def _check_fixed(name: str, config: Mapping[str, Any], where: str) -> None:
    for key, supported in _FIXED_SETTINGS.get(name, {}).items():
        value = _number(config.get(key, supported))
        if value != supported:
            raise ConfigError(
                f"{where}: {key} is {value!r}, but {name} supports only {supported!r} here."
            )


def _pretrain(config: Mapping[str, Any], dropped: dict[str, str]) -> dict[str, Any]:
    settings = {ours: _number(config.get(k, default)) for k, (ours, default) in _TRAINING.items()}
    # RecBole stops after more than stopping_step evaluations without improvement, we after
    # patience of them.
    stopping_step = _number(config.get("stopping_step", 10))
    is_integer = isinstance(stopping_step, int)
    settings["patience"] = stopping_step + 1 if is_integer else stopping_step
    metric = valid_metric(config)
    if metric is None:
        dropped["valid_metric"] = "not supported; ndcg@10 is used"
    else:
        settings["metric"] = metric
    if config.get("weight_decay"):  # which RecBole adds to the gradient
        settings |= {"optim": "adam", "weight_decay": _number(config["weight_decay"])}
    if str(config.get("learner", "adam")).lower() != "adam":
        dropped["learner"] = "only Adam is supported"
    return settings


def _data(config: Mapping[str, Any], dropped: dict[str, str]) -> dict[str, Any]:
    name = str(config.get("dataset", "log"))
    settings: dict[str, Any] = {
        "path": f"{str(config.get('data_path', 'dataset')).rstrip('/')}/{name}/{name}.inter",
        "name": name,
        "dedup": config.get("rm_dup_inter") or "none",
    }
    k_core = _k_core(config, dropped)
    if k_core is not None:
        settings["k_core"] = k_core
    columns = {
        ours: str(config[key])
        for key, (ours, default) in _COLUMNS.items()
        if config.get(key, default) != default
    }
    if columns:
        settings["columns"] = columns
    rating = str(config.get("RATING_FIELD", "rating"))
    for field, interval in table(config, "val_interval").items():
        low = _lower_bound(interval)
        if field == rating and low is not None:
            settings["min_rating"] = low
        else:
            dropped["val_interval"] = (
                f"only a lower bound of the rating is supported, not {field} {interval}"
            )
    settings["split"] = _split(config, dropped)
    return settings


def _split(config: Mapping[str, Any], dropped: dict[str, str]) -> str | dict[str, Any]:
    """Return the split as a setting of `[data]`; "auto" if RecBole's has no counterpart."""
    settings = eval_settings(config)
    split = described_split(config, settings)
    if split.kind == "given":
        key = "benchmark_filename" if settings.kind == "files" else "eval_args"
        dropped[key] = 'no counterpart; data.split is "auto", set it to the split you need'
        return "auto"
    if settings.shuffles:
        dropped["eval_args"] = "the ratios are converted; Recoach draws another random order"
    if settings.mode != "full":
        dropped["eval_args"] = f"mode {settings.mode} has no counterpart; all items are ranked"
    return split.model_dump(exclude_defaults=True, mode="json") | {"kind": split.kind}


def _k_core(config: Mapping[str, Any], dropped: dict[str, str]) -> int | None:
    """Return the one lower bound for users and items; None if they have none in common."""
    keys = ("user_inter_num_interval", "item_inter_num_interval")
    minima = [_lower_bound(config.get(key) or "[0,inf)") for key in keys]
    if minima[0] is None or minima[1] is None:
        dropped |= dict.fromkeys(keys, "k_core is one lower bound for both users and items")
        return None
    bounds = [math.ceil(low) if low > 1 else 0 for low in minima if low is not None]
    if bounds[0] != bounds[1]:
        dropped |= dict.fromkeys(keys, "k_core is one lower bound for both users and items")
        return None
    return bounds[0]


def _lower_bound(interval: object) -> float | None:
    """Return the x of "[x,inf)", None for any other interval."""
    if not isinstance(interval, str) or ";" in interval:
        return None
    low, high, (left, _) = bounds(interval)
    return low if left == "[" and high == float("inf") else None


def _mask(name: str, config: Mapping[str, Any]) -> str:
    return "all" if config.get("repeatable") and name not in SEQUENTIAL else "recbole"


def _list_lengths(config: Mapping[str, Any]) -> list[Any]:
    topk = config.get("topk", 10)
    numbers = [_number(k) for k in (topk if isinstance(topk, list) else [topk])]
    # Values of another type are returned as they are, for `resolve` to report.
    valid = all(isinstance(k, int) for k in numbers)
    return sorted({*KS, *numbers}) if valid else numbers


def _number(value: object) -> Any:  # noqa: ANN401 - a value of any type
    """Return the number of a text like "1e-3", which YAML reads as text; else the value itself."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if re.search(r"[.eE]", value) else int(value)
    except ValueError:
        return value
