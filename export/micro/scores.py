"""How good a track is: J and F of DAVIS, presence accuracy, re-acquisition delay."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_FOUND_IOU = 0.5  # from which an object counts as found again


@dataclass(frozen=True)
class Score:
    """Means over the frames after the prompt.

    Attributes:
        region: J, intersection over union; 1 where mask and truth are both empty.
        boundary: F of the outlines, within 0.8 % of the image diagonal, as DAVIS.
        presence: Share of frames on which visible or hidden is said rightly.
        delays: Frames from each reappearance until the mask is found again (IoU 0.5); None where
            it never is while the object stays.
    """

    region: float
    boundary: float
    presence: float
    delays: tuple[int | None, ...]


def score(masks: np.ndarray, visible: np.ndarray, truth: np.ndarray) -> Score:
    """Scores one object's track.

    Args:
        masks: bool (T, H, W), the prompted frame first; it does not count.
        visible: bool (T,), what the tracker said.
        truth: bool (T, H, W).
    """
    region = np.array([iou(mask, true) for mask, true in zip(masks, truth, strict=True)])
    boundary = [boundary_f(mask, true) for mask, true in zip(masks[1:], truth[1:], strict=True)]
    shown = truth.any((1, 2))
    return Score(
        region=float(region[1:].mean()),
        boundary=float(np.mean(boundary)),
        presence=float((visible[1:] == shown[1:]).mean()),
        delays=reacquisition_delays(region, shown),
    )


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool masks; 1 where both are empty."""
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def boundary_f(mask: np.ndarray, truth: np.ndarray) -> float:
    """F-measure of the outlines of two bool masks (H, W); 1 where both are empty."""
    if not mask.any() or not truth.any():
        return float(mask.any() == truth.any())
    reach = max(1, round(0.008 * float(np.hypot(*mask.shape))))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    ours, theirs = _outline(mask), _outline(truth)
    near_ours, near_theirs = cv2.dilate(ours, disc), cv2.dilate(theirs, disc)
    precision = np.count_nonzero(ours & near_theirs) / np.count_nonzero(ours)
    recall = np.count_nonzero(theirs & near_ours) / np.count_nonzero(theirs)
    return 2 * precision * recall / max(precision + recall, 1e-9)


def reacquisition_delays(region: np.ndarray, shown: np.ndarray) -> tuple[int | None, ...]:
    """Frames from each reappearance to the first frame with IoU >= 0.5, None if there is none.

    Args:
        region: IoU per frame (T,).
        shown: bool (T,), whether the object is visible in truth.
    """
    delays: list[int | None] = []
    for start in np.flatnonzero(shown[1:] & ~shown[:-1]) + 1:
        hidden_again = np.flatnonzero(~shown[start:])
        end = start + hidden_again[0] if len(hidden_again) else len(shown)
        found = np.flatnonzero(region[start:end] >= _FOUND_IOU)
        delays.append(int(found[0]) if len(found) else None)
    return tuple(delays)


def _outline(mask: np.ndarray) -> np.ndarray:
    inside = mask.astype(np.uint8)
    return inside & ~cv2.erode(inside, np.ones((3, 3), np.uint8), borderValue=0) & 1
