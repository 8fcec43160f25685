"""Overlay: what is drawn where, in stable colours, without touching the frame."""

import numpy as np
import pytest

from sam2_rt.overlay import Overlay, colour_of, latency_line
from sam2_rt.types import Frame, Presence, PresenceState, TrackedObject, TrackResult

SIZE = (240, 320)
EMPTY = Presence(PresenceState.OCCLUDED, 0.02, 1.5, 0)
SEEN = Presence(PresenceState.VISIBLE, 0.98, 3.0, 0)


def tracked(object_id, box=None, label=''):
    mask = np.zeros(SIZE, bool)
    if box:
        x0, y0, x1, y1 = box
        mask[y0:y1, x0:x1] = True
    presence = SEEN if box else EMPTY
    logits = np.zeros((4, 4), np.float32)
    return TrackedObject(object_id, label, mask, box, 0.9, 4.0, presence, logits)


def result(*objects, **stage_seconds):
    return TrackResult(0, 0, SIZE, objects, stage_seconds)


def grey_frame(order='rgb', level=100):
    return Frame(np.full((*SIZE, 3), level, np.uint8), 0, order)


def outline_colour(image, box):
    """Of the left edge, which is opaque but for its smoothing."""
    return tuple(image[(box[1] + box[3]) // 2, box[0]].tolist())


BOX = (120, 100, 200, 180)


def test_a_mask_is_tinted_inside_and_nothing_far_from_it_changes():
    frame = grey_frame()
    image = Overlay(opacity=0.5).draw(frame, result(tracked('mug', BOX)), status='')
    assert image[140, 160].tolist() == [round(0.5 * (100 + c)) for c in colour_of(0)]
    assert (image[200:, :] == 100).all()
    assert (image[100:180, 210:] == 100).all()
    assert outline_colour(image, BOX) == pytest.approx(colour_of(0), abs=25)


def test_the_frame_itself_is_not_changed():
    frame = grey_frame()
    Overlay().draw(frame, result(tracked('mug', BOX)))
    assert (frame.image == 100).all()


def test_holes_stay_clear():
    ring = tracked('ring', BOX)
    ring.mask[120:160, 140:180] = False
    image = Overlay(opacity=0.2).draw(grey_frame(), result(ring), status='')
    assert image[140, 160].tolist() == [100, 100, 100]
    assert image[110, 130].tolist() != [100, 100, 100]
    # A hole has an outline as well.
    assert image[140, 139].tolist() == pytest.approx(colour_of(0), abs=75)


def test_bgr_frames_get_the_same_colours_in_their_own_order():
    objects = result(tracked('mug', BOX), tracked('ball'))
    rgb = Overlay().draw(grey_frame('rgb'), objects)
    bgr = Overlay().draw(grey_frame('bgr'), objects)
    assert np.array_equal(rgb, bgr[..., ::-1])


def test_an_object_keeps_its_colour_while_others_come_and_go():
    overlay = Overlay()
    left, right = (110, 100, 150, 150), (200, 100, 240, 150)
    first = overlay.draw(grey_frame(), result(tracked('a'), tracked('b', right)))
    assert outline_colour(first, right) == pytest.approx(colour_of(1), abs=25)
    # 'a' is gone: 'b' stays as it is and 'c' takes the free colour.
    second = overlay.draw(grey_frame(), result(tracked('b', right), tracked('c', left)))
    assert outline_colour(second, right) == pytest.approx(colour_of(1), abs=25)
    assert outline_colour(second, left) == pytest.approx(colour_of(0), abs=25)


def test_a_hidden_object_is_listed_without_a_mask():
    image = Overlay().draw(grey_frame(), result(tracked('ball')), status='')
    drawn = (image != 100).any(axis=2)
    assert drawn[:40, :150].any()
    assert not drawn[40:].any()


def test_colours_are_distinct_and_never_run_out():
    colours = [colour_of(index) for index in range(60)]
    assert len(set(colours)) == 60
    for index, colour in enumerate(colours[:10]):
        nearest = min(
            np.abs(np.subtract(colour, other)).sum() for other in colours[:10] if other != colour
        )
        assert nearest > 70, f'colour {index} looks like another one'


def test_latency_line():
    stages = {'preprocess': 0.002, 'encode': 0.0221, 'track': 0.0134, 'catch_up': 0.0001}
    assert latency_line(result(**stages)) == '38 ms = preprocess 2 + encode 22 + track 13'
    assert latency_line(result()) == '0 ms'


def test_the_status_line_is_at_the_bottom_and_can_be_left_out():
    plain = Overlay().draw(grey_frame(), result(), status='')
    assert (plain == 100).all()
    image = Overlay().draw(grey_frame(), result(encode=0.02))
    drawn = np.flatnonzero((image != 100).any(axis=(1, 2)))
    assert drawn.min() > 200
    assert drawn.max() == 239


@pytest.mark.parametrize(
    'box',
    [
        pytest.param((0, 0, 320, 240), id='all of it'),
        pytest.param((0, 0, 1, 1), id='top left pixel'),
        pytest.param((319, 239, 320, 240), id='bottom right pixel'),
        pytest.param((300, 0, 320, 10), id='tag would stick out'),
    ],
)
def test_masks_at_the_border(box):
    name = 'an object with quite a long name that is wider than the image itself'
    image = Overlay().draw(grey_frame(), result(tracked(name, box, 'and a label')))
    assert image.shape == (*SIZE, 3)
    assert (image != 100).any()


@pytest.mark.parametrize('size', [(1, 1), (8, 2000), (2000, 8)])
def test_odd_image_sizes(size):
    frame = Frame(np.zeros((*size, 3), np.uint8), 0)
    mask = np.ones(size, bool)
    item = TrackedObject('mug', '', mask, (0, 0, size[1], size[0]), 1.0, 1.0, SEEN, None)
    image = Overlay().draw(frame, TrackResult(0, 0, size, (item,), {'track': 0.01}))
    assert image.shape == (*size, 3)
    assert image.any()


def test_names_that_the_font_lacks_are_drawn_anyway():
    image = Overlay().draw(grey_frame(), result(tracked('カップ', BOX, 'größe')))
    assert (image != 100).any()
