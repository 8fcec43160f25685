"""Cohort: objects that share a memory bank and are tracked in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from sam2_rt.held import HeldFrame
from sam2_rt.memory import MemoryBank
from sam2_rt.presence import PresenceFilter
from sam2_rt.runtime.base import Runner
from sam2_rt.types import Array, Presence


@dataclass(eq=False)
class Member:
    """One object of a cohort; its place in `Cohort.members` is its bank row (object_index).

    Attributes:
        object_id: the caller's name.
        presence: what the occlusion head said so far.
        next_frame: frame_index it has yet to be tracked on.
    """

    object_id: str
    presence: PresenceFilter
    next_frame: int


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the network said of one object on one frame, at network size.

    Attributes:
        low_res_masks: (S/4, S/4) float32 logits.
        iou_score: 0..1; 0 if the network's was not finite.
        object_score: occlusion-head logit; -inf if the network's was not finite.
        presence: the steadied verdict.
    """

    low_res_masks: NDArray[np.float32]
    iou_score: float
    object_score: float
    presence: Presence


class Cohort:
    """Rows 0..n-1 of a MemoryBank and the objects in them, without a gap."""

    def __init__(self, runner: Runner, max_objects: int) -> None:
        self._runner = runner
        self.bank = MemoryBank(runner, max_objects)
        self.members: list[Member] = []
        self.refused_entries = 0

    def row(self, object_id: str) -> int | None:
        """The object's row, None if it is not here."""
        ids = [member.object_id for member in self.members]
        return ids.index(object_id) if object_id in ids else None

    def spare_row(self) -> int:
        """The first unused row, emptied."""
        row = len(self.members)
        self.bank.clear(row)
        return row

    def adopt(self, member: Member, source: MemoryBank, source_row: int) -> int:
        """Takes an object in, or replaces the one of its id, memory and all; returns its row."""
        row = self.row(member.object_id)
        if row is None:
            row = len(self.members)
            self.members.append(member)
        else:
            self.members[row] = member
        if (source, source_row) != (self.bank, row):
            self.bank.copy_row(row, source, source_row)
        return row

    def remove(self, object_id: str) -> None:
        """Lets an object go if it is here; the last row moves into its place."""
        row = self.row(object_id)
        if row is None:
            return
        last = self.members.pop()
        if row < len(self.members):
            self.bank.copy_row(row, self.bank, len(self.members))
            self.members[row] = last

    def leading(self, next_frame: int) -> int:
        """How many rows, from row 0, have the same frame ahead of them."""
        same = [member.next_frame == next_frame for member in self.members]
        return same.index(False) if False in same else len(same)

    def track(
        self, held: HeldFrame, features: Mapping[str, Array], count: int
    ) -> dict[str, Verdict]:
        """Tracks the first `count` objects on one frame and remembers the outcome.

        Args:
            held: the frame.
            features: its encode outputs.
            count: how many rows, from row 0.

        Returns:
            A verdict for each, by object_id.

        Raises:
            BackendError: the engine failed; nothing was remembered.
        """
        index = held.frame_index
        outputs = self._runner.run(
            'track', {**features, **self.bank.inputs(slice(0, count), index)}
        )
        verdicts = {}
        for row, member in enumerate(self.members[:count]):
            written = self.bank.write(row, index, outputs, row, conditioning=False)
            self.refused_entries += not written
            score = object_score(outputs, row)
            verdicts[member.object_id] = Verdict(
                low_res_masks=outputs['low_res_masks'][row],
                iou_score=iou_score(outputs, row),
                object_score=score,
                presence=member.presence.update(score, held.stamp_ns),
            )
            member.next_frame = index + 1
            held.low_res_masks[member.object_id] = outputs['low_res_masks'][row]
        return verdicts


def object_score(outputs: Mapping[str, Array], row: int) -> float:
    """The occlusion head's logit; -inf (absent) where it is not finite."""
    score = float(outputs['object_score_logits'][row])
    return score if isfinite(score) else -np.inf


def iou_score(outputs: Mapping[str, Array], row: int) -> float:
    """The network's IoU estimate; 0 where it is not finite."""
    score = float(outputs['iou_scores'][row])
    return score if isfinite(score) else 0.0
