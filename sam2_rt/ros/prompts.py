"""Prompts as they come in messages: detections, clicks and label images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import cos, sin
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2D, Detection2DArray

from sam2_rt.errors import PromptError
from sam2_rt.ros.convert import labels_from, stamp_ns
from sam2_rt.types import BoxPrompt, MaskPrompt, PointPrompt, Prompt

BACKGROUND = 'background'
"""class_id that makes a click a negative one."""


@dataclass(frozen=True, eq=False)
class PromptRequest:
    """A prompt with all that Tracker.add_prompt wants to know.

    Attributes:
        prompt: clicks, box or mask, in camera pixels.
        object_id: None for a new object.
        label: free text, '' if none.
        stamp_ns: stamp of the image it was made for; 0 = the newest frame.
    """

    prompt: Prompt
    object_id: str | None
    label: str
    stamp_ns: int


def hypothesis(detection: Detection2D) -> tuple[str, float]:
    """class_id and score of a detection's likeliest hypothesis; ('', 1.0) if it has none."""
    if not detection.results:
        return '', 1.0
    best = max(detection.results, key=lambda result: result.hypothesis.score)
    return str(best.hypothesis.class_id), float(best.hypothesis.score)


def corners(detection: Detection2D) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of a detection's box; of the upright box around it if it is turned."""
    centre, theta = detection.bbox.center, detection.bbox.center.theta
    wide, high = detection.bbox.size_x, detection.bbox.size_y
    across = (abs(wide * cos(theta)) + abs(high * sin(theta))) / 2
    down = (abs(wide * sin(theta)) + abs(high * cos(theta))) / 2
    x, y = centre.position.x, centre.position.y
    return x - across, y - down, x + across, y + down


def prompt_groups(message: Detection2DArray) -> list[list[Detection2D]]:
    """Detections that make one prompt: those of one id together, each without an id alone."""
    groups: list[list[Detection2D]] = []
    by_id: dict[str, list[Detection2D]] = {}
    for detection in message.detections:
        if detection.id and detection.id in by_id:
            by_id[detection.id].append(detection)
            continue
        groups.append([detection])
        if detection.id:
            by_id[detection.id] = groups[-1]
    return groups


def request_from(group: Sequence[Detection2D], header: Any) -> PromptRequest:
    """One prompt from the detections of one object: a box, clicks, or a box with clicks.

    Args:
        group: one of prompt_groups; a size of 0 is a click at the box's centre.
        header: of the array; the detection's own stamp counts where this one's is 0.

    Raises:
        PromptError: sizes are negative or only one is 0, there are two boxes, a background box,
            or only background for a new object.
    """
    boxes, points, marks, label = [], [], [], ''
    for detection in group:
        name, _ = hypothesis(detection)
        wide, high = detection.bbox.size_x, detection.bbox.size_y
        if wide == 0 and high == 0:
            points.append((detection.bbox.center.position.x, detection.bbox.center.position.y))
            marks.append(0 if name == BACKGROUND else 1)
        elif wide > 0 and high > 0 and name != BACKGROUND:
            boxes.append(corners(detection))
        else:
            raise PromptError(
                f'prompt: a detection of size {wide:g} x {high:g} and class {name!r}; expected a '
                f'box (both sizes > 0, not {BACKGROUND}) or a click (both sizes 0)'
            )
        label = label if name == BACKGROUND else label or name
    object_id = group[0].id or None
    if object_id is None and not boxes and 1 not in marks:
        raise PromptError('prompt: a background click needs the id of the object it is about')
    if len(boxes) > 1:
        raise PromptError(f'prompt: {len(boxes)} boxes for object {object_id!r}; send one')
    prompt: Prompt = (
        BoxPrompt(boxes[0], points, marks) if boxes else PointPrompt(np.array(points), marks)
    )
    stamp = stamp_ns(header) or stamp_ns(group[0].header)
    return PromptRequest(prompt, object_id, label, stamp)


def request_from_point(message: PointStamped, object_id: str) -> PromptRequest:
    """One click: on a new object where object_id is ''."""
    prompt = PointPrompt([message.point.x, message.point.y], 1)
    return PromptRequest(prompt, object_id or None, '', stamp_ns(message.header))


def requests_from_mask(message: Image) -> Iterator[PromptRequest]:
    """One mask prompt for each value of a label image but 0; the value is the object's id.

    Raises:
        PromptError: it is not a label image, or nothing is marked in it.
    """
    labels = labels_from(message)
    values = [int(value) for value in np.unique(labels) if value > 0]
    if not values:
        raise PromptError('mask prompt: every pixel is 0; mark the object with a value above 0')
    for value in values:
        yield PromptRequest(MaskPrompt(labels == value), str(value), '', stamp_ns(message.header))
