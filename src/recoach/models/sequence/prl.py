"""PRL (Xin et al. 2022, SIGIR): next items conditioned on the reward that is still to come.

A sequence encoder gives the vector of a state. A prompt follows it: an embedding of the step, which
is the number of events before the next item in its episode, and a linear map of the return. One
self-attention over the three tokens and a weighted sum of them give the vector that is scored. The
loss is cross-entropy. The return of a training state is the undiscounted sum of the rewards from
the next item to the end of its episode, of whole histories before windows are cut from them. At
inference the prompt asks for `return_multiplier` times the mean return of training at that step.

Where paper and authors' code differ the code is followed: rewards by event type enter the returns
only and do not weight the loss (`[pretrain] event_weights` does). Departures from the code:

- Items are scored by the table that the encoder reads, the vector of the state is not rectified,
  and the weighted sum of the tokens begins as their plain sum.
- A return is divided by the mean return of train, which gives the map inputs around 1.
- Steps beyond the length that the encoder reads share the last embedding. The code leaves out
  sessions of more than 50 events, from training and from evaluation.
- The encoder is this package's.

What is learned is n(item | state, return). Its controls are `prompt = "shuffled_return"`,
`prompt = "step"` and the same model at other multipliers.
"""

from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from recoach import distributed
from recoach.data.batches import Batch
from recoach.data.dataset import Dataset, RaggedArray
from recoach.data.episodes import EpisodeUnit, episodes_of, event_rewards
from recoach.data.queries import Queries
from recoach.errors import ConfigError
from recoach.models.base import (
    DotProductRecommender,
    Draws,
    Embeddings,
    GroupName,
    TrainingBatch,
)
from recoach.models.losses import cross_entropy
from recoach.models.sequence.gru4rec import GRU4Rec, GRU4RecConfig
from recoach.models.sequence.sasrec import SASRec, SASRecConfig
from recoach.models.sequence.transformer import EncoderConfig

_MINUTE = 60_000
_SASREC_ONLY = ("heads", "inner_dim", "architecture", "position")


