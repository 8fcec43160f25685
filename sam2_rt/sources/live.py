"""Sources that come at their own pace: cameras, network streams, and files played like them."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_rt.errors import SourceError
from sam2_rt.mailbox import LatestFrame
from sam2_rt.sources.base import DEFAULT_FPS, Source, usable_fps
from sam2_rt.types import Frame

ClockNs = Callable[[], int]
"""Returns nanoseconds; the stamps of live frames are read from it."""

_POLL_S = 0.1
"""How long a waiting source takes to notice that it was stopped."""


class LiveSource(Source):
    """Frames that come at their own pace, read in their own thread; the newest one wins."""

    live = True

    def __init__(self, name: str, fps: float = DEFAULT_FPS) -> None:
        super().__init__(name, fps)
        self._mailbox: LatestFrame[tuple[int, Frame]] = LatestFrame()
        self._failure: Exception | None = None
        self._ended = False
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        return self._mailbox.dropped

    def __iter__(self) -> Iterator[Frame]:
        self._thread = threading.Thread(target=self._read, name=f'read {self.name}', daemon=True)
        self._thread.start()
        while not self._stopped:
            # Looked up before taking, so that the frame put last is not lost.
            ended = self._ended
            item = self._mailbox.take(0 if ended else _POLL_S)
            if item is not None:
                self.position, frame = item
                yield frame
            elif ended:
                break
        if self._failure is not None and not self._stopped:
            raise self._failure

    def _read(self) -> None:
        """The reader thread: fills the mailbox; a failure is kept for the consumer."""
        try:
            for item in enumerate(self._frames()):
                if self._stopped:
                    break
                self._mailbox.put(item)
        except Exception as error:
            self._failure = error
        self._ended = True

    def close(self) -> None:
        super().close()
        # A camera that hangs must not hang its user: the thread is a daemon and ends alone.
        if self._thread is not None:
            self._thread.join(timeout=2.0)


class Camera(LiveSource):
    """A webcam, network stream or GStreamer pipeline; frames are stamped when they arrive."""

    def __init__(self, target: int | str, *, clock_ns: ClockNs = time.time_ns) -> None:
        """Opens the camera.

        Args:
            target: a webcam's index or device file, a URL (rtsp://…), or a GStreamer pipeline
                that ends in appsink.
            clock_ns: stamps are read from it.

        Raises:
            SourceError: it cannot be opened.
        """
        # Addresses may carry a password, and names go into messages and logs.
        name = re.sub(r'(://[^:/@]*):[^/@]*@', r'\1:***@', str(target))
        super().__init__(name)
        self._clock_ns = clock_ns
        pipeline = isinstance(target, str) and '!' in target
        self._capture = cv2.VideoCapture(target, cv2.CAP_GSTREAMER if pipeline else cv2.CAP_ANY)
        if not self._capture.isOpened():
            raise SourceError(f'{_kind(target)} {name} cannot be opened; {_advice(target)}')
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self.fps = usable_fps(self._capture.get(cv2.CAP_PROP_FPS))

    def _frames(self) -> Iterator[Frame]:
        count = 0
        try:
            while not self._stopped:
                ok, image = self._capture.read()
                stamp_ns = self._clock_ns()
                if not ok:
                    raise SourceError(
                        f'{self.name} stopped delivering after {count} frames; check the cable, '
                        'the network and whether another program uses it'
                    )
                count += 1
                yield Frame(cast(NDArray[np.uint8], image), stamp_ns, 'bgr')
        finally:
            # Released by the thread that reads: releasing under a running read would crash.
            self._capture.release()

    def close(self) -> None:
        super().close()
        if self._thread is None:
            self._capture.release()


class Paced(LiveSource):
    """Plays a file like a camera: frames come when they are due, and late ones are dropped.

    Stamps become times of the given clock, so that ages can be told from them.
    """

    def __init__(
        self,
        source: Source,
        *,
        clock_ns: ClockNs = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(source.name, source.fps)
        self.frame_count = source.frame_count
        self._source = source
        self._clock_ns = clock_ns
        self._sleep = sleep

    def _frames(self) -> Iterator[Frame]:
        offset_ns: int | None = None
        for frame in self._source:
            if offset_ns is None:
                offset_ns = self._clock_ns() - frame.stamp_ns
            due_ns = frame.stamp_ns + offset_ns
            while not self._stopped and (wait_ns := due_ns - self._clock_ns()) > 0:
                self._sleep(min(wait_ns / 1e9, _POLL_S))
            yield replace(frame, stamp_ns=due_ns)

    def stop(self) -> None:
        super().stop()
        self._source.stop()

    def close(self) -> None:
        super().close()
        self._source.close()


def _kind(target: int | str) -> str:
    if isinstance(target, int):
        return 'webcam'
    return 'pipeline' if '!' in target else 'stream' if '://' in target else 'device'


def _advice(target: int | str) -> str:
    if _kind(target) == 'pipeline':
        if not re.search(r'GStreamer:\s+YES', cv2.getBuildInformation()):
            return 'this OpenCV was built without GStreamer; use the one of your distribution'
        return 'try it with gst-launch-1.0; it must end in: ! videoconvert ! appsink'
    if _kind(target) == 'stream':
        return 'check the address, user and password, and that this machine reaches it'
    devices = ', '.join(sorted(map(str, Path('/dev').glob('video*')))) or 'no /dev/video*'
    return f'this machine has {devices}; check the cable, and that no other program uses it'
