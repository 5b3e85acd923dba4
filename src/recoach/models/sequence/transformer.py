"""The causal transformer encoder of SASRec: RecBole's block, the original one, LiGR's, HSTU's.

Departure from the original: histories are padded on the right (under a causal mask no item can
attend to the padding). `position = "from_end"` numbers the positions as its left padding does.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from recoach.config import StrictConfig

_NORM_EPSILON = {"recbole": 1e-12, "original": 1e-8, "ligr": 1e-5, "hstu": 1e-6}
"""Of the layer norm of the inputs (`recbole`) or of the states that are returned (the others)."""


class EncoderConfig(StrictConfig):
    """Settings of the sequence encoder; the defaults are RecBole's."""

    dim: int = Field(default=64, gt=0)
    """Dimension of the embeddings and of the states."""
    layers: int = Field(default=2, ge=0, le=100)
    """Number of transformer blocks."""
    heads: int = Field(default=2, gt=0)
    """Number of attention heads; must divide `dim`."""
    inner_dim: int = Field(default=256, gt=0)
    """Dimension of the feed-forward layers (the original uses `dim`; HSTU has none)."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout rate of inputs, attention and feed-forward layers."""
    max_length: int = Field(default=50, gt=0)
    """Number of last items of a history that the model reads."""
    architecture: Literal["recbole", "original", "ligr", "hstu"] = "recbole"
    """RecBole's post-norm BERT block, the block of Kang & McAuley 2018, LiGR's gated block
    (eSASRec), or HSTU's."""
    position: Literal["from_start", "from_end"] = "from_start"
    """Number positions from the oldest item (0) or to the newest item (`max_length - 1`)."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} must divide dim = {self.dim}")
        return self


class SequenceEncoder(nn.Module):
    """A causal transformer: returns one state after each item of a history."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.position = nn.Parameter(torch.empty(config.max_length, config.dim))
        block = _BLOCKS[config.architecture]
        self.blocks = nn.ModuleList(block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=_NORM_EPSILON[config.architecture])
        self.dropout = _Dropout(config.dropout)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Encode histories.

        Args:
            vectors: float[R, T, D] item vectors, padded on the right.
            lengths: int64[R] number of items in each row.

        Returns:
            float[R, T, D]; the state at position t depends only on items 0..t. States at padding
            positions are meaningless.
        """
        index = torch.arange(vectors.shape[1], device=vectors.device)
        if self.config.position == "from_end":
            index = self.config.max_length - lengths[:, None] + index
            index = index.clamp(max=self.config.max_length - 1)
        position = self.position[index]
        post_norm = self.config.architecture == "recbole"
        scaled = self.config.architecture in ("original", "hstu")
        scale = self.config.dim**0.5 if scaled else 1.0
        states = vectors * scale + position
        states = self.dropout(self.norm(states) if post_norm else states)
        for block in self.blocks:
            states = block(states)
        result: Tensor = states if post_norm else self.norm(states)
        return result


class _Dropout(nn.Module):
    """Dropout with a mask computed in floats: four times as fast as torch's on a CPU."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, vectors: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return vectors
        return vectors * torch.rand_like(vectors).ge_(self.p).mul_(1 / (1 - self.p))


class _Attention(nn.Module):
    """Causal multi-head attention without output projection."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, config.dim)

    def forward(self, query_states: Tensor, states: Tensor) -> Tensor:
        """Return float[R, T, D]: queries from the first argument, keys and values from the second.

        Both are float[R, T, D].
        """
        rows, length, dim = query_states.shape

        def split_heads(x: Tensor) -> Tensor:
            return x.view(rows, length, self.heads, dim // self.heads).transpose(1, 2)

        attended = functional.scaled_dot_product_attention(
            split_heads(self.query(query_states)),
            split_heads(self.key(states)),
            split_heads(self.value(states)),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=True,
        )
        return attended.transpose(1, 2).reshape(rows, length, dim)


class _PostNormBlock(nn.Module):
    """The block of RecBole, as in BERT: residual connection, then layer norm."""

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
        attended = self.dropout(self.output(self.attention(states, states)))
        states = self.attention_norm(states + attended)
        hidden = self.dropout(self.down(functional.gelu(self.up(states))))
        result: Tensor = self.forward_norm(states + hidden)
        return result


class _OriginalBlock(nn.Module):
    """The block of Kang & McAuley 2018: pre-norm, with the normalised input as the residual.

    Queries are computed from normalised states, keys and values from the states as they are.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.attention_norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.up = nn.Linear(config.dim, config.inner_dim)
        self.down = nn.Linear(config.inner_dim, config.dim)
        self.forward_norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.dropout = _Dropout(config.dropout)

    def forward(self, states: Tensor) -> Tensor:
        normalised = self.attention_norm(states)
        states = self.forward_norm(normalised + self.attention(normalised, states))
        hidden = self.down(self.dropout(torch.relu(self.up(states))))
        result: Tensor = states + self.dropout(hidden)
        return result


