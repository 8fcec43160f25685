"""Images that come ahead of their frame: order between two streams, reuse of buffers, failures.

The fake driver does a stream's work as late as it may. With `eager` the second stream, on which
images come, does its work at once: then an upload that does not wait for the copy made of what it
overwrites gives wrong values, as does a copy that does not wait for its upload without it.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sam2_rt.config import TrackerConfig
from sam2_rt.errors import BackendError, DeviceLostError, DeviceMemoryError
from sam2_rt.lookahead import prepared_frames
from sam2_rt.runtime.manifest import Manifest
from sam2_rt.runtime.ort import OrtRunner
from sam2_rt.runtime.trt import TrtRunner
from sam2_rt.tracker import Tracker
from sam2_rt.types import BoxPrompt, PointPrompt
from tests.runtime.fake_driver import ILLEGAL_ADDRESS, OUT_OF_MEMORY
from tests.runtime.sessions import Clip, assert_same, frames, play


@pytest.fixture(params=[False, True], ids=['late', 'eager'])
def eager(request: pytest.FixtureRequest, gpu: SimpleNamespace) -> bool:
    gpu.driver.eager = request.param
    return request.param


def image(value: int) -> np.ndarray:
    return np.full((1, 64, 64, 3), value, np.uint8)


def seen(runner: TrtRunner, staged: object) -> float:
    """What encode makes of an image of one value: that value."""
    output = runner.run('encode', {'image': staged})['high_res_s4']
    return round(runner.download(output)[0, 0].mean() * 255)


@pytest.mark.parametrize('capture', [True, False])
def test_looking_ahead_changes_no_bit(manifest: Manifest, eager: bool, capture: bool) -> None:
    with TrtRunner(manifest, 'fp32', capture=capture) as runner:
        ahead, plain = play(runner, ahead=True), play(runner)
    assert_same(ahead, plain)
    with OrtRunner(manifest, 'fp32', 1) as runner:
        assert_same(ahead, play(runner, ahead=True))
    assert any(tracked.mask.any() for result in ahead for tracked in result.objects)


def test_the_next_image_travels_before_this_frame_is_waited_for(
    gpu: SimpleNamespace, runner: TrtRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the host waits once per frame, and allocates nothing, as without looking ahead."""
    tracker = Tracker(runner, TrackerConfig(max_objects=1, held_frames=4))
    stream = map(tracker.prepare, frames(20))
    coming = [next(stream)]
    run = runner._run

    def run_and_prepare(graph: str, inputs: Any) -> dict[str, Any]:
        outputs = run(graph, inputs)
        if graph == 'encode':  # as the other thread may, in the middle of a frame
            coming.append(next(stream))
        return outputs

    monkeypatch.setattr(runner, '_run', run_and_prepare)
    tracker.step(coming.pop(0))
    tracker.add_prompt(BoxPrompt((0, 12, 16, 28)))
    for _ in range(6):
        tracker.step(coming.pop(0))
    allocated = gpu.driver.calls['cuMemAlloc_v2']
    for _ in range(6):
        gpu.driver.log.clear()
        tracker.step(coming.pop(0))
        # Left out: the index vectors' uploads, copies on the device, and what comes back.
        left_out = ('upload', 'copy', 'download')
        assert [entry for entry in gpu.driver.log if entry not in left_out] == [
            'wait', 'launch', 'wait on 2', 'upload on 2', 'launch', 'synchronise',
        ]  # fmt: skip
    assert gpu.driver.calls['cuMemAlloc_v2'] == allocated


def test_a_buffer_is_not_overwritten_before_it_is_read(runner: TrtRunner, eager: bool) -> None:
    """Three images in two buffers, and no run is waited for in between."""
    outputs, values = [], (10, 90, 170, 250)
    for value in values:
        outputs.append(runner.run('encode', {'image': runner.upload(image(value))}))
        runner.upload(image(value + 1))
    means = [runner.download(each['high_res_s4'])[0, 0].mean() * 255 for each in outputs]
    np.testing.assert_allclose(means, values, rtol=1e-4)


def test_images_that_later_ones_replaced_are_uploaded_again(
    gpu: SimpleNamespace, runner: TrtRunner, eager: bool
) -> None:
    staged = [runner.upload(image(value)) for value in (10, 90, 170)]
    assert [seen(runner, each) for each in staged] == [10, 90, 170]
    assert gpu.driver.log.count('upload on 2') == 3
    assert gpu.driver.log.count('upload') == 1  # of the first; the other two are still there
    assert [seen(runner, each) for each in reversed(staged)] == [170, 90, 10]


