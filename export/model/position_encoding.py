"""Positional encodings. Tables are made once for a size and kept as constants."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TEMPERATURE = 10000.0


def sine_grid(channels: int, grid: int) -> Tensor:
    """Sine encoding of a square grid, official `PositionEmbeddingSine` (normalised).

    Args:
        channels: C; the first half encodes y, the second half x.
        grid: Side of the grid in cells.

    Returns:
        Float32 (C, grid, grid).
    """
    features = channels // 2
    position = torch.arange(1, grid + 1, dtype=torch.float32)
    position = position / (grid + 1e-6) * 2 * math.pi
    index = torch.arange(features, dtype=torch.float32)
    angle = position[:, None] / TEMPERATURE ** (2 * (index // 2) / features)
    # sin and cos alternate: (grid, features)
    encoding = torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)
    y = encoding.T[:, :, None].expand(features, grid, grid)
    x = encoding.T[:, None, :].expand(features, grid, grid)
    return torch.cat((y, x))


def sine_1d(position: Tensor, channels: int) -> Tensor:
    """Sine encoding of scalars, official `get_1d_sine_pe`: (...) -> float32 (..., channels)."""
    features = channels // 2
    index = torch.arange(features, dtype=torch.float32, device=position.device)
    angle = position.unsqueeze(-1) / TEMPERATURE ** (2 * (index // 2) / features)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def axial_rope(channels: int, grid: int) -> tuple[Tensor, Tensor]:
    """Axial rotary tables, official `compute_axial_cis` as real numbers.

    The first half of the channel pairs turns with x, the second half with y.

    Returns:
        cos and sin, each float32 (grid * grid, channels // 2), cells in row-major order.
    """
    frequency = TEMPERATURE ** (-torch.arange(0, channels, 4, dtype=torch.float32) / channels)
    cell = torch.arange(grid, dtype=torch.float32)
    y, x = torch.meshgrid(cell, cell, indexing='ij')
    angle = torch.cat((x.reshape(-1, 1) * frequency, y.reshape(-1, 1) * frequency), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates channel pairs, official `apply_rotary_enc`, in half-split layout.

    Args:
        x: (..., T, C) with the pairs' first members in the first half of the channels and their
            second members in the second half (the official layout interleaves them).
        cos: (T, C // 2), as is sin.
    """
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x.split(cos.shape[-1], dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier features of image positions, official class of the same name."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer('positional_encoding_gaussian_matrix', torch.randn(2, channels // 2))

    def forward(self, coords: Tensor) -> Tensor:
        """Encodes positions (..., 2), x then y in 0..1 -> float32 (..., channels)."""
        angle = 2 * math.pi * ((2 * coords - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat((angle.sin(), angle.cos()), dim=-1)

    def grid(self, size: int) -> Tensor:
        """Encodes the cell centres of a square grid -> float32 (1, channels, size, size)."""
        device = self.positional_encoding_gaussian_matrix.device
        centre = (torch.arange(size, dtype=torch.float32, device=device) + 0.5) / size
        y, x = torch.meshgrid(centre, centre, indexing='ij')
        return self(torch.stack((x, y), dim=-1)).permute(2, 0, 1).unsqueeze(0)
