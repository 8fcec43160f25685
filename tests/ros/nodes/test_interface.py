"""The node's interface, with real messages between processes."""

import numpy as np
import pytest
from geometry_msgs.msg import PointStamped
from sensor_msgs.msg import Image
from std_msgs.msg import String

from sam2_rt.ros.convert import header, image_from, stamp_ns
from tests.ros.graph import BOTH, LEFT, RIGHT, detection, eventually, scene

pytestmark = pytest.mark.transport


def value_at(client, stamp, place):
    x, y = place
    return int(client.labels(stamp)[y, x])


def states(message):
    return {
        next(pair.value for pair in status.values if pair.key == 'object_id'): status.message
        for status in message.status
    }


def test_outputs_carry_the_stamp_and_frame_of_their_image(tracking) -> None:
    _, client = tracking
    client.prompt(detection(*LEFT, label='mug'))
    stamp = client.listed(BOTH, ['1'])
    mask, objects = client.masks[stamp], client.objects[stamp]
    assert mask.header.frame_id == objects.header.frame_id == 'camera'
    assert (mask.height, mask.width, mask.encoding, mask.step) == (240, 320, 'mono8', 320)
    (found,) = objects.detections
    assert stamp_ns(found.header) == stamp
    assert found.results[0].hypothesis.class_id == 'mug'
    assert found.results[0].hypothesis.score > 0.9
    assert (found.bbox.center.position.x, found.bbox.center.position.y) == pytest.approx(
        LEFT, abs=9
    )
    # The box is that of the mask, to the pixel.
    rows, columns = np.nonzero(client.labels(stamp))
    assert (found.bbox.size_x, found.bbox.size_y) == (
        np.ptp(columns) + 1,
        np.ptp(rows) + 1,
    )


def test_two_objects_a_click_mid_stream_and_removal_keep_ids_and_labels_in_step(tracking) -> None:
    _, client = tracking
    client.prompt(detection(*LEFT, 60, 60, id='red', label='mug'))
    client.listed(BOTH, ['red'])
    client.prompt(detection(*RIGHT))  # a click while the other is tracked
    stamp = client.listed(BOTH, ['red', '1'])
    assert value_at(client, stamp, LEFT) == 1
    assert value_at(client, stamp, RIGHT) == 2
    assert value_at(client, stamp, (160, 20)) == 0

    removals = client.node.create_publisher(String, f'{client.name}/remove', 10)
    eventually(removals.get_subscription_count)
    removals.publish(String(data='red'))
    stamp = client.listed(BOTH, ['1'])
    assert value_at(client, stamp, LEFT) == 0
    assert value_at(client, stamp, RIGHT) == 1

    client.reset()
    client.listed(BOTH, [])
    # In every message so far, the largest value of the mask is an entry of the list.
    for each in client.masks:
        assert client.labels(each).max() <= len(client.objects[each].detections)
        present = {
            k + 1 for k, item in enumerate(client.objects[each].detections) if item.bbox.size_x
        }
        assert set(np.unique(client.labels(each))) - {0} == present


def test_a_prompt_for_a_known_object_corrects_it(tracking) -> None:
    process, client = tracking
    client.prompt(detection(*LEFT, id='corrected'))
    client.listed(BOTH, ['corrected'])
    before = process.text().count("object 'corrected' prompted")
    client.prompt(detection(LEFT[0] - 20, LEFT[1], id='corrected', label='background'))
    eventually(lambda: process.text().count("object 'corrected' prompted") > before)
    stamp = client.listed(BOTH, ['corrected'])
    assert value_at(client, stamp, LEFT) == 1


def test_a_click_on_an_image_viewer(tracking) -> None:
    _, client = tracking
    clicks = client.node.create_publisher(PointStamped, f'{client.name}/prompt_point', 10)
    eventually(clicks.get_subscription_count)
    click = PointStamped(header=header(0, 'camera'))
    click.point.x, click.point.y = map(float, RIGHT)
    client.track(BOTH)
    clicks.publish(click)
    stamp = client.listed(BOTH, ['1'])
    assert value_at(client, stamp, RIGHT) == 1
    # With a name for it, clicks belong to that object.
    assert client.set_parameter('click_object', 'cup') == (True, '')
    click.point.x, click.point.y = map(float, LEFT)
    clicks.publish(click)
    client.listed(BOTH, ['1', 'cup'])
    assert client.set_parameter('click_object', '') == (True, '')


def test_a_label_image_prompts_several_objects(tracking) -> None:
    _, client = tracking
    masks = client.node.create_publisher(Image, f'{client.name}/prompt_mask', 10)
    eventually(masks.get_subscription_count)
    labels = np.zeros((240, 320), np.uint8)
    labels[90:150, 50:110], labels[90:150, 210:270] = 7, 9
    stamp = client.track(BOTH)
    masks.publish(image_from(labels, 'mono8', header(stamp, 'camera')))
    stamp = client.listed(BOTH, ['7', '9'])
    assert value_at(client, stamp, LEFT) == 1
    assert value_at(client, stamp, RIGHT) == 2


