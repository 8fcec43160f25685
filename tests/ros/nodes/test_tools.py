"""The video source and the recorder, with the tracker between them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from sam2_rt.ros.convert import frame_from, stamp_ns
from tests.ros.graph import BOTH, LEFT, Client, Process, detection, eventually, scene

KEEP_ALL = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Twelve frames at 15 Hz whose grey value tells their number: 100, 110, …"""
    path = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 15, (64, 48))
    for index in range(12):
        writer.write(np.full((48, 64, 3), 100 + 10 * index, np.uint8))
    writer.release()
    return path


@pytest.fixture
def images(ros, tmp_path: Path):
    """Starts a video source; returns its process and the images that arrive."""
    started = []

    def start(**parameters):
        process = Process(
            'sam2_rt.ros.video_source', tmp_path, {'wait_for_subscriber': True, **parameters}
        )
        client = Client(process.namespace)
        came: list = []
        started.append((process, client))
        client.node.create_subscription(Image, 'image', came.append, KEEP_ALL)
        return process, came

    yield start
    for process, client in started:
        client.close()
        process.stop()


def test_a_file_is_published_in_order_at_its_rate_and_ends(images, clip: Path) -> None:
    process, came = images(source=str(clip), loop=False, rate=20.0, frame_id='optical')
    assert process.popen.wait(20) == 0
    assert 'has ended' in process.text()
    greys = [int(frame_from(message).image.mean()) for message in came]
    assert greys == pytest.approx([100 + 10 * index for index in range(12)], abs=2)
    assert {message.header.frame_id for message in came} == {'optical'}
    stamps = np.array([stamp_ns(message.header) for message in came])
    assert np.diff(stamps).mean() / 1e9 == pytest.approx(1 / 20, rel=0.3)


def test_a_file_is_played_again_and_again_at_its_own_rate(images, clip: Path) -> None:
    process, came = images(source=str(clip))
    eventually(lambda: len(came) > 30)
    stamps = np.array([stamp_ns(message.header) for message in came])
    assert np.median(np.diff(stamps)) / 1e9 == pytest.approx(1 / 15, rel=0.2)
    assert process.stop(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize(
    ('source', 'words'), [('', 'source: expected a video file'), ('/none.mp4', '/none.mp4')]
)
def test_a_source_that_cannot_be_opened_ends_with_the_reason(ros, tmp_path, source, words) -> None:
    process = Process('sam2_rt.ros.video_source', tmp_path, {'source': source})
    assert process.popen.wait(20) == 1
    assert words in process.text()
    assert 'Traceback' not in process.text()


def test_the_recorder_writes_video_lines_and_latency(start, tmp_path: Path) -> None:
    node, client = start()
    client.connected()
    folder = tmp_path / 'record'
    settings = {'folder': str(folder)}
    recorder = Process('sam2_rt.ros.recorder', tmp_path, settings, namespace=node.namespace)
    eventually(lambda: client.node.count_subscribers(f'{client.name}/overlay'))
    eventually(lambda: client.node.count_subscribers(f'{client.name}/objects') == 2)
    client.track(BOTH)
    client.prompt(detection(*LEFT, id='it', label='mug'))
    client.listed(BOTH, ['it'])
    hidden = client.track(scene())
    eventually(lambda: 'encode' in {item.metrics_source for item in client.latency})
    client.track(cv2.resize(BOTH, (100, 80)))  # a video has one size: this one is fitted to it
    code, _ = recorder.stop()
    assert code == 0, recorder.text()
    assert 'Traceback' not in recorder.text()
    assert sorted(path.name for path in folder.iterdir()) == [
        'latency.json',
        'objects.jsonl',
        'overlay.mp4',
    ]
    lines = {item['stamp_ns']: item for item in map(json.loads, (folder / 'objects.jsonl').open())}
    shown = next(item for item in lines.values() if item['objects'])['objects'][0]
    assert (shown['id'], shown['label']) == ('it', 'mug')
    assert shown['box'][0] < LEFT[0] < shown['box'][2]
    assert lines[hidden]['objects'][0]['box'] is None
    report = json.loads((folder / 'latency.json').read_text())
    assert report['frames'] == len(lines)
    assert report['milliseconds']['age on arrival']['p95'] > 0
    assert report['milliseconds']['encode']['max'] >= report['milliseconds']['encode']['mean']
    video = cv2.VideoCapture(str(folder / 'overlay.mp4'))
    ok, image = video.read()
    assert ok
    assert image.shape == (240, 320, 3)
    assert image[LEFT[1], LEFT[0]].argmax() == 2  # red is red: OpenCV has it last


def test_a_recorder_that_cannot_write_ends_with_the_reason(ros, tmp_path: Path) -> None:
    blocked = tmp_path / 'blocked'
    blocked.write_text('a file, not a folder')
    process = Process('sam2_rt.ros.recorder', tmp_path, {'folder': str(blocked)})
    assert process.popen.wait(20) == 1
    assert f'{blocked} cannot be written' in process.text()
    assert 'Traceback' not in process.text()
