"""One scenario through two runners, each on its own outputs, and how far they drift apart.

Both run the same frames and prompts, each through its own Tracker, because an error that a single
call hides may grow through the memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.clips import Clip
from sam2_rt.config import TrackerConfig
from sam2_rt.runtime.base import Runner
from sam2_rt.tracker import Tracker
from sam2_rt.types import BoxPrompt, Frame, MaskPrompt, PointPrompt, Prompt, TrackedObject

FIRST, SECOND = 'first', 'second'  # object ids

Outcome = dict[tuple[int, str], TrackedObject]
"""What a run made of every object on every frame, by frame index and object id."""


@dataclass(frozen=True)
class Scenario:
    """Frames and the prompts given on them.

    Attributes:
        frames: in order.
        prompts: by frame index: (object id, prompt), given in this order.
    """

    frames: Sequence[Frame]
    prompts: Mapping[int, Sequence[tuple[str, Prompt]]]


@dataclass(frozen=True)
class Difference:
    """One object on one frame, engine against reference.

    Attributes:
        frame_index: the frame.
        object_id: the object.
        iou: of the low-resolution masks; 1 where both are empty.
        logits: largest difference of the mask logits, relative to the reference's largest logit;
            0 unless both see the object.
        area: share of the low-resolution mask that the reference covers.
        scores: object score logits, reference and engine.
    """

    frame_index: int
    object_id: str
    iou: float
    logits: float
    area: float
    scores: tuple[float, float]

    @property
    def presence_agrees(self) -> bool:
        return (self.scores[0] > 0) == (self.scores[1] > 0)


@dataclass(frozen=True)
class Report:
    """All differences of a run."""

    differences: Sequence[Difference]

    @property
    def worst_iou(self) -> float:
        return min(each.iou for each in self.differences)

    @property
    def mean_iou(self) -> float:
        return float(np.mean([each.iou for each in self.differences]))

    @property
    def worst_logits(self) -> float:
        return max(each.logits for each in self.differences)

    @property
    def presence_agreement(self) -> float:
        return float(np.mean([each.presence_agrees for each in self.differences]))

    @property
    def empty_share(self) -> float:
        """Share of the reference's masks that are empty: agreeing on them proves little."""
        return float(np.mean([each.area == 0.0 for each in self.differences]))


def scripted(clip: Clip, objects: int = 2) -> Scenario:
    """Every graph and both batch sizes: a click on the first shape; a box around the second one,
    mid-stream; then a background click that corrects the first, and a mask that does the second.

    Args:
        clip: with two shapes.
        objects: most that can be tracked; with 1, every prompt is for the same object.
    """
    second_id = SECOND if objects > 1 else FIRST
    third = len(clip.frames) // 3
    on_first, on_second = clip.boxes[:, 0], clip.boxes[:, 1]
    then = on_second[2 * third]
    x0, y0, x1, y1 = then.astype(int)
    mask = np.zeros((clip.frames[0].height, clip.frames[0].width), bool)
    mask[y0:y1, x0:x1] = True
    return Scenario(
        clip.frames,
        {
            0: [(FIRST, PointPrompt(centre(on_first[0])))],
            third: [(second_id, BoxPrompt(on_second[third]))],
            2 * third: [(FIRST, PointPrompt(centre(then), 0)), (second_id, MaskPrompt(mask))],
        },
    )


def centre(box: NDArray[np.float32]) -> NDArray[np.float32]:
    """(4,) x0, y0, x1, y1 -> (2,) x, y."""
    return (box[:2] + box[2:]) / 2


def play(runner: Runner, scenario: Scenario) -> Outcome:
    """Tracks a scenario; a prompted frame's outcome is the prompt's."""
    objects = min(2, runner.manifest.max_objects)
    tracker = Tracker(runner, TrackerConfig(max_objects=objects, held_frames=1))
    outcome: Outcome = {}
    for index, frame in enumerate(scenario.frames):
        for tracked in tracker.step(frame).objects:
            outcome[index, tracked.object_id] = tracked
        for object_id, prompt in scenario.prompts.get(index, ()):
            outcome[index, object_id] = tracker.add_prompt(prompt, object_id).object
    return outcome


def compare(reference: Outcome, engine: Outcome) -> Report:
    """Compares two outcomes of one scenario."""
    return Report([_difference(key, reference[key], engine[key]) for key in reference])


def _difference(
    key: tuple[int, str], reference: TrackedObject, engine: TrackedObject
) -> Difference:
    masks = reference.low_res_masks > 0, engine.low_res_masks > 0
    union = int(np.count_nonzero(masks[0] | masks[1]))
    both = int(np.count_nonzero(masks[0] & masks[1]))
    logits = 0.0
    if reference.object_score > 0 and engine.object_score > 0:
        apart = np.abs(reference.low_res_masks - engine.low_res_masks).max()
        logits = apart / np.abs(reference.low_res_masks).max()
    return Difference(
        *key,
        iou=both / union if union else 1.0,
        logits=float(logits),
        area=float(masks[0].mean()),
        scores=(reference.object_score, engine.object_score),
    )
