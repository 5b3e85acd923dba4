"""A Q head over the state vectors of a dot-product model, and its target network."""

import torch
from torch import Tensor, nn

from recoach.data.queries import Seen
from recoach.models.base import Embeddings, Recommender, dot_product, frozen_copy
from recoach.training.algorithms.state_vectors import linear_head
from recoach.training.algorithms.td_learning import polyak_update

_STATES_AT_ONCE = 512


class QHead(nn.Module):
    """Q(s, a) = (W u + b) · v + c for the state vector u and the item vector v.

    The item vectors are the model's own, without gradient. An item table of the head's own, as in
    Xin et al. (2020), would need as much memory as the model's again, three times with the moments
    of the optimiser, and four times with the target network; and it would know nothing of items
    that are not logged.

    W and b start at 0, so that Q is the constant c everywhere: returns are of another order of
    magnitude than scores. Nothing is drawn.

    Args:
        model: its vectors are read.
        what: what needs the vectors, for the error message.

    Raises:
        ConfigError: the model's scores are no dot products.
    """

    def __init__(self, model: Recommender, what: str) -> None:
        super().__init__()
        self.query = linear_head(model, None, what)
        self.constant = nn.Parameter(self.query.bias.new_zeros(()))

    def forward(self, users: Tensor, item_vectors: Tensor) -> Tensor:
        """Return float[B, C], Q of items.

        Args:
            users: float[B, D] state vectors.
            item_vectors: float[B, C, D], of the items of each state.
        """
        q: Tensor = (self.query(users)[:, None] * item_vectors).sum(dim=2) + self.constant
        return q

    def mean(self, users: Tensor, items: Tensor) -> Tensor:
        """Return float[B], the mean Q over the catalogue, whose vectors are float[I, D] `items`."""
        mean: Tensor = self.query(users) @ items.mean(dim=0) + self.constant
        return mean

    def best_items(self, users: Tensor, items: Tensor, seen: Seen | None) -> tuple[Tensor, Tensor]:
        """Return the item of the highest Q of each state, and whether all items are masked.

        Args:
            users: float[B, D].
            items: float[I, D] of the catalogue.
            seen: masked pairs.

        Returns:
            int64[B] and bool[B].
        """
        queries, best, is_empty = self.query(users), [], []
        for start in range(0, len(users), _STATES_AT_ONCE):
            q = queries[start : start + _STATES_AT_ONCE] @ items.T
            if seen is not None:
                masked = seen.between(start, start + _STATES_AT_ONCE)
                q[masked.states, masked.items] = -torch.inf
            highest = q.max(dim=1)
            best.append(highest.indices)
            is_empty.append(highest.values == -torch.inf)
        return torch.cat(best), torch.cat(is_empty)


def best_values(
    chooser: tuple[QHead, Embeddings], evaluator: tuple[QHead, Embeddings], seen: Seen | None
) -> Tensor:
    """Return float[B], one head's Q of the item that another head chooses as the best.

    A state whose items are all masked has the value 0.

    Args:
        chooser: a head, and the vectors of states and catalogue that it reads.
        evaluator: the same of the other head.
        seen: masked pairs.
    """
    best, is_empty = chooser[0].best_items(*chooser[1], seen)
    head, (users, items) = evaluator
    values: Tensor = head(users, items[best][:, None])[:, 0]
    return values.masked_fill(is_empty, 0.0)


class TargetNetwork(nn.Module):
    """A copy of the model and of its Q head that follows both slowly.

    Args:
        model: a dot-product model.
        what: what needs its vectors, for the error message.
    """

    def __init__(self, model: Recommender, what: str) -> None:
        super().__init__()
        self.model = dot_product(frozen_copy(model), what)
        self.head = QHead(model, what).requires_grad_(requires_grad=False)

    def follow(self, model: Recommender, head: QHead, tau: float) -> None:
        """Move the copies by the fraction `tau`."""
        polyak_update(self.model, model, tau)
        polyak_update(self.head, head, tau)
