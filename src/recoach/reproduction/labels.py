"""What tables and figures call models, stages and cells.

Cells are named after their run folders, which keep their names; the labels may change.
"""

from typing import Final

NAMES: Final = {
    "sasrec": "SASRec",
    "lightgcn": "LightGCN",
    "gsau": "GSAU",
    "cotrec": "COTREC",
    "fgnn": "FGNN",
    "fpmc": "FPMC",
    "itemknn": "item-kNN",
    "gag": "GAG",
    "gcegnn": "GCE-GNN",
    "gru4rec": "GRU4Rec",
    "session_popularity": "S-POP",
    "srgnn": "SR-GNN",
    "tagnn": "TAGNN",
    "vsknn": "V-SKNN",
    "vstan": "VSTAN",
}
"""Labels of the models."""

CONTROL: Final = "continued training"
"""Label of the control: the base model's own loss for as many steps as GRPO takes."""

STAGES: Final = {"base": "", "control": f" + {CONTROL}", "tuned": "-GRPO"}
"""What follows the name of a model, by stage."""

_EARLIER: Final = "future reward only (earlier recipe)"

_VARIANTS: Final = {
    "": "default recipe",
    "future-alone": _EARLIER,
    # changes to the recipe
    "small-batches": "batches of 512, learning rate 1e-3",
    "no-smoothing": "no reward smoothing",
    "smoothing-0.3": "reward smoothing 0.3",
    "smoothing-0.5": "reward smoothing 0.5",
    "own-loss": "supervised loss added, weight 1",
    "no-own-loss": "no supervised loss",
    "next-item-only": "only the next item rewarded",
    "horizon-5": "horizon 5, discount 0.7",
    "edges-shown": "rewarded edges not hidden",
    "every-prefix": "every prefix as a state",
    "last-prefix": "only the last prefix as a state",
    "dropout-off": "no dropout",
    "no-average": "no weight averaging",
    "no-way-back": "no interpolation towards the base",
    "seen-items-in-the-policy": "seen items not masked in the policy",
    "KL-0.3": "KL weight 0.3",
    "cross-fitted": "cross-fitted reward",
    "power-0.25": "objective power 0.25",
    "power-0.5": "objective power 0.5",
    "grpo": "objective grpo",
    "dr_grpo": "objective dr_grpo",
    "pass_at_k": "objective pass_at_k",
    "from-scratch": "no trained base",
    # other algorithms
    "grpo-exact": "GRPO, all items",
    "grpo-256-drawn": "GRPO, 256 sampled items",
    "grpo-16-lists": "GRPO, 16 sampled lists",
    "reinforce": "REINFORCE",
    "rejection-sampling": "rejection sampling (RAFT)",
    "ppo": "PPO",
    "top-k-off-policy": "top-k off-policy correction",
    "softmax-dpo": "softmax-DPO",
    # longer tests
    "next-5": "next 5 items",
    "next-10": "next 10 items",
    "next-5-future-alone": f"next 5 items, {_EARLIER}",
    "next-10-future-alone": f"next 10 items, {_EARLIER}",
    # logs with events
    "event-embedding": "embedding of the event type",
    "event-weights": "cross-entropy weighted by event type",
    "prl": "PRL",
    "sqn": "SQN",
    "snqn": "SNQN",
    "sqn-eval": "EVAL (SQN with the next logged action)",
    "sqn-fut": "FUT (head: events left)",
    "sqn-placebo": "placebo (head: a random number)",
    "sqn-actor-critic": "SQN actor-critic (SAC of Xin et al.)",
    "sa2c": "SA2C",
    "top-k": "top-K off-policy",
    "off-policy-actor-critic": "off-policy actor-critic",
    "trpo": "TRPO",
    "grpo-return": "GRPO, return",
    "grpo-events": "GRPO, events of the future",
    "log-events": "objective log, events of the future",
    # session models
    "cosine": "cosine, scale 16",
}
"""Labels by what follows the model in the name of a cell; others are read from the name itself."""


def cell_label(cell_name: str) -> str:
    """Return the label of a cell: its model, and what differs from the default recipe."""
    model, _, variant = cell_name.partition("-")
    return f"{NAMES[model]}, {variant_label(cell_name)}" if variant else NAMES[model]


def variant_label(cell_name: str) -> str:
    """Return the label of what a cell changes, without its model."""
    _, _, variant = cell_name.partition("-")
    return _VARIANTS.get(variant, variant.replace("-", " "))
