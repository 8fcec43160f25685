"""A tracking session with everything in it, for comparing runners."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sam2_rt.config import TrackerConfig
from sam2_rt.lookahead import prepared_frames
from sam2_rt.runtime.base import Runner
from sam2_rt.sources import Source
from sam2_rt.tracker import Tracker
from sam2_rt.types import BoxPrompt, Frame, PointPrompt, TrackResult


def frames(count: int) -> Iterator[Frame]:
    """Two squares on grey: one moves and hides at times, one stands still."""
    for index in range(count):
        image = np.full((64, 64, 3), 128, np.uint8)
        image[44:60, 8:24] = (20, 220, 30)
        if index % 11 < 9:
            x = 4 * (index % 9)
            image[12:28, x : x + 16] = (200, 90, 40)
        yield Frame(image, index * 33_000_000)


class Clip(Source):
    """Those frames, of which one is prepared ahead if that is wanted."""

    def __init__(self, count: int, *, ahead: bool) -> None:
        super().__init__('clip')
        self.live = not ahead
        self._count = count

    def _frames(self) -> Iterator[Frame]:
        return frames(self._count)


def play(runner: Runner, count: int = 24, *, ahead: bool = False) -> list[TrackResult]:
    """A session with everything in it: two objects, a correction, a late prompt, a removal."""
    tracker = Tracker(runner, TrackerConfig(max_objects=3, held_frames=6))
    results = []
    with prepared_frames(Clip(count, ahead=ahead), tracker) as stream:
        for index, prepared in stream:
            results.append(tracker.step(prepared))
            if index == 0:
                tracker.add_prompt(BoxPrompt((0, 12, 16, 28)), 'moving')
            elif index == 4:
                tracker.add_prompt(PointPrompt((16, 52)), 'still')
            elif index == 6:
                tracker.add_prompt(PointPrompt([(20, 20), (40, 40)], [1, 0]), 'moving')
            elif index == 12:
                tracker.add_prompt(PointPrompt((16, 52)), 'late', stamp_ns=8 * 33_000_000)
            elif index == 18:
                tracker.remove_object('moving')
    return results


def assert_same(ours: list[TrackResult], theirs: list[TrackResult]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert [x.object_id for x in one.objects] == [x.object_id for x in other.objects]
        for a, b in zip(one.objects, other.objects, strict=True):
            np.testing.assert_array_equal(a.low_res_masks, b.low_res_masks)
            assert (a.object_score, a.iou_score) == (b.object_score, b.iou_score)
