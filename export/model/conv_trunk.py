"""A plain convolutional trunk: residual 3x3 convolutions, for small networks on small machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """3x3 convolution with batch normalisation, which `freeze` folds into the convolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    @torch.no_grad()
    def freeze(self) -> None:
        """Folds the normalisation's running statistics into weight and bias, for export."""
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm2d):
            return
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.conv.weight.mul_(scale[:, None, None, None])
        self.conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
        self.norm = nn.Identity()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels)
        self.conv2 = ConvNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.conv2(self.conv1(x).relu())).relu()


class ConvTrunk(nn.Module):
    """Image (B, 3, S, S) -> maps of stride 4, 8, 16 and 32; see `ImageEncoder`.

    Args:
        stem: Channels at stride 2.
        widths: Channels at strides 4, 8, 16 and 32.
        depths: Residual blocks at those strides.
    """

    def __init__(self, stem: int, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.stem = ConvNorm(3, stem, stride=2)
        self.shrink = nn.ModuleList(ConvNorm(a, b, stride=2) for a, b in pairwise((stem, *widths)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )
        self.channel_list = list(reversed(widths))

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image).relu()
        maps = []
        for shrink, stage in zip(self.shrink, self.stages, strict=True):
            x = stage(shrink(x).relu())
            maps.append(x)
        return maps


@dataclass(frozen=True)
class ConvTrunkConfig:
    """Sizes of a `ConvTrunk`; the defaults are those of `micro`."""

    stem: int = 16
    widths: tuple[int, int, int, int] = (24, 48, 96, 192)
    depths: tuple[int, int, int, int] = (1, 2, 3, 1)

    def build(self, image_size: int) -> ConvTrunk:
        """Makes the trunk; a convolution does not care about the image's size."""
        return ConvTrunk(self.stem, self.widths, self.depths)
