"""The policy: a softmax over the items that are not masked for a state."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from recoach.data.dataset import Dataset
from recoach.data.queries import Queries, Seen
from recoach.data.targets import targets_of
from recoach.evaluation.evaluator import queries_of
from recoach.models.base import (
    DotProductRecommender,
    Embeddings,
    Recommender,
    dot_product,
    eval_mode,
)
from recoach.models.dense_softmax import DenseDistribution, catalogue_scores
from recoach.models.distribution import Distribution, Workspace
from recoach.models.sharded_softmax import distribution_over_items, has_fused_kernels
from recoach.models.softmax import BlockwiseDistribution
from recoach.policy.candidates import Candidates

Logits = Literal["raw", "norm_query", "cosine"]

_CALIBRATION_USERS = 1024
_CALIBRATION_LOGITS = 2**27
"""Half a GiB: fewer users where the catalogue is very large."""


@dataclass(frozen=True, slots=True)
class Policy:
    """softmax(score / temperature) over the items that are not masked, in float32."""

    temperature: float = 1.0
    logits: Logits = "raw"
    """Dot products of the vectors as they are, with states of unit length, or of both (cosines)."""
    exact_products: bool = False
    """Whether products stay in the vectors' dtype, as ratios between policies need."""
    has_kl: bool = False
    """Whether a KL between policies is computed, for which fused kernels need exact products."""
    first_item: int | None = None
    """Number of the first local item where other processes hold the rest; None for all items."""

    def distribution(
        self,
        model: Recommender,
        queries: Queries,
        candidates: Candidates | None = None,
        *,
        dropout_seed: int | None = None,
    ) -> Distribution:
        """Return the model's policy for states.

        Args:
            model: any recommender.
            queries: B states; their seen items are masked.
            candidates: a sample that replaces the catalogue; seen items are numbered within it.
            dropout_seed: seeds the global random state before the model runs, so that several
                policies of a step share their dropout masks; None leaves it as it is.

        Raises:
            ConfigError: normalised logits for a model whose scores are no dot products.
        """
        items, bias = (None, None) if candidates is None else candidates
        if not isinstance(model, DotProductRecommender):
            self._check_scores(model)
            return DenseDistribution(
                model,
                queries,
                items=items,
                temperature=self.temperature,
                bias=bias,
                dropout_seed=dropout_seed,
            )
        if dropout_seed is not None:
            torch.manual_seed(dropout_seed)
        users, table = self.embed(model, queries)
        vectors = Embeddings(users, table if items is None else table[items])
        return self.of_vectors(vectors, queries.seen, bias, model.workspace)

    def of_vectors(
        self,
        vectors: Embeddings,
        seen: Seen | None = None,
        bias: Tensor | None = None,
        workspace: Workspace | None = None,
    ) -> BlockwiseDistribution:
        """Return the policy of states and items that are given as vectors.

        Args:
            vectors: states and items.
            seen: masked pairs of these states.
            bias: float[I] where the items are a sample, see `BlockwiseDistribution`.
            workspace: memory for the blocks.
        """
        # A sharded catalogue is never a sample: its distribution takes no bias.
        sample = {} if bias is None else {"bias": bias}
        return distribution_over_items(vectors, self.first_item)(
            vectors,
            temperature=self.temperature,
            seen=seen,
            exact_products=self.exact_products or (self.has_kl and has_fused_kernels(vectors)),
            workspace=workspace,
            **sample,
        )

    def embed(self, model: DotProductRecommender, queries: Queries) -> Embeddings:
        """Return the vectors whose products over the temperature are the logits."""
        users, items = model.embed(queries)
        if self.logits != "raw":
            users = functional.normalize(users, dim=1)
        if self.logits == "cosine":
            items = functional.normalize(items, dim=1)
        return Embeddings(users, items)

    def scores(self, model: Recommender, queries: Queries) -> Tensor:
        """Return float[B, I], the logits before the temperature, without gradient or mask."""
        if not isinstance(model, DotProductRecommender):
            self._check_scores(model)
            return catalogue_scores(model, queries)
        with torch.no_grad():
            users, items = self.embed(model, queries)
            return users @ items.T

    def _check_scores(self, model: Recommender) -> None:
        if self.logits != "raw":
            dot_product(model, f"logits = {self.logits!r}")


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

    Scores trained by BPR or alignment are no log-probabilities. One temperature, fitted on the
    validation items of at most 1,024 states, makes policies of different models comparable. Items
    without training events are left out: a model has only learned to rank them last, and with a
    split by time, where they are frequent, they would be likely under a nearly uniform policy only.

    Args:
        model: any recommender.
        dataset: gives the validation items.
        mask_seen: whether the policy masks the user's past items.
        seed: draws the states.
        logits: see `Policy`.

    Returns:
        A temperature in [1e-3, 1e3]; 1 where every validation item is masked or has no training
        events.
    """
    if not len(dataset.valid.values):
        return 1.0
    held_out = targets_of(dataset, "valid", "all")
    first = held_out.items[np.cumsum(held_out.counts) - held_out.counts]
    is_trained = np.bincount(dataset.train.values, minlength=dataset.n_items)[first] > 0
    count = min(_CALIBRATION_USERS, max(16, _CALIBRATION_LOGITS // dataset.n_items))
    drawn = np.random.default_rng(seed).permutation(len(held_out.users))
    states = drawn[is_trained[drawn]][:count]
    if not len(states):
        return 1.0
    masked = replace(held_out, repeats="new" if mask_seen else "all")
    queries = queries_of(model, dataset, masked, states)
    targets = torch.from_numpy(first[states]).to(model.device)
    with eval_mode(model):
        scores = Policy(logits=logits).scores(model, queries).float()
    if queries.seen is not None:
        scores[queries.seen.states, queries.seen.items] = -torch.inf
    target_scores = scores.gather(1, targets[:, None])
    visible = target_scores[:, 0] > -torch.inf
    if not bool(visible.any()):
        return 1.0
    scores, target_scores = scores[visible], target_scores[visible]

    def loss(log_temperature: float) -> float:
        scale = float(np.exp(-log_temperature))
        return float(((scores * scale).logsumexp(dim=1) - target_scores[:, 0] * scale).mean())

    bounds = (np.log(1e-3), np.log(1e3))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))
