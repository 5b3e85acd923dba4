"""The evaluation protocol of a run in sentences, and what a reader must be warned of."""

from collections.abc import Mapping
from typing import Any, Final

from recoach.data.dataset import Dataset
from recoach.data.protocol import LeaveLastOut
from recoach.data.split import leaked_share

Protocol = Mapping[str, Any]

_RANKING: Final = {"full": "The target is ranked among all items, not among a sample."}
_REPEATS: Final = {
    "new": "Items that the user has already interacted with are masked, and are no targets.",
    "all": "Items that the user has already interacted with are not masked.",
    "repeat": "Only items that the user has already interacted with are targets; nothing is "
    "masked.",
    "recbole": "As in RecBole, items that the user has already interacted with are masked for "
    "general models and not for sequential ones.",
}
_MASK_SEEN: Final = {
    "all": "Items that the user has already interacted with are masked.",
    "none": _REPEATS["all"],
    "recbole": _REPEATS["recbole"],
}
"""`mask_seen` in records of earlier versions."""
_SCORE_TIES: Final = {
    "against the model": "Items with the same score as the target are ranked above it."
}
_TARGETS: Final = {
    "last": "The last {part} event of each user is the target, predicted from all events before "
    "it.",
    "first": "The first {part} event of each user is the target.",
    "random": "A random {part} event of each user is the target, predicted from all events before "
    "it.",
    "successive": "Every {part} event is a target, predicted from all events before it.",
    "all": "All {part} events of a user are the targets of one list, made before the first of "
    "them.",
}
_TIME_TIES: Final = {
    "random": "Events of a user with equal times are in random order.",
    "group": "Events of a user with equal times are the targets of one list, whose history ends "
    "before them.",
}


def protocol_sentences(protocol: Protocol) -> list[str]:
    """Return the protocol of a record as sentences, or as "key: value." where there is none."""
    sentences = split_sentences(protocol)
    tables = {
        "ranking": _RANKING,
        "repeats": _REPEATS,
        "mask_seen": _MASK_SEEN,
        "ties": _SCORE_TIES,
    }
    sentences += [
        table.get(str(protocol[key]), f"{key}: {protocol[key]}.")
        for key, table in tables.items()
        if key in protocol
    ]
    sentences += _count_sentences(protocol)
    if "selection" in protocol:
        sentences.append(f"Checkpoints are selected by {protocol['selection']}.")
    if protocol.get("retrained"):
        sentences.append(
            "All models are then trained again on train and validation, for as many steps as "
            "validation selected; their results are the first table, and targets are cold there "
            "that occur in neither part."
        )
    return sentences


def leak_warning(share: float | None) -> str:
    """Return a warning of targets that lie in what others train on; "" if there are none.

    Args:
        share: of the test targets of leave-last-out, see `recoach.data.split.leaked_share`.
    """
    if not share:
        return ""
    return (
        f"Warning: {100 * share:.0f} % of the test targets lie before the 0.9 quantile of time: "
        "the models are trained on what other users did later, and a comparison may turn out "
        'otherwise than in service. Use [data] split = "time".'
    )


def record_warning(protocol: Protocol) -> str:
    """Return the warning of a record's protocol; "" if there is none."""
    is_leaking = protocol.get("split") == "leave_last_out"
    return leak_warning(protocol.get("leaked_targets")) if is_leaking else ""


def split_lines(dataset: Dataset) -> list[str]:
    """Return how a dataset is split, and a warning where its test targets leak."""
    protocol = {"split": dataset.split.kind, "split_settings": dataset.split.model_dump()}
    lines = [" ".join(split_sentences(protocol))]
    leaks = isinstance(dataset.split, LeaveLastOut)
    warning = leak_warning(leaked_share(dataset)) if leaks else ""
    return [*lines, warning] if warning else lines


def split_sentences(protocol: Protocol) -> list[str]:
    """Return the split of a record's protocol as sentences."""
    settings: Mapping[str, Any] = protocol.get("split_settings", {})
    kind = protocol.get("split")
    if kind == "leave_last_out":
        sentences = [_leave_last_out(settings.get("test_items", 1))]
    elif kind == "time":
        sentences = _by_time(settings)
    elif kind == "ratio":
        sentences = [_by_ratio(settings)]
    elif kind in ("given", "as given"):
        sentences = _given(settings)
    else:
        sentences = [] if kind is None else [f"split: {kind}."]
    if kind != "leave_last_out" and settings.get("target") in _TARGETS:
        sentences.append(_TARGETS[settings["target"]].format(part="test"))
    if settings.get("target_events"):
        sentences.append(f"Only {', '.join(settings['target_events'])} events are targets.")
    if settings.get("ties") in _TIME_TIES:
        sentences.append(_TIME_TIES[settings["ties"]])
    return sentences


def _leave_last_out(test_items: int) -> str:
    last = "last interaction is the test item"
    before = "the one before it"
    if test_items > 1:
        last, before = f"last {test_items} interactions are the test items", "the one before them"
    return f"Each user's {last}, {before} the validation item; everything earlier is for training."


def _given(settings: Protocol) -> list[str]:
    valid = settings.get("valid")
    parts = "training, validation and test" if valid == "given" else "training and test"
    sentences = [f"The data was already split into {parts} items."]
    if valid == "last":
        sentences.append("Each user's last training item is the validation item.")
    elif valid == "users":
        share = 100 * settings["valid_ratio"]
        sentences.append(f"The last {share:g} % of the training users are for validation.")
    if settings.get("valid_target") in _TARGETS:
        sentences.append(_TARGETS[settings["valid_target"]].format(part="validation"))
    return sentences


def _by_time(settings: Protocol) -> list[str]:
    until = settings.get("until")
    end = "" if until is None else f", up to {_moment(until)}"
    sentences = [
        f"All events up to {_moment(settings['at'])} are for training and validation, the later "
        f"ones for test{end}."
    ]
    valid = {
        "time": f"Of the former, those after {_moment(settings.get('valid_at'))} are the "
        "validation events.",
        "users": f"All events of up to {settings.get('valid_users')} random users are the "
        "validation events.",
        "last": "Each user's last event before that is the validation event.",
    }
    return [*sentences, valid[settings["valid"]]]


def _moment(at: object) -> str:
    return f"the {at:g} quantile of their times" if isinstance(at, float) else f"{at} (UTC)"


def _by_ratio(settings: Protocol) -> str:
    order = "The last" if settings["order"] == "time" else "Randomly chosen"
    return (
        f"{order} {100 * settings['test_ratio']:g} % of each user's events are for test, "
        f"{100 * settings['valid_ratio']:g} % for validation."
    )


def _count_sentences(protocol: Protocol) -> list[str]:
    """Return how many states and targets there are, and which were left out."""
    sentences = []
    users, states = protocol.get("n_users"), protocol.get("n_states")
    if users is not None:
        counted = f"{users:,} test users"
        if states is not None and states != users:
            counted = f"{states:,} states of {counted}"
        sentences.append(f"Metrics are averaged over {counted}.")
    n_targets = protocol.get("n_targets")
    parts = {
        "repeated_targets": "are in the history of the user",
        "cold_targets": "do not occur in train and count as misses, except those in the history",
    }
    for key, text in parts.items():
        if count := protocol.get(key):
            sentences.append(
                f"{count:,} of {n_targets:,} targets ({100 * count / n_targets:.1f} %) {text}."
            )
    if excluded := protocol.get("excluded"):
        reasons = ", ".join(f"{count:,} {name}" for name, count in excluded.items())
        sentences.append(f"Targets left out: {reasons}.")
    return sentences
