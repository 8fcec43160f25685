"""Uploads: the next frame's image travels to the GPU while the current frame's graphs run.

Two device buffers take turns. An upload goes through pinned memory on a stream of its own; when
its frame's turn comes, the runner's stream copies it on to where the graph reads it, a few
microseconds' work, so that captured graphs keep their one address. Marks in the two streams keep
the order: the copy waits for the upload, and the upload after the next waits for the copy. All of
that waiting is the device's.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_rt.errors import BackendError
from sam2_rt.runtime.cuda import Cuda
from sam2_rt.runtime.device_array import DeviceArray, DevicePool

_BUFFERS = 2


@dataclass(frozen=True, eq=False)
class StagedImage:
    """An image on the host, and on the device until two later ones have been uploaded.

    So a frame may be encoded long after it came, or never.
    """

    host: NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.host.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.host.dtype


@dataclass(eq=False)
class _Buffer:
    """Device memory of one image.

    Attributes:
        array: that memory.
        pinned: host memory of its size.
        holds: whose image it has, None while that changes.
        written: mark behind its upload.
        read: mark behind the copies made of it.
    """

    array: DeviceArray
    pinned: NDArray[np.uint8]
    written: int
    read: int
    holds: StagedImage | None = None


class Uploads:
    """Device buffers for images that come before the graph that reads them can run.

    `stage` is called by one thread, `copy_async` by another one, which runs the graphs.

    Args:
        cuda: the device.
        pool: where the buffers come from.
    """

    def __init__(self, cuda: Cuda, pool: DevicePool) -> None:
        self._cuda, self._pool = cuda, pool
        self._stream = 0
        self._buffers: list[_Buffer] = []
        self._turn = 0
        self._lock = Lock()  # guards what the buffers hold

    def allocate(self, nbytes: int) -> None:
        """Makes the buffers, for images of that size; before the first `stage`.

        Raises:
            DeviceMemoryError: the device is full.
        """
        cuda = self._cuda
        self._stream = cuda.new_stream()
        for _ in range(_BUFFERS):
            written, read = cuda.new_mark(), cuda.new_mark()
            array = self._pool.array((nbytes,), 'uint8', fixed=True)
            self._buffers.append(_Buffer(array, cuda.allocate_pinned(nbytes), written, read))

    def stage(self, image: NDArray[np.uint8]) -> StagedImage:
        """Starts an upload; the host waits for nothing but an earlier one of the same buffer.

        Raises:
            BackendError: the image has another size, or the driver refused.
        """
        buffer = self._buffers[self._turn]
        if image.nbytes != buffer.array.nbytes:
            raise BackendError(
                f'upload: expected an image of {buffer.array.nbytes} bytes, got {image.shape} '
                f'{image.dtype}; prepare frames with the tracker that is to track them'
            )
        self._turn = (self._turn + 1) % _BUFFERS
        staged = StagedImage(image)
        with self._lock:
            buffer.holds = None
        with self._cuda.current():
            self._cuda.wait(buffer.written)  # pinned memory is read until then
            buffer.pinned[:] = image.reshape(-1)
            self._cuda.wait_async(buffer.read, self._stream)
            self._cuda.upload_async(buffer.array.address, buffer.pinned, self._stream)
            self._cuda.mark_async(buffer.written, self._stream)
        with self._lock:
            buffer.holds = staged
        return staged

    def copy_async(self, staged: StagedImage, destination: int) -> bool:
        """Enqueues the copy of an image to where a graph reads it.

        Returns:
            False if later images have taken its place: then it is uploaded again, by the caller.
        """
        # Locked, so that no upload into the buffer comes between the look and the mark.
        with self._lock:
            for buffer in self._buffers:
                if buffer.holds is staged:
                    self._cuda.wait_async(buffer.written)
                    self._cuda.copy_async(destination, buffer.array.address, buffer.array.nbytes)
                    self._cuda.mark_async(buffer.read)
                    return True
        return False

    def close(self) -> None:
        """Waits for what is under way and gives everything back but the pool's memory."""
        if not self._stream:
            return
        self._cuda.synchronise(self._stream)
        for buffer in self._buffers:
            self._cuda.free_pinned(buffer.pinned)
            self._cuda.destroy_mark(buffer.written)
            self._cuda.destroy_mark(buffer.read)
        self._buffers.clear()
        self._cuda.destroy_stream(self._stream)
