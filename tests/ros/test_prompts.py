"""Messages that make prompts, and those that are refused."""

import math

import numpy as np
import pytest
from geometry_msgs.msg import PointStamped
from vision_msgs.msg import Detection2DArray

from sam2_rt.errors import PromptError
from sam2_rt.ros import prompts
from sam2_rt.ros.convert import header, image_from
from sam2_rt.types import BoxPrompt, MaskPrompt, PointPrompt
from tests.ros.graph import detection

HEAD = header(5_000_000_006, 'camera')


def request(*detections):
    return prompts.request_from(detections, HEAD)


def test_a_sized_detection_is_a_box_with_label_id_and_stamp() -> None:
    made = request(detection(50, 40, 20, 10, id='cup', label='mug'))
    assert isinstance(made.prompt, BoxPrompt)
    assert made.prompt.box.tolist() == [40, 35, 60, 45]
    assert (made.object_id, made.label, made.stamp_ns) == ('cup', 'mug', 5_000_000_006)


def test_a_turned_box_becomes_the_upright_box_around_it() -> None:
    turned = detection(50, 40, 20, 10)
    turned.bbox.center.theta = math.pi / 2
    assert request(turned).prompt.box.tolist() == pytest.approx([45, 30, 55, 50])


def test_a_detection_without_size_is_a_click_on_a_new_object() -> None:
    made = request(detection(50, 40))
    assert isinstance(made.prompt, PointPrompt)
    assert made.prompt.points.tolist() == [[50, 40]]
    assert made.prompt.labels.tolist() == [1]
    assert made.object_id is None


def test_detections_of_one_id_make_one_prompt() -> None:
    array = Detection2DArray(
        detections=[
            detection(50, 40, 20, 10, id='cup', label='mug'),
            detection(9, 9),
            detection(52, 41, id='cup'),
            detection(70, 70, id='cup', label='background'),
            detection(8, 8),
        ]
    )
    groups = prompts.prompt_groups(array)
    assert [len(group) for group in groups] == [3, 1, 1]
    made = prompts.request_from(groups[0], HEAD)
    assert made.prompt.box.tolist() == [40, 35, 60, 45]
    assert made.prompt.points.tolist() == [[52, 41], [70, 70]]
    assert made.prompt.labels.tolist() == [1, 0]
    assert made.label == 'mug'


def test_the_likeliest_hypothesis_gives_the_label() -> None:
    item = detection(50, 40, 20, 10, label='bowl', score=0.2)
    item.results += detection(0, 0, label='mug', score=0.7).results
    assert request(item).label == 'mug'


def test_the_detections_own_stamp_counts_where_the_array_has_none() -> None:
    item = detection(50, 40)
    item.header = header(77, 'camera')
    assert prompts.request_from([item], header(0, '')).stamp_ns == 77


@pytest.mark.parametrize(
    ('detections', 'words'),
    [
        ([detection(5, 5, 10, 0)], 'size 10 x 0'),
        ([detection(5, 5, -10, -10)], 'size -10 x -10'),
        ([detection(5, 5, math.nan, math.nan)], 'size nan x nan'),
        ([detection(5, 5, 10, 10, label='background')], "class 'background'"),
        ([detection(5, 5, label='background')], 'needs the id of the object'),
        ([detection(math.nan, 5)], 'not a finite number'),
        ([detection(math.inf, 5, 10, 10)], 'four finite numbers'),
        ([detection(5, 5, 9, 9, id='a'), detection(6, 6, 9, 9, id='a')], "2 boxes for object 'a'"),
    ],
)
def test_a_malformed_detection_is_refused_with_the_reason(detections, words) -> None:
    with pytest.raises(PromptError, match=words):
        request(*detections)


@pytest.mark.parametrize(('given', 'expected'), [('', None), ('cup', 'cup')])
def test_a_click_belongs_to_the_object_that_the_parameter_names(given, expected) -> None:
    message = PointStamped(header=HEAD)
    message.point.x, message.point.y, message.point.z = 12.0, 34.0, 0.0
    made = prompts.request_from_point(message, given)
    assert made.prompt.points.tolist() == [[12, 34]]
    assert (made.object_id, made.stamp_ns) == (expected, 5_000_000_006)


def test_each_value_of_a_label_image_is_one_mask_prompt() -> None:
    labels = np.zeros((6, 8), np.uint16)
    labels[1:3, 1:3], labels[4:, 5:] = 2, 300
    made = list(prompts.requests_from_mask(image_from(labels, 'mono16', HEAD)))
    assert [item.object_id for item in made] == ['2', '300']
    assert all(isinstance(item.prompt, MaskPrompt) for item in made)
    assert np.array_equal(made[1].prompt.mask, labels == 300)
    assert made[0].stamp_ns == 5_000_000_006


def test_an_empty_label_image_is_refused() -> None:
    with pytest.raises(PromptError, match='every pixel is 0'):
        list(prompts.requests_from_mask(image_from(np.zeros((6, 8), np.uint8), 'mono8', HEAD)))
