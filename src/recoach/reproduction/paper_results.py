"""Results of Jeon et al. (2025) as printed; docs/results/paper.md lists the errors in them."""

from typing import Final

METRICS: Final = ("recall@10", "recall@50", "ndcg@10", "ndcg@50")
"""The columns of tables 3 and 4."""

CATEGORIES: Final = {
    "Baby_Products": "Baby Products",
    "Video_Games": "Video Games",
    "Industrial_and_Scientific": "Industrial & Scientific",
}
"""The files of Amazon Reviews 2023 and what the paper calls them."""

TABLE1: Final[dict[str, tuple[int, int, int, float]]] = {
    "Baby_Products": (155_434, 36_845, 1_287_653, 8.28),
    "Video_Games": (98_906, 26_354, 857_505, 8.67),
    "Industrial_and_Scientific": (54_567, 27_229, 446_046, 8.17),
}
"""Users, items, interactions and average length of each log after the iterated 5-core."""

_GSAU: Final[dict[str, tuple[float, ...]]] = {
    "Baby_Products": (0.0322, 0.0805, 0.0177, 0.0281),
    "Video_Games": (0.0967, 0.2139, 0.0546, 0.0801),  # table 4 prints R@10 as 0.967
    "Industrial_and_Scientific": (0.0459, 0.1037, 0.0263, 0.0387),
}
_GSAU_GRPO: Final[dict[str, tuple[float, ...]]] = {
    "Baby_Products": (0.0366, 0.0927, 0.0200, 0.0321),
    "Video_Games": (0.0995, 0.2184, 0.0555, 0.0813),
    "Industrial_and_Scientific": (0.0468, 0.1063, 0.0267, 0.0395),
}

TABLE3: Final[dict[tuple[str, str], dict[str, tuple[float, ...]]]] = {
    ("sasrec", "base"): {
        "Baby_Products": (0.0394, 0.0976, 0.0219, 0.0344),
        "Video_Games": (0.1005, 0.2133, 0.0569, 0.0815),
        "Industrial_and_Scientific": (0.0408, 0.0940, 0.0232, 0.0346),
    },
    ("sasrec", "tuned"): {
        "Baby_Products": (0.0306, 0.0858, 0.0164, 0.0282),
        "Video_Games": (0.0639, 0.1529, 0.0351, 0.0543),
        "Industrial_and_Scientific": (0.0389, 0.0976, 0.0202, 0.0329),
    },
    ("lightgcn", "base"): {
        "Baby_Products": (0.0209, 0.0487, 0.0122, 0.0182),
        "Video_Games": (0.0648, 0.1374, 0.0372, 0.0530),
        "Industrial_and_Scientific": (0.0296, 0.0658, 0.0170, 0.0248),
    },
    ("lightgcn", "tuned"): {
        "Baby_Products": (0.0209, 0.0487, 0.0122, 0.0182),
        "Video_Games": (0.0649, 0.1375, 0.0372, 0.0530),
        "Industrial_and_Scientific": (0.0297, 0.0660, 0.0171, 0.0250),
    },
    ("gsau", "base"): _GSAU,
    ("gsau", "tuned"): _GSAU_GRPO,
}
"""(model, stage) -> category -> values in the order of METRICS."""

TABLE4: Final[dict[str, dict[str, tuple[float, ...]]]] = {
    "base": _GSAU,
    "item": {
        "Baby_Products": (0.0364, 0.0921, 0.0199, 0.0319),
        "Video_Games": (0.0993, 0.2181, 0.0554, 0.0812),
        "Industrial_and_Scientific": (0.0467, 0.1062, 0.0267, 0.0395),
    },
    "item+user": _GSAU_GRPO,
    "item+position": {
        "Baby_Products": (0.0314, 0.0776, 0.0173, 0.0272),
        "Video_Games": (0.0875, 0.1969, 0.0486, 0.0723),
        "Industrial_and_Scientific": (0.0451, 0.1019, 0.0257, 0.0380),
    },
    "item+user+position": {
        "Baby_Products": (0.0317, 0.0776, 0.0174, 0.0273),
        "Video_Games": (0.0876, 0.1972, 0.0487, 0.0725),
        "Industrial_and_Scientific": (0.0451, 0.1021, 0.0258, 0.0381),
    },
}
"""Fine-tuned tables of GSAU -> category -> values in the order of METRICS."""
