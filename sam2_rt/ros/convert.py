"""Between ROS messages and the tracker's types: images, label images, stamps, boxes."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from sam2_rt.errors import InputError, PromptError
from sam2_rt.types import Frame

# encoding -> (bytes per pixel, OpenCV conversion or None, colour order of the outcome)
_COLOUR: dict[str, tuple[int, int | None, Any]] = {
    'rgb8': (3, None, 'rgb'),
    'bgr8': (3, None, 'bgr'),
    'rgba8': (4, cv2.COLOR_RGBA2RGB, 'rgb'),
    'bgra8': (4, cv2.COLOR_BGRA2BGR, 'bgr'),
    'mono8': (1, cv2.COLOR_GRAY2RGB, 'rgb'),
    'mono16': (2, cv2.COLOR_GRAY2RGB, 'rgb'),
    # ROS named the two packings of 4:2:2 twice: by number first, by byte order later.
    'yuv422': (2, cv2.COLOR_YUV2RGB_UYVY, 'rgb'),
    'uyvy': (2, cv2.COLOR_YUV2RGB_UYVY, 'rgb'),
    'yuv422_yuy2': (2, cv2.COLOR_YUV2RGB_YUY2, 'rgb'),
    'yuyv': (2, cv2.COLOR_YUV2RGB_YUY2, 'rgb'),
    # ROS names a Bayer pattern by its first row, OpenCV by its second row's second pixel.
    'bayer_rggb8': (1, cv2.COLOR_BayerBG2RGB, 'rgb'),
    'bayer_bggr8': (1, cv2.COLOR_BayerRG2RGB, 'rgb'),
    'bayer_gbrg8': (1, cv2.COLOR_BayerGR2RGB, 'rgb'),
    'bayer_grbg8': (1, cv2.COLOR_BayerGB2RGB, 'rgb'),
    'bayer_rggb16': (2, cv2.COLOR_BayerBG2RGB, 'rgb'),
    'bayer_bggr16': (2, cv2.COLOR_BayerRG2RGB, 'rgb'),
    'bayer_gbrg16': (2, cv2.COLOR_BayerGR2RGB, 'rgb'),
    'bayer_grbg16': (2, cv2.COLOR_BayerGB2RGB, 'rgb'),
}
_LABELS = {
    'mono8': 'u1',
    '8UC1': 'u1',
    'mono16': 'u2',
    '16UC1': 'u2',
    '32SC1': 'i4',
}
COLOUR_ENCODINGS = tuple(_COLOUR)
LABEL_ENCODINGS = tuple(_LABELS)


@dataclass(frozen=True, eq=False)
class CameraFrame(Frame):
    """A frame that remembers its message's TF frame, which every output carries on."""

    frame_id: str = ''


def stamp_ns(header: Header) -> int:
    """A header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def header(stamp: int, frame_id: str) -> Header:
    """A header from a stamp in nanoseconds and the name of a TF frame."""
    made = Header(frame_id=frame_id)
    made.stamp.sec, made.stamp.nanosec = divmod(int(stamp), 1_000_000_000)
    return made


def frame_from(message: Image | CompressedImage) -> CameraFrame:
    """A camera image as the tracker takes it.

    rgb8 and bgr8 images are not copied: the frame looks into the message.

    Raises:
        InputError: the encoding is not known, the data are shorter than the header says, the
            image is empty, or a compressed image cannot be decoded.
    """
    if isinstance(message, CompressedImage):
        return _decompressed(message)
    encoding = message.encoding
    if encoding not in _COLOUR:
        raise InputError(
            f'image: encoding {encoding!r} is not supported; publish one of '
            f'{", ".join(COLOUR_ENCODINGS)}'
        )
    bytes_per_pixel, conversion, order = _COLOUR[encoding]
    pixels = _pixels(message, bytes_per_pixel, InputError)
    if encoding.endswith('16'):
        # The high byte: 16-bit images are full scale, as cv_bridge takes them too.
        pixels = pixels[..., :1] if message.is_bigendian else pixels[..., 1:]
    if conversion is not None:
        if encoding.startswith(('yuv', 'uyvy', 'yuyv')) and message.width % 2:
            raise InputError(
                f'image: {encoding} packs pixels in pairs, but the width is {message.width}; '
                'publish an even width'
            )
        pixels = cv2.cvtColor(np.ascontiguousarray(pixels), conversion)  # type: ignore[assignment]
    return CameraFrame(pixels, stamp_ns(message.header), order, message.header.frame_id)


def _decompressed(message: CompressedImage) -> CameraFrame:
    # The mask must fit the camera's pixels, so a rotation noted in the file is not applied.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    data = np.frombuffer(message.data, np.uint8)
    image = cv2.imdecode(data, flags) if data.size else None
    if image is None:
        raise InputError(
            f'compressed image: {data.size} bytes of format {message.format!r} cannot be decoded; '
            'publish whole JPEG or PNG images'
        )
    head = message.header
    return CameraFrame(image, stamp_ns(head), 'bgr', head.frame_id)  # type: ignore[arg-type]


def _pixels(
    message: Image, bytes_per_pixel: int, error: type[InputError] | type[PromptError]
) -> NDArray[np.uint8]:
    """The image's bytes, (H, W, bytes per pixel), without the padding at the end of rows."""
    height, width, step = message.height, message.width, message.step
    row = width * bytes_per_pixel
    if not height or not width:
        raise error(f'image: it is empty, width {width} and height {height}; check the publisher')
    if step < row:
        raise error(
            f'image: step is {step} bytes, but {width} pixels of {message.encoding} take {row}; '
            'the publisher must set step to the bytes of one row'
        )
    data = np.frombuffer(message.data, np.uint8)
    if data.size < step * height:
        raise error(
            f'image: data has {data.size} bytes, expected step * height = {step * height}; '
            'the publisher sent a truncated image'
        )
    rows = data[: step * height].reshape(height, step)[:, :row]
    return rows.reshape(height, width, bytes_per_pixel)


def image_from(pixels: NDArray[Any], encoding: str, head: Header) -> Image:
    """An Image message.

    Args:
        pixels: (H, W) or (H, W, channels), uint8 or uint16.
        encoding: its ROS name, e.g. 'mono8'.
        head: stamp and frame_id of the image it came from.
    """
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    message = Image(
        header=head, height=height, width=width, encoding=encoding, step=pixels.nbytes // height
    )
    message.is_bigendian = 0
    # An array.array is the one type that both Humble and Jazzy take without a check per byte.
    data = array('B')
    data.frombytes(pixels.data.cast('B'))
    message.data = data
    return message


def label_image_message(labels: NDArray[Any], head: Header) -> Image:
    """A label image as mono8, or as mono16 where it is uint16 (more than 255 objects)."""
    if labels.dtype == np.uint16:
        return image_from(labels.astype('<u2', copy=False), 'mono16', head)
    return image_from(labels, 'mono8', head)


def labels_from(message: Image) -> NDArray[np.int64]:
    """A label image, (H, W).

    Raises:
        PromptError: the encoding is not a single integer channel, or the data are short.
    """
    if message.encoding not in _LABELS:
        raise PromptError(
            f'mask prompt: encoding {message.encoding!r} is not a label image; publish one of '
            f'{", ".join(LABEL_ENCODINGS)}'
        )
    order = '>' if message.is_bigendian else '<'
    kind = np.dtype(order + _LABELS[message.encoding])
    pixels = _pixels(message, kind.itemsize, PromptError)
    return np.ascontiguousarray(pixels).view(kind)[..., 0].astype(np.int64)
