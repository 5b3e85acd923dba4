"""A model of a run folder in Python: recommend and evaluate with the dataset of the run."""

import contextlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recoach.data.dataset import Dataset
from recoach.data.files import read_text
from recoach.data.targets import Part, Repeats
from recoach.errors import DataError
from recoach.evaluation.evaluator import KS, Evaluation, evaluate
from recoach.experiments.run_folder import RunFolder
from recoach.experiments.served import open_model
from recoach.models.base import Recommender
from recoach.models.external import Builder, register
from recoach.serving.recommend import Ids, Users, recommend


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A trained model of a run folder, with the dataset that it was trained on."""

    path: Path
    """The run folder."""
    stage: str
    """The stage of the model: "base", "tuned" or "control"."""
    model: Recommender
    """The model, in evaluation mode."""
    dataset: Dataset
    """The dataset of the run; of a model that was trained again on train and validation, the
    validation events are in its train part."""
    repeats: Repeats
    """The protocol of the run."""

    def recommend(
        self,
        users: Users = None,
        *,
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Ids | None = None,
    ) -> pl.DataFrame:
        """Return the k best items of each user, see `recoach.recommend`."""
        return recommend(
            self.model,
            self.dataset,
            users,
            k=k,
            exclude_seen=exclude_seen,
            candidates=candidates,
        )

    def evaluate(self, part: Part = "test", *, ks: Sequence[int] = KS) -> Evaluation:
        """Evaluate the model under the protocol of the run, see `recoach.evaluate`."""
        return evaluate(self.model, self.dataset, part, ks=ks, repeats=self.repeats)


def load(
    path: Path | str, stage: str | None = None, build: Builder | type[Recommender] | None = None
) -> LoadedModel:
    """Open a model of a run folder, made by the command line, `recoach.run` or `save_model`.

    Args:
        path: the run folder.
        stage: "base", "tuned" or "control"; None selects the best one on validation. A model that
            was trained again on train and validation takes its place.
        build: the function or class that builds the model, where it cannot be imported under the
            name that the folder stores (it was defined in a notebook).

    Raises:
        RunError: the path is not a run folder, or the stage is not trained yet.
        ConfigError: the code of the model cannot be imported.
        DataError: the dataset of the run cannot be read.
        ModelError: the weights cannot be read, or belong to another dataset.
    """
    folder = RunFolder(Path(path))
    name = _stored_name(folder)
    if build is not None and name is not None:
        register(build, name)
    selected, model, dataset = open_model(folder, stage)
    return LoadedModel(folder.path, selected, model, dataset, folder.config().evaluation.repeats)


def _stored_name(folder: RunFolder) -> str | None:
    """Return the name of the model in config.toml; None if it has none, which `config` reports."""
    with contextlib.suppress(DataError, ValueError, LookupError, TypeError):
        return str(tomllib.loads(read_text(folder.path / "config.toml"))["model"]["name"])
    return None
