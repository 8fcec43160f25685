"""Mask decoder: image and prompt embeddings become mask candidates and their scores."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from export.model.ops import MLP, LayerNorm2d, reshape
from export.model.two_way_transformer import TwoWayTransformer

NUM_MULTIMASK = 3
NUM_MASKS = NUM_MULTIMASK + 1
STABILITY_DELTA = 0.05
STABILITY_THRESHOLD = 0.98


class Candidates(NamedTuple):
    """Everything the decoder predicts: candidate 0 is the single mask, 1 to 3 the multimask ones.

    Attributes:
        masks: Float32 logits (N, 4, 4E, 4E).
        iou_scores: Float32 (N, 4), 0..1.
        tokens: (N, 4, D), the candidates' output tokens.
        object_score_logits: Float32 (N,), positive where the object is in the image.
    """

    masks: Tensor
    iou_scores: Tensor
    tokens: Tensor
    object_score_logits: Tensor


class MaskDecoder(nn.Module):
    """Official class of the same name, with high-resolution features and object scores.

    Args:
        dim: D.
        grid: E, side of the image embedding.
        depth: Blocks of the two-way transformer.
        num_heads: Its attention heads.
        mlp_dim: Its MLPs' hidden channels.
        iou_hidden_dim: Hidden channels of the IoU head.
    """

    def __init__(
        self,
        dim: int,
        grid: int,
        depth: int,
        num_heads: int,
        mlp_dim: int,
        iou_hidden_dim: int,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.grid = grid
        self.transformer = TwoWayTransformer(depth, dim, num_heads, mlp_dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(NUM_MASKS, dim)
        self.obj_score_token = nn.Embedding(1, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.conv_s0 = nn.Conv2d(dim, dim // 8, kernel_size=1)
        self.conv_s1 = nn.Conv2d(dim, dim // 4, kernel_size=1)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, dim // 8, num_layers=3) for _ in range(NUM_MASKS)
        )
        self.iou_prediction_head = MLP(dim, iou_hidden_dim, NUM_MASKS, num_layers=3)
        self.pred_obj_score_head = MLP(dim, dim, 1, num_layers=3)

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        sparse: Tensor,
        dense: Tensor,
        high_res_s4: Tensor,
        high_res_s8: Tensor,
    ) -> Candidates:
        """Predicts all candidates, official `predict_masks`.

        Args:
            features: (N, D, E, E) image features.
            positions: (1, D, E, E) their positions.
            sparse: (N or 1, Q', D) point embeddings.
            dense: (N, D, E, E) or (1, D, 1, 1) mask embedding.
            high_res_s4: (B, D/8, 4E, 4E), B = N or 1.
            high_res_s8: (B, D/4, 2E, 2E).
        """
        own = torch.cat(
            (self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight)
        )
        tokens = torch.cat((own.expand(sparse.shape[0], -1, -1), sparse), dim=1)
        cells = (-1, self.dim, self.grid**2)
        tokens, image = self.transformer(
            reshape(features + dense, cells).transpose(1, 2),
            reshape(positions, cells).transpose(1, 2),
            tokens,
        )
        mask_tokens = tokens[:, 2 : 2 + NUM_MASKS]

        upscale1, norm, act1, upscale2, act2 = self.output_upscaling
        image = reshape(image.transpose(1, 2), (-1, self.dim, self.grid, self.grid))
        upscaled = act1(norm(upscale1(image) + high_res_s8))
        upscaled = act2(upscale2(upscaled) + high_res_s4)

        kernels = torch.stack(
            [mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        side = 4 * self.grid
        masks = kernels.float() @ reshape(upscaled, (-1, self.dim // 8, side**2)).float()
        return Candidates(
            masks=reshape(masks, (-1, NUM_MASKS, side, side)),
            iou_scores=self.iou_prediction_head(tokens[:, 1]).float().sigmoid(),
            tokens=mask_tokens,
            object_score_logits=self.pred_obj_score_head(tokens[:, 0]).float().squeeze(-1),
        )


def best_multimask(candidates: Candidates) -> Tensor:
    """Index (N,) in 1..3 of the multimask candidate with the highest predicted IoU."""
    return candidates.iou_scores[:, 1:].argmax(dim=1) + 1


def single_mask_is_stable(candidates: Candidates) -> Tensor:
    """Whether candidate 0 hardly depends on its threshold (N,): `_get_stability_scores`."""
    logits = candidates.masks[:, 0]
    inner = (logits > STABILITY_DELTA).float().mean(dim=(1, 2))
    outer = (logits > -STABILITY_DELTA).float().mean(dim=(1, 2))
    return inner >= STABILITY_THRESHOLD * outer


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Picks one of four per object, without a gather: (N, 4, ...) by index (N,) -> (N, ...)."""
    others = torch.arange(NUM_MASKS, device=index.device) != index.unsqueeze(-1)
    return values.masked_fill(others[(...,) + (None,) * (values.ndim - 2)], 0).sum(dim=1)
