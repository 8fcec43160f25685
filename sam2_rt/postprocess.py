"""Mask logits -> masks at image size, boxes, label image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_rt.types import Box, TrackResult


def image_logits(low_res_masks: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear resize of (S/4, S/4) logits to image size (height, width).

    Mirrors the official `_get_orig_video_res_output` (interpolate, align_corners=False).
    """
    height, width = size
    resized = cv2.resize(low_res_masks, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32)


def image_mask(low_res_masks: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask at image size: positive logits after the resize."""
    return image_logits(low_res_masks, size) > 0.0


def tight_box(mask: NDArray[np.bool_]) -> Box | None:
    """The smallest box around a mask, None if it is empty."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return (x, y, x + width, y + height) if width else None


def label_image(result: TrackResult) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """One image that names the object of every pixel.

    Returns:
        (H, W) uint8, uint16 past 255 objects: value k + 1 is the k-th of `result.objects`, 0 is
        background. Where masks overlap the larger logit wins.
    """
    dtype = np.uint8 if len(result.objects) <= 255 else np.uint16
    labels = np.zeros(result.size, dtype)
    visible = [k for k, tracked in enumerate(result.objects) if tracked.box is not None]
    overlap = np.zeros(result.size, bool)
    for k in visible:
        x0, y0, x1, y1 = result.objects[k].box or (0, 0, 0, 0)
        region = np.s_[y0:y1, x0:x1]
        mask = result.objects[k].mask[region]
        overlap[region] |= mask & (labels[region] > 0)
        labels[region][mask] = k + 1
    if overlap.any():
        # Logits are only brought to image size where two masks claim a pixel.
        best = np.full(int(overlap.sum()), -np.inf, np.float32)
        winner = labels[overlap]
        for k in visible:
            tracked = result.objects[k]
            logits = image_logits(tracked.low_res_masks, result.size)[overlap]
            wins = tracked.mask[overlap] & (logits > best)
            best[wins] = logits[wins]
            winner[wins] = k + 1
        labels[overlap] = winner
    return labels
