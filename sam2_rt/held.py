"""HeldFrames: the last frames as the network sees them, so that a late prompt finds its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from sam2_rt.runtime.manifest import Manifest
from sam2_rt.types import Array


@dataclass(eq=False)
class HeldFrame:
    """One processed frame.

    Attributes:
        frame_index: the tracker's count.
        stamp_ns: the source's stamp.
        size: source image (height, width).
        image: (1, S, S, 3) uint8 network input, as Runner.upload gave it.
        features: the encode graph's outputs; None until something needs them.
        low_res_masks: by object_id, the logits tracked on this frame: a correction builds on them.
    """

    frame_index: int
    stamp_ns: int
    size: tuple[int, int]
    image: Array
    features: dict[str, Array] | None = None
    low_res_masks: dict[str, NDArray[np.float32]] = field(default_factory=dict)


class HeldFrames:
    """A ring of at most `capacity` frames, bounded in count and in bytes.

    Args:
        manifest: of the engine; says how large one frame's features are.
        frames: most frames to hold.
        megabytes: most memory to take; at least one frame is always held.
        max_objects: objects whose logits a frame may carry.
    """

    def __init__(
        self, manifest: Manifest, frames: int, megabytes: float, max_objects: int
    ) -> None:
        size = manifest.image_size
        features = sum(
            np.dtype(tensor.dtype).itemsize * prod(int(axis) for axis in tensor.shape)
            for tensor in manifest.graphs['encode'].outputs
        )
        logits = max_objects * 4 * (size // 4) ** 2
        self.frame_bytes = features + logits + 3 * size * size
        self.capacity = max(1, min(frames, int(megabytes * 1e6) // self.frame_bytes))
        self._frames: deque[HeldFrame] = deque(maxlen=self.capacity)

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[HeldFrame]:
        return iter(self._frames)

    def push(self, frame: HeldFrame) -> None:
        """Takes in the newest frame; the oldest one gives way."""
        self._frames.append(frame)

    def clear(self) -> None:
        self._frames.clear()

    @property
    def newest(self) -> HeldFrame:
        return self._frames[-1]

    def at(self, frame_index: int) -> HeldFrame:
        """The frame of that index, or the oldest held one if it has been let go."""
        return self._frames[max(0, frame_index - self._frames[0].frame_index)]

    def find(self, stamp_ns: int) -> HeldFrame | None:
        """The frame nearest to a stamp; None if the stamp is older than every held frame."""
        if stamp_ns < min(frame.stamp_ns for frame in self._frames):
            return None
        # Of two equally near frames, and of two equal stamps (a looping source), the newer one.
        return min(reversed(self._frames), key=lambda frame: abs(frame.stamp_ns - stamp_ns))
