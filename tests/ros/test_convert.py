"""Images and label images between ROS messages and NumPy."""

from array import array

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image

from sam2_rt.errors import InputError, PromptError
from sam2_rt.ros import convert

RED = (200, 30, 60)  # as RGB


def image(pixels, encoding, *, pad=0, big_endian=False):
    """A message as a driver would send it: rows padded, bytes in the given order."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    if rows.dtype.itemsize > 1:
        rows = rows.astype(rows.dtype.newbyteorder('>' if big_endian else '<'))
    rows = rows.view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, pad)), constant_values=255)
    message = Image(height=len(pixels), width=pixels.shape[1], encoding=encoding)
    message.step = rows.shape[1]
    message.is_bigendian = int(big_endian)
    message.data = array('B', rows.tobytes())
    message.header.stamp.sec, message.header.stamp.nanosec = 12, 345
    message.header.frame_id = 'camera'
    return message


def scene():
    """(24, 32, 3) RGB: grey, with a red block at rows 8..16, columns 8..24."""
    pixels = np.full((24, 32, 3), 90, np.uint8)
    pixels[8:16, 8:24] = RED
    return pixels


def rgb_of(frame):
    return frame.image if frame.colour_order == 'rgb' else frame.image[..., ::-1]


def mosaic(pattern, pixels):
    """What a camera with that Bayer pattern sees."""
    raw = np.zeros(pixels.shape[:2], np.uint8)
    for place, colour in enumerate(pattern):
        channel = pixels[..., 'rgb'.index(colour)]
        raw[place // 2 :: 2, place % 2 :: 2] = channel[place // 2 :: 2, place % 2 :: 2]
    return raw


def packed_yuv(pixels, luma_first):
    yuv = cv2.cvtColor(pixels, cv2.COLOR_RGB2YUV)
    luma, u, v = (yuv[..., channel] for channel in range(3))
    chroma = np.where(np.arange(pixels.shape[1]) % 2 == 0, u, v)
    return np.stack((luma, chroma) if luma_first else (chroma, luma), axis=-1)


ALPHA = np.full((24, 32, 1), 17, np.uint8)


@pytest.mark.parametrize('pad', [0, 5])
@pytest.mark.parametrize(
    ('encoding', 'pixels'),
    [
        ('rgb8', scene()),
        ('bgr8', scene()[..., ::-1]),
        ('rgba8', np.concatenate([scene(), ALPHA], axis=-1)),
        ('bgra8', np.concatenate([scene()[..., ::-1], ALPHA], axis=-1)),
    ],
)
def test_colour_is_exact_and_row_padding_is_skipped(encoding, pixels, pad) -> None:
    frame = convert.frame_from(image(pixels, encoding, pad=pad))
    assert np.array_equal(rgb_of(frame), scene())
    assert (frame.stamp_ns, frame.frame_id) == (12_000_000_345, 'camera')


def test_rgb8_is_not_copied() -> None:
    message = image(scene(), 'rgb8')
    assert np.shares_memory(convert.frame_from(message).image, np.frombuffer(message.data, 'u1'))


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize(('bits', 'big_endian'), [('8', False), ('16', False), ('16', True)])
def test_bayer_gives_the_true_colours(pattern, bits, big_endian) -> None:
    raw = mosaic(pattern, scene())
    raw = raw.astype(np.uint16) << 8 if bits == '16' else raw
    message = image(raw, f'bayer_{pattern}{bits}', big_endian=big_endian)
    rgb = rgb_of(convert.frame_from(message))
    assert np.array_equal(rgb[12, 16], RED)
    assert np.array_equal(rgb[2, 2], (90, 90, 90))


@pytest.mark.parametrize(
    ('encoding', 'luma_first'),
    [('yuv422', False), ('uyvy', False), ('yuv422_yuy2', True), ('yuyv', True)],
)
def test_packed_yuv_gives_the_true_colours(encoding, luma_first) -> None:
    frame = convert.frame_from(image(packed_yuv(scene(), luma_first), encoding))
    # Video range is stretched to full range, as OpenCV and cv_bridge do: red stays the reddest.
    red, grey = (rgb_of(frame)[12, 16].astype(int), rgb_of(frame)[2, 2].astype(int))
    assert red[0] > 190
    assert red[1] < 40
    assert red[2] < 80
    assert np.ptp(grey) <= 3


@pytest.mark.parametrize(
    ('pixels', 'big_endian'),
    [(np.uint8(77), False), (np.uint16(0x4D12), False), (np.uint16(0x4D12), True)],
)
def test_mono_fills_three_channels(pixels, big_endian) -> None:
    encoding = 'mono8' if pixels.dtype == np.uint8 else 'mono16'
    message = image(np.full((4, 6), pixels), encoding, pad=2, big_endian=big_endian)
    assert np.array_equal(convert.frame_from(message).image, np.full((4, 6, 3), 77))


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_compressed_images_are_decoded(suffix) -> None:
    message = CompressedImage(format=suffix[1:])
    message.data = array('B', cv2.imencode(suffix, scene()[..., ::-1])[1].tobytes())
    rgb = rgb_of(convert.frame_from(message)).astype(int)
    assert rgb.shape == scene().shape
    assert np.abs(rgb[12, 16] - RED).max() <= 8


@pytest.mark.parametrize(
    'data', [b'', b'no image', cv2.imencode('.png', scene())[1].tobytes()[:9]]
)
def test_a_broken_compressed_image_is_refused(data) -> None:
    with pytest.raises(InputError, match=f"{len(data)} bytes of format 'jpeg'"):
        convert.frame_from(CompressedImage(format='jpeg', data=array('B', data)))


def broken(**fields):
    message = image(scene(), fields.pop('encoding', 'rgb8'))
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ('message', 'words'),
    [
        (broken(encoding='32FC1'), "encoding '32FC1' is not supported; publish one of rgb8"),
        (broken(encoding=''), "encoding '' is not supported"),
        (broken(data=array('B', bytes(100))), r'data has 100 bytes, expected .* = 2304'),
        (broken(height=0), 'it is empty, width 32 and height 0'),
        (broken(width=0), 'it is empty, width 0'),
        (broken(step=95), 'step is 95 bytes, but 32 pixels of rgb8 take 96'),
        (broken(encoding='yuyv', width=31), 'packs pixels in pairs, but the width is 31'),
    ],
)
def test_a_broken_image_is_refused_with_the_reason(message, words) -> None:
    with pytest.raises(InputError, match=words):
        convert.frame_from(message)


@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
def test_a_label_image_survives_the_round_trip(kind) -> None:
    labels = np.arange(12, dtype=kind).reshape(3, 4) * np.iinfo(kind).max // 12
    head = convert.header(7_000_000_009, 'optical')
    message = convert.label_image_message(labels, head)
    assert message.encoding == ('mono8' if kind is np.uint8 else 'mono16')
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (7, 9)
    assert message.header.frame_id == 'optical'
    assert message.step == 4 * np.dtype(kind).itemsize
    assert np.array_equal(convert.labels_from(message), labels)


@pytest.mark.parametrize('encoding', ['8UC1', '16UC1', '32SC1'])
@pytest.mark.parametrize('big_endian', [False, True])
def test_other_label_images_are_read(encoding, big_endian) -> None:
    kind = {'8UC1': np.uint8, '16UC1': np.uint16, '32SC1': np.int32}[encoding]
    labels = np.array([[0, 1, 2], [3, 4, 100]], kind)
    message = image(labels, encoding, pad=3, big_endian=big_endian)
    assert np.array_equal(convert.labels_from(message), labels)


def test_a_colour_image_is_no_label_image() -> None:
    with pytest.raises(PromptError, match="'rgb8' is not a label image"):
        convert.labels_from(image(scene(), 'rgb8'))
