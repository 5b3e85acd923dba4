"""Checks that an algorithm can use a reward function."""

from recoach.errors import ConfigError
from recoach.policy.reward_funcs import RewardFunc, name_of, scope_of
from recoach.training.config import FinetuneConfig


def _source(args: FinetuneConfig) -> str:
    """Return what decides how rewards are used, for messages."""
    estimator = getattr(args, "estimator", None)
    return f"algorithm {args.algorithm!r}" if estimator is None else f"estimator {estimator!r}"


def reason_against_negative(args: FinetuneConfig) -> str:
    """Return why negative rewards are refused and what to do, for messages."""
    if getattr(args, "is_exact", False):
        return (
            "whitening = 'item' has no group to compare it with; set whitening = 'state', or "
            "another loss_type"
        )
    return (
        f"{_source(args)} raises the probability of every rewarded item; shift the rewards, or use "
        "algorithm 'grpo'"
    )


def check_function(function: RewardFunc, args: FinetuneConfig) -> None:
    """Raise ConfigError if the algorithm cannot call a function, or would ignore it."""
    if not callable(function):
        raise ConfigError(
            f"a reward function must be callable or the name of a ready-made one; {function!r} is "
            "neither."
        )
    name, scope = name_of(function), scope_of(function)
    if scope == "draws" and not args.draws:
        raise ConfigError(
            f"the reward function {name} may reward any item, and {_source(args)} draws none to "
            "call it with: mark it @log_reward or @item_reward (recoach.policy.reward_funcs), or "
            'use GRPOConfig(estimator="sampled", loss_type="grpo"), or "slate" for lists.'
        )
    dead_groups = getattr(args, "dead_groups", "zero")
    if scope == "draws" and dead_groups != "zero":
        raise ConfigError(
            f"dead_groups = {dead_groups!r} uses the rewards of the log and of items, and the "
            f"reward function {name} may reward any item: mark it @log_reward or @item_reward."
        )
    if scope == "served" and not args.accepts_served_rewards:
        raise ConfigError(
            f"the reward {name!r} changes with the lists that are served, which needs algorithm "
            f"'grpo' with estimator 'exact'; {_source(args)} does not have it."
        )
    if scope == "items" and args.logged_rewards_only:
        raise ConfigError(
            f"algorithm {args.algorithm!r} learns only from rewards of the log, and {name} rewards "
            "items for every user; leave it out, or use another algorithm."
        )
    if scope in ("items", "served") and getattr(args, "whitening", "item") == "state":
        raise ConfigError(
            f"whitening = 'state' whitens the rewards of the log, and {name} rewards items for "
            "every user; leave it out, or set whitening = 'item' or another loss_type."
        )
