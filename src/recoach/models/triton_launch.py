"""Launches the kernels of `recoach.models.triton_kernels` on the scores of a block of states."""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
import triton
from torch import Tensor

from recoach.data.queries import Seen
from recoach.models import triton_kernels as kernels

_LEAST_DIM: Final = 16
"""The shortest side of a product of tiles."""
_TILE_STATES: Final = 64
_TILE_PAIRS: Final = 128
_NARROW: Final = 64
"""Dimensions for which a tile takes few registers."""
_PROGRAMS: Final = 512
"""A sweep is divided until a kernel has as many programs: some for each processor of a GPU."""
_WORD: Final = 32
"""Bits of a word of the mask."""


class Value(NamedTuple):
    """What a mean under the policy is of; nothing with the default values."""

    of_log_p: bool = False
    """log p."""
    of_items: Tensor | None = None
    """float32[I], a value of each item."""
    other: "Scores | None" = None
    """log p minus log p of the policy of these scores, with the same bias and mask."""
    other_log_z: Tensor | None = None
    """float32[B], log Z of the other policy."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of B states for I items, which each kernel computes anew, tile by tile."""

    states: Tensor
    """[B, D] contiguous, in the dtype of products, divided by the temperature."""
    items: Tensor
    """[I, D] likewise."""
    bias: Tensor | None
    """float32[I] added to the scores."""
    mask: Tensor | None
    """int32[B, ceil(I / 32)], see `pack_mask`."""

    def log_normaliser(self) -> Tensor:
        """Return float32[B], log Z; 0 where every item is masked, so that p is 0 there."""
        grid, per_split = self._divide_items()
        parts = self.states.new_empty(grid[1], len(self.states), dtype=torch.float32)
        self._launch(kernels.log_normaliser, grid, out=parts, per_split=per_split)
        log_z = parts.logsumexp(dim=0)
        return log_z.masked_fill(log_z == -torch.inf, 0)

    def mean(self, log_z: Tensor, value: Value) -> Tensor:
        """Return float32[B], the mean of a value under each policy, without gradient."""
        grid, per_split = self._divide_items()
        parts = self.states.new_empty(grid[1], len(self.states), dtype=torch.float32)
        terms = _terms(log_z, torch.zeros_like(log_z), torch.ones_like(log_z), value)
        self._launch(kernels.mean, grid, out=parts, per_split=per_split, **terms)
        return parts.sum(dim=0)

    def state_gradient(self, log_z: Tensor, offset: Tensor, weight: Tensor, value: Value) -> Tensor:
        """Return float32[B, D], the sum over items of p (offset + weight · value) times its vector.

        Args:
            log_z: float32[B], see `log_normaliser`.
            offset: float32[B].
            weight: float32[B].
            value: of (state, item).
        """
        grid, per_split = self._divide_items()
        parts = self.states.new_empty(grid[1], *self.states.shape, dtype=torch.float32)
        terms = _terms(log_z, offset, weight, value)
        self._launch(kernels.state_gradient, grid, out=parts, per_split=per_split, **terms)
        return parts.sum(dim=0) if len(parts) > 1 else parts[0]

    def item_gradient(
        self,
        log_z: Tensor,
        offset: Tensor,
        weight: Tensor,
        value: Value,
        d_items: Tensor | None = None,
    ) -> Tensor:
        """Return float32[I, D], the sum over states of the same times the state's vector.

        Args:
            log_z: see `state_gradient`.
            offset: see `state_gradient`.
            weight: see `state_gradient`.
            value: see `state_gradient`.
            d_items: float32[I, D], to which the result is added in place; None for a new one.
        """
        grid, per_split = _divide(
            (len(self.items), self._tile_items), (len(self.states), _TILE_STATES)
        )
        in_place = d_items is not None and grid[1] == 1
        parts = (
            d_items[None]
            if d_items is not None and in_place
            else self.items.new_empty(grid[1], *self.items.shape, dtype=torch.float32)
        )
        terms = _terms(log_z, offset, weight, value) | {"add_to_out": in_place}
        self._launch(kernels.item_gradient, grid, out=parts, per_split=per_split, **terms)
        result = parts.sum(dim=0) if len(parts) > 1 else parts[0]
        return result if d_items is None or in_place else d_items.add_(result)

    def of_pairs(self, states: Tensor, items: Tensor) -> Tensor:
        """Return float32[n], the scores of pairs, -inf for masked ones.

        Args:
            states: int64[n].
            items: int64[n].
        """
        out = self.states.new_empty(len(states), dtype=torch.float32)
        if len(out):
            with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
                kernels.pair_scores[(triton.cdiv(len(out), _TILE_PAIRS),)](
                    states=self.states,
                    items=self.items,
                    bias=self.bias,
                    mask=self.mask,
                    pair_states=states.contiguous(),
                    pair_items=items.contiguous(),
                    out=out,
                    n_pairs=len(out),
                    n_items=len(self.items),
                    tile=_TILE_PAIRS,
                    **self._dims(),
                )
        return out

    def _launch(
        self,
        kernel: Any,  # noqa: ANN401 (Triton has no types)
        grid: tuple[int, int],
        **arguments: object,
    ) -> None:
        with torch.cuda.device_of(self.states):  # type: ignore[no-untyped-call]
            kernel[grid](
                states=self.states,
                items=self.items,
                bias=self.bias,
                mask=self.mask,
                n_states=len(self.states),
                n_items=len(self.items),
                tile_states=_TILE_STATES,
                tile_items=self._tile_items,
                upcast=self.states.device.type == "cpu",
                # More dimensions take more registers and more shared memory.
                num_warps=4 if self.items.shape[1] <= _NARROW else 8,
                num_stages=3 if self.items.shape[1] <= _NARROW else 2,
                **self._dims(),
                **arguments,
            )

    @property
    def _tile_items(self) -> int:
        # What a product holds in registers depends on its dtype.
        return 64 if self.items.dtype == torch.bfloat16 else 32

    def _divide_items(self) -> tuple[tuple[int, int], int]:
        return _divide((len(self.states), _TILE_STATES), (len(self.items), self._tile_items))

    def _dims(self) -> dict[str, int]:
        dim = self.items.shape[1]
        return {"dim": dim, "padded_dim": max(_LEAST_DIM, triton.next_power_of_2(dim))}


