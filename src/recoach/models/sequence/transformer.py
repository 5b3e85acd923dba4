"""The causal encoder of SASRec in its two published forms.

Departures: histories are padded on the right in both forms (under a causal mask no real position
can see padding); the original's positions are counted from the end of the row, as its left
padding does.
"""

from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional


class EncoderConfig(BaseModel):
    """Settings of the sequence encoder; the defaults are RecBole's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dim: int = Field(64, gt=0)
    """Length of the vectors."""
    layers: int = Field(2, ge=0, le=100)
    """Number of transformer blocks."""
    heads: int = Field(2, gt=0)
    """Attention heads; must divide `dim`."""
    inner_dim: int = Field(256, gt=0)
    """Width of the feed-forward layer (the original uses `dim`)."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout of inputs, attention and feed-forward layers."""
    max_length: int = Field(50, gt=0)
    """Number of last items read."""
    architecture: Literal["recbole", "original"] = "recbole"
    """RecBole's post-norm BERT block, or the block of Kang & McAuley 2018."""
    position: Literal["from_start", "from_end"] = "from_start"
    """Whether position 0 is the oldest item read, or the last position is the newest."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} must divide dim = {self.dim}")
        return self


class SequenceEncoder(nn.Module):
    """Turn the vectors of a history into one state after each of its items."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.position = nn.Parameter(torch.empty(config.max_length, config.dim))
        self.original = config.architecture == "original"
        epsilon = 1e-8 if self.original else 1e-12
        block = _OriginalBlock if self.original else _PostNormBlock
        self.blocks = nn.ModuleList(block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=epsilon)
        self.dropout = _Dropout(config.dropout)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Encode histories.

        Args:
            vectors: float[R, T, D] item vectors, padded on the right.
            lengths: int64[R].

        Returns:
            float[R, T, D]; the state after item t depends on items 0..t alone. Padding holds
            numbers without meaning.
        """
        index = torch.arange(vectors.shape[1], device=vectors.device)
        if self.config.position == "from_end":
            index = self.config.max_length - lengths[:, None] + index
            index = index.clamp(max=self.config.max_length - 1)
        position = self.position[index]
        if self.original:
            states = self.dropout(vectors * self.config.dim**0.5 + position)
        else:
            states = self.dropout(self.norm(vectors + position))
        for block in self.blocks:
            states = block(states)
        result: Tensor = self.norm(states) if self.original else states
        return result


class _Dropout(nn.Module):
    """Dropout whose mask is drawn and compared in floats: on a CPU four times torch's speed."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, vectors: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return vectors
        return vectors * torch.rand_like(vectors).ge_(self.p).mul_(1 / (1 - self.p))


class _Attention(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, config.dim)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        rows, length, dim = asking.shape

        def split(x: Tensor) -> Tensor:
            return x.view(rows, length, self.heads, dim // self.heads).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            split(self.query(asking)),
            split(self.key(asked)),
            split(self.value(asked)),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=True,
        )
        return mixed.transpose(1, 2).reshape(rows, length, dim)


class _PostNormBlock(nn.Module):
    """RecBole: add, then normalise."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.output = nn.Linear(config.dim, config.dim)
        self.attention_norm = nn.LayerNorm(config.dim, eps=1e-12)
        self.up = nn.Linear(config.dim, config.inner_dim)
        self.down = nn.Linear(config.inner_dim, config.dim)
        self.forward_norm = nn.LayerNorm(config.dim, eps=1e-12)
        self.dropout = _Dropout(config.dropout)

    def forward(self, states: Tensor) -> Tensor:
        mixed = self.dropout(self.output(self.attention(states, states)))
        states = self.attention_norm(states + mixed)
        thought = self.dropout(self.down(functional.gelu(self.up(states))))
        result: Tensor = self.forward_norm(states + thought)
        return result


class _OriginalBlock(nn.Module):
    """Kang & McAuley: normalised queries ask un-normalised items; residuals add the normalised."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.attention_norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.up = nn.Linear(config.dim, config.inner_dim)
        self.down = nn.Linear(config.inner_dim, config.dim)
        self.forward_norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.dropout = _Dropout(config.dropout)

    def forward(self, states: Tensor) -> Tensor:
        asking = self.attention_norm(states)
        states = self.forward_norm(asking + self.attention(asking, states))
        thought = self.down(self.dropout(torch.relu(self.up(states))))
        result: Tensor = states + self.dropout(thought)
        return result
