"""Hiera, the official image trunk: windowed attention in four stages.

Paper: Ryali et al., "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles",
https://arxiv.org/abs/2306.00989; window positions: https://arxiv.org/abs/2311.05613.
Inside, tokens lie channels-last: (B, H, W, C). Every size is known when the trunk is built.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.ops import MLP, LayerNorm, attend, reshape

PATCH_STRIDE = 4


@dataclass(frozen=True)
class HieraConfig:
    """Sizes of a Hiera trunk, with the official defaults (base_plus).

    Attributes:
        embed_dim: Channels of the first stage; each later stage doubles them, and the heads.
        num_heads: Attention heads of the first stage.
        stages: Blocks per stage.
        global_att_blocks: Blocks that attend to the whole image instead of windows.
        window_spec: Window side per stage, in tokens.
        window_pos_embed_bkg_spatial_size: Side of the learned background position map.
    """

    embed_dim: int = 112
    num_heads: int = 2
    stages: tuple[int, ...] = (2, 3, 16, 3)
    global_att_blocks: tuple[int, ...] = (12, 16, 20)
    window_spec: tuple[int, ...] = (8, 4, 14, 7)
    window_pos_embed_bkg_spatial_size: int = 14

    def build(self, image_size: int) -> Hiera:
        """Makes the trunk for square images of the given side in pixels."""
        return Hiera(self, image_size)


class PatchEmbed(nn.Module):
    """Image (B, 3, S, S) -> tokens (B, S/4, S/4, C)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=7, stride=PATCH_STRIDE, padding=3)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).permute(0, 2, 3, 1)


def max_pool(x: Tensor) -> Tensor:
    """2 x 2 maximum of (B, H, W, C), official `do_pool`."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), kernel_size=2).permute(0, 2, 3, 1)


def window_partition(x: Tensor, channels: int, grid: int, window: int) -> Tensor:
    """(B, grid, grid, C) -> (B * windows, window, window, C), zero-padded to whole windows."""
    pad = -grid % window
    if pad:
        x = F.pad(x, (0, 0, 0, pad, 0, pad))
    count = (grid + pad) // window
    x = reshape(x, (-1, count, window, count, window, channels)).permute(0, 1, 3, 2, 4, 5)
    return reshape(x, (-1, window, window, channels))


def window_unpartition(x: Tensor, channels: int, grid: int, window: int) -> Tensor:
    """Inverse of `window_partition`; the padding is cut off."""
    count = -(-grid // window)
    x = reshape(x, (-1, count, count, window, window, channels)).permute(0, 1, 3, 2, 4, 5)
    x = reshape(x, (-1, count * window, count * window, channels))
    return x[:, :grid, :grid] if count * window > grid else x


class MultiScaleAttention(nn.Module):
    """Multi-head attention within a window; pools the queries where a stage begins."""

    def __init__(self, dim: int, dim_out: int, num_heads: int, side: int, pool: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim_out // num_heads
        self.side = side
        self.pool = pool
        self.qkv = nn.Linear(dim, dim_out * 3)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, side, side, dim) -> (B, side', side', dim_out), side' = side / 2 when it pools."""
        q, k, v = self.qkv(x).split(self.num_heads * self.head_dim, dim=-1)
        side = self.side
        if self.pool:
            q, side = max_pool(q), side // 2
        q, k, v = self._heads(q, side), self._heads(k, self.side), self._heads(v, self.side)
        out = attend(q, k, v, self.head_dim**-0.5)
        out = reshape(out.transpose(1, 2), (-1, side, side, self.num_heads * self.head_dim))
        return self.proj(out)

    def _heads(self, x: Tensor, side: int) -> Tensor:
        # (B, side, side, C) -> (B, heads, side * side, C / heads)
        return reshape(x, (-1, side * side, self.num_heads, self.head_dim)).transpose(1, 2)


class MultiScaleBlock(nn.Module):
    """One transformer block: attention (windowed unless window is 0), then an MLP.

    Args:
        dim: Channels in.
        dim_out: Channels out.
        num_heads: Attention heads.
        grid: Side of the token grid that comes in.
        window: Side of the attention windows, 0 for the whole grid.
        pool: Halve the grid.
    """

    def __init__(
        self, dim: int, dim_out: int, num_heads: int, grid: int, window: int, pool: bool
    ) -> None:
        super().__init__()
        self.dim = dim
        self.dim_out = dim_out
        self.grid = grid
        self.window = window
        self.pool = pool
        self.norm1 = LayerNorm(dim, eps=1e-6)
        self.attn = MultiScaleAttention(dim, dim_out, num_heads, window or grid, pool)
        self.norm2 = LayerNorm(dim_out, eps=1e-6)
        self.mlp = MLP(dim_out, 4 * dim_out, dim_out, num_layers=2, activation=nn.GELU)
        if dim != dim_out:
            self.proj = nn.Linear(dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        shortcut = x
        if self.dim != self.dim_out:
            shortcut = self.proj(normed)
            if self.pool:
                shortcut = max_pool(shortcut)
        if self.window:
            windows = self.attn(window_partition(normed, self.dim, self.grid, self.window))
            stride = 2 if self.pool else 1
            attended = window_unpartition(
                windows, self.dim_out, self.grid // stride, self.window // stride
            )
        else:
            attended = self.attn(normed)
        x = shortcut + attended
        return x + self.mlp(self.norm2(x))


class Hiera(nn.Module):
    """The trunk: image (B, 3, S, S) -> four maps, strides 4, 8, 16 and 32, official `Hiera`.

    Attributes:
        channel_list: Channels of the maps, coarsest first (the official order).
    """

    frozen_positions: Tensor | None

    def __init__(self, config: HieraConfig, image_size: int) -> None:
        super().__init__()
        self.grid = image_size // PATCH_STRIDE
        dim, heads, grid = config.embed_dim, config.num_heads, self.grid
        background, window = config.window_pos_embed_bkg_spatial_size, config.window_spec[0]
        self.patch_embed = PatchEmbed(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, background, background))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, dim, window, window))
        self.register_buffer('frozen_positions', None, persistent=False)

        self.blocks = nn.ModuleList()
        self.stage_ends = []
        for stage, depth in enumerate(config.stages):
            for block in range(depth):
                pool = stage > 0 and block == 0
                # A pooling block still works in the windows of the stage before.
                window = config.window_spec[stage - 1 if pool else stage]
                if len(self.blocks) in config.global_att_blocks:
                    window = 0
                dim_out = 2 * dim if pool else dim
                heads = 2 * heads if pool else heads
                self.blocks.append(MultiScaleBlock(dim, dim_out, heads, grid, window, pool))
                dim, grid = dim_out, grid // 2 if pool else grid
            self.stage_ends.append(len(self.blocks) - 1)
        self.channel_list = [self.blocks[end].dim_out for end in reversed(self.stage_ends)]

    def positions(self) -> Tensor:
        """Position embedding of the token grid (1, S/4, S/4, C), official `_get_pos_embed`."""
        if self.frozen_positions is not None:
            return self.frozen_positions
        background = F.interpolate(self.pos_embed, size=(self.grid, self.grid), mode='bicubic')
        repeats = self.grid // self.pos_embed_window.shape[-1]
        window = self.pos_embed_window.tile(1, 1, repeats, repeats)
        return (background + window).permute(0, 2, 3, 1)

    def freeze(self) -> None:
        """Makes the position embedding a constant; the weights must not change after."""
        self.frozen_positions = self.positions().detach().contiguous()

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.patch_embed(image)
        x = x + self.positions().to(x.dtype)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.stage_ends:
                maps.append(x.permute(0, 3, 1, 2))
        return maps