def test_an_image_that_is_asked_for_while_a_later_one_replaces_it(
    runner: TrtRunner, eager: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = runner.upload(image(10)), runner.upload(image(90))
    upload, found = runner.cuda.upload_async, []

    def upload_and_look(address: int, source: np.ndarray, stream: int | None = None) -> None:
        upload(address, source, stream)
        if stream is not None:
            found.append(seen(runner, first))

    monkeypatch.setattr(runner.cuda, 'upload_async', upload_and_look)
    third = runner.upload(image(170))
    assert found == [10]
    assert seen(runner, third) == 170


def test_an_image_is_not_replaced_while_its_copy_is_being_asked_for(
    gpu: SimpleNamespace, runner: TrtRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.driver.eager = True
    first, copy = runner.upload(image(10)), runner.cuda.copy_async
    later = threading.Thread(target=lambda: [runner.upload(image(x)) for x in (90, 170)])

    def copy_meanwhile(destination: int, source: int, nbytes: int) -> None:
        if later.ident is None:
            later.start()
            later.join(0.2)  # time enough for both, if nothing kept them back
        copy(destination, source, nbytes)

    monkeypatch.setattr(runner.cuda, 'copy_async', copy_meanwhile)
    outputs = runner.run('encode', {'image': first})
    later.join()
    assert round(runner.download(outputs['high_res_s4'])[0, 0].mean() * 255) == 10


def test_a_late_prompt_finds_an_image_that_was_never_encoded(manifest: Manifest) -> None:
    """An idle tracker uploads, and encodes nothing until a prompt comes for a frame it holds."""

    def segmented(runner: TrtRunner | OrtRunner) -> np.ndarray:
        tracker = Tracker(runner, TrackerConfig(max_objects=1, held_frames=6))
        with prepared_frames(Clip(6, ahead=True), tracker) as stream:
            for _, prepared in stream:
                tracker.step(prepared)
        answer = tracker.add_prompt(BoxPrompt((4, 12, 20, 28)), stamp_ns=33_000_000)
        assert answer.frame_index == 1
        return answer.object.low_res_masks

    with TrtRunner(manifest, 'fp32') as one, OrtRunner(manifest, 'fp32', 1) as other:
        np.testing.assert_array_equal(segmented(one), segmented(other))


def test_a_reset_between_two_prepared_frames(runner: TrtRunner, eager: bool) -> None:
    tracker = Tracker(runner, TrackerConfig(max_objects=1))
    first, second, third = map(tracker.prepare, frames(3))
    tracker.step(first)
    tracker.reset()
    tracker.step(second)
    tracker.add_prompt(PointPrompt((16, 52)))
    result = tracker.step(third)
    assert result.frame_index == 1
    assert result.objects[0].mask[52, 16]


def test_an_image_of_another_runner_is_uploaded_again(manifest: Manifest) -> None:
    with TrtRunner(manifest, 'fp32') as one, TrtRunner(manifest, 'fp32') as other:
        assert seen(other, one.upload(image(70))) == 70


def test_device_that_is_full_when_the_buffers_are_made(
    gpu: SimpleNamespace, manifest: Manifest
) -> None:
    with TrtRunner(manifest, 'fp32'):
        gpu.driver.capacity = gpu.driver.used - 1  # they are made last
    with pytest.raises(DeviceMemoryError, match='allocate .* MB.*max_objects'):
        TrtRunner(manifest, 'fp32')
    assert gpu.driver.used == 0
    assert not gpu.driver.pinned


@pytest.mark.parametrize('call', ['cuStreamCreate', 'cuEventCreate', 'cuMemHostAlloc'])
def test_anything_else_that_cannot_be_had(
    gpu: SimpleNamespace, manifest: Manifest, call: str
) -> None:
    gpu.driver.fail[call] = OUT_OF_MEMORY
    with pytest.raises(DeviceMemoryError, match='OUT_OF_MEMORY'):
        TrtRunner(manifest, 'fp32')
    assert gpu.driver.used == 0
    assert not gpu.driver.pinned


@pytest.mark.parametrize('call', ['cuEventSynchronize', 'cuMemcpyHtoDAsync_v2', 'cuEventRecord'])
def test_lost_device(gpu: SimpleNamespace, runner: TrtRunner, call: str) -> None:
    gpu.driver.fail[call] = ILLEGAL_ADDRESS
    with pytest.raises(DeviceLostError, match='restart'):
        play(runner, 3, ahead=True)


def test_closed_runner(gpu: SimpleNamespace, runner: TrtRunner) -> None:
    play(runner, 6, ahead=True)
    runner.upload(image(1))  # is still under way
    runner.close()
    assert not gpu.driver.fault
    with pytest.raises(BackendError, match='closed'):
        runner.upload(image(1))
    assert gpu.driver.used == 0
    assert not gpu.driver.pinned
    assert not gpu.driver._streams
    assert not gpu.driver._events


def test_image_of_another_size(runner: TrtRunner) -> None:
    with pytest.raises(
        BackendError, match=r'expected an image of 12288 bytes, got \(1, 32, 32, 3'
    ):
        runner.upload(np.zeros((1, 32, 32, 3), np.uint8))
    assert seen(runner, runner.upload(image(30))) == 30
