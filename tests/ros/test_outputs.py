"""Messages made from results, and what is not made."""

from __future__ import annotations

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image

from sam2_rt.overlay import Overlay
from sam2_rt.ros.convert import CameraFrame, header
from sam2_rt.ros.diagnostics import LatencyWindow, presence_message
from sam2_rt.ros.outputs import Outputs, objects_message
from sam2_rt.ros.process import Throttle, tune_malloc
from sam2_rt.types import Presence, PresenceState, TrackedObject, TrackResult
from tests.ros.graph import eventually

HEAD = header(3_000_000_004, 'camera')


def tracked(object_id: str, state: PresenceState, box=None) -> TrackedObject:
    mask = np.zeros((20, 30), bool)
    if box is not None:
        mask[box[1] : box[3], box[0] : box[2]] = True
    presence = Presence(state, 0.75, 1.5, 2_000_000_001)
    return TrackedObject(
        object_id, 'mug', mask, box, 0.9, 1.0, presence, np.zeros((4, 4), np.float32)
    )


VISIBLE = tracked('a', PresenceState.VISIBLE, (3, 4, 10, 8))
OCCLUDED = tracked('b', PresenceState.OCCLUDED)
LOST = tracked('c', PresenceState.LOST)


def test_objects_list_the_hidden_ones_with_an_empty_box() -> None:
    shown, hidden = objects_message((VISIBLE, OCCLUDED), HEAD).detections
    assert (shown.id, shown.bbox.center.position.x, shown.bbox.center.position.y) == ('a', 6.5, 6)
    assert (shown.bbox.size_x, shown.bbox.size_y) == (7, 4)
    assert (hidden.id, hidden.bbox.size_x, hidden.bbox.size_y) == ('b', 0, 0)
    assert hidden.results[0].hypothesis.score == 0.75
    assert shown.header == hidden.header == HEAD


def test_presence_has_a_level_a_state_and_times() -> None:
    message = presence_message('/sam2_rt', (VISIBLE, OCCLUDED, LOST), HEAD)
    assert message.header == HEAD
    assert [(item.level, item.message) for item in message.status] == [
        (DiagnosticStatus.OK, 'visible'),
        (DiagnosticStatus.WARN, 'occluded'),
        (DiagnosticStatus.ERROR, 'lost'),
    ]
    assert {pair.key: pair.value for pair in message.status[0].values} == {
        'object_id': 'a',
        'label': 'mug',
        'probability': '0.7500',
        'seconds_in_state': '1.500',
        'last_seen': '2.000000001',
    }


def test_a_latency_window_reports_once_and_starts_anew() -> None:
    window = LatencyWindow()
    for seconds in (0.010, 0.030):
        window.add({'encode': seconds})
    (message,) = window.report('/sam2_rt', 1, 2_000_000_000)
    assert (message.metrics_source, message.unit) == ('encode', 'ms')
    assert message.window_stop.sec == 2
    assert [point.data for point in message.statistics] == pytest.approx([20, 10, 30, 10, 2])
    assert window.report('/sam2_rt', 2, 3) == []


def test_nothing_is_drawn_and_no_mask_is_made_without_a_subscriber(ros, monkeypatch) -> None:
    node = rclpy.create_node('outputs_under_test', namespace='/outputs')
    drawn = []
    draw = Overlay.draw
    monkeypatch.setattr(Overlay, 'draw', lambda *args: drawn.append(1) or draw(*args))
    made = []
    monkeypatch.setattr(
        'sam2_rt.ros.outputs.label_image', lambda result: made.append(1) or VISIBLE.mask.view('u1')
    )
    outputs = Outputs(node, lambda: 5_000_000_000)
    frame = CameraFrame(np.zeros((20, 30, 3), np.uint8), 3, 'bgr', 'camera')
    result = TrackResult(0, 3, (20, 30), (VISIBLE, LOST), {'encode': 0.01})
    outputs.publish(frame, result)
    assert (drawn, made) == ([], [])
    came: list[Image] = []
    for name in ('overlay', 'mask'):
        node.create_subscription(Image, f'outputs_under_test/{name}', came.append, 5)
    # Counted by the publisher only once it has discovered them.
    eventually(lambda: outputs.publish(frame, result) or (drawn and made))
    eventually(lambda: rclpy.spin_once(node, timeout_sec=0.1) or len(came) >= 2)
    assert {message.encoding for message in came} == {'bgr8', 'mono8'}
    assert {message.header.frame_id for message in came} == {'camera'}
    node.destroy_node()


def test_a_throttle_lets_the_same_words_through_once_in_a_while() -> None:
    throttle = Throttle(period_s=60, remember=2)
    assert [throttle.news(text) for text in ('a', 'a', 'b', 'a')] == [True, False, True, False]
    assert throttle.news('c')  # 'a' is forgotten for it
    assert throttle.news('a')
    assert Throttle(period_s=0).news('a')


def test_malloc_is_tuned_where_it_is_glibcs() -> None:
    assert tune_malloc()