def test_presence_follows_the_object_and_a_hidden_one_stays_listed(tracking) -> None:
    _, client = tracking
    client.prompt(detection(*LEFT, id='a'))
    client.listed(BOTH, ['a'])
    eventually(lambda: states(client.presence[-1]) == {'a': 'visible'})
    stamp = client.track(scene())
    (gone,) = client.objects[stamp].detections
    assert (gone.id, gone.bbox.size_x, gone.bbox.size_y) == ('a', 0, 0)
    assert gone.results[0].hypothesis.score < 0.1
    assert client.labels(stamp).max() == 0
    eventually(lambda: states(client.presence[-1]) == {'a': 'occluded'})
    client.track(scene(), stamp + 5_000_000_000)  # frame time passes, not ours
    eventually(lambda: states(client.presence[-1]) == {'a': 'lost'})
    client.track(BOTH, stamp + 6_000_000_000)
    eventually(lambda: states(client.presence[-1]) == {'a': 'visible'})
    count = len(client.presence)
    eventually(lambda: len(client.presence) >= count + 2, 4, 'presence once a second')


def test_a_change_of_presence_is_told_at_once(tracking) -> None:
    _, client = tracking
    client.prompt(detection(*LEFT, id='a'))
    client.listed(BOTH, ['a'])
    for image in 3 * [scene(), BOTH]:
        stamp = client.track(image)
        eventually(
            lambda stamp=stamp: stamp in {stamp_ns(message.header) for message in client.presence},
            0.8,  # sooner than the report of every second
            'presence with the stamp of the image on which it changed',
        )


def test_pause_ignores_images_until_it_ends(tracking) -> None:
    _, client = tracking
    client.prompt(detection(*LEFT, id='a'))
    client.listed(BOTH, ['a'])
    client.pause(True)
    paused = [client.send_image(BOTH) for _ in range(5)]
    eventually(lambda: client.health[-1].message == 'paused', 5)
    assert not set(paused) & set(client.masks)
    client.pause(False)
    client.listed(BOTH, ['a'])


def test_the_overlay_is_drawn_only_for_a_subscriber(tracking) -> None:
    _, client = tracking
    client.prompt(detection(*LEFT, id='a'))
    client.listed(BOTH, ['a'])
    drawn = []
    watch = client.node.create_subscription(Image, f'{client.name}/overlay', drawn.append, 1)
    eventually(lambda: client.track(BOTH) and drawn)
    assert stamp_ns(drawn[-1].header) in client.masks
    assert (drawn[-1].encoding, drawn[-1].height, drawn[-1].width) == ('rgb8', 240, 320)
    assert not np.array_equal(np.frombuffer(drawn[-1].data, np.uint8), BOTH.ravel())
    client.node.destroy_subscription(watch)


def test_latency_and_health_are_reported(tracking) -> None:
    _, client = tracking
    client.prompt(detection(*LEFT, id='a'))
    client.listed(BOTH, ['a'])
    client.latency.clear()
    for _ in range(5):
        client.track(BOTH)
    expected = {
        'transport',
        'wait',
        'preprocess',
        'encode',
        'track',
        'postprocess',
        'publish',
        'age',
    }
    eventually(lambda: expected <= {item.metrics_source for item in client.latency}, 5)
    (age, *_) = [item for item in client.latency if item.metrics_source == 'age']
    average, low, high, spread, count = (point.data for point in age.statistics)
    assert age.unit == 'ms'
    assert 0 < low <= average <= high < 5000
    assert spread >= 0
    assert count >= 1
    health = eventually(lambda: client.health and client.health[-1])
    values = {pair.key: pair.value for pair in health.values}
    assert values['variant'] == 'tiny'
    assert values['backend'].startswith('onnxruntime ')
    assert {'received', 'processed', 'dropped', 'age_p95_ms', 'objects'} <= set(values)


def test_what_is_refused_is_said_and_changes_nothing(tracking) -> None:
    process, client = tracking
    client.prompt(detection(*LEFT, id='a'))
    client.listed(BOTH, ['a'])
    client.prompt(detection(5, 5, 10, 0, id='a'))
    process.logged('a detection of size 10 x 0')
    client.prompt(detection(9999, 5, id='b'))
    process.logged('9999')
    client.prompt(detection(*RIGHT), stamp=1_000_000_000)
    process.logged('no longer held')
    for k in range(4):
        client.prompt(detection(*RIGHT, id=f'more{k}'))
    process.logged('max_objects is 4')
    removals = client.node.create_publisher(String, f'{client.name}/remove', 10)
    eventually(removals.get_subscription_count)
    removals.publish(String(data='nobody'))
    process.logged("object 'nobody' is not tracked")
    client.listed(BOTH, ['a', 'more0', 'more1', 'more2'])
