"""Reading one frame ahead of the tracker: how far, in which thread, and how it ends."""

import threading

import numpy as np
import pytest

from sam2_rt.config import TrackerConfig
from sam2_rt.errors import BackendError, SourceError
from sam2_rt.lookahead import prepared_frames
from sam2_rt.sources import Source
from sam2_rt.tracker import Tracker
from sam2_rt.types import PointPrompt
from tests.fakes import RED, FakeRunner, scene

PATIENCE_S = 10.0


class Clip(Source):
    """Frames one after the other, and what becomes of them.

    Attributes:
        prepared: how many were prepared.
        threads: in which threads they were read and prepared.
        break_at: index of the frame that cannot be read.
    """

    def __init__(self, count=8, *, live=False):
        super().__init__('clip')
        self.live, self.count, self.break_at = live, count, None
        self.prepared, self.threads = 0, set()
        self.news = threading.Condition()
        self.tracker = Tracker(FakeRunner(), TrackerConfig(max_objects=1))
        self._prepare, self.tracker.prepare = self.tracker.prepare, self.prepare

    def _frames(self):
        for index in range(self.count):
            if index == self.break_at:
                raise SourceError(f'clip breaks off: {index} frames were good')
            self.threads.add(threading.current_thread())
            yield scene((20 + 2 * index, 20, RED), index=index)

    def prepare(self, frame):
        self.threads.add(threading.current_thread())
        found = self._prepare(frame)
        with self.news:
            self.prepared += 1
            self.news.notify_all()
        return found

    def wait_for(self, prepared):
        with self.news:
            return self.news.wait_for(lambda: self.prepared >= prepared, PATIENCE_S)


def walk(clip, visit):
    """Visits every position that comes."""
    with prepared_frames(clip, clip.tracker) as frames:
        for position, _ in frames:
            visit(position)


def test_one_frame_is_prepared_while_this_one_is_tracked_and_no_more():
    clip = Clip()
    with prepared_frames(clip, clip.tracker) as frames:
        for index, (position, prepared) in enumerate(frames):
            assert position == index
            assert prepared.frame.stamp_ns == (index + 1) * 100_000_000
            # It comes although this frame is not done with; the one after it does not.
            assert clip.wait_for(min(index + 2, clip.count))
            assert clip.tracker.step(prepared).frame_index == index
            assert clip.prepared == min(index + 2, clip.count)
    assert index == clip.count - 1
    assert threading.current_thread() not in clip.threads
    assert len(clip.threads) == 1


def test_of_a_live_source_nothing_is_prepared_ahead():
    clip = Clip(live=True)
    with prepared_frames(clip, clip.tracker) as frames:
        for index, (position, _) in enumerate(frames):
            assert position == index
            assert clip.prepared == index + 1
    assert index == clip.count - 1
    assert clip.threads == {threading.current_thread()}


@pytest.mark.parametrize('live', [False, True])
def test_an_error_of_the_source_comes_after_its_good_frames(live):
    clip = Clip(live=live)
    clip.break_at = 3
    positions = []
    with pytest.raises(SourceError, match='3 frames were good'):
        walk(clip, positions.append)
    assert positions == [0, 1, 2]


def test_a_failing_device_is_reported_in_its_frame_s_turn(monkeypatch):
    clip = Clip()

    def upload(image):
        if clip.prepared == 2:
            raise BackendError('no more')
        return image

    monkeypatch.setattr(clip.tracker._runner, 'upload', upload)
    positions = []
    with pytest.raises(BackendError, match='no more'):
        walk(clip, positions.append)
    assert positions == [0, 1]


@pytest.mark.parametrize('live', [False, True])
def test_a_source_that_is_stopped_ends_after_the_frame_in_hand(live):
    clip = Clip(live=live)
    positions = []

    def stop_at_3(position):
        positions.append(position)
        if position == 3:
            assert live or clip.wait_for(5)  # the next frame is there, and not taken
            clip.stop()

    walk(clip, stop_at_3)
    assert positions == [0, 1, 2, 3]
    assert clip.prepared <= 5


def test_leaving_early_waits_for_the_frame_that_is_being_read(monkeypatch):
    clip = Clip()
    entered, release, left = threading.Event(), threading.Event(), threading.Event()

    def upload(image):
        if clip.prepared == 1:
            entered.set()
            release.wait(PATIENCE_S)
        return image

    monkeypatch.setattr(clip.tracker._runner, 'upload', upload)

    def leave():
        with prepared_frames(clip, clip.tracker) as frames:
            next(frames)
        left.set()

    thread = threading.Thread(target=leave)
    thread.start()
    assert entered.wait(PATIENCE_S)
    assert not left.wait(0.1)
    release.set()
    thread.join(PATIENCE_S)
    assert left.is_set()
    assert clip.prepared == 2


def test_an_error_while_tracking_gets_out():
    clip = Clip()
    with pytest.raises(ZeroDivisionError):
        walk(clip, lambda position: 1 // position)
    assert clip.prepared <= 2


def test_results_are_those_of_plain_frames():
    def masks(frames, tracker):
        found = []
        for frame in frames:
            found.append([each.low_res_masks for each in tracker.step(frame).objects])
            if not tracker.objects:
                tracker.add_prompt(PointPrompt([32, 32]))
        return found

    ahead, plain = Clip(), Clip()
    with prepared_frames(ahead, ahead.tracker) as frames:
        ours = masks((prepared for _, prepared in frames), ahead.tracker)
    theirs = masks(plain, plain.tracker)
    assert len(ours) == plain.count
    np.testing.assert_array_equal(ours[1:], theirs[1:])
    assert np.array(ours[1:]).max() > 0