class PRLConfig(EncoderConfig):
    """Settings of PRL; those of the encoder are SASRec's or GRU4Rec's."""

    encoder: Literal["sasrec", "gru4rec"] = "sasrec"
    """The encoder of histories: SASRec's, or GRU4Rec's with RecBole's layers."""
    hidden_dim: int = Field(default=128, gt=0)
    """Dimension of the GRU's hidden state, with encoder `gru4rec`."""
    event_embedding: bool = False
    """Add a vector of the event type (view, cart, purchase) to that of each item of the history."""
    prompt: Literal["return", "shuffled_return", "step"] = "return"
    """Return and step; the same, with the returns of a batch dealt out to its states at random in
    training; the step alone. The last two are controls."""
    prompt_dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout rate of the state and the prompt."""
    event_weights: dict[str, float] = Field(default_factory=dict)
    """Reward of an event by its type, such as {view = 0.2, cart = 1}; empty: 1 for each event."""
    episode: EpisodeUnit = "user"
    """Where the sum of a return ends: with the user's history, or with the session (the column
    `session_id`, or a pause of `session_gap`)."""
    session_gap: float = Field(default=30.0, gt=0)
    """Minutes without an event after which a session ends, in a log without `session_id`."""
    returns: Literal["all", "closed"] = "all"
    """Of an episode that goes on after train, `all` counts the rewards in train. `closed` does not
    use it: the prompt of its states has a vector for an unknown return. `closed` is for splits by
    time or by users; after leave-one-out no history is closed."""
    return_multiplier: float = Field(default=2.0, allow_inf_nan=False)
    """The return that is asked for, in means of the training returns at the same step."""

    @model_validator(mode="after")
    def _check_effect(self) -> Self:
        has_effect = dict.fromkeys(_SASREC_ONLY, self.encoder == "sasrec")
        has_effect |= {"hidden_dim": self.encoder == "gru4rec"}
        has_effect |= {"session_gap": self.episode == "session"}
        has_effect |= dict.fromkeys(("returns", "return_multiplier"), self.prompt != "step")
        for name, matters in has_effect.items():
            if not matters and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} has no effect with encoder {self.encoder!r}, episode "
                    f"{self.episode!r} and prompt {self.prompt!r}; leave it out"
                )
        return self


class PRL(DotProductRecommender):
    """A sequence encoder whose state vector is changed by a prompt of step and return."""

    needs = ("states",)
    takes_weights = True
    knows_users = False
    config: PRLConfig
    mean_returns: Tensor
    """float[max_length + 1], the mean return of train at each step; saved with the weights."""

    def __init__(self, config: PRLConfig, train: RaggedArray, n_items: int) -> None:
        super().__init__(config, train, n_items)
        self.sequence = _sequence_model(config, train, n_items)
        dim, n_steps = config.dim, config.max_length + 1
        self.steps = nn.Embedding(n_steps, dim)
        nn.init.normal_(self.steps.weight, std=0.02)
        self.return_map = None if config.prompt == "step" else nn.Linear(1, dim, bias=False)
        self.unknown = None
        if config.prompt != "step" and config.returns == "closed":
            self.unknown = nn.Parameter(torch.zeros(dim))
        self.dropout = nn.Dropout(config.prompt_dropout)
        self.attention = nn.Linear(dim, 3 * dim)
        self.readout = nn.Linear(2 if self.return_map is None else 3, 1)
        nn.init.ones_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)
        self.register_buffer("mean_returns", torch.ones(n_steps))
        self.reads = self.sequence.reads
        if config.episode == "session":
            self.reads += ("session_id" if "session_id" in train.columns else "timestamp",)
        self._train_items = train.values

    def bind(self, dataset: Dataset) -> None:
        """Compute the steps and returns of the training events.

        Raises:
            ConfigError: `returns = "closed"` and no episode ends in train; or see `episodes_of` and
                `event_rewards`.
        """
        config, train = self.config, dataset.train
        episodes = episodes_of(dataset, config.episode, config.session_gap)
        rewards = event_rewards(train, config.event_weights, "model.event_weights")
        returns = episodes.returns(rewards, episodes.discounts(1.0, "event"))
        self._steps = np.minimum(episodes.elapsed, config.max_length)
        self._is_known = np.ones(len(returns), dtype=np.bool_)
        if self.unknown is not None:
            self._is_known = episodes.is_closed
            if not self._is_known.any():
                raise ConfigError(
                    'model.returns = "closed" needs histories that end in train, and all go on '
                    'after it, as with leave-one-out; use returns = "all", or another split.'
                )
        steps, known = self._steps[self._is_known], returns[self._is_known]
        scale = float(np.abs(known).mean()) or 1.0
        self._returns = returns / scale
        counts = np.bincount(steps, minlength=len(self.mean_returns))
        sums = np.bincount(steps, weights=known / scale, minlength=len(counts))
        # A step without an event has the mean of the step before.
        filled = np.maximum.accumulate(np.where(counts > 0, np.arange(len(counts)), 0))
        means = (sums / np.maximum(counts, 1))[filled]
        self.mean_returns.copy_(torch.from_numpy(means))

    @property
    def history_length(self) -> int:
        """Number of last items of a history that the model reads."""
        return self.config.max_length

    def prepare_queries(self, queries: Queries) -> Queries:
        """Return states with the groups in which their histories are encoded."""
        return self.sequence.prepare_queries(queries)

    def embed(self, queries: Queries) -> Embeddings:
        """Return state vectors that ask for `return_multiplier` mean returns, and item vectors."""
        states, items = self.sequence.embed(queries)
        steps = self._inference_steps(queries)
        returns = self.config.return_multiplier * self.mean_returns[steps]
        return Embeddings(self._prompted(states, steps, returns), items)

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> Draws:
        """Return step, return and whether it is known, of each state; shuffled where that is set.

        Raises:
            ConfigError: the batch is of other histories than the returns.
        """
        states = batch.part("states", "PRL")
        self._check_positions(states)
        order = np.arange(len(states.positions))
        if self.config.prompt == "shuffled_return":
            order = torch.randperm(
                len(order), generator=distributed.rank_generator(generator)
            ).numpy()
        positions = states.positions[order]
        arrays = self._steps[states.positions], self._returns[positions], self._is_known[positions]
        return tuple(torch.from_numpy(array) for array in arrays)

    def loss(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the cross-entropy of the next items, given the returns that followed."""
        states = batch.part("states", "PRL")
        steps, returns, is_known = self.draws_of(batch, generator)
        vectors, items = self.sequence.embed(states.queries)
        prompted = self._prompted(vectors, steps, returns.to(vectors.dtype), is_known)
        return cross_entropy(
            prompted, items, states.targets, workspace=self.workspace, weights=states.weights
        )

    def parameter_groups(self) -> dict[GroupName, list[Tensor]]:
        """Return the item table, the embeddings of positions and steps, and the other weights."""
        groups = {name: list(tensors) for name, tensors in self.sequence.parameter_groups().items()}
        groups["position"] = [*groups.get("position", []), self.steps.weight]
        listed = {id(tensor) for tensors in groups.values() for tensor in tensors}
        groups["encoder"] += [p for p in self.parameters() if id(p) not in listed]
        return groups

    def _prompted(
        self, states: Tensor, steps: Tensor, returns: Tensor, is_known: Tensor | None = None
    ) -> Tensor:
        """Return float[B, D], the vectors of states with a prompt.

        Args:
            states: float[B, D].
            steps: int64[B].
            returns: float[B], divided by the mean return of train.
            is_known: bool[B], whether a return is known; None for all.
        """
        tokens = [states, self.steps(steps)]
        if self.return_map is not None:
            mapped = self.return_map(returns[:, None].to(states.dtype))
            if self.unknown is not None and is_known is not None:
                mapped = mapped.where(is_known[:, None], self.unknown)
            tokens.append(mapped)
        stacked = self.dropout(torch.stack(tokens, dim=1))
        queries, keys, values = self.attention(stacked).chunk(3, dim=2)
        weights = (queries @ keys.mT / queries.shape[2] ** 0.5).softmax(dim=2)
        result: Tensor = self.readout((stacked + weights @ values).mT)[..., 0]
        return result

    def _inference_steps(self, queries: Queries) -> Tensor:
        """Return int64[B], the number of events of a state's episode, which is taken to go on."""
        (name,) = self.reads[len(self.sequence.reads) :] or ("",)
        values = queries.columns.get(name)
        if values is None or not values.shape[1]:
            return queries.ends
        is_first = values[:, 1:] != values[:, :-1]
        if name == "timestamp":
            is_first = values.diff(dim=1) > self.config.session_gap * _MINUTE
        places = torch.arange(values.shape[1], device=values.device)
        starts = nn.functional.pad(places[1:] * is_first, (1, 0)).cummax(dim=1).values
        last = (queries.ends - 1).clamp(min=0)
        return queries.ends - starts[queries.rows, last]

    def _check_positions(self, batch: Batch) -> None:
        """Raise a ConfigError if the batch is of other histories than the returns."""
        positions, items = batch.positions, self._train_items
        is_inside = not len(positions) or positions.max() < len(items)
        if not is_inside or not np.array_equal(items[positions], batch.targets.numpy()):
            raise ConfigError(
                "PRL was built for other training histories than those it is trained on, so that "
                "their returns are not known. Build it for the dataset that it is trained on."
            )


def _sequence_model(config: PRLConfig, train: RaggedArray, n_items: int) -> SASRec | GRU4Rec:
    """Return the model that encodes histories; its own loss is not used."""
    if config.encoder == "sasrec":
        shared = {name: getattr(config, name) for name in EncoderConfig.model_fields}
        args = SASRecConfig(**shared, event_embedding=config.event_embedding)
        return SASRec(args, train, n_items)
    names = ("dim", "hidden_dim", "layers", "dropout", "max_length", "event_embedding")
    return GRU4Rec(GRU4RecConfig(**{name: getattr(config, name) for name in names}), train, n_items)
