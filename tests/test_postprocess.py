import numpy as np
import pytest

from sam2_rt.postprocess import image_mask, label_image, tight_box
from sam2_rt.types import Presence, PresenceState, TrackedObject, TrackResult

SIZE = (48, 64)


def tracked(index, logits):
    visible = PresenceState.VISIBLE
    mask = image_mask(logits, SIZE)
    presence = Presence(visible, 0.9, 0.0, 0)
    return TrackedObject(str(index), '', mask, tight_box(mask), 0.9, 5.0, presence, logits)


def result(*logits):
    objects = tuple(tracked(index, item) for index, item in enumerate(logits))
    return TrackResult(0, 0, SIZE, objects, {})


def blob(rows, columns, value):
    logits = np.full((16, 16), -5.0, np.float32)
    logits[rows, columns] = value
    return logits


def test_mask_is_where_interpolated_logits_are_positive():
    ramp = np.tile(np.arange(16, dtype=np.float32) - 7.5, (16, 1))
    mask = image_mask(ramp, SIZE)
    assert mask.shape == SIZE
    assert not mask[:, :32].any()
    assert mask[:, 32:].all()


def test_tight_box():
    mask = np.zeros(SIZE, bool)
    assert tight_box(mask) is None
    mask[10:20, 30:33] = True
    assert tight_box(mask) == (30, 10, 33, 20)


def test_label_image_numbers_objects_in_order():
    labels = label_image(
        result(blob(slice(0, 4), slice(0, 4), 5), blob(slice(10, 16), slice(10, 16), 5))
    )
    assert labels.dtype == np.uint8
    assert (labels[:9, :12] == 1).all()
    assert (labels[36:, 44:] == 2).all()
    assert set(np.unique(labels)) == {0, 1, 2}


@pytest.mark.parametrize('order', [(0, 1), (1, 0)])
def test_the_larger_logit_wins_an_overlap_whatever_the_order(order):
    both = [blob(slice(2, 10), slice(2, 10), 3.0), blob(slice(6, 14), slice(6, 14), 9.0)]
    labels = label_image(result(*(both[k] for k in order)))
    assert labels[24, 32] == order.index(1) + 1  # inside the overlap, rows and columns 6..10
    assert labels[9, 12] == order.index(0) + 1


def test_more_than_255_objects_need_16_bits():
    nothing = np.full((16, 16), -5.0, np.float32)
    one = blob(slice(0, 16), slice(0, 16), 5)
    labels = label_image(result(*[nothing] * 299, one))
    assert labels.dtype == np.uint16
    assert (labels == 300).all()
