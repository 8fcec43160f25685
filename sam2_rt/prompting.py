"""Prompts on their way into the prompt graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sam2_rt.errors import PromptError
from sam2_rt.held import HeldFrame
from sam2_rt.memory import MemoryBank
from sam2_rt.postprocess import image_mask
from sam2_rt.preprocess import network_mask, network_points
from sam2_rt.runtime.base import Runner
from sam2_rt.types import Array, Candidate, MaskPrompt, PointPrompt, Prompt


@dataclass(frozen=True, eq=False)
class ClickRequest:
    """Clicks and box corners on one frame, in network pixels, ready for the prompt graph."""

    runner: Runner
    frame_index: int
    points: NDArray[np.float32]
    labels: NDArray[np.int32]
    previous: NDArray[np.float32] | None

    def run(self, features: Mapping[str, Array], bank: MemoryBank, row: int) -> dict[str, Array]:
        """Decodes the clicks with the memory in a bank row; writes nothing."""
        side = self.runner.manifest.image_size // 4
        previous = self.previous
        if previous is None:
            previous = np.zeros((side, side), np.float32)
        return self.runner.run(
            'prompt',
            {
                **features,
                **bank.inputs(slice(row, row + 1), self.frame_index),
                'point_coords': self.points[None],
                'point_labels': self.labels[None],
                'previous_logits': previous[None],
                'has_previous': np.asarray([self.previous is not None], np.int32),
            },
        )


@dataclass(frozen=True, eq=False)
class MaskRequest:
    """A mask at network size, ready for the prompt_mask graph, which needs no memory."""

    runner: Runner
    mask: NDArray[np.uint8]

    def run(self, features: Mapping[str, Array], bank: MemoryBank, row: int) -> dict[str, Array]:
        """Turns the mask into a memory entry and an object pointer."""
        return self.runner.run('prompt_mask', {**features, 'mask': self.mask[None]})


Request = ClickRequest | MaskRequest


class Prompter:
    """Turns prompts into requests; remembers each object's clicks, because clicks add up."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._clicks: dict[str, ClickRequest] = {}

    def prepare(self, prompt: Prompt, object_id: str, held: HeldFrame) -> Request:
        """Checks a prompt against its frame. Clicks join earlier ones on the same frame.

        Raises:
            PromptError: see network_points and network_mask; or more points than the engine takes.
        """
        size, network = held.size, self._runner.manifest.image_size
        if isinstance(prompt, MaskPrompt):
            return MaskRequest(self._runner, network_mask(prompt.mask, size, network))
        points, labels = network_points(prompt, size, network)
        before = self._clicks.get(object_id)
        if (
            before is not None
            and before.frame_index == held.frame_index
            and isinstance(prompt, PointPrompt)
        ):
            points = np.concatenate([before.points, points])
            labels = np.concatenate([before.labels, labels])
        most = self._runner.max_points
        if most is not None and len(points) > most:
            raise PromptError(
                f'object {object_id!r}: {len(points)} points on one frame, earlier clicks and two '
                f'per box counted, but {self._runner.info.backend} takes at most {most}; give '
                'fewer, or start over with a box or a mask'
            )
        previous = held.low_res_masks.get(object_id)
        return ClickRequest(self._runner, held.frame_index, points, labels, previous)

    def accept(self, object_id: str, request: Request) -> None:
        """Keeps the clicks of a request that succeeded; a mask starts over."""
        self.forget(object_id)
        if isinstance(request, ClickRequest):
            self._clicks[object_id] = request

    def forget(self, object_id: str) -> None:
        """Drops an object's clicks."""
        self._clicks.pop(object_id, None)


def candidates(outputs: Mapping[str, Array], size: tuple[int, int]) -> tuple[Candidate, ...]:
    """The three readings of a click or box, best first; none for a mask prompt."""
    if 'candidate_masks' not in outputs:
        return ()
    scores = outputs['candidate_iou_scores'][0]
    masks = outputs['candidate_masks'][0]
    best_first = np.argsort(-scores)
    return tuple(Candidate(image_mask(masks[k], size), float(scores[k])) for k in best_first)
