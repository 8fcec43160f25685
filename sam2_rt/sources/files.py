"""Video files and folders of images: every frame, in order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_rt.errors import SourceError
from sam2_rt.sources.base import DEFAULT_FPS, Source, usable_fps
from sam2_rt.types import Frame

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')


class VideoFile(Source):
    """Every frame of a video file, stamped with its presentation time from the file's start.

    Damaged frames that the decoder conceals or skips are not noticed; a file that ends early is.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens the file.

        Raises:
            SourceError: it does not exist, or cannot be decoded.
        """
        super().__init__(str(path))
        _check_file(Path(path))
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise SourceError(
                f'{path} ({Path(path).stat().st_size} bytes) cannot be decoded as a video: it is '
                'truncated, is no video, or uses a codec that this OpenCV build lacks; try to '
                'play it, or convert it: ffmpeg -i IN -c:v libx264 OUT.mp4'
            )
        self.fps = usable_fps(self._capture.get(cv2.CAP_PROP_FPS))
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frame_count = int(count) if 0 < count < 1e9 else None

    def _frames(self) -> Iterator[Frame]:
        period_ns = round(1e9 / self.fps)
        stamp_ns = -period_ns
        count = 0
        while True:
            ok, image = self._capture.read()
            if not ok:
                break
            # Some containers carry no times, or times that stand still: stamps must move on.
            shown_ns = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            stamp_ns = shown_ns if shown_ns > stamp_ns else stamp_ns + period_ns
            count += 1
            yield Frame(cast(NDArray[np.uint8], image), stamp_ns, 'bgr')
        self._check_whole(count, stamp_ns)

    def _check_whole(self, count: int, last_ns: int) -> None:
        """Compares what was read with what the container announced.

        Some containers state only a duration, from which a frame count is estimated; with a
        variable frame rate it is wrong. So a file counts as broken only if it is short by both.
        """
        announced = self.frame_count or 0
        missing_s = (announced - 1) / self.fps - last_ns / 1e9
        if count == 0 or (announced - count > announced // 100 and missing_s * self.fps > 1.5):
            raise SourceError(
                f'{self.name} breaks off: {count} frames were good, {announced or "some"} were '
                'announced; the file is truncated or damaged, copy or record it again'
            )

    def close(self) -> None:
        super().close()
        self._capture.release()


class ImageFolder(Source):
    """The images of a folder in natural order (2 before 10), stamped at a given rate."""

    def __init__(self, folder: str | Path, fps: float = DEFAULT_FPS) -> None:
        """Lists the folder.

        Raises:
            SourceError: it does not exist or has no images.
        """
        super().__init__(str(folder), fps)
        folder = Path(folder)
        if not folder.is_dir():
            raise SourceError(f'{folder} is not a folder')
        images = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        self._paths = sorted(images, key=lambda path: natural_key(path.name))
        if not self._paths:
            raise SourceError(f'{folder} has no images ({" ".join(IMAGE_SUFFIXES)})')
        self.frame_count = len(self._paths)

    def _frames(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            try:
                yield read_image(path, stamp_ns=round(index * 1e9 / self.fps))
            except SourceError as error:
                raise SourceError(f'{error}; the {index} frames before it were good') from error


def read_image(path: str | Path, stamp_ns: int = 0) -> Frame:
    """Reads an image file as an upright BGR frame.

    Raises:
        SourceError: it does not exist or is not an image.
    """
    path = Path(path)
    _check_file(path, image=True)
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error as error:  # e.g. more pixels than OpenCV is willing to read
        raise SourceError(f'{path} cannot be read as an image: {error.err}') from error
    if image is None:
        raise SourceError(
            f'{path} ({path.stat().st_size} bytes) cannot be read as an image: truncated, or of '
            'a format that OpenCV does not know'
        )
    return Frame(cast(NDArray[np.uint8], image), stamp_ns, 'bgr')


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Sorts numbers inside names by value, and before text: '9', '10', 'a2', 'a10'."""
    parts = re.findall(r'(\d+)|(\D+)', name)
    return [(not digits, int(digits or 0), text.lower()) for digits, text in parts]


def _check_file(path: Path, *, image: bool = False) -> None:
    """Refuses what cannot be read before OpenCV guesses at it."""
    if not path.exists():
        raise SourceError(f'{path} does not exist; check the path (now in {Path.cwd()})')
    if not path.is_file():
        raise SourceError(f'{path} is not a file')
    if path.stat().st_size == 0:
        raise SourceError(f'{path} is empty (0 bytes)')
    if not image and path.suffix.lower() in IMAGE_SUFFIXES:
        raise SourceError(
            f'{path} is a single image, not a video: give the folder that holds the images, or '
            f'use: sam2_rt segment {path}'
        )
