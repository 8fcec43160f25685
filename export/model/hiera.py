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


class MultiScaleAttention(nn.Module):
    """Multi-head attention within windows; pools the queries where a stage begins.

    The official code cuts windows first and projects them after; here the projections see the
    uncut map, so the zero tokens that pad the last windows are never projected. For the tiny trunk
    this saves 8 % of all multiplications at S = 512, 21 % at 256. Officially the padding becomes
    the projections' bias; here it stays zero and the result is the same, because
    - the keys' bias adds the same to all scores of a query, which a softmax ignores: it is unused;
    - the values' bias passes through the weighted mean unchanged: it is added after `proj`;
    - what padding asks for, as a query, is cut off again.

    Args:
        dim: Channels in.
        dim_out: Channels out.
        num_heads: Attention heads.
        grid: Side of the token grid that comes in.
        window: Side of the windows; the grid's side makes attention global.
        pool: Halve the grid.
    """

    def __init__(
        self, dim: int, dim_out: int, num_heads: int, grid: int, window: int, pool: bool
    ) -> None:
        super().__init__()
        self.dim_out = dim_out
        self.num_heads = num_heads
        self.pool = pool
        self.window = window
        self.padding = -grid % window
        self.count = (grid + self.padding) // window  # windows per row and per column
        self.grid_out = grid // 2 if pool else grid
        self.qkv = nn.Linear(dim, dim_out * 3)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, grid, grid, dim) -> (B, grid_out, grid_out, dim_out)."""
        # A product for each of the three: cutting up a single one costs a copy of it.
        q_weight, k_weight, v_weight = self.qkv.weight.split(self.dim_out)
        q_bias, _, v_bias = self.qkv.bias.split(self.dim_out)
        q, window_out, padding_out = F.linear(x, q_weight, q_bias), self.window, self.padding
        if self.pool:  # windows have even sides, so each is pooled by itself
            q, window_out, padding_out = max_pool(q), self.window // 2, self.padding // 2
        q = self._cut(q, window_out, padding_out)
        k = self._cut(F.linear(x, k_weight), self.window, self.padding)
        v = self._cut(F.linear(x, v_weight), self.window, self.padding)
        out = attend(q, k, v, (self.dim_out // self.num_heads) ** -0.5)
        bias = self.proj.bias + self.proj.weight @ v_bias
        return F.linear(self._join(out, window_out), self.proj.weight, bias)

    def _cut(self, x: Tensor, window: int, padding: int) -> Tensor:
        """(B, side, side, C) -> (B * windows, heads, window * window, C / heads)."""
        if padding:
            x = F.pad(x, (0, 0, 0, padding, 0, padding))
        head_dim = self.dim_out // self.num_heads
        x = reshape(x, (-1, window, self.count, window, self.num_heads, head_dim))
        return reshape(x.permute(0, 2, 4, 1, 3, 5), (-1, self.num_heads, window**2, head_dim))

    def _join(self, x: Tensor, window: int) -> Tensor:
        """Inverse of `_cut`, without the padding."""
        head_dim = self.dim_out // self.num_heads
        side = self.count * window
        x = reshape(x, (-1, self.count, self.num_heads, window, window, head_dim))
        x = reshape(x.permute(0, 3, 1, 4, 2, 5), (-1, side, side, self.dim_out))
        return x[:, : self.grid_out, : self.grid_out] if self.padding else x


class MultiScaleBlock(nn.Module):
    """One transformer block: attention, then an MLP. Arguments as `MultiScaleAttention`."""

    def __init__(
        self, dim: int, dim_out: int, num_heads: int, grid: int, window: int, pool: bool
    ) -> None:
        super().__init__()
        self.dim = dim
        self.dim_out = dim_out
        self.pool = pool
        self.norm1 = LayerNorm(dim, eps=1e-6)
        self.attn = MultiScaleAttention(dim, dim_out, num_heads, grid, window, pool)
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
        x = shortcut + self.attn(normed)
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
                    window = grid
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
