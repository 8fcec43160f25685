"""MemoryBank: what the network remembers of each object, in slots that never grow.

Each object has C conditioning slots (prompted frames) and R recent slots (tracked frames), and an
object pointer for each conditioning slot and for the latest 15 tracked frames. The rule:

* the first prompted frame keeps slot 0 for ever; later prompted frames share slots 1..C-1, the
  oldest giving way. With C = 1 a later prompted frame counts as a recent one.
* a tracked frame goes to slot C + frame_index % R, where it replaces the frame that is leaving
  the window of R frames: a ring in which nothing is shifted.
* it gets there when the next frame is tracked; until then it waits in a place of its own, so that
  a correction of the newest frame finds the memory which that frame was tracked with.
* an engine may say above which object score a tracked frame is remembered (`remember_above`). The
  time of the others passes all the same, and after R such frames the conditioning slots are left.
* slots are never cleared, only marked: which frame a slot holds is an integer on the host, and a
  slot whose frame is out of the window, in the future or absent has time -1 for the network.

Time is the count of processed frames, as in SAM 2's `_prepare_memory_conditioned_features`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, prod

import numpy as np
from numpy.typing import NDArray

from sam2_rt.runtime.base import Runner
from sam2_rt.types import Array

EMPTY = -1


class MemoryBank:
    """Memories of up to `max_objects` objects; object rows 0..n-1 are the ones in use.

    Args:
        runner: where the tensors live; its manifest says the sizes.
        max_objects: rows to allocate.
    """

    def __init__(self, runner: Runner, max_objects: int) -> None:
        self._runner = runner
        self._spec = spec = runner.manifest.memory
        memory, pointers = (
            next(t for t in runner.manifest.graphs['track'].inputs if t.name == name)
            for name in ('memory_features', 'object_pointers')
        )
        self._features = runner.allocate(_sized(memory.shape, max_objects), memory.dtype)
        self._pointers = runner.allocate(_sized(pointers.shape, max_objects), pointers.dtype)
        shape = self._features.shape
        self._waiting_features = runner.allocate((shape[0], *shape[2:]), memory.dtype)
        self._waiting_pointers = runner.allocate((shape[0], spec.hidden_dim), memory.dtype)
        slots = max_objects * (spec.memory_slots + 1), max_objects * (spec.pointer_slots + 1)
        numbers = slots[0] * prod(shape[2:]) + slots[1] * spec.hidden_dim
        self.nbytes: int = np.dtype(memory.dtype).itemsize * numbers
        self._waiting_frames = np.full(max_objects, EMPTY, np.int64)
        self._slot_frames = np.full((max_objects, spec.memory_slots), EMPTY, np.int64)
        self._pointer_frames = np.full((max_objects, spec.pointer_slots), EMPTY, np.int64)

    def inputs(self, rows: slice, frame_index: int) -> dict[str, Array]:
        """The memory inputs of the track and prompt graphs for some rows.

        Only frames before `frame_index` count, so that a frame never remembers itself.

        Returns:
            memory_features (N, M, Dm, E, E), memory_time (N, M) int32, object_pointers (N, P, D),
            pointer_time (N, P) int32; times as in the stage contract.
        """
        for row in range(rows.start, rows.stop):
            self._settle(row, frame_index)
        c = self._spec.conditioning_slots
        ages = frame_index - self._slot_frames[rows]
        alive = (self._slot_frames[rows] != EMPTY) & (ages > 0)
        memory_time = np.where(alive & (ages <= self._spec.recent_slots), ages, EMPTY)
        memory_time[:, :c] = np.where(alive[:, :c], 0, EMPTY)

        ages = frame_index - self._pointer_frames[rows]
        alive = (self._pointer_frames[rows] != EMPTY) & (ages > 0)
        alive[:, c:] &= ages[:, c:] <= self._spec.recent_pointers
        return {
            'memory_features': self._features[rows],
            'memory_time': memory_time.astype(np.int32),
            'object_pointers': self._pointers[rows],
            'pointer_time': np.where(alive, ages, EMPTY).astype(np.int32),
        }

    def write(
        self,
        row: int,
        frame_index: int,
        outputs: Mapping[str, Array],
        output_row: int,
        *,
        conditioning: bool,
    ) -> bool:
        """Remembers one object on one frame.

        Args:
            row: the object's row.
            frame_index: the frame; whatever the row held of that frame before is forgotten.
            outputs: of a track or prompt graph (object_pointer, new_memory_features, memory_norm,
                object_score_logits).
            output_row: the object's row in them.
            conditioning: whether the frame was prompted.

        Returns:
            False if the entry is not finite. Nothing is written then: it would poison every later
            frame through the attention. True also where the engine does not remember the frame.
        """
        if not isfinite(float(outputs['memory_norm'][output_row])):
            return False
        least, score = self._spec.remember_above, float(outputs['object_score_logits'][output_row])
        if not conditioning and least is not None and not score > least:
            self.forget_from(row, frame_index)
            return True
        copy = self._runner.copy
        features, pointer = outputs['new_memory_features'], outputs['object_pointer']
        if not conditioning:
            self._settle(row, frame_index)
            copy(self._waiting_features[row], features[output_row])
            copy(self._waiting_pointers[row], pointer[output_row])
            self._waiting_frames[row] = frame_index
            return True
        for frames in (self._slot_frames[row], self._pointer_frames[row]):
            frames[frames == frame_index] = EMPTY
        if self._waiting_frames[row] == frame_index:
            self._waiting_frames[row] = EMPTY
        slot = self._conditioning_slot(self._slot_frames[row])
        places = self._recent_slots(frame_index) if slot is None else (slot, slot)
        copy(self._features[row][places[0]], features[output_row])
        copy(self._pointers[row][places[1]], pointer[output_row])
        self._slot_frames[row, places[0]] = self._pointer_frames[row, places[1]] = frame_index
        return True

    def _recent_slots(self, frame_index: int) -> tuple[int, int]:
        """Memory slot and pointer slot of a tracked frame."""
        spec = self._spec
        c = spec.conditioning_slots
        return c + frame_index % spec.recent_slots, c + frame_index % spec.recent_pointers

    def _settle(self, row: int, frame_index: int) -> None:
        """Moves a waiting frame into its slots if it lies before `frame_index`."""
        waiting = int(self._waiting_frames[row])
        if not EMPTY < waiting < frame_index:
            return
        slot, pointer = self._recent_slots(waiting)
        self._runner.copy(self._features[row][slot], self._waiting_features[row])
        self._runner.copy(self._pointers[row][pointer], self._waiting_pointers[row])
        self._slot_frames[row, slot] = self._pointer_frames[row, pointer] = waiting
        self._waiting_frames[row] = EMPTY

    def _conditioning_slot(self, slots: NDArray[np.int64]) -> int | None:
        """Where the next prompted frame goes; None if only the first one is kept."""
        conditioning = slots[: self._spec.conditioning_slots]
        empty = np.flatnonzero(conditioning == EMPTY)
        if len(empty):
            return int(empty[0])
        if len(conditioning) == 1:
            return None
        return 1 + int(np.argmin(conditioning[1:]))

    def first_prompt(self, row: int) -> int:
        """frame_index of the object's first prompted frame, EMPTY if it has none."""
        return int(self._slot_frames[row, 0])

    def forget_from(self, row: int, frame_index: int) -> None:
        """Forgets frames from `frame_index` on, except the first prompted one: they are about to
        be tracked again.
        """
        first = self.first_prompt(row)
        for frames in (self._slot_frames[row], self._pointer_frames[row]):
            frames[(frames >= frame_index) & (frames != first)] = EMPTY
        if self._waiting_frames[row] >= frame_index:
            self._waiting_frames[row] = EMPTY

    def clear(self, row: int) -> None:
        """Empties a row."""
        self._slot_frames[row] = EMPTY
        self._pointer_frames[row] = EMPTY
        self._waiting_frames[row] = EMPTY

    def copy_row(self, row: int, source: MemoryBank, source_row: int) -> None:
        """Makes a row equal to another one, of this bank or of one with the same sizes."""
        for ours, theirs in (
            (self._features, source._features),
            (self._pointers, source._pointers),
            (self._waiting_features, source._waiting_features),
            (self._waiting_pointers, source._waiting_pointers),
        ):
            self._runner.copy(ours[row], theirs[source_row])
        self._slot_frames[row] = source._slot_frames[source_row]
        self._pointer_frames[row] = source._pointer_frames[source_row]
        self._waiting_frames[row] = source._waiting_frames[source_row]


def _sized(shape: tuple[int | str, ...], objects: int) -> tuple[int, ...]:
    return tuple(objects if axis == 'N' else int(axis) for axis in shape)
