"""Prompt encoder: points, boxes (two corner points) and earlier mask logits become embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.model.ops import LayerNorm2d
from export.model.position_encoding import PositionEmbeddingRandom

PADDING_LABEL = -1
POINT_LABELS = 4  # background, foreground, box top left, box bottom right


class PromptEncoder(nn.Module):
    """Official `PromptEncoder`, as the video predictor uses it.

    Args:
        dim: D, channels of every embedding.
        image_size: S, side of the network's image in pixels.
        grid: E, side of the image embedding.
        mask_channels: Hidden channels of the mask embedding.
    """

    frozen_dense_positions: Tensor | None

    def __init__(self, dim: int, image_size: int, grid: int, mask_channels: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.grid = grid
        self.pe_layer = PositionEmbeddingRandom(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(POINT_LABELS))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)
        self.register_buffer('frozen_dense_positions', None, persistent=False)

    def points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Embeds points, and the padding point that closes them; official `_embed_points`.

        Args:
            coords: Float32 (N, Q, 2), x then y in network pixels.
            labels: Int (N, Q): 0 background, 1 foreground, 2 and 3 box corners, -1 padding.

        Returns:
            (N, Q + 1, D).
        """
        coords = F.pad(coords, (0, 0, 0, 1))
        labels = F.pad(labels, (0, 1), value=PADDING_LABEL).unsqueeze(-1)
        place = self.pe_layer((coords + 0.5) / self.image_size)
        kinds = torch.arange(POINT_LABELS, dtype=labels.dtype, device=labels.device)
        kind_embeddings = torch.cat([embedding.weight for embedding in self.point_embeddings])
        kind = (labels == kinds).float() @ kind_embeddings.float()
        padding = self.not_a_point_embed.weight
        embedded = torch.where(labels == PADDING_LABEL, padding.float(), place + kind)
        return embedded.to(padding.dtype)

    def no_points(self) -> Tensor:
        """What the official model sees without points: two padding points (1, 2, D)."""
        return self.not_a_point_embed.weight.unsqueeze(0).expand(1, 2, -1)

    def mask(self, logits: Tensor) -> Tensor:
        """Embeds mask logits (N, 1, 4E, 4E) -> (N, D, E, E), official `_embed_masks`."""
        return self.mask_downscaling(logits)

    def no_mask(self) -> Tensor:
        """The embedding that stands for no mask (1, D, 1, 1)."""
        return self.no_mask_embed.weight[:, :, None, None]

    def dense_positions(self) -> Tensor:
        """Positions of the image embedding's cells, float32 (1, D, E, E): `get_dense_pe`."""
        if self.frozen_dense_positions is not None:
            return self.frozen_dense_positions
        return self.pe_layer.grid(self.grid)

    def freeze(self) -> None:
        """Makes the cells' positions a constant of the graph."""
        self.frozen_dense_positions = self.dense_positions().detach().contiguous()
