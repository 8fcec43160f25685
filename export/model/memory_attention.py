"""Memory attention: the current frame's features look at the memory of earlier frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.memory_tokens import MemoryTokens
from export.model.ops import LayerNorm, attend, reshape
from export.model.position_encoding import axial_rope, rotate, sine_grid


class RoPEAttention(nn.Module):
    """Single-head attention with rotary positions, official `RoPEAttention`.

    Args:
        dim: Channels of queries, of the attention itself and of the output.
        key_dim: Channels of keys and values as they come in.
        grid: E; a map has E * E cells.
        dropout: Probability of dropping an attention weight while training.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, dim: int, key_dim: int, grid: int, dropout: float) -> None:
        super().__init__()
        self.dim = dim
        self.dropout = dropout
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(key_dim, dim)
        self.v_proj = nn.Linear(key_dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        cos, sin = axial_rope(dim, grid)
        self.register_buffer('cos', cos, persistent=False)
        self.register_buffer('sin', sin, persistent=False)

    def forward(
        self,
        q: Tensor,
        map_keys: Tensor,
        values: Tensor,
        pointer_keys: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attends from a map to maps and, optionally, to tokens that have no place.

        The values are projected after the weighted sum, not before it: the rows of a softmax sum
        to one, so softmax(qk) v W + b is the official softmax(qk) (v W + b), and the sum runs
        over key_dim channels instead of dim. (With dropout the two agree in expectation.)

        Args:
            q: (B, E * E, dim); B is N, or 1 where all objects share the queries.
            map_keys: (N, M, E * E, key_dim), or (N, E * E, key_dim) for a single map.
            values: (N, L, key_dim), L = M * E * E + T.
            pointer_keys: (N, T, key_dim), not rotated.
            bias: Float32 (N, 1, L), added to the scores.

        Returns:
            (N, E * E, dim).
        """
        q = rotate(pairs_apart(self.q_proj, q), self.cos, self.sin)
        k = rotate(pairs_apart(self.k_proj, map_keys), self.cos, self.sin)
        k = reshape(k, (0, -1, self.dim))
        if pointer_keys is not None:
            k = torch.cat((k, pairs_apart(self.k_proj, pointer_keys)), dim=1)
        dropout = self.dropout if self.training else 0.0
        attended = attend(q, k, values, self.dim**-0.5, bias, dropout)
        return self.out_proj(self.v_proj(attended))


def pairs_apart(linear: nn.Linear, x: Tensor) -> Tensor:
    """Applies a linear layer with its even output channels first and its odd ones after them.

    A rotation turns channel pairs, which the official layout interleaves. Queries and keys only
    meet in a dot product, so the order of their channels is free, and in this order a rotation
    works on two contiguous halves.
    """
    dim, key_dim = linear.out_features, linear.in_features
    weight = linear.weight.reshape(dim // 2, 2, key_dim).transpose(0, 1).reshape(dim, key_dim)
    bias = linear.bias.reshape(dim // 2, 2).transpose(0, 1).reshape(dim)
    return F.linear(x, weight, bias)


class MemoryAttentionLayer(nn.Module):
    """Self-attention, attention to the memory, MLP; official class of the same name."""

    def __init__(self, dim: int, memory_dim: int, ffn_dim: int, grid: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = RoPEAttention(dim, dim, grid, dropout)
        self.cross_attn_image = RoPEAttention(dim, memory_dim, grid, dropout)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1 = LayerNorm(dim)
        self.norm2 = LayerNorm(dim)
        self.norm3 = LayerNorm(dim)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.dropout3 = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: MemoryTokens) -> Tensor:
        """(B, E * E, D) -> (N, E * E, D); where B is 1, self-attention runs once for all N."""
        normed = self.norm1(x)
        x = x + self.dropout1(self.self_attn(normed, normed, normed))
        attended = self.cross_attn_image(
            self.norm2(x), memory.map_keys, memory.values, memory.pointer_keys, memory.bias
        )
        x = x + self.dropout2(attended)
        hidden = self.dropout(F.relu(self.linear1(self.norm3(x))))
        return x + self.dropout3(self.linear2(hidden))


class MemoryAttention(nn.Module):
    """Conditions a frame's features on the memory, official class of the same name.

    Args:
        dim: D, channels of the image features.
        memory_dim: Dm, channels of the memory.
        ffn_dim: Hidden channels of the MLPs.
        num_layers: Layers.
        grid: E, side of the feature map.
        dropout: Dropout while training, in attention and around it.
    """

    position: Tensor

    def __init__(
        self,
        dim: int,
        memory_dim: int,
        ffn_dim: int,
        num_layers: int,
        grid: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.grid = grid
        self.layers = nn.ModuleList(
            MemoryAttentionLayer(dim, memory_dim, ffn_dim, grid, dropout)
            for _ in range(num_layers)
        )
        self.norm = LayerNorm(dim)
        self.register_buffer('position', sine_grid(dim, grid), persistent=False)

    def forward(self, features: Tensor, memory: MemoryTokens) -> Tensor:
        """Image features (B, D, E, E), B = N or 1, and memory of N objects -> (N, D, E, E)."""
        x = features + 0.1 * self.position.to(features.dtype)
        x = reshape(x, (-1, self.dim, self.grid**2)).transpose(1, 2)
        for layer in self.layers:
            x = layer(x, memory)
        return reshape(self.norm(x).transpose(1, 2), (-1, self.dim, self.grid, self.grid))
