"""The KL to a reference policy and the entropy bonus, shared by several algorithms."""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from recoach import distributed
from recoach.models.distribution import Block, BlockLoss, Distribution
from recoach.policy.objective import sampled_kl
from recoach.training.algorithms.base import RLBatch, Statistics
from recoach.training.config import FinetuneConfig

KLEstimator = Literal["exact", "k1", "k2", "k3", "literal"]


class RegularisedConfig(FinetuneConfig):
    """Settings of the KL to the reference and of the entropy bonus."""

    beta: float = Field(default=0.0, ge=0)
    """Weight of the KL to the reference; at the probabilities of a recommender it takes 0.3 to 10
    to have an effect."""
    kl_estimator: KLEstimator = "exact"
    """Over the catalogue, from drawn items (`k1`, `k2`, `k3`), or the paper's
    KL(old || reference), which has no gradient."""
    ref_model_sync_steps: int = Field(default=0, ge=0)
    """Steps after which the reference is replaced by the current policy; 0 keeps the base."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus."""
    entropy_floor: float | None = Field(default=None, gt=0)
    """Entropy (nats) above which the bonus is constant; None has no limit."""

    @model_validator(mode="after")
    def _check_regulariser(self) -> Self:
        if not self.has_item_samples and self.kl_estimator not in ("exact", "literal"):
            raise ValueError(
                f"kl_estimator {self.kl_estimator!r} needs samples, and no single items are drawn "
                "here; use 'exact' or 'literal'"
            )
        self._check_effect({"entropy_floor": (self.entropy_coef > 0, "entropy_coef > 0")})
        return self

    @property
    def has_item_samples(self) -> bool:
        """Whether single items are drawn from the policy, so that a KL can be estimated."""
        return False

    @property
    def has_kl(self) -> bool:
        """Whether a step computes the KL to the reference."""
        return self.beta > 0

    @property
    def compares_policies(self) -> bool:
        """Whether log-probabilities of two policies are subtracted: in an estimated KL they are.

        The KL over the catalogue is computed from the difference of the vectors.
        """
        return self.beta > 0 and self.kl_estimator in ("k1", "k2", "k3")

    @property
    def setting_with_base(self) -> str:
        """The setting that compares the policy with the base: the KL."""
        return "beta" if self.beta and not self.ref_model_sync_steps else super().setting_with_base


class Regulariser:
    """beta times the KL to the reference, minus the entropy bonus, averaged over states.

    Args:
        args: the weights.
        batch: tells the number of states.
        statistics: receives the KL.
    """

    def __init__(self, args: RegularisedConfig, batch: RLBatch, statistics: Statistics) -> None:
        self.args, self.statistics = args, statistics
        self.count = distributed.data_sum(len(batch.queries))
        """Number of states of all processes."""

    def loss(
        self,
        block: Block,
        reference: Block | None,
        items: Tensor | None = None,
        log_p: Tensor | None = None,
    ) -> Tensor | float:
        """Return the regularisation loss of a block.

        Args:
            block: the policy.
            reference: the reference policy of the same states; None adds no KL.
            items: int64[b, G] drawn items, for the sampled KL estimators.
            log_p: float[b, G] their log-probabilities.
        """
        loss: Tensor | float = 0.0
        if self.args.entropy_coef:
            entropy, floor = block.entropies(), self.args.entropy_floor
            missing = -entropy if floor is None else (floor - entropy).clamp(min=0)
            loss = self.args.entropy_coef / self.count * missing.sum()
        return loss if reference is None else loss + self._kl(block, reference, items, log_p)

    def _kl(
        self, block: Block, reference: Block, items: Tensor | None, log_p: Tensor | None
    ) -> Tensor:
        estimator = self.args.kl_estimator
        if items is not None and log_p is not None and estimator in ("k1", "k2", "k3"):
            kl = sampled_kl(log_p, reference.log_p_of(items).detach(), estimator).mean(dim=1)
        else:
            kl = block.kl(reference)
        self.statistics.add("kl", kl)
        # Eq. 5 as printed compares the old policy with the reference: it has no gradient.
        kl = kl.detach() if estimator == "literal" else kl
        return self.args.beta / self.count * kl.sum()


def with_reference(
    new: Distribution, block_loss: BlockLoss, reference: Distribution | None
) -> Tensor:
    """Return the sum of a loss of (block, reference block or None) over all states."""
    if reference is None:
        return new.loss(lambda block: block_loss(block, None))
    return new.loss(block_loss, reference)
