"""Conversion of settings of earlier versions: the table `[grpo]` and `finetune = true`.

Earlier versions had one table `[grpo]` with the settings of all algorithms, `algorithm` among them,
and a switch `finetune`. Now the table `[finetune]` has the switch as `enabled`, the algorithm, and
only the settings that this algorithm reads.
"""

from collections.abc import Mapping
from typing import Any, Final

from recoach.data.targets import FORMER_MASK_SEEN
from recoach.errors import ConfigError
from recoach.training.algorithms.registry import ALGORITHMS, FORMER_NAMES

_RENAMED: Final = {"top_k_off_policy": {"pass_k": "top_k"}}
"""Renamed settings of an algorithm."""
_REUSED: Final = {"s_dpo": {"num_negatives"}, "sqn_actor_critic": {"num_negatives"}}
"""Settings of an algorithm whose name had another meaning in `[grpo]`."""
_DEFAULTS: Final[dict[str, object]] = {
    "estimator": "exact",
    "loss_type": "log",
    "pass_k": 10,
    "power": 0.5,
    "slate_length": 10,
    "replacement": True,
    "dead_groups": "zero",
    "num_negatives": 8192,
    "num_iterations": 1,
    "old_model_sync_steps": 1,
    "epsilon": 0.2,
    "scale_rewards": "group",
    "beta": 0.0,
    "kl_estimator": "exact",
    "ref_model_sync_steps": 0,
    "entropy_coef": 0.0,
    "normalize_weights": True,
    "shard_items": False,
}
"""Defaults in `[grpo]` of the settings that not every algorithm reads; the others were unset."""
_ESTIMATORS: Final = {"reinforce": "sampled", "raft": "sampled", "ppo": "sampled"}
"""The only estimator that these algorithms accepted."""
_EFFECTIVE: Final = {"num_iterations"}
"""Settings that had an effect on algorithms that no longer have them."""


def is_legacy(raw: Mapping[str, Any]) -> bool:
    """Return whether nested settings have the form of an earlier version."""
    return "grpo" in raw or isinstance(raw.get("finetune"), bool)


def upgrade(raw: Mapping[str, Any], where: str, *, strict: bool = False) -> dict[str, Any]:
    """Return nested settings in the present form; those that have it are returned unchanged.

    Args:
        raw: the parsed TOML or a stored record.
        where: the source of the values, for error messages.
        strict: refuse explicit settings that the algorithm does not read; otherwise they are left
            out, because earlier versions accepted them without effect.

    Raises:
        ConfigError: a setting cannot be converted, or both forms are mixed.
    """
    if not is_legacy(raw):
        _check_critic(raw.get("finetune"), where)
        return dict(raw)
    result = {name: table for name, table in raw.items() if name not in ("grpo", "finetune")}
    switch, grpo = raw.get("finetune"), raw.get("grpo", {})
    if isinstance(switch, Mapping) and "grpo" in raw:
        raise ConfigError(
            f"{where}: [grpo] is the former name of [finetune]; move its settings to [finetune]."
        )
    if not isinstance(grpo, Mapping):
        raise ConfigError(f"{where}: grpo must be a table of settings ([grpo]), not {grpo!r}.")
    if switch is not None and not isinstance(switch, bool):
        raise ConfigError(f"{where}: finetune must be a table ([finetune]), not {switch!r}.")
    table = _upgrade_table(grpo, where, strict=strict)
    return result | {"finetune": table if switch is None else {"enabled": switch} | table}


def _check_critic(table: object, where: str) -> None:
    """Refuse a stored table of the algorithm that `sqn_actor_critic` was in earlier versions."""
    if not isinstance(table, Mapping) or "kl_estimator" not in table:
        return
    if table.get("algorithm") in ("sac", "sqn_actor_critic"):
        raise ConfigError(
            f"{where}: finetune.algorithm: the run was trained by the 'sqn_actor_critic' of an "
            "earlier version, which rewarded later items and is replaced by another algorithm. "
            "Open the run with that version (env.json), or train it anew."
        )


def upgrade_evaluation(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with `mask_seen` and `test_items` of earlier versions converted.

    Leave-last-out was the only split then.
    """
    result = dict(raw)
    data, evaluation = raw.get("data"), raw.get("evaluation")
    if isinstance(data, Mapping) and "test_items" in data:
        kept = {name: value for name, value in data.items() if name != "test_items"}
        split = {"kind": "leave_last_out", "test_items": data["test_items"]}
        result["data"] = {"split": split} | kept
    if not isinstance(evaluation, Mapping):
        return result
    former = evaluation.get("mask_seen")
    if isinstance(former, str) and former in FORMER_MASK_SEEN:
        kept = {name: value for name, value in evaluation.items() if name != "mask_seen"}
        result["evaluation"] = {"repeats": FORMER_MASK_SEEN[former]} | kept
    return result


def is_legacy_override(change: str) -> bool:
    """Return whether an override has the form of an earlier version."""
    key = change.partition("=")[0].strip()
    return key == "finetune" or key.startswith("grpo.")


def upgrade_override(change: str, raw: Mapping[str, Any]) -> str:
    """Return an override in the form of the nested settings that it changes.

    Args:
        change: such as `grpo.beta=0.1` or `finetune=false`.
        raw: the settings that it overrides; without a table `[finetune]`, it is left as it is and
            converted by `upgrade`.
    """
    if not isinstance(raw.get("finetune"), Mapping) or not is_legacy_override(change):
        return change
    key, equals, value = change.partition("=")
    name = key.strip().removeprefix("grpo.")
    if name == "finetune":
        return f"finetune.enabled{equals}{value}"
    if name == "algorithm":
        value = FORMER_NAMES.get(value.strip(" '\""), value)
    return f"finetune.{name}{equals}{value}"


def switch_algorithm(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the table `[finetune]` for another algorithm.

    Settings with the former algorithm's default are left out, so that the new one's applies.

    Args:
        table: the settings so far.
        name: the new algorithm.
    """
    former = str(table.get("algorithm", "grpo"))
    if former == name or former not in ALGORITHMS:
        return dict(table) | {"algorithm": name}
    defaults = {
        key: field.get_default(call_default_factory=True)
        for key, field in ALGORITHMS[former].config.model_fields.items()
    }
    kept = {
        key: value
        for key, value in table.items()
        if key not in defaults or value != _plain(defaults[key])
    }
    return kept | {"algorithm": name}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _upgrade_table(grpo: Mapping[str, Any], where: str, *, strict: bool) -> dict[str, Any]:
    """Return the table `[finetune]` for a table `[grpo]`."""
    named = str(grpo.get("algorithm", "grpo"))
    name = FORMER_NAMES.get(named, named)
    if name not in ALGORITHMS or name == "grpo":
        return dict(grpo)  # an unknown name is reported where the table is resolved
    fields = ALGORITHMS[name].config.model_fields
    defaults = _DEFAULTS | {"estimator": _ESTIMATORS.get(named, "exact")}
    table: dict[str, Any] = {}
    for key, value in grpo.items():
        present = _RENAMED.get(name, {}).get(key, key)
        if key == "algorithm":
            table[key] = name
        elif present in fields and key not in _REUSED.get(name, set()):
            table[present] = value
        elif value == defaults.get(key) or not (strict or key in _EFFECTIVE):
            continue
        else:
            raise ConfigError(
                f"{where}: algorithm {name!r} does not read grpo.{key} = {value!r}; remove it."
            )
    return table
