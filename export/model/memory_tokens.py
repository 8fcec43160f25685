"""The memory of N objects, laid out as the tokens that memory attention attends to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from export.model.ops import reshape
from export.model.position_encoding import sine_1d

RECENT_SLOTS = 6
RECENT_POINTERS = 15
EMPTY_SLOT_BIAS = -30000.0  # finite, and within float16's range


class MemoryTokens(NamedTuple):
    """What a frame attends to: M memory maps of E x E cells, then T pointer tokens.

    Attributes:
        map_keys: (N, M, E * E, Dm) memory features with their place and time added.
        pointer_keys: (N, T, Dm) object pointers with their time added; they have no place.
        values: (N, M * E * E + T, Dm) the same tokens, nothing added.
        bias: Float32 (N, 1, M * E * E + T), 0 for a filled slot, very negative for an empty one.
    """

    map_keys: Tensor
    pointer_keys: Tensor
    values: Tensor
    bias: Tensor


class MemoryPositions(NamedTuple):
    """What marks a memory's place and time.

    Attributes:
        cells: (E * E, Dm), of each cell of a map.
        map_time: (7, Dm); row k - 1 is for k frames ago, the last row for conditioning frames.
        pointer_time: Projects a sine encoding (..., D) to (..., Dm); None: pointers have no time.
    """

    cells: Tensor
    map_time: Tensor
    pointer_time: nn.Module | None


def lay_out(
    memory_features: Tensor,
    memory_time: Tensor,
    object_pointers: Tensor,
    pointer_time: Tensor,
    positions: MemoryPositions,
    grid: int,
    hidden_dim: int,
    mem_dim: int,
) -> MemoryTokens:
    """Lays the memory out for attention; what an empty slot contains never matters.

    First half of the official `_prepare_memory_conditioned_features`.

    Args:
        memory_features: (N, M, Dm, E, E).
        memory_time: Int32 (N, M): -1 empty, 0 conditioning frame, k = 1..6 for k frames ago.
        object_pointers: (N, P, D).
        pointer_time: Int32 (N, P): -1 empty, else frames ago.
        positions: Added to the tokens to make keys.
        grid: E.
        hidden_dim: D.
        mem_dim: Dm.
    """
    maps = reshape(memory_features, (0, -1, mem_dim, grid**2)).transpose(2, 3)
    map_empty = memory_time < 0
    maps = maps.masked_fill(map_empty[:, :, None, None], 0)
    row = torch.where(memory_time > 0, memory_time - 1, RECENT_SLOTS)
    map_keys = maps + (positions.cells.to(maps.dtype) + positions.map_time[row].unsqueeze(2))

    # A pointer becomes D / Dm tokens that share its time.
    parts = hidden_dim // mem_dim
    pointer_empty = pointer_time < 0
    pointers = object_pointers.masked_fill(pointer_empty.unsqueeze(-1), 0)
    pointers = reshape(pointers, (0, -1, parts, mem_dim))
    pointer_keys = pointers
    if positions.pointer_time is not None:
        age = sine_1d(pointer_time.float() / RECENT_POINTERS, hidden_dim)
        pointer_keys = pointers + positions.pointer_time(age.to(pointers.dtype)).unsqueeze(2)

    flat = (0, -1, mem_dim)
    bias = (_token_bias(map_empty, grid**2), _token_bias(pointer_empty, parts))
    return MemoryTokens(
        map_keys=map_keys,
        pointer_keys=reshape(pointer_keys, flat),
        values=torch.cat((reshape(maps, flat), reshape(pointers, flat)), dim=1),
        bias=torch.cat(bias, dim=2),
    )


def _token_bias(empty: Tensor, tokens: int) -> Tensor:
    """Which slots are empty (N, M) -> what to add to their tokens' scores (N, 1, M * tokens)."""
    bias = empty.float().unsqueeze(-1) * torch.full(
        (tokens,), EMPTY_SLOT_BIAS, device=empty.device
    )
    return reshape(bias, (0, 1, -1))
