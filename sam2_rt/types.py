"""The values that pass between the parts. All are immutable and validated when constructed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sam2_rt.errors import InputError, PromptError

Box = tuple[int, int, int, int]
"""A tight box in source-image pixels: x0, y0 (inclusive), x1, y1 (exclusive)."""

BOX_CORNER_LABELS = (2, 3)
"""point_labels of a box's top-left and bottom-right corners, as SAM's prompt encoder has them."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One camera image.

    Attributes:
        image: (H, W, 3) uint8. It is read, never written, and must not change afterwards.
        stamp_ns: capture time in nanoseconds, on whatever clock the source uses.
        colour_order: order of the image's three channels.

    Raises:
        InputError: the image is not a non-empty (H, W, 3) uint8 array.
    """

    image: NDArray[np.uint8]
    stamp_ns: int
    colour_order: Literal['rgb', 'bgr'] = 'rgb'

    def __post_init__(self) -> None:
        image = self.image
        if not isinstance(image, np.ndarray):
            raise InputError(
                f'frame: expected a NumPy array (height, width, 3) of uint8, got '
                f'{type(image).__name__}; decode the image first'
            )
        if image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f'frame: expected shape (height, width, 3), got {image.shape}; convert grey '
                'images with cv2.COLOR_GRAY2RGB, drop an alpha channel with image[..., :3]'
            )
        if image.dtype != np.uint8:
            raise InputError(
                f'frame: expected uint8 values 0..255, got {image.dtype}; scale the image and '
                'convert it with .astype(np.uint8)'
            )
        if image.size == 0:
            raise InputError(
                f'frame: the image is empty, shape {image.shape}; check the camera or the decoder'
            )
        if self.colour_order not in ('rgb', 'bgr'):
            raise InputError(f"frame: colour_order is 'rgb' or 'bgr', got {self.colour_order!r}")

    @property
    def height(self) -> int:
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        return int(self.image.shape[1])


def _points(points: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Checks clicks and returns them as ((Q, 2) float32, (Q,) int32)."""
    try:
        xy = np.asarray(points, dtype=np.float32)
        marks = np.asarray(labels)
    except (TypeError, ValueError) as error:
        raise PromptError(f'prompt: points must be numbers (x, y): {error}') from error
    if xy.size == 0 or xy.shape == (2,):
        xy = xy.reshape(-1, 2)
    marks = marks.reshape(-1)
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise PromptError(f'prompt: expected points of shape (Q, 2), x then y, got {xy.shape}')
    if len(marks) != len(xy):
        raise PromptError(f'prompt: {len(xy)} points but {len(marks)} labels; give one for each')
    if not np.isfinite(xy).all():
        raise PromptError('prompt: a point has a coordinate that is not a finite number')
    if not np.isin(marks, (0, 1)).all():
        raise PromptError(
            f'prompt: labels are 1 (foreground) or 0 (background), got {marks.tolist()}'
        )
    return xy, marks.astype(np.int32)