def pack_mask(seen: Seen, n_states: int, n_items: int) -> Tensor:
    """Return int32[n_states, ceil(n_items / 32)], a bit for each pair.

    Args:
        seen: distinct pairs.
        n_states: B.
        n_items: I.
    """
    n_words = -(-n_items // _WORD)
    words = torch.zeros(n_states * n_words, dtype=torch.int32, device=seen.items.device)
    bits = torch.ones_like(seen.items, dtype=torch.int32) << (seen.items % _WORD).int()
    # The pairs are distinct, so that the sum of their bits is the union.
    words.index_add_(0, seen.states * n_words + seen.items // _WORD, bits)
    return words.view(n_states, n_words)


def _divide(kept: tuple[int, int], swept: tuple[int, int]) -> tuple[tuple[int, int], int]:
    """Return the grid (tiles that programs keep, parts of a sweep) and the length of a part.

    Args:
        kept: rows of the side that programs keep, rows of its tile.
        swept: the same of the side that they go through.
    """
    n_tiles, n_steps = triton.cdiv(*kept), triton.cdiv(*swept)
    steps_per_part = triton.cdiv(n_steps, triton.cdiv(_PROGRAMS, n_tiles))
    return (n_tiles, triton.cdiv(n_steps, steps_per_part)), steps_per_part * swept[1]


def _terms(log_z: Tensor, offset: Tensor, weight: Tensor, value: Value) -> dict[str, object]:
    other_log_z = log_z if value.other_log_z is None else value.other_log_z
    return {
        "row_values": torch.stack([log_z, other_log_z, offset, weight]),
        "item_values": value.of_items,
        "other_states": None if value.other is None else value.other.states,
        "other_items": None if value.other is None else value.other.items,
        "of_log_p": value.of_log_p,
    }
