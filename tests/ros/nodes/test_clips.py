"""Clips through the graph with the bundled engine: as the command line, and with late prompts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from sam2_rt.ros.convert import stamp_ns
from sam2_rt.ros.prompts import corners
from sam2_rt.sources import open_source
from tests.ros.graph import REPOSITORY, Client, Process, detection, eventually

CLIPS = REPOSITORY.parent / 'shared' / 'clips'
BOXES = {'coffee_mug': (802, 418, 990, 616), 'cups_ball': (366, 428, 436, 500)}
MICRO = {
    'engine': str(REPOSITORY / 'engines' / 'micro'),
    'backend': 'onnxruntime',
    'precision': 'fp32',
    'threads': 1,
}
"""Pinned: another backend or number of threads rounds otherwise, and a pixel may differ."""
PERIOD_NS = 33_333_333
FEW = 30
"""Frames where a whole clip would take too long."""

Box = tuple[int, int, int, int]


class Clip(NamedTuple):
    """The beginning of a clip.

    Attributes:
        frames: (H, W, 3) BGR.
        truth: the object's mask (H, W) on each frame; empty if unknown.
        box: of the object on frame 0.
    """

    frames: list[np.ndarray]
    truth: list[np.ndarray]
    box: Box


def box_of(mask: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def path_of(name: str) -> Path:
    path = CLIPS / f'{name}.mp4'
    if not path.is_file():
        pytest.skip(f'{path.name} is not here; put the real clips into {CLIPS} to run this')
    return path


def generated(count: int) -> Clip:
    """A striped disc that crosses a cloudy background and leaves its own outline in 15 frames."""
    random = np.random.default_rng(5)
    clouds = cv2.resize(random.integers(60, 140, (9, 16, 3), np.uint8), (1280, 720))
    rows, columns = np.mgrid[:720, :1280]
    frames, truth = [], []
    for index in range(count):
        x, y = 200 + 14 * index, 300 + 4 * index
        disc = (columns - x) ** 2 + (rows - y) ** 2 < 90**2
        stripes = ((rows - y) // 30 % 2 == 0) & disc
        frame = clouds.copy()
        frame[disc], frame[stripes] = (30, 40, 210), (40, 200, 240)
        frames.append(frame)
        truth.append(disc)
    return Clip(frames, truth, box_of(truth[0]))


def beginning(name: str, count: int) -> Clip:
    """The first frames of a real clip, or of the generated one."""
    if name == 'generated':
        return generated(count)
    with open_source(str(path_of(name))) as source:
        frames = [frame.image for frame, _ in zip(source, range(count), strict=False)]
    masks = CLIPS / f'{name}.truth.npz'
    with np.load(masks) as stored:
        _, height, width = shape = stored['shape']
        packed = stored['masks_packed'][:count]
    flat = np.unpackbits(packed, axis=1)[:, : height * width].reshape(-1, *shape[1:])
    # Stored at half the size.
    truth = [mask.repeat(2, axis=0).repeat(2, axis=1).astype(bool) for mask in flat]
    return Clip(frames, truth, BOXES[name])


@pytest.fixture
def micro(start) -> tuple[Process, Client]:
    """A node with the bundled engine, and a client that has had its first answer."""
    process, client = start(**MICRO, max_objects=2)
    client.connected()
    client.track(np.zeros((720, 1280, 3), np.uint8))
    client.reset()
    return process, client


def folder_of(clip: Clip, folder: Path) -> Path:
    """Writes the frames as files that lose nothing."""
    made = folder / 'clip'
    made.mkdir()
    for index, frame in enumerate(clip.frames):
        cv2.imwrite(str(made / f'{index:02d}.png'), frame, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return made


def prompt(box: Box, object_id: str):
    x0, y0, x1, y1 = box
    return detection((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, id=object_id)


# -- as the command line -------------------------------------------------------------------------


class CommandLine:
    """`sam2_rt track` on a source, with the engine and backend of MICRO, while the graph works."""

    def __init__(self, source: Path, box: Box, folder: Path, *prompts: object) -> None:
        self._masks, self._lines = folder / 'masks', folder / 'objects.jsonl'
        self._log = folder / 'track.log'
        words = ['track', source, '--object', 'it', '--box', ','.join(map(str, box))]
        words += [*prompts, '--masks', self._masks, '--json', self._lines]
        for name, value in MICRO.items():
            words += [f'--{name}', value]
        command = [sys.executable, '-m', 'sam2_rt', *map(str, words)]
        with self._log.open('wb') as log:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stderr=log
            )

    def states(self, client: Client, stamps: Mapping[int, int]) -> list[dict[str, str]]:
        """Checks masks and presence of the frames that came back.

        Returns:
            State by object id, of every frame of the source.

        Args:
            client: has the graph's answers.
            stamps: of each frame that is compared, by its index.
        """
        assert self._process.wait(240) == 0, self._log.read_text()
        frames = [json.loads(line)['objects'] for line in self._lines.open()]
        for index, stamp in stamps.items():
            mask = cv2.imread(str(self._masks / f'{index:06d}.png'), cv2.IMREAD_UNCHANGED)
            different = np.count_nonzero(client.labels(stamp) != mask)
            assert different == 0, f'frame {index}: {different} pixels of the mask differ'
            assert client.ids(stamp) == [item['id'] for item in frames[index]]
            for ours, theirs in zip(client.objects[stamp].detections, frames[index], strict=True):
                assert round(ours.results[0].hypothesis.score, 5) == theirs['probability']
                box = corners(ours) if ours.bbox.size_x > 0 else None
                assert box == (theirs['box'] and tuple(theirs['box'])), f'frame {index}'
                assert box is None or theirs['state'] == 'visible', f'frame {index}'
        return [{item['id']: item['state'] for item in objects} for objects in frames]


def play(client: Client, folder: Path, box: Box, rate: float) -> list[int]:
    """A video source plays a folder, and a box is sent for its first image.

    Returns:
        The stamps of the images whose mask and objects came back, in order.
    """
    client.reset()
    client.objects.clear()
    client.masks.clear()
    settings = {'source': str(folder), 'rate': rate, 'loop': False, 'wait_for_subscriber': True}
    namespace = client.node.get_namespace()
    camera = Process('sam2_rt.ros.video_source', folder.parent, settings, namespace=namespace)
    try:
        first = eventually(lambda: min(list(client.objects), default=0))
        client.prompt(prompt(box, 'it'), stamp=first)
        assert camera.popen.wait(60) == 0, camera.text()
    finally:
        camera.stop()
    time.sleep(1.0)  # for the last answer
    return sorted(set(client.objects) & set(client.masks))


@pytest.mark.parametrize('name', ['generated', *BOXES])
def test_a_video_source_and_the_node_give_what_the_command_line_gives(
    micro, tmp_path: Path, name: str
) -> None:
    _, client = micro
    clip = beginning(name, FEW)
    folder = folder_of(clip, tmp_path)
    command_line = CommandLine(folder, clip.box, tmp_path)
    for rate in (12.0, 6.0, 3.0):
        stamps = play(client, folder, clip.box, rate)
        if len(stamps) == FEW:
            break  # at this rate the machine loses no frame
    assert len(stamps) == FEW
    listed = {index: stamp for index, stamp in enumerate(stamps) if client.ids(stamp) == ['it']}
    # The prompt may have missed its image by a few; then the object is carried forward to now.
    assert list(listed) == list(range(min(listed), FEW))
    assert min(listed) < 10
    command_line.states(client, listed)


@pytest.mark.endurance
@pytest.mark.parametrize(('name', 'box'), BOXES.items())
def test_every_frame_of_a_real_clip_gives_what_the_command_line_gives(
    micro, tmp_path: Path, name: str, box: Box
) -> None:
    process, client = micro
    command_line = CommandLine(path_of(name), box, tmp_path)
    stamps = []
    with open_source(str(path_of(name))) as source:
        for frame in source:
            # The next frame waits for this one's answer, so none is lost.
            stamps.append(client.track(frame.image, frame.stamp_ns, 'bgr8', patience=5))
            if len(stamps) == 1:
                client.prompt(prompt(box, 'it'))
                process.logged("object 'it' prompted on the newest frame")
    states = command_line.states(client, dict(enumerate(stamps[1:], start=1)))
    assert len(states) == len(stamps)
    told = {
        stamp_ns(message.header): status.message
        for message in client.presence
        for status in message.status
    }
    now = 'visible'
    for stamp, state in zip(stamps[1:], states[1:], strict=True):
        now = told.get(stamp, now)  # it is told whenever it changes
        assert now == state['it'], f'at {stamp / 1e9:.2f} s'


def test_a_correction_and_a_second_object_give_what_they_give_the_command_line(
    micro, tmp_path: Path
) -> None:
    process, client = micro
    clip = generated(FEW)
    later = ('--object', 'it', '--at', 8, '--background', '600,200')
    later += ('--object', 'patch', '--at', 16, '--point', '1000,600')
    command_line = CommandLine(folder_of(clip, tmp_path), clip.box, tmp_path, *later)
    prompts = {
        0: prompt(clip.box, 'it'),
        8: detection(600, 200, id='it', label='background'),
        16: detection(1000, 600, id='patch'),
    }
    stamps = {}
    for index, frame in enumerate(clip.frames):
        stamps[index] = client.track(frame, 1 + index * PERIOD_NS, 'bgr8', patience=5)
        if index in prompts:
            before = process.text().count('prompted on the newest frame')
            client.prompt(prompts[index])
            eventually(lambda before=before: process.text().count('prompted on') > before)
            del stamps[index]  # the command line shows it with the prompt, the graph without
    states = command_line.states(client, stamps)
    assert [list(each) for each in states] == 16 * [['it']] + (FEW - 16) * [['it', 'patch']]


# -- late prompts --------------------------------------------------------------------------------


def results(
    micro: tuple[Process, Client], clip: Clip, object_id: str, *, made_for: int, sent_at: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Plays a clip; a box made for one frame is sent when another is the newest.

    Yields:
        Index and mask (H, W) of the frames on which the object is listed.
    """
    process, client = micro
    client.reset()
    first = time.time_ns()
    for index, frame in enumerate(clip.frames):
        stamp = client.track(frame, first + index * PERIOD_NS, 'bgr8', patience=5)
        if index == sent_at:
            box = box_of(clip.truth[made_for])
            client.prompt(prompt(box, object_id), stamp=first + made_for * PERIOD_NS)
            process.logged(f'object {object_id!r} prompted')
        elif client.ids(stamp) == [object_id]:
            yield index, client.labels(stamp) > 0


@pytest.mark.parametrize('name', ['generated', 'coffee_mug'])
def test_a_box_half_a_second_old_ends_where_one_on_time_does(micro, name: str) -> None:
    clip = beginning(name, 36)
    assert iou(clip.truth[0], clip.truth[15]) < 0.5  # it has moved away from the old box
    now, *_ = late = dict(results(micro, clip, 'late', made_for=0, sent_at=15))
    assert now <= 31, f'caught up only on frame {now}'
    # On time is the same box, 500 ms ago. A box made for now is another one: how much better or
    # worse it does on a real clip is the engine's business, so there it is not compared.
    for sent_at in (0, 15) if name == 'generated' else (0,):
        on_time = dict(results(micro, clip, 'on time', made_for=sent_at, sent_at=sent_at))
        for index, mask in late.items():
            truth = clip.truth[index]
            ious = iou(mask, truth), iou(on_time[index], truth)
            print(f'frame {index}: IoU with the truth {ious[0]:.3f}, on time {ious[1]:.3f}')
            assert ious[1] > 0.5
            assert ious[0] >= 0.9 * ious[1]