@dataclass(frozen=True, eq=False)
class PointPrompt:
    """Clicks on an object.

    Attributes:
        points: (Q, 2) source-image pixels, x then y.
        labels: (Q,) 1 on the object, 0 off it.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int32]

    def __init__(self, points: ArrayLike, labels: ArrayLike = 1) -> None:
        if np.ndim(labels) == 0:
            shape = np.shape(points)
            labels = np.full(shape[0] if len(shape) == 2 else 1, labels)
        if np.size(points) == 0:
            raise PromptError('prompt: a point prompt needs at least one point')
        xy, marks = _points(points, labels)
        object.__setattr__(self, 'points', xy)
        object.__setattr__(self, 'labels', marks)


@dataclass(frozen=True, eq=False)
class BoxPrompt:
    """A box around an object, with optional clicks that refine it.

    Attributes:
        box: (4,) source-image pixels x0, y0, x1, y1 with x0 < x1 and y0 < y1.
        points: (Q, 2) and labels (Q,): as in PointPrompt; may be empty.
    """

    box: NDArray[np.float32]
    points: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    labels: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    def __init__(self, box: ArrayLike, points: ArrayLike = (), labels: ArrayLike = ()) -> None:
        try:
            corners = np.asarray(box, dtype=np.float32).reshape(-1)
        except (TypeError, ValueError) as error:
            raise PromptError(f'prompt: a box is four numbers x0, y0, x1, y1: {error}') from error
        if corners.shape != (4,) or not np.isfinite(corners).all():
            raise PromptError(
                f'prompt: a box is four finite numbers x0, y0, x1, y1, got {corners.tolist()}'
            )
        if corners[0] >= corners[2] or corners[1] >= corners[3]:
            raise PromptError(
                f'prompt: box {corners.tolist()} is empty or inverted; '
                'expected x0, y0, x1, y1 with x0 < x1 and y0 < y1'
            )
        xy, marks = _points(points, labels)
        object.__setattr__(self, 'box', corners)
        object.__setattr__(self, 'points', xy)
        object.__setattr__(self, 'labels', marks)


@dataclass(frozen=True, eq=False)
class MaskPrompt:
    """A mask of the object, drawn or from another program.

    Attributes:
        mask: (H, W) bool, of the size of the frame it is for; not empty.
    """

    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        mask = self.mask
        if not isinstance(mask, np.ndarray) or mask.ndim != 2:
            came = getattr(mask, 'shape', type(mask).__name__)
            raise PromptError(
                f'prompt: expected a mask array of shape (height, width), got {came}'
            )
        if mask.dtype != np.bool_:
            raise PromptError(
                f'prompt: expected a mask of bool, got {mask.dtype}; threshold it, e.g. mask > 127'
            )
        if not mask.any():
            raise PromptError('prompt: the mask is empty; it must cover the object')


Prompt = PointPrompt | BoxPrompt | MaskPrompt


class PresenceState(Enum):
    """Whether an object can be seen; `lost` is occluded for longer than the configured time."""

    VISIBLE = 'visible'
    OCCLUDED = 'occluded'
    LOST = 'lost'


@dataclass(frozen=True)
class Presence:
    """What the occlusion head says about one object, steadied over time.

    Attributes:
        state: visible, occluded or lost.
        probability: sigmoid of the occlusion head's logit on this frame, 0..1.
        seconds_in_state: by frame stamps, never negative.
        last_seen_ns: stamp of the last frame on which the object was visible.
    """

    state: PresenceState
    probability: float
    seconds_in_state: float
    last_seen_ns: int

    @property
    def visible(self) -> bool:
        return self.state is PresenceState.VISIBLE


@dataclass(frozen=True, eq=False)
class TrackedObject:
    """One object on one frame.

    Attributes:
        object_id: the caller's name for it; stable for as long as it is tracked.
        label: free text that came with its prompt ('' if none).
        mask: (H, W) bool at image size; all False while the object is hidden.
        box: the mask's tight box, None where the mask is empty.
        iou_score: the network's own estimate of the mask's IoU, 0..1.
        object_score: the occlusion head's logit; positive = present.
        presence: the steadied verdict.
        low_res_masks: (S/4, S/4) float32 mask logits the mask was made from.
    """

    object_id: str
    label: str
    mask: NDArray[np.bool_]
    box: Box | None
    iou_score: float
    object_score: float
    presence: Presence
    low_res_masks: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TrackResult:
    """All objects on one frame.

    Attributes:
        frame_index: the tracker's count of processed frames, from 0.
        stamp_ns: the frame's stamp, unchanged.
        size: the frame's (height, width).
        objects: in the order they were added.
        stage_seconds: time spent per stage on this frame.
    """

    frame_index: int
    stamp_ns: int
    size: tuple[int, int]
    objects: tuple[TrackedObject, ...]
    stage_seconds: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One reading of an ambiguous prompt (whole, part or subpart)."""

    mask: NDArray[np.bool_]
    iou_score: float


@dataclass(frozen=True, eq=False)
class PromptResult:
    """What a prompt did.

    Attributes:
        frame_index: the frame it was applied to.
        stamp_ns: that frame's stamp.
        object: the object on that frame.
        candidates: the three readings of a click or box, best first; empty for a mask prompt.
        caught_up: False while the object is still being carried from an older frame to now.
    """

    frame_index: int
    stamp_ns: int
    object: TrackedObject
    candidates: Sequence[Candidate]
    caught_up: bool


Array = Any
"""A tensor where the engine runs: np.ndarray on CPUs, a device array elsewhere. It has `shape` and
`dtype`, and indexing its leading axes gives a view; only its runner looks inside."""
