"""AutoPrompter: which of a detector's boxes become prompts.

A detector names things again and again, late and on frames of its own; the tracker follows them
in between. So a box becomes a new object only if nothing tracked was there on the frame the box
was made for, and a lost object is found again by a box of its label.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from vision_msgs.msg import Detection2DArray

from sam2_rt.ros.convert import stamp_ns
from sam2_rt.ros.parameters import AutoPromptConfig
from sam2_rt.ros.prompts import PromptRequest, corners, hypothesis
from sam2_rt.types import BoxPrompt, PresenceState, TrackResult

HISTORY = 90
"""Results remembered, so that a late box is compared with where the objects were then."""

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """One believed box of a detector."""

    box: Corners
    label: str
    score: float


def detections_from(message: Detection2DArray, config: AutoPromptConfig) -> list[Detection]:
    """The boxes worth considering, best score first."""
    found = []
    for item in message.detections:
        label, score = hypothesis(item)
        wanted = not config.labels or label in config.labels
        if wanted and score >= config.min_score and item.bbox.size_x > 0 and item.bbox.size_y > 0:
            found.append(Detection(corners(item), label, score))
    return sorted(found, key=lambda detection: -detection.score)


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    both = wide * high
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


class AutoPrompter:
    """Decides, from recent results and a detector's message, what to prompt.

    Thread safe: results come from the stream's worker, detections from the executor.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: deque[TrackResult] = deque(maxlen=HISTORY)
        # Prompts that no result shows yet -> the object's id as soon as it is known.
        self._pending: dict[PromptRequest, str | None] = {}

    def note(self, result: TrackResult) -> None:
        """Remembers where the objects are; those that have arrived are no longer pending."""
        arrived = {item.object_id for item in result.objects}
        with self._lock:
            self._results.append(result)
            self._pending = {
                request: object_id
                for request, object_id in self._pending.items()
                if object_id not in arrived
            }

    def accepted(self, request: PromptRequest, object_id: str) -> None:
        """A chosen prompt is tracked now; it stays pending until a result shows it."""
        with self._lock:
            if request in self._pending:
                self._pending[request] = object_id

    def refused(self, request: PromptRequest) -> None:
        """A chosen prompt came to nothing."""
        with self._lock:
            self._pending.pop(request, None)

    def forget(self, object_id: str | None = None) -> None:
        """Forgets a removed object, or everything when the tracker was reset."""
        with self._lock:
            if object_id is None:
                self._results.clear()
                self._pending.clear()
            for request in [key for key, name in self._pending.items() if name == object_id]:
                del self._pending[request]

    def choose(self, message: Detection2DArray, config: AutoPromptConfig) -> list[PromptRequest]:
        """The prompts to make for one message; each is pending until it is shown or refused."""
        stamp = stamp_ns(message.header)
        detections = detections_from(message, config)
        with self._lock:
            if not self._results:
                return []
            now = self._results[-1].objects
            # What is pending or merely out of sight may be this very detection: wait for it.
            waiting = {request.label for request in self._pending} | {
                item.label for item in now if item.presence.state is PresenceState.OCCLUDED
            }
            lost = [item for item in now if item.presence.state is PresenceState.LOST]
            room = config.max_objects - len(now) - len(self._pending)
            taken = self._boxes_at(stamp)
            chosen: list[PromptRequest] = []
            for detection in detections:
                tracked = any(box_iou(detection.box, box) >= config.overlap for box in taken)
                if tracked or detection.label in waiting:
                    continue
                again = next((item for item in lost if item.label == detection.label), None)
                if again is not None:
                    lost.remove(again)
                elif room > 0:
                    room -= 1
                else:
                    continue
                object_id = again.object_id if again else None
                prompt = BoxPrompt(detection.box)
                chosen.append(PromptRequest(prompt, object_id, detection.label, stamp))
                taken.append(detection.box)
            self._pending |= dict.fromkeys(chosen)
        return chosen

    def _boxes_at(self, stamp: int) -> list[Corners]:
        """Where each object was at a stamp; one that is younger counts where it is now."""
        then = self._results[-1]
        if stamp:
            then = min(self._results, key=lambda result: abs(result.stamp_ns - stamp))
        boxes = {item.object_id: item.box for item in then.objects}
        for item in self._results[-1].objects:
            if boxes.get(item.object_id) is None:
                boxes[item.object_id] = item.box
        return [
            (float(a), float(b), float(c), float(d)) for a, b, c, d in filter(None, boxes.values())
        ]
