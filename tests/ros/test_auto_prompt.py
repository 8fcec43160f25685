"""Which of a detector's boxes become objects."""

from __future__ import annotations

import numpy as np
import pytest
from vision_msgs.msg import Detection2DArray

from sam2_rt.ros.auto_prompt import AutoPrompter, box_iou
from sam2_rt.ros.convert import header
from sam2_rt.ros.parameters import AutoPromptConfig
from sam2_rt.types import Presence, PresenceState, TrackedObject, TrackResult
from tests.ros.graph import detection

CONFIG = AutoPromptConfig(frozenset(), min_score=0.5, max_objects=2, overlap=0.3)
VISIBLE, OCCLUDED, LOST = PresenceState.VISIBLE, PresenceState.OCCLUDED, PresenceState.LOST


def tracked(object_id, box, state=VISIBLE, label='cup'):
    presence = Presence(state, 0.9, 0.0, 0)
    empty = np.zeros((2, 2), np.float32)
    return TrackedObject(object_id, label, empty > 0, box, 1.0, 1.0, presence, empty)


def result(stamp, *objects):
    return TrackResult(0, stamp, (100, 100), objects, {})


def message(*detections, stamp=0):
    return Detection2DArray(header=header(stamp, 'camera'), detections=detections)


def cup(x, y, **more):
    return detection(x, y, 20, 20, **{'label': 'cup', 'score': 0.9, **more})


@pytest.fixture
def auto():
    made = AutoPrompter()
    made.note(result(1))
    return made


def boxes(requests):
    return [request.prompt.box.tolist() for request in requests]


def test_box_iou() -> None:
    assert box_iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0


def test_nothing_is_prompted_before_the_first_result() -> None:
    assert AutoPrompter().choose(message(cup(30, 30)), CONFIG) == []


def test_a_new_thing_is_prompted_once_while_it_is_pending(auto) -> None:
    (request,) = auto.choose(message(cup(30, 30), stamp=7), CONFIG)
    assert (request.object_id, request.label, request.stamp_ns) == (None, 'cup', 7)
    assert request.prompt.box.tolist() == [20, 20, 40, 40]
    assert auto.choose(message(cup(30, 30)), CONFIG) == []
    auto.accepted(request, '1')
    assert auto.choose(message(cup(30, 30)), CONFIG) == []  # being carried forward
    auto.note(result(2, tracked('1', (20, 20, 40, 40))))
    assert auto.choose(message(cup(31, 30)), CONFIG) == []  # tracked
    assert boxes(auto.choose(message(cup(80, 80)), CONFIG)) == [[70, 70, 90, 90]]


@pytest.mark.parametrize('how', ['refused', 'forget', 'removed'])
def test_what_came_to_nothing_may_be_prompted_again(auto, how) -> None:
    (request,) = auto.choose(message(cup(30, 30)), CONFIG)
    if how == 'refused':
        auto.refused(request)
    else:
        auto.accepted(request, '1')
        auto.forget('1' if how == 'removed' else None)
        auto.note(result(2))
    assert len(auto.choose(message(cup(30, 30)), CONFIG)) == 1


def test_labels_scores_and_empty_boxes_are_filtered(auto) -> None:
    config = AutoPromptConfig(frozenset({'cup'}), 0.5, max_objects=9, overlap=0.3)
    offered = message(
        cup(20, 20, label='dog'), cup(20, 50, score=0.4), detection(1, 1, label='cup'), cup(80, 80)
    )
    assert boxes(auto.choose(offered, config)) == [[70, 70, 90, 90]]


def test_the_best_boxes_fill_the_limit_and_doubles_are_dropped(auto) -> None:
    offered = message(
        cup(20, 20, score=0.6), cup(80, 20, score=0.8), cup(81, 21, score=0.7), cup(20, 80)
    )
    assert boxes(auto.choose(offered, CONFIG)) == [[10, 70, 30, 90], [70, 10, 90, 30]]
    assert auto.choose(message(cup(20, 20, label='dog')), CONFIG) == []  # two are pending


def test_a_late_box_is_compared_with_where_the_object_was_then(auto) -> None:
    for stamp, x in ((10, 10), (20, 40), (30, 70)):
        auto.note(result(stamp, tracked('1', (x, 10, x + 20, 30))))
    there = cup(50, 20)
    assert auto.choose(message(there, stamp=20), CONFIG) == []
    assert len(auto.choose(message(there, stamp=30), CONFIG)) == 1


def test_an_object_younger_than_the_box_counts_where_it_is_now(auto) -> None:
    auto.note(result(10))
    auto.note(result(20, tracked('1', (40, 10, 60, 30))))
    assert auto.choose(message(cup(50, 20), stamp=10), CONFIG) == []


def test_a_lost_object_is_found_again_by_its_label_even_at_the_limit(auto) -> None:
    auto.note(result(2, tracked('a', None, LOST), tracked('b', (0, 0, 9, 9), label='dog')))
    (request,) = auto.choose(message(cup(80, 80), cup(80, 20, label='dog')), CONFIG)
    assert (request.object_id, request.label) == ('a', 'cup')


def test_an_object_out_of_sight_is_waited_for(auto) -> None:
    auto.note(result(2, tracked('a', None, OCCLUDED)))
    assert auto.choose(message(cup(80, 80)), CONFIG) == []
    assert len(auto.choose(message(cup(80, 80, label='dog')), CONFIG)) == 1
