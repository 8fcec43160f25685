"""Source image -> network input, and source-image coordinates -> network coordinates.

The network sees the whole image stretched to S x S, as the official predictor does
(`load_video_frames`); normalisation is part of the encode graph.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_rt.errors import PromptError
from sam2_rt.types import (
    BOX_CORNER_LABELS,
    BoxPrompt,
    Frame,
    PointPrompt,
)


def network_image(frame: Frame, image_size: int) -> NDArray[np.uint8]:
    """Stretches a frame to the network's square: (1, S, S, 3) uint8 RGB.

    Shrinking averages areas: on real frames that stays within 0.5 grey levels of the antialiased
    resize the network was trained with, where plain bilinear sampling aliases.
    """
    # One side may shrink while the other grows, which OpenCV cannot do by areas in one go.
    smaller = (min(frame.width, image_size), min(frame.height, image_size))
    image = cv2.resize(frame.image, smaller, interpolation=cv2.INTER_AREA)
    image = cv2.resize(image, (image_size, image_size), interpolation=cv2.INTER_LINEAR)
    if frame.colour_order == 'bgr':
        # After the resize, because there are fewer pixels to swap.
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(image[None], dtype=np.uint8)


def network_points(
    prompt: PointPrompt | BoxPrompt, size: tuple[int, int], image_size: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Points and labels of a prompt as the prompt graph takes them.

    A box becomes two points with labels 2 and 3 in front of the clicks, as the official
    `add_new_points_or_box` has it. A box is clipped to the image, because detectors overshoot.

    Args:
        prompt: clicks or a box, in source-image pixels.
        size: the source image's (height, width).
        image_size: S.

    Returns:
        (Q, 2) float32 network pixels 0..S, x then y, and (Q,) int32 point_labels.

    Raises:
        PromptError: a click lies outside the image, or the box does not touch it.
    """
    height, width = size
    points, labels = prompt.points, prompt.labels
    outside = (points < 0).any(axis=1) | (points[:, 0] > width) | (points[:, 1] > height)
    if outside.any():
        x, y = points[outside][0]
        raise PromptError(
            f'prompt: point ({x:g}, {y:g}) is outside the image, {width} x {height} pixels; '
            'coordinates are source-image pixels, x then y'
        )
    if isinstance(prompt, BoxPrompt):
        corners = prompt.box.reshape(2, 2).clip(0, (width, height)).astype(np.float32)
        if (corners[0] >= corners[1]).any():
            raise PromptError(
                f'prompt: box {prompt.box.tolist()} does not touch the image, '
                f'{width} x {height} pixels; coordinates are source-image pixels, x then y'
            )
        points = np.concatenate([corners, points])
        labels = np.concatenate([np.asarray(BOX_CORNER_LABELS, np.int32), labels])
    scale = np.asarray([image_size / width, image_size / height], np.float32)
    return (points * scale).astype(np.float32), labels


def network_mask(
    mask: NDArray[np.bool_], size: tuple[int, int], image_size: int
) -> NDArray[np.uint8]:
    """A mask prompt as the prompt_mask graph takes it: (S, S) uint8 of 0 and 1.

    Resized with an antialiased triangle filter and cut at one half, as the official
    `add_new_mask` does.

    Raises:
        PromptError: the mask is not of the frame's size, or vanishes at the network's size.
    """
    if mask.shape != size:
        raise PromptError(
            f'prompt: expected a mask of the size of its frame, {size} (height, width), '
            f'got {mask.shape}; resize it with nearest-neighbour sampling'
        )
    rows = _triangle_filter(mask.shape[0], image_size)
    columns = _triangle_filter(mask.shape[1], image_size)
    resized: NDArray[np.uint8] = (rows @ mask.astype(np.float32) @ columns.T >= 0.5).astype(
        np.uint8
    )
    if not resized.any():
        raise PromptError(
            f'prompt: the mask covers {int(mask.sum())} pixels and vanishes at the network size '
            f'{image_size} x {image_size}; use a click instead'
        )
    return resized


@lru_cache(maxsize=8)
def _triangle_filter(source: int, target: int) -> NDArray[np.float32]:
    """(target, source) weights of antialiased linear interpolation, rows summing to one."""
    scale = source / target
    reach = max(scale, 1.0)  # when enlarging, the filter is plain linear interpolation
    centres = (np.arange(target) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(source)[None, :] - centres[:, None])
    weights = np.clip(1.0 - distance / reach, 0.0, None)
    normalised: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(
        np.float32
    )
    return normalised
