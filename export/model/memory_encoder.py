"""Memory encoder: image features and a mask become a memory map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from export.model.ops import LayerNorm, LayerNorm2d


class MaskDownSampler(nn.Module):
    """Mask (N, 1, S, S) -> (N, D, E, E) in stride-2 steps, official class of the same name.

    Args:
        dim: D.
        channels: Channels after each step; as many steps as halvings from S to E.
    """

    def __init__(self, dim: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.encoder = nn.Sequential()
        for before, after in pairwise((1, *channels)):
            self.encoder.append(nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1))
            self.encoder.append(LayerNorm2d(after))
            self.encoder.append(nn.GELU())
        self.encoder.append(nn.Conv2d(channels[-1], dim, kernel_size=1))

    def forward(self, mask: Tensor) -> Tensor:
        return self.encoder(mask)


class CXBlock(nn.Module):
    """ConvNeXt block on (N, D, E, E), official class of the same name."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(1e-6 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        channels_last = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        update = self.gamma * self.pwconv2(self.act(self.pwconv1(channels_last)))
        return x + update.permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """A stack of ConvNeXt blocks, official class of the same name."""

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CXBlock(dim) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Image features and mask -> memory features, official class of the same name.

    Args:
        dim: D, channels of the image features.
        memory_dim: Dm, channels of the memory.
        mask_channels: Channels after each step of the mask downsampler.
        fuser_layers: ConvNeXt blocks.
    """

    def __init__(
        self, dim: int, memory_dim: int, mask_channels: Sequence[int], fuser_layers: int
    ) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownSampler(dim, mask_channels)
        self.pix_feat_proj = nn.Conv2d(dim, dim, kernel_size=1)
        self.fuser = Fuser(dim, fuser_layers)
        self.out_proj = nn.Conv2d(dim, memory_dim, kernel_size=1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features (B, D, E, E), B = N or 1, and scaled mask (N, 1, S, S) -> (N, Dm, E, E)."""
        image, mask = self.pix_feat_proj(features), self.mask_downsampler(mask)
        # The axis keeps OpenVINO (2026.4) from writing the sum of two convolutions into the output
        # of the first one, which for B = 1 is too small.
        x = (image.unsqueeze(1) + mask.unsqueeze(1)).squeeze(1)
        return self.out_proj(self.fuser(x))
