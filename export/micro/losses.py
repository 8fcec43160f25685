"""Training losses of one frame's candidates, after SAM 2: mask, predicted IoU, object score."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from export.micro.samples import ABSENT, PRESENT, UNSURE
from export.model.mask_decoder import Candidates

_SCORE_WEIGHT = 3.0  # one number beside a mask
_ABSENT_WEIGHT = 3.0  # hidden objects are rarer than visible ones
_SPREAD = 0.2  # every multimask candidate learns a little from every sample, so that none dies


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of logits (..., h, w) with covered shares (..., h, w) -> (...)."""
    ours, theirs = logits > 0, target > 0.5
    union = (ours | theirs).sum((-2, -1))
    return (ours & theirs).sum((-2, -1)) / union.clamp(min=1)


def mask_loss(logits: Tensor, target: Tensor, balance: float) -> Tensor:
    """Cross-entropy and dice per mask: (..., h, w) twice -> (...).

    Args:
        logits: Mask logits.
        target: Covered share of each cell.
        balance: 1 weighs object and background equally however small the object is, without which
            a fresh network settles for 'all background'; 0 is the focal loss of SAM, which draws
            the outline where it is. Between them, a mixture.
    """
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
    area = target.sum((-2, -1))
    overlap = (probability * target).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + area + 1)
    surprise = (probability - target).square()
    focal = 20 * (entropy * surprise).mean((-2, -1))
    if balance <= 0:
        return focal + dice
    inside = (entropy * target).sum((-2, -1)) / area.clamp(min=1)
    outside = (entropy * (1 - target)).mean((-2, -1))
    return balance * (inside + outside) + (1 - balance) * focal + dice


def frame_loss(
    candidates: Candidates, target: Tensor, presence: Tensor, balance: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one frame's N objects: a scalar, and what it is made of, for the log.

    Of the three multimask candidates the best one is supervised, as in SAM; the single mask always
    is. The IoU head learns every candidate's true IoU. For an object that is not in the frame all
    masks should be empty: SAM leaves them untaught, but where data is short, thousands of cells
    say 'it is not here' more clearly than the object score's one number.

    Args:
        candidates: The decoder's answer for N objects.
        target: Float32 (N, h, w), finer than the decoder's masks, which are judged after the
            interpolation that also brings them to the image's size: the shares of the cells
            themselves say too little about objects of a few cells.
        presence: uint8 (N,), see `samples`.
        balance: See `mask_loss`.
    """
    all_masks = F.interpolate(
        candidates.masks, size=target.shape[-2:], mode='bilinear', align_corners=False
    )
    present = presence == PRESENT
    sure = presence != UNSURE
    score_loss = F.binary_cross_entropy_with_logits(
        candidates.object_score_logits, present.float(), reduction='none'
    )
    weight = torch.where(presence == ABSENT, _ABSENT_WEIGHT, 1.0) * sure
    score_loss = (score_loss * weight).sum() / weight.sum().clamp(min=1)
    parts = {'score': score_loss.detach()}
    loss = _SCORE_WEIGHT * score_loss
    absent = presence == ABSENT
    if absent.any():
        masks = all_masks[absent]
        empty = mask_loss(masks, torch.zeros_like(masks), balance=0.0).mean()
        loss = loss + absent.sum() / len(presence) * empty
        parts['empty'] = empty.detach()
    if not present.any():
        return loss, parts

    masks = all_masks[present]
    target = target[present].unsqueeze(1).expand_as(masks)
    per_mask = mask_loss(masks, target, balance)
    with torch.no_grad():
        truth = mask_iou(masks, target)
    multimask = per_mask[:, 1:]
    total = per_mask[:, 0] + multimask.min(dim=1).values + _SPREAD * multimask.mean(dim=1)
    iou_loss = (candidates.iou_scores[present] - truth).abs().mean()
    share = present.sum() / len(presence)
    parts |= {
        'mask': per_mask[:, 0].mean().detach(),
        'iou': iou_loss.detach(),
        'J': truth[:, 0].mean(),
        'J_best': truth[:, 1:].max(dim=1).values.mean(),
    }
    return loss + share * (total.mean() + iou_loss), parts
