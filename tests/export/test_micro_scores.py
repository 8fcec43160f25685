"""Scores on masks whose answer is known."""

import numpy as np

from export.micro.scores import boundary_f, iou, reacquisition_delays, score


def square(top, left, side=20, size=100):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_iou_of_half_overlap_and_of_nothing():
    assert iou(square(0, 0), square(0, 10)) == 200 / 600
    assert iou(square(0, 0), np.zeros((100, 100), bool)) == 0
    assert iou(np.zeros((4, 4), bool), np.zeros((4, 4), bool)) == 1


def test_boundary_forgives_a_pixel_and_not_a_shift():
    assert boundary_f(square(10, 10), square(11, 10)) == 1
    assert boundary_f(square(10, 10), square(50, 60)) == 0
    assert 0 < boundary_f(square(10, 10), square(10, 20)) < 1


def test_delay_counts_from_each_return():
    shown = np.array([1, 1, 0, 0, 1, 1, 1, 0, 1, 1], bool)
    region = np.array([1, 1, 1, 1, 0.1, 0.4, 0.6, 1, 0, 0.2])
    assert reacquisition_delays(region, shown) == (2, None)


def test_the_prompted_frame_does_not_count():
    truth = np.stack([square(0, 0), square(0, 0), np.zeros((100, 100), bool)])
    masks = np.stack([square(50, 50), square(0, 0), np.zeros((100, 100), bool)])
    result = score(masks, np.array([True, True, False]), truth)
    assert (result.region, result.boundary, result.presence) == (1, 1, 1)
    assert result.delays == ()
