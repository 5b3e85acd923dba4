"""The policy: a softmax over the items a state may be shown."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from recoach.data.batches import Queries, Seen, histories, user_queries
from recoach.data.split import Dataset
from recoach.models.base import Embeddings, Recommender, eval_mode
from recoach.models.sharded_softmax import ShardedCatalogue
from recoach.models.softmax import Block, Catalogue, softmax_loss

Logits = Literal["raw", "norm_query", "cosine"]

_CALIBRATION_USERS = 1024
_CALIBRATION_LOGITS = 2**27
"""Half a GiB: fewer users where the catalogue is very large."""


@dataclass(frozen=True, slots=True)
class Policy:
    """softmax(score / temperature), in float32, zero for masked items."""

    temperature: float = 1.0
    logits: Logits = "raw"
    """Products of the vectors as they are, with states of unit length, or of both (cosines)."""
    exact_products: bool = False
    """Whether products stay in the vectors' own precision, as differences of policies need."""
    first_item: int | None = None
    """The number of the model's first item where others hold the rest; None for all of them."""

    def embed(self, model: Recommender, queries: Queries) -> Embeddings:
        """Return the vectors whose products over the temperature are the logits."""
        users, items = model.embed(queries)
        if self.logits != "raw":
            users = functional.normalize(users, dim=1)
        if self.logits == "cosine":
            items = functional.normalize(items, dim=1)
        return Embeddings(users, items)

    def catalogue(
        self, vectors: Embeddings, seen: Seen | None = None, bias: Tensor | None = None
    ) -> Catalogue:
        """Return the items to choose from, which gives the policy of states block by block.

        Args:
            vectors: states and items.
            seen: masked pairs of these states.
            bias: float[I] where the items are a sample, see `Catalogue`.
        """
        if self.first_item is not None:
            return ShardedCatalogue(
                vectors.items,
                len(vectors.users),
                start=self.first_item,
                temperature=self.temperature,
                seen=seen,
                exact_products=self.exact_products,
            )
        return Catalogue(
            vectors.items,
            len(vectors.users),
            temperature=self.temperature,
            seen=seen,
            bias=bias,
            exact_products=self.exact_products,
        )

    def loss(
        self,
        vectors: Embeddings,
        loss: Callable[[Block], Tensor],
        seen: Seen | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Return the sum of a loss of log-probabilities over all states (`softmax_loss`)."""
        return softmax_loss(*vectors, loss, self.catalogue(vectors, seen, bias))


@torch.no_grad()
def calibrate_temperature(
    model: Recommender,
    dataset: Dataset,
    *,
    mask_seen: bool,
    seed: int = 0,
    logits: Logits = "raw",
) -> float:
    """Return the temperature under which the validation items are most likely.

    Scores trained by BPR or alignment are no log-probabilities; one number, fitted on the
    likelihood of at most 1,024 users' validation items, puts all backbones on equal footing.

    Args:
        model: any recommender.
        dataset: gives the validation items.
        mask_seen: whether the policy masks what the user has taken.
        seed: draws the users.
        logits: what the scores are made of, see `Policy`.

    Returns:
        A temperature in [1e-3, 1e3]; 1 where no user has a validation item that may be shown.
    """
    users = np.flatnonzero(dataset.valid.lengths > 0)
    count = min(_CALIBRATION_USERS, max(16, _CALIBRATION_LOGITS // dataset.n_items))
    users = np.random.default_rng(seed).permutation(users)[:count]
    if len(users) == 0:
        return 1.0
    past = histories(dataset, "valid")
    queries = user_queries(
        past, users, model.history_length, dataset.n_items, mask_seen=mask_seen
    ).to(model.device)
    first = dataset.valid.offsets[users]
    targets = torch.from_numpy(dataset.valid.values[first].astype(np.int64)).to(model.device)
    with eval_mode(model):
        states, items = Policy(logits=logits).embed(model, queries)
    scores = (states @ items.T).float()
    if queries.seen is not None:
        scores[queries.seen.states, queries.seen.items] = -torch.inf
    own = scores.gather(1, targets[:, None])
    shown = own[:, 0] > -torch.inf
    if not bool(shown.any()):
        return 1.0
    scores, own = scores[shown], own[shown]

    def loss(log_temperature: float) -> float:
        scale = float(np.exp(-log_temperature))
        return float(((scores * scale).logsumexp(dim=1) - own[:, 0] * scale).mean())

    bounds = (np.log(1e-3), np.log(1e3))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))
