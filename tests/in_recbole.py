"""A script for an environment with RecBole: train a tiny model, or evaluate a checkpoint."""

import json
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import scipy.sparse
import torch

_load = torch.load
torch.load = lambda *a, **k: _load(*a, **{**k, "weights_only": False})  # RecBole pickles its config
if not hasattr(scipy.sparse.dok_matrix, "_update"):  # removed in SciPy 1.13
    scipy.sparse.dok_matrix._update = lambda self, d: self._dict.update(d)

from recbole.config import Config
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.utils import get_trainer

Config.compatibility_settings(None)  # restores np.float and others, which loading a config does not

SETTINGS = {
    "use_gpu": False,
    "data_path": "dataset",
    "checkpoint_dir": "saved",
    "show_progress": False,
    "state": "ERROR",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "user_inter_num_interval": "[4,inf)",
    "item_inter_num_interval": "[3,inf)",
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
    "metrics": ["Recall", "NDCG", "MRR"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "train_batch_size": 256,
    "learning_rate": 0.01,
    "epochs": 2,
}
SIZES = {
    "SASRec": {"train_neg_sample_args": None, "hidden_size": 16, "inner_size": 32},
    "GRU4Rec": {"train_neg_sample_args": None, "embedding_size": 16, "hidden_size": 24},
    "LightGCN": {"embedding_size": 16},
    "BPR": {"embedding_size": 16},
}


def train(model):
    """Train on the log and return the path of the checkpoint and the test metrics."""
    result = run_recbole(model=model, dataset="log", config_dict=SETTINGS | SIZES[model])
    (file,) = Path("saved").glob("*.pth")
    return {"file": str(file), "test": dict(result["test_result"])}


def evaluate(file):
    """Return RecBole's test metrics of a checkpoint, with the history masked and not."""
    config, model, _, *parts = load_data_and_model(file)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    full_sort_batch_eval = trainer._full_sort_batch_eval
    metrics = {"default": dict(trainer.evaluate(parts[-1], load_best_model=False))}
    for name, masked in {"masked": True, "unmasked": False}.items():

        def batch(batched, masked=masked):
            interaction, history, *targets = batched
            if history is None:  # a sequential model, whose history RecBole never masks
                history = _histories(interaction, parts)
            return full_sort_batch_eval((interaction, history if masked else None, *targets))

        trainer._full_sort_batch_eval = batch
        metrics[name] = dict(trainer.evaluate(parts[-1], load_best_model=False))
    return metrics


def _histories(interaction, parts):
    """Return (rows, items) of the users' histories, without the target."""
    histories = {}
    for part in parts:
        rows = part._dataset.inter_feat
        for user, items in zip(rows["user_id"].tolist(), rows["item_id_list"], strict=True):
            histories.setdefault(user, set()).update(items[items > 0].tolist())
    targets = zip(interaction["user_id"].tolist(), interaction["item_id"].tolist(), strict=True)
    pairs = [
        (row, item)
        for row, (user, target) in enumerate(targets)
        for item in sorted(histories[user] - {target})
    ]
    return tuple(torch.tensor(pairs).T)


if __name__ == "__main__":
    verb, argument = sys.argv[1:]
    sys.argv[1:] = []  # RecBole parses them, too
    answer = {"train": train, "evaluate": evaluate}[verb](argument)
    Path("answer.json").write_text(json.dumps(answer, default=float))
