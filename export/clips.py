"""Made-up clips: textured shapes that move over a textured background, with known boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_rt.types import Frame

FRAME_NS = 33_333_333


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames, and where the shapes are.

    Attributes:
        frames: in order.
        boxes: (T, K, 4) float32, x0, y0, x1, y1 of each shape on each frame, in pixels.
    """

    frames: Sequence[Frame]
    boxes: NDArray[np.float32]


def synthetic_clip(
    seed: int, count: int, size: tuple[int, int] = (240, 320), shapes: int = 2
) -> Clip:
    """Makes a clip; the same seed makes the same clip.

    Args:
        seed: of textures, sizes and paths.
        count: T, frames.
        size: (height, width) in pixels.
        shapes: K, ellipses; the last one is in front.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    background = _texture(rng, size, (60, 120))
    surfaces = [_texture(rng, size, (110, 240)) for _ in range(shapes)]
    radii = rng.uniform(0.12, 0.2, (shapes, 2)) * min(size)
    # Each shape swings about its own place and stays inside the image.
    lanes = (np.arange(shapes) + 0.5) / shapes
    phases = rng.uniform(0, 2 * np.pi, (shapes, 2))

    images = np.empty((count, height, width, 3), np.uint8)
    boxes = np.empty((count, shapes, 4), np.float32)
    for t in range(count):
        image = background.copy()
        for k, (rx, ry) in enumerate(radii):
            swing = np.sin(phases[k] + t * np.array([0.15, 0.11]))
            cx = width * lanes[k] + 0.1 * width * swing[0]
            cy = height * 0.5 + 0.2 * height * swing[1]
            inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1.0
            image[inside] = surfaces[k][inside]
            boxes[t, k] = (cx - rx, cy - ry, cx + rx, cy + ry)
        images[t] = image
    return Clip([Frame(image, t * FRAME_NS) for t, image in enumerate(images)], boxes)


def _texture(
    rng: np.random.Generator, size: tuple[int, int], grey: tuple[int, int]
) -> NDArray[np.uint8]:
    """Coloured noise around a grey level (H, W, 3), in 16 steps, which make small PNGs."""
    height, width = size
    total = np.full((height, width, 3), rng.uniform(*grey, 3), np.float32)
    for cell, strength in ((48, 35.0), (8, 15.0)):
        coarse = rng.standard_normal((height // cell + 2, width // cell + 2, 3))
        total += strength * cv2.resize(coarse.astype(np.float32), (width, height))
    return (total.clip(0, 255) // 16 * 16).astype(np.uint8)
