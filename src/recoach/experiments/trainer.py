"""Fine-tuning in Python, with the fine-tuned model saved as a run folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recoach import distributed
from recoach.data.prepared import save_dataset
from recoach.errors import ConfigError, RunError
from recoach.experiments.config import resolve
from recoach.experiments.run_folder import RunFolder
from recoach.models.registry import origin_of
from recoach.training.loop import save_trained
from recoach.training.trainer import RLTrainer


class GRPOTrainer(RLTrainer):
    """Fine-tunes a model with GRPO, or with the algorithm whose settings are given.

    See `RLTrainer` for the arguments.
    """

    def save_model(self, path: Path | str) -> None:
        """Write a finished run folder with the model as it was before training and as it is now.

        `recoach.load`, `recoach recommend`, `evaluate`, `serve` and `export` open it like one of
        `recoach run`; it has no results and no control. Before `train` it holds the base only.

        Args:
            path: a new or empty folder.

        Raises:
            ConfigError: nothing tells how to build the model again (a module wrapped without a
                function that builds it), or its items are sharded over processes.
            RunError: the folder is not empty or cannot be written.
        """
        folder = RunFolder(Path(path))
        if folder.path.exists() and any(folder.path.iterdir()):
            raise RunError(f"{folder.path} is not empty. Choose another folder.")
        if self.args.shards_items and distributed.world_size() > 1:
            raise ConfigError(
                "save_model needs all items in one process. Train with RunContext(folder=...), "
                "which saves a sharded model too."
            )
        config = resolve(self._tables(folder), "GRPOTrainer")
        save_dataset(self.dataset, folder.dataset)
        base = folder.checkpoints("base")
        if self.loop is None:
            save_trained(base, self.model, 0.0)
        else:
            start = self.state.log_history[0].get("valid/" + self.args.metric, 0.0)
            save_trained(base, self.model, start, self.loop.start)
            self.loop.save_result(folder.checkpoints("tuned"))
        for row in self.state.log_history:
            folder.append_metrics("tuned", row)
        folder.begin(config, self.dataset)

    def _tables(self, folder: RunFolder) -> Mapping[str, Any]:
        """Return the settings of the run folder; own reward functions have no place in them."""
        name, model = origin_of(self.model)
        finetune = self.args.model_dump(mode="json", exclude_none=True)
        names = [function for function in self.reward_funcs if isinstance(function, str)]
        if len(names) == len(self.reward_funcs):
            finetune["reward_funcs"] = names
        else:
            finetune["reward_weights"] = []
        return {
            "seed": self.context.seed,
            "data": {"path": str(folder.dataset), "name": self.dataset.name},
            "model": {"name": name, **model.model_dump(mode="json", exclude_none=True)},
            "finetune": finetune,
            "evaluation": {"repeats": self.context.repeats, "control": False, "retrain": False},
        }
