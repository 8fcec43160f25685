"""The real clips that `micro` is measured on and never trained on, where a checkout has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sam2_rt.types import BoxPrompt, PointPrompt, Prompt

DEFAULT_FOLDER = Path(__file__).parents[3] / 'shared' / 'clips'  # beside the checkout
_SURELY_SHOWN, _COVERED = 21, 27  # frames of cups_ball: before, sure; between, going under


@dataclass(frozen=True)
class RealClip:
    """A clip with truth.

    Attributes:
        name: Of the file.
        frames: RGB uint8 (H, W, 3) each.
        truth: bool (T, h, w), at a resolution of its own.
        prompts: For frame 0, by kind.
    """

    name: str
    frames: list[np.ndarray]
    truth: np.ndarray
    prompts: Mapping[str, Prompt]


_PROMPTS: dict[str, dict[str, Prompt]] = {
    'coffee_mug': {
        'box': BoxPrompt((802, 418, 990, 616)),
        'click': PointPrompt((877, 510)),
    },
    'cups_ball': {
        'box': BoxPrompt((366, 428, 436, 500)),
        'click': PointPrompt((400, 462)),
    },
}


def find_clips(folder: Path | None = None) -> Iterator[RealClip]:
    """Yields the clips with truth that the folder has; none where there is no such folder."""
    folder = folder or DEFAULT_FOLDER
    for name, prompts in _PROMPTS.items():
        video, truth = folder / f'{name}.mp4', folder / f'{name}.truth.npz'
        if video.is_file() and truth.is_file():
            yield RealClip(name, _read(video), _unpack(truth), prompts)


def hidden_report(masks: np.ndarray, visible: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """What matters while an object is hidden: said so, no false mask, found again.

    Args:
        masks: bool (T, h, w).
        visible: bool (T,), what the tracker said.
        truth: bool (T, h, w).
    """
    hidden = ~truth.any((1, 2))
    hidden[:_COVERED] = False
    false_area = masks[hidden].mean((1, 2))
    return {
        'said_visible_before': round(float(visible[:_SURELY_SHOWN].mean()), 3),
        'said_hidden_while_hidden': round(float((~visible[hidden]).mean()), 3),
        'largest_false_mask': round(float(false_area.max()), 3),
    }


def _read(video: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(video))
    frames = []
    while True:
        read, frame = capture.read()
        if not read:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    capture.release()
    return frames


def _unpack(path: Path) -> np.ndarray:
    with np.load(path) as stored:
        shape = tuple(stored['shape'])
        bits = np.unpackbits(stored['masks_packed'], axis=1)
    return bits[:, : shape[1] * shape[2]].reshape(shape).astype(bool)
