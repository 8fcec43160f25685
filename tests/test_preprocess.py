import numpy as np
import pytest

from sam2_rt.errors import InputError, PromptError
from sam2_rt.preprocess import network_image, network_mask, network_points
from sam2_rt.types import BoxPrompt, Frame, MaskPrompt, PointPrompt


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        ([[1, 2]], 'expected a NumPy array .* got list; decode the image first'),
        (np.zeros((4, 4), np.uint8), r'got \(4, 4\); convert grey images'),
        (np.zeros((4, 4, 4), np.uint8), r'got \(4, 4, 4\).*drop an alpha channel'),
        (np.zeros((4, 4, 3), np.float32), 'expected uint8 values 0..255, got float32'),
        (np.full((4, 4, 3), np.nan), 'expected uint8 values 0..255, got float64'),
        (np.zeros((0, 4, 3), np.uint8), 'the image is empty'),
    ],
)
def test_what_is_no_frame_is_refused(image, message):
    with pytest.raises(InputError, match=message):
        Frame(image, 0)


def test_colour_order_is_named():
    with pytest.raises(InputError, match="'rgb' or 'bgr', got 'hsv'"):
        Frame(np.zeros((4, 4, 3), np.uint8), 0, 'hsv')


def test_image_is_stretched_and_comes_out_rgb():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :40] = (250, 20, 10)
    image[:, 40:] = (10, 20, 250)
    rgb = network_image(Frame(image, 0, 'rgb'), 64)
    bgr = network_image(Frame(image[..., ::-1].copy(), 0, 'bgr'), 64)
    assert rgb.shape == (1, 64, 64, 3)
    assert rgb.dtype == np.uint8
    assert (rgb[0, :, :30] == (250, 20, 10)).all()
    assert (rgb[0, :, 34:] == (10, 20, 250)).all()
    assert (rgb == bgr).all()


def test_shrinking_averages_and_does_not_alias():
    stripes = np.zeros((64, 512, 3), np.uint8)
    stripes[:, ::2] = 200  # finer than the target can show
    shrunk = network_image(Frame(stripes, 0), 128)
    assert np.abs(shrunk.astype(int) - 100).max() <= 1


def test_points_scale_with_each_side():
    points, labels = network_points(PointPrompt([[640, 360], [1280, 0]], [1, 0]), (720, 1280), 512)
    assert points.tolist() == [[256, 256], [512, 0]]
    assert (points.dtype, labels.dtype) == (np.float32, np.int32)
    assert labels.tolist() == [1, 0]


def test_box_becomes_two_corner_points_in_front_of_clicks_and_is_clipped():
    box = BoxPrompt((-100, 10, 50, 300), points=[[20, 20]], labels=[0])
    points, labels = network_points(box, (100, 100), 200)
    assert points.tolist() == [[0, 20], [100, 200], [40, 40]]
    assert labels.tolist() == [2, 3, 0]


@pytest.mark.parametrize(
    ('prompt', 'message'),
    [
        (PointPrompt([101, 5]), r'point \(101, 5\) is outside the image, 100 x 50 pixels'),
        (PointPrompt([5, -1]), r'point \(5, -1\) is outside'),
        (BoxPrompt((10, 5, 20, 9), points=[[5, 51]], labels=[1]), r'point \(5, 51\) is outside'),
        (BoxPrompt((200, 0, 300, 10)), 'does not touch the image, 100 x 50 pixels'),
    ],
)
def test_prompts_outside_the_image_are_refused(prompt, message):
    with pytest.raises(PromptError, match=message):
        network_points(prompt, (50, 100), 64)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: PointPrompt([]), 'at least one point'),
        (lambda: PointPrompt([1, 2, 3]), r'shape \(Q, 2\), x then y, got \(3,\)'),
        (lambda: PointPrompt([[1, 2]], [1, 0]), '1 points but 2 labels'),
        (lambda: PointPrompt([np.nan, 1]), 'not a finite number'),
        (lambda: PointPrompt([1, 2], 2), r'labels are 1 .* or 0 .*, got \[2\]'),
        (lambda: PointPrompt('ab'), 'points must be numbers'),
        (lambda: BoxPrompt((5, 5, 5, 9)), 'empty or inverted'),
        (lambda: BoxPrompt((9, 5, 5, 9)), 'empty or inverted'),
        (lambda: BoxPrompt((1, 2, 3)), 'four finite numbers'),
        (lambda: BoxPrompt((1, 2, np.inf, 4)), 'four finite numbers'),
        (lambda: BoxPrompt('abcd'), 'a box is four numbers'),
        (lambda: MaskPrompt([[True]]), 'expected a mask .*of shape .* got'),
        (lambda: MaskPrompt(np.ones((2, 2, 1), bool)), r'got \(2, 2, 1\)'),
        (lambda: MaskPrompt(np.ones((2, 2), np.uint8)), 'mask of bool, got uint8'),
        (lambda: MaskPrompt(np.zeros((2, 2), bool)), 'the mask is empty'),
    ],
)
def test_malformed_prompts_are_refused_when_made(make, message):
    with pytest.raises(PromptError, match=message):
        make()


def test_mask_keeps_its_area_and_place():
    mask = np.zeros((90, 160), bool)
    mask[30:60, 40:120] = True
    resized = network_mask(mask, (90, 160), 64)
    assert resized.shape == (64, 64)
    assert resized.mean() == pytest.approx(mask.mean(), abs=0.02)
    rows, columns = np.nonzero(resized)
    assert (columns.min(), columns.max() + 1) == (16, 48)
    assert (rows.min(), rows.max() + 1) == (21, 43)  # 30 and 60 at 64 / 90


@pytest.mark.parametrize('size', [64, 256])
def test_a_full_mask_stays_full(size):
    assert network_mask(np.ones((90, 160), bool), (90, 160), size).all()


def test_mask_of_another_size_is_refused():
    with pytest.raises(PromptError, match=r'\(50, 100\) \(height, width\), got \(100, 50\)'):
        network_mask(np.ones((100, 50), bool), (50, 100), 64)


def test_mask_that_vanishes_is_refused():
    mask = np.zeros((1000, 1000), bool)
    mask[500, 500] = True
    with pytest.raises(PromptError, match='covers 1 pixels and vanishes .* use a click'):
        network_mask(mask, (1000, 1000), 64)
