"""Prompts as a user would give them, sampled from a mask; network pixels, x then y."""

from __future__ import annotations

import cv2
import numpy as np

BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT, PADDING = 0, 1, 2, 3, -1

Points = tuple[np.ndarray, np.ndarray]


def box_prompt(mask: np.ndarray, rng: np.random.Generator | None = None) -> Points:
    """Tight box of a mask that is not empty: coords float32 (2, 2), labels int32 (2,).

    Args:
        mask: bool (H, W).
        rng: Where given, the box is drawn as carelessly as people draw boxes.
    """
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    corners = np.array([[cols[0], rows[0]], [cols[-1] + 1, rows[-1] + 1]], np.float32)
    if rng is not None:
        corners += rng.normal(0, 0.06, (2, 2)) * (corners[1] - corners[0])
    return corners.clip(0, max(mask.shape)).astype(np.float32), np.array([2, 3], np.int32)


def click_prompt(mask: np.ndarray, rng: np.random.Generator | None = None) -> Points:
    """One click inside a mask that is not empty, padded to two points.

    Args:
        mask: bool (H, W).
        rng: Where given, half of the clicks land anywhere in the mask; the others, and all where
            it is None, in its middle: the point farthest from the outline.
    """
    if rng is not None and rng.random() < 0.5:
        row, col = rng.choice(np.argwhere(mask))
    else:
        row, col = _middle(mask)
    coords = np.array([[col + 0.5, row + 0.5], [0, 0]], np.float32)
    return coords, np.array([FOREGROUND, PADDING], np.int32)


def corrective_click(predicted: np.ndarray, truth: np.ndarray, scale: float) -> Points:
    """The click that says most about what is wrong: the middle of the larger error region.

    Args:
        predicted: bool (h, w).
        truth: bool (h, w).
        scale: Network pixels per cell of the two masks.

    Returns:
        Coords float32 (2, 2) and labels int32 (2,); all padding where nothing is wrong.
    """
    missed, false = truth & ~predicted, predicted & ~truth
    coords, labels = np.zeros((2, 2), np.float32), np.full(2, PADDING, np.int32)
    error = missed if missed.sum() >= false.sum() else false
    if error.any():
        row, col = _middle(error)
        coords[0] = (col + 0.5) * scale, (row + 0.5) * scale
        labels[0] = FOREGROUND if error is missed else BACKGROUND
    return coords, labels


def _middle(mask: np.ndarray) -> tuple[int, int]:
    padded = np.pad(mask.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, col = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(row), int(col)
