"""Where frames come from: video files, folders of images, cameras and network streams."""

from __future__ import annotations

from pathlib import Path

from sam2_rt.sources.base import DEFAULT_FPS, Source
from sam2_rt.sources.files import ImageFolder, VideoFile, read_image
from sam2_rt.sources.live import Camera, LiveSource, Paced

__all__ = [
    'Camera',
    'ImageFolder',
    'LiveSource',
    'Paced',
    'Source',
    'VideoFile',
    'open_source',
    'read_image',
]


def open_source(text: str, *, realtime: bool = False, fps: float = DEFAULT_FPS) -> Source:
    """Opens whatever a user named.

    Args:
        text: a video file, a folder of images, a webcam's index or device file, a URL, or a
            GStreamer pipeline.
        realtime: play files at their own pace, dropping frames as a camera would.
        fps: rate of a folder of images.

    Raises:
        SourceError: it does not exist or cannot be opened.
    """
    path = Path(text)
    if text.isdecimal():
        return Camera(int(text))
    if '://' in text or ' ! ' in text or path.is_char_device():
        return Camera(text)
    source = ImageFolder(path, fps) if path.is_dir() else VideoFile(path)
    return Paced(source) if realtime else source
