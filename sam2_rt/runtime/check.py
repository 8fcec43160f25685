"""The accuracy check: replays an engine folder's own clip and compares masks with the reference.

`check.npz` is written by the export next to the graphs: a few frames as PNG, one box prompt, and
what the fp32 network made of them, closed loop (each frame on the memory of its own past). The
replay is closed loop too, through the tracker itself, because small errors that grow through the
memory are the ones that matter.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_rt.config import TrackerConfig
from sam2_rt.errors import EngineError
from sam2_rt.runtime.base import Runner
from sam2_rt.timing import Clock
from sam2_rt.tracker import Tracker
from sam2_rt.types import BoxPrompt, Frame, TrackedObject

FILE_NAME = 'check.npz'
REQUIRED_IOU = 0.99
"""Least mean mask IoU with the fp32 reference for a backend to be chosen by itself."""
_FRAME_NS = 33_333_333


@dataclass(frozen=True, eq=False)
class CheckClip:
    """An engine's bundled clip of T frames.

    Attributes:
        frames: in order.
        prompt: the box of the object on the first frame, in its pixels.
        masks: (T, S/4, S/4) bool, where the reference's low-res logits are positive.
        object_scores: (T,) the reference's object score logits.
    """

    frames: tuple[Frame, ...]
    prompt: BoxPrompt
    masks: NDArray[np.bool_]
    object_scores: NDArray[np.float32]


@dataclass(frozen=True)
class Accuracy:
    """How a runner did on the clip.

    Attributes:
        mask_iou: per frame, low-res mask against the reference's; 1 where both are empty.
        presence_agreement: share of frames on which both see the object, or both do not.
        seconds_per_frame: median time of one tracked frame, everything included.
    """

    mask_iou: tuple[float, ...]
    presence_agreement: float
    seconds_per_frame: float

    @property
    def mean_iou(self) -> float:
        return float(np.mean(self.mask_iou))

    @property
    def worst_iou(self) -> float:
        return min(self.mask_iou)

    @property
    def passed(self) -> bool:
        return self.mean_iou >= REQUIRED_IOU


def check_accuracy(
    runner: Runner, clip: CheckClip | None = None, clock: Clock = time.perf_counter
) -> Accuracy:
    """Replays the clip of the runner's engine folder.

    Args:
        runner: what to check.
        clip: the clip where it has been read already.
        clock: seconds.

    Raises:
        EngineError: the folder has no clip, or it cannot be read.
        BackendError: the runner failed.
        PromptError: its answer to the prompt was not finite.
    """
    clip = clip or load_clip(runner.manifest.folder)
    tracker = Tracker(runner, TrackerConfig(max_objects=1, held_frames=1))
    tracker.step(clip.frames[0])
    objects = [tracker.add_prompt(clip.prompt).object]
    seconds = []
    for frame in clip.frames[1:]:
        start = clock()
        objects.extend(tracker.step(frame).objects)
        seconds.append(clock() - start)
    agreed = [
        (tracked.object_score > 0) == (score > 0)
        for tracked, score in zip(objects, clip.object_scores, strict=True)
    ]
    return Accuracy(
        mask_iou=tuple(map(_iou, objects, clip.masks)),
        presence_agreement=float(np.mean(agreed)),
        # The median leaves out the first call, which loads and compiles the graph.
        seconds_per_frame=float(np.median(seconds)),
    )


def _iou(tracked: TrackedObject, reference: NDArray[np.bool_]) -> float:
    mask = tracked.low_res_masks > 0
    union = int(np.count_nonzero(mask | reference))
    return int(np.count_nonzero(mask & reference)) / union if union else 1.0


def load_clip(folder: Path) -> CheckClip:
    """Reads an engine folder's check.npz.

    Raises:
        EngineError: it is missing or malformed.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise EngineError(
            f'{path} is missing, so backends cannot be compared on this engine; name a backend '
            'and a precision, or export the engine again'
        )
    try:
        with np.load(path) as file:
            return _parse(file)
    except Exception as error:  # NumPy, zip, zlib, OpenCV and our own: all mean the same here
        raise EngineError(
            f'{path} cannot be read ({type(error).__name__}: {error}); copy the folder again or '
            'export the engine again'
        ) from error


def _parse(file: Mapping[str, NDArray[Any]]) -> CheckClip:
    """png: all frames' PNG bytes, frame t at offsets[t]:offsets[t + 1]; masks: packed bits."""
    pieces = np.split(file['png'], file['offsets'][1:-1])
    height, width = (int(length) for length in file['mask_shape'][-2:])
    # Not unpackbits(count=…), which makes up what is missing.
    bits = np.unpackbits(file['masks'].reshape(-1))[: len(pieces) * height * width]
    return CheckClip(
        frames=tuple(
            Frame(_decode(piece), stamp_ns=index * _FRAME_NS, colour_order='bgr')
            for index, piece in enumerate(pieces)
        ),
        prompt=BoxPrompt(file['prompt_box']),
        masks=bits.reshape(len(pieces), height, width).astype(bool),
        object_scores=file['scores'].reshape(len(pieces)),
    )


def _decode(png: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = cv2.imdecode(png, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError('a frame is not a PNG image')
    return image.astype(np.uint8, copy=False)
