"""Late prompts and a detector's boxes."""

import time

import numpy as np
from vision_msgs.msg import Detection2DArray

from sam2_rt.ros.convert import header
from tests.ros.graph import GREEN, RED, detection, eventually, scene

PERIOD_NS = 33_333_333


def place(index: int) -> tuple[int, int]:
    """Centre of a square that has left its own outline after 15 frames."""
    return 70 + 8 * index, 120


def moving(index: int) -> np.ndarray:
    return scene((place(index), RED), size=(560, 240), side=120)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def test_a_prompt_half_a_second_late_ends_where_one_on_time_does(start) -> None:
    _, client = start()
    client.connected()
    first = time.time_ns() - 30 * PERIOD_NS
    for index in range(16):
        client.track(moving(index), first + index * PERIOD_NS)
    client.prompt(detection(*place(15), 120, 120, id='on time'))
    # The detector was shown frame 0, 500 ms ago: nothing of the object is there any more.
    client.prompt(detection(*place(0), 120, 120, id='late'), stamp=first)
    index = 16
    while True:
        stamp = client.track(moving(index), first + index * PERIOD_NS)
        if client.ids(stamp) == ['on time', 'late']:
            break
        index += 1
        assert index < 45, 'the late object has not caught up'
    objects = client.objects[stamp].detections
    truth = np.all(moving(index) == RED, axis=-1)

    def mask_of(item):
        # Both lie on the same pixels, so the label image shows only one of them.
        mask = np.zeros_like(truth)
        box, size = item.bbox.center.position, (item.bbox.size_x, item.bbox.size_y)
        x0, y0 = round(box.x - size[0] / 2), round(box.y - size[1] / 2)
        mask[y0 : y0 + round(size[1]), x0 : x0 + round(size[0])] = True
        return mask

    on_time, late = (iou(mask_of(item), truth) for item in objects)
    print(f'IoU with the truth: on time {on_time:.3f}, late {late:.3f}, after {index - 15} frames')
    assert on_time > 0.6
    assert late >= 0.9 * on_time


def test_a_detector_starts_and_finds_objects_again(start) -> None:
    process, client = start(**{'auto_prompt.topic': 'detections', 'auto_prompt.labels': ['cup']})
    client.connected()
    detector = client.node.create_publisher(Detection2DArray, 'detections', 10)
    eventually(detector.get_subscription_count)

    def detect(*items, stamp):
        detector.publish(Detection2DArray(header=header(stamp, 'camera'), detections=items))

    first = time.time_ns()
    stamp = client.track(moving(0), first)
    cup, dog = ({'label': label, 'score': 0.9} for label in ('cup', 'dog'))
    for _ in range(5):  # the same box again and again
        detect(
            detection(*place(0), 120, 120, **cup), detection(400, 40, 50, 50, **dog), stamp=stamp
        )
        time.sleep(0.02)
    stamp = client.listed(moving(0), ['1'])
    assert client.objects[stamp].detections[0].results[0].hypothesis.class_id == 'cup'
    gone = client.track(scene(size=(560, 240)), stamp + PERIOD_NS)
    gone = client.track(scene(size=(560, 240)), gone + 3_000_000_000)
    eventually(lambda: client.presence[-1].status[0].message == 'lost')
    # It comes back in other light: only the detector knows it again.
    back = client.track(scene(((300, 120), GREEN), size=(560, 240)), gone + PERIOD_NS)
    assert client.objects[back].detections[0].bbox.size_x == 0
    detect(detection(300, 120, 60, 60, **cup), stamp=back)
    process.logged("object '1' prompted on the newest frame", 5)
    eventually(lambda: process.text().count("object '1' prompted") == 2)