class _LiGRBlock(nn.Module):
    """The block of LiGR (Borisyuk et al. 2025) as in eSASRec (Tikhonovich et al. 2025).

    Pre-norm with gated residuals: x + sigmoid(G x + g) * dropout(sublayer(norm(x))), for causal
    attention with an output projection and then for SwiGLU, W3 (silu(W1 x) * W2 x), without biases.
    As in eSASRec's code the inputs are not scaled, and dropout is applied inside SwiGLU as well.
    Departure: a layer norm after the last block; training is far slower without it (decision 24).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.output = nn.Linear(config.dim, config.dim)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention_gate = nn.Linear(config.dim, config.dim)
        self.activation = nn.Linear(config.dim, config.inner_dim, bias=False)
        self.up = nn.Linear(config.dim, config.inner_dim, bias=False)
        self.down = nn.Linear(config.inner_dim, config.dim, bias=False)
        self.forward_norm = nn.LayerNorm(config.dim)
        self.forward_gate = nn.Linear(config.dim, config.dim)
        self.dropout = _Dropout(config.dropout)

    def forward(self, states: Tensor) -> Tensor:
        normalised = self.attention_norm(states)
        attended = self.dropout(self.output(self.attention(normalised, normalised)))
        states = states + torch.sigmoid(self.attention_gate(states)) * attended
        normalised = self.forward_norm(states)
        hidden = functional.silu(self.activation(normalised)) * self.up(normalised)
        hidden = self.dropout(self.down(self.dropout(hidden)))
        result: Tensor = states + torch.sigmoid(self.forward_gate(states)) * hidden
        return result


class _HSTUBlock(nn.Module):
    """The block of HSTU (Zhai et al. 2024): attention by SiLU instead of softmax, gated; no FFN.

    U, V, Q, K = silu(norm(x) W); A = silu(Q K^T + b[distance]) / n below the diagonal, for each
    head; the output is x + W' dropout(U * norm(A V)) + b'. b is a bias for each distance of two
    positions, which the heads share, and n is `max_length`, so that padding changes nothing.
    Departures from the paper and its code: no bias for time differences; no dropout of A; a layer
    norm after the last block instead of unit vectors and a temperature.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.projection = nn.Linear(config.dim, 4 * config.dim, bias=False)
        self.distance_bias = nn.Parameter(torch.zeros(config.max_length))
        self.attended_norm = nn.LayerNorm(config.dim, eps=1e-6, elementwise_affine=False)
        self.output = nn.Linear(config.dim, config.dim)
        self.dropout = _Dropout(config.dropout)

    def forward(self, states: Tensor) -> Tensor:
        projected = functional.silu(self.projection(self.norm(states)))
        gates, values, queries, keys = projected.chunk(4, dim=-1)
        shape = (*states.shape[:2], self.heads, states.shape[2] // self.heads)
        values, queries, keys = (
            part.reshape(shape).transpose(1, 2) for part in (values, queries, keys)
        )
        index = torch.arange(states.shape[1], device=states.device)
        distances = index[:, None] - index
        logits = queries @ keys.transpose(2, 3) + self.distance_bias[distances.clamp(min=0)]
        weights = functional.silu(logits) / len(self.distance_bias) * (distances >= 0)
        attended = (weights @ values).transpose(1, 2).flatten(2)
        result: Tensor = states + self.output(self.dropout(gates * self.attended_norm(attended)))
        return result


_BLOCKS: dict[str, type[nn.Module]] = {
    "hstu": _HSTUBlock,
    "recbole": _PostNormBlock,
    "original": _OriginalBlock,
    "ligr": _LiGRBlock,
}
