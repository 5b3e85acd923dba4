"""Contrastive state augmentations for a Q head (CSA, Ren et al. 2023); experimental."""

from typing import Final, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recoach.training.algorithms.base import RLBatch, Statistics, draw_generator
from recoach.training.algorithms.supervised_q import QTargets, SupervisedQ, SupervisedQConfig
from recoach.training.algorithms.td_learning import mean_of_processes, td_errors

_AUGMENTATIONS: Final = 2


class CSAConfig(SupervisedQConfig):
    """Settings of contrastive state augmentations (Ren et al. 2023)."""

    algorithm: Literal["csa"] = "csa"
    """The algorithm of these settings."""
    augmentation: Literal["noise", "uniform", "dim_dropout"] = "noise"
    """How the two copies of a state vector differ from it: by normal noise of deviation 0.003, by
    uniform noise in [0.001, 0.005), or in that with probability 0.1 a random dimension is 0."""
    contrast_coef: float = Field(default=1.0, ge=0)
    """Weight of the contrastive term beside the temporal differences of the state and its copies;
    0 leaves these."""


class CSA(SupervisedQ):
    """SQN whose temporal differences are also taken at two augmented copies of each state.

    The contrastive term is -log sigmoid((Q(s', a) - m)^2 - (Q(s, a) - m)^2), with m the mean Q of
    the copies at the logged action a and s' the state of another transition of the batch (the next
    one in a random order).

    Experimental: the tables of the paper could not be read, so that no figure was checked. The
    noise is new in each step; in the authors' code it is drawn once for the whole training, and the
    mask of dimensions is never reset. Their fourth augmentation masks an item of the history before
    it is encoded; it is not offered, because states of a history are encoded together. They serve
    the scores of the cross-entropy plus Q; here the model of the cross-entropy is served, as with
    the algorithms that it is compared with. Controls are the same augmentation without the
    contrastive term, and `sqn`.
    """

    args: CSAConfig

    def auxiliary_loss(
        self,
        vectors: tuple[Tensor, Tensor],
        batch: RLBatch,
        prepared: QTargets,
        generator: torch.Generator,
        statistics: Statistics,
    ) -> Tensor:
        """Return the temporal differences of the copies and the contrastive term."""
        del batch
        users, items = vectors
        own, used = draw_generator(generator, users.device), prepared.is_used
        actions = items[prepared.items[:, :1]]
        copies = [self._augmented(users, own) for _ in range(_AUGMENTATIONS)]
        values = torch.cat([self.head(copy, actions) for copy in copies], dim=1)
        errors = td_errors(values, prepared.targets[:, :1].expand_as(values), self.args.td_loss)
        loss = mean_of_processes(errors[used].sum(dim=1))
        if not self.args.contrast_coef:
            return loss
        mean = values.mean(dim=1)
        order = torch.randperm(len(users), generator=own, device=users.device)
        others = users[order[(order.argsort() + 1) % len(order)]]
        near, far = (
            (self.head(states, actions)[:, 0] - mean).square() for states in (users, others)
        )
        contrast = -functional.logsigmoid(far - near)
        statistics.add("contrast_loss", contrast[used])
        return loss + self.args.contrast_coef * mean_of_processes(contrast[used])

    def _augmented(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """Return float[B, D], a copy of the state vectors with new noise."""
        shape, device = users.shape, users.device
        if self.args.augmentation == "noise":
            return users + 0.003 * torch.randn(shape, generator=generator, device=device)
        if self.args.augmentation == "uniform":
            uniform = torch.rand(shape, generator=generator, device=device)
            return users + 0.001 + 0.004 * uniform
        n_states, width = shape
        dims = torch.randint(width, (n_states,), generator=generator, device=device)
        is_masked = torch.rand(n_states, generator=generator, device=device) < 0.1
        mask = functional.one_hot(dims, width).bool() & is_masked[:, None]
        return users.masked_fill(mask, 0.0)
