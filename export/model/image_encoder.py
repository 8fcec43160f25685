"""Image encoder: a trunk, and the feature pyramid above it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FpnNeck(nn.Module):
    """Feature pyramid, official `FpnNeck` with `fpn_top_down_levels: [2, 3]`.

    Only stride 16 receives the coarser level; strides 4 and 8 are lateral projections alone.

    Args:
        hidden_dim: D, channels of every output level.
        channel_list: Channels of the trunk's maps, coarsest (stride 32) first.
    """

    def __init__(self, hidden_dim: int, channel_list: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        for channels in channel_list:
            level = nn.Sequential()
            level.add_module('conv', nn.Conv2d(channels, hidden_dim, kernel_size=1))
            self.convs.append(level)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Trunk maps of stride 4, 8, 16, 32 -> (B, D, ., .) at strides 4, 8 and 16."""
        coarsest_first = zip(self.convs, reversed(maps), strict=True)
        stride32, stride16, stride8, stride4 = (conv(x) for conv, x in coarsest_first)
        top_down = F.interpolate(stride32, scale_factor=2.0, mode='nearest')
        return stride4, stride8, stride16 + top_down


class ImageEncoder(nn.Module):
    """Normalised image (B, 3, S, S) -> pyramid of strides 4, 8 and 16, official `ImageEncoder`.

    The trunk is any module that turns the image into four maps of strides 4, 8, 16 and 32, and
    says their channels, coarsest first, in `channel_list`.
    """

    def __init__(self, trunk: nn.Module, hidden_dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.neck = FpnNeck(hidden_dim, trunk.channel_list)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.neck(self.trunk(image))
