"""The CUDA driver through ctypes: one device's primary context and its streams.

The two dozen calls that a runner needs are made directly, because nothing else on a robot has all
of them: the Python packages for CUDA either must be compiled on the target or lack stream capture.
The primary context is the one that CUDA's runtime API uses, so torch or cupy in the same process
share it and its memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_rt.errors import BackendError, DeviceLostError, DeviceMemoryError

_POINTER = ctypes.POINTER
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    'cuInit': (c_uint,),
    'cuDriverGetVersion': (_POINTER(c_int),),
    'cuDeviceGetCount': (_POINTER(c_int),),
    'cuDeviceGet': (_POINTER(c_int), c_int),
    'cuDeviceGetName': (c_char_p, c_int, c_int),
    'cuDeviceGetAttribute': (_POINTER(c_int), c_int, c_int),
    'cuDevicePrimaryCtxRetain': (_POINTER(c_void_p), c_int),
    'cuCtxPushCurrent_v2': (c_void_p,),
    'cuCtxPopCurrent_v2': (_POINTER(c_void_p),),
    'cuMemGetInfo_v2': (_POINTER(c_size_t), _POINTER(c_size_t)),
    'cuMemAlloc_v2': (_POINTER(c_uint64), c_size_t),
    'cuMemFree_v2': (c_uint64,),
    'cuMemHostAlloc': (_POINTER(c_void_p), c_size_t, c_uint),
    'cuMemFreeHost': (c_void_p,),
    'cuMemcpyHtoDAsync_v2': (c_uint64, c_void_p, c_size_t, c_void_p),
    'cuMemcpyDtoHAsync_v2': (c_void_p, c_uint64, c_size_t, c_void_p),
    'cuMemcpyDtoDAsync_v2': (c_uint64, c_uint64, c_size_t, c_void_p),
    'cuMemsetD8Async': (c_uint64, ctypes.c_ubyte, c_size_t, c_void_p),
    'cuStreamCreate': (_POINTER(c_void_p), c_uint),
    'cuStreamDestroy_v2': (c_void_p,),
    'cuStreamSynchronize': (c_void_p,),
    'cuStreamWaitEvent': (c_void_p, c_void_p, c_uint),
    'cuStreamBeginCapture_v2': (c_void_p, c_int),
    'cuStreamEndCapture': (c_void_p, _POINTER(c_void_p)),
    'cuGraphInstantiateWithFlags': (_POINTER(c_void_p), c_void_p, c_uint64),
    'cuGraphDestroy': (c_void_p,),
    'cuGraphLaunch': (c_void_p, c_void_p),
    'cuGraphExecDestroy': (c_void_p,),
    'cuEventCreate': (_POINTER(c_void_p), c_uint),
    'cuEventRecord': (c_void_p, c_void_p),
    'cuEventSynchronize': (c_void_p,),
    'cuEventElapsedTime': (_POINTER(c_float), c_void_p, c_void_p),
    'cuEventDestroy_v2': (c_void_p,),
    'cuGetErrorName': (c_int, _POINTER(c_char_p)),
}
_OUT_OF_MEMORY = 2
# After these the context is dead for the rest of the process; the driver says so of each.
_LOST = frozenset({4, 46, 201, 214, 219, 220, 700, 702, 709, 710, *range(714, 722), 999})
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
_NON_BLOCKING = 1
_NO_TIMING = 2  # an event for order alone is cheaper
_CAPTURE_THREAD_LOCAL = 1  # what other threads do with CUDA must not spoil a capture
_NO_DRIVER = (
    'install the NVIDIA driver, on a container start it with the NVIDIA runtime (--gpus all), or '
    "choose backend 'onnxruntime' or 'openvino'"
)


@dataclass(frozen=True)
class Device:
    """What a plan is tied to.

    Attributes:
        name: as the driver says it, e.g. 'Orin'.
        compute_capability: e.g. (8, 7).
        multiprocessors: tells apart modules that share a name (Orin NX and AGX Orin do).
        driver_version: CUDA version the driver supports, e.g. '12.2'.
    """

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    driver_version: str


def load_driver() -> Any:
    """Loads libcuda and checks that it has a device. Call it before TensorRT is touched.

    TensorRT 8.6 crashes the process where there is no driver, so it cannot be asked itself.

    Raises:
        BackendError: there is no driver or no device.
    """
    try:
        library = ctypes.CDLL('libcuda.so.1')
    except OSError as error:
        raise BackendError(
            f'TensorRT: expected an NVIDIA driver, but libcuda.so.1 cannot be loaded ({error}); '
            f'{_NO_DRIVER}'
        ) from error
    for name, arguments in _SIGNATURES.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise BackendError(
                f'TensorRT: the NVIDIA driver has no {name}; expected CUDA 11.4 or newer, update '
                'the driver'
            ) from error
        function.argtypes, function.restype = arguments, c_int
    probe(library)
    return library


def probe(library: Any) -> None:
    """Raises BackendError unless the driver starts and sees a device."""
    count = c_int()
    code = library.cuInit(0) or library.cuDeviceGetCount(byref(count))
    if code or not count.value:
        reason = _error_name(library, code) if code else 'it sees no device'
        raise BackendError(f'TensorRT: the NVIDIA driver cannot be used: {reason}; {_NO_DRIVER}')


def _error_name(library: Any, code: int) -> str:
    name = c_char_p()
    library.cuGetErrorName(code, byref(name))
    return f'{name.value.decode()} ({code})' if name.value else f'error {code}'


def _error(library: Any, code: int, doing: str) -> BackendError:
    """The error to raise for a driver call's result."""
    what = f'GPU: {doing}: {_error_name(library, code)}'
    if code == _OUT_OF_MEMORY:
        return DeviceMemoryError(
            f'{what}; close other programs that use the GPU, lower max_objects or '
            'held_megabytes, or use an engine with a smaller image size'
        )
    if code in _LOST:
        return DeviceLostError(
            f'{what}; the device is lost to this process: restart it, and look for Xid lines in '
            'the kernel log (dmesg) if it happens again'
        )
    return BackendError(f'{what}; see the NVIDIA driver documentation for this error')


def _check(library: Any, name: str, *arguments: Any, doing: str = '') -> None:
    code = getattr(library, name)(*arguments)
    if code:
        raise _error(library, code, doing or name)


def describe(library: Any, ordinal: int = 0) -> Device:
    """What a device is; makes no context on it."""
    device, name, version = c_int(), ctypes.create_string_buffer(256), c_int()
    _check(library, 'cuDeviceGet', byref(device), ordinal)
    _check(library, 'cuDeviceGetName', name, 256, device.value)
    _check(library, 'cuDriverGetVersion', byref(version))

    def attribute(which: int) -> int:
        value = c_int()
        _check(library, 'cuDeviceGetAttribute', byref(value), which, device.value)
        return value.value

    return Device(
        name.value.decode(errors='replace'),
        (attribute(_MAJOR), attribute(_MINOR)),
        attribute(_MULTIPROCESSORS),
        f'{version.value // 1000}.{version.value % 1000 // 10}',
    )


def gpu_name() -> str:
    """The GPU and its driver, to file away what was measured with them; '' where there is none."""
    try:
        device = describe(load_driver())
    except BackendError:
        return ''
    major, minor = device.compute_capability
    return (
        f'{device.name}, sm_{major}{minor}, {device.multiprocessors} multiprocessors, driver for '
        f'CUDA {device.driver_version}'
    )


class Cuda:
    """One device, its primary context, and a non-blocking stream on which everything happens.

    Methods whose name ends in _async only enqueue; those that take a `stream` do so on another one
    if it is given. Apart from construction and `close`, calls are made inside
    `with cuda.current():`, for one stream on one thread at a time.

    Args:
        library: libcuda, from `load_driver`.
        ordinal: the device's number.
    """

    def __init__(self, library: Any, ordinal: int = 0) -> None:
        self._library = library
        device, context = c_int(), c_void_p()
        self._call('cuDeviceGet', byref(device), ordinal)
        self._ordinal = device.value
        self.device = describe(library, ordinal)
        self._call('cuDevicePrimaryCtxRetain', byref(context), self._ordinal)
        self._context = context
        with self.current():
            self._stream = self.new_stream()

    def _call(self, name: str, *arguments: Any, doing: str = '') -> None:
        _check(self._library, name, *arguments, doing=doing)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes the context this thread's, and gives back the one it had."""
        self._call('cuCtxPushCurrent_v2', self._context)
        try:
            yield
        finally:
            self._library.cuCtxPopCurrent_v2(byref(c_void_p()))

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return self._stream

    def free_bytes(self) -> int:
        """Device memory that is free now, as the driver counts it."""
        free, total = c_size_t(), c_size_t()
        self._call('cuMemGetInfo_v2', byref(free), byref(total))
        return free.value

    # -- memory ----------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> int:
        """Address of new device memory, aligned to at least 256 bytes."""
        address = c_uint64()
        doing = f'allocate {nbytes / 1e6:.1f} MB'
        self._call('cuMemAlloc_v2', byref(address), nbytes, doing=doing)
        return address.value

    def free(self, address: int) -> None:
        self._call('cuMemFree_v2', address)

    def allocate_pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Host memory that copies asynchronously; release it with `free_pinned`."""
        address = c_void_p()
        doing = f'allocate {nbytes / 1e6:.1f} MB of pinned host memory'
        self._call('cuMemHostAlloc', byref(address), nbytes, 0, doing=doing)
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address.value or 0))

    def free_pinned(self, array: NDArray[np.uint8]) -> None:
        self._call('cuMemFreeHost', array.ctypes.data)

    def upload_async(
        self, destination: int, source: NDArray[np.uint8], stream: int | None = None
    ) -> None:
        on = stream or self._stream
        self._call('cuMemcpyHtoDAsync_v2', destination, source.ctypes.data, source.nbytes, on)

    def download_async(self, destination: NDArray[np.uint8], source: int) -> None:
        self._call(
            'cuMemcpyDtoHAsync_v2',
            destination.ctypes.data,
            source,
            destination.nbytes,
            self._stream,
        )

    def copy_async(self, destination: int, source: int, nbytes: int) -> None:
        self._call('cuMemcpyDtoDAsync_v2', destination, source, nbytes, self._stream)

    def fill_async(self, address: int, byte: int, nbytes: int) -> None:
        self._call('cuMemsetD8Async', address, byte, nbytes, self._stream)

    # -- order -----------------------------------------------------------------------------------

    def synchronise(self, stream: int | None = None) -> None:
        """Waits until everything a stream was given so far is done."""
        on = stream or self._stream
        self._call('cuStreamSynchronize', on, doing='run what was enqueued')

    def new_stream(self) -> int:
        """A stream that runs beside the others; see `mark_async` for order between them."""
        stream = c_void_p()
        self._call('cuStreamCreate', byref(stream), _NON_BLOCKING)
        return stream.value or 0

    def destroy_stream(self, stream: int) -> None:
        self._call('cuStreamDestroy_v2', stream)

    def new_mark(self) -> int:
        """An event that `mark_async` puts into a stream; until then, waiting for it is no wait."""
        event = c_void_p()
        self._call('cuEventCreate', byref(event), _NO_TIMING)
        return event.value or 0

    def mark_async(self, mark: int, stream: int | None = None) -> None:
        """Moves a mark behind everything that a stream was given so far."""
        self._call('cuEventRecord', mark, stream or self._stream)

    def wait_async(self, mark: int, stream: int | None = None) -> None:
        """Lets what a stream is given from now on wait, on the device, for a mark."""
        self._call('cuStreamWaitEvent', stream or self._stream, mark, 0)

    def wait(self, mark: int) -> None:
        """Waits until everything before a mark is done."""
        self._call('cuEventSynchronize', mark, doing='run what was enqueued')

    def destroy_mark(self, mark: int) -> None:
        self._call('cuEventDestroy_v2', mark)

    @contextmanager
    def capture(self) -> Iterator[list[int]]:
        """Captures what is enqueued inside it instead of running it.

        Yields:
            a list that holds the executable graph's handle afterwards.

        Raises:
            BackendError: something enqueued cannot be captured. The stream is as it was before.
        """
        captured: list[int] = []
        graph, executable = c_void_p(), c_void_p()
        self._call('cuStreamBeginCapture_v2', self._stream, _CAPTURE_THREAD_LOCAL)
        try:
            yield captured
        except BaseException:
            self._library.cuStreamEndCapture(self._stream, byref(graph))
            if graph.value:
                self._library.cuGraphDestroy(graph)
            raise
        self._call('cuStreamEndCapture', self._stream, byref(graph))
        try:
            self._call('cuGraphInstantiateWithFlags', byref(executable), graph, 0)
        finally:
            self._call('cuGraphDestroy', graph)
        captured.append(executable.value or 0)

    def launch_async(self, executable: int) -> None:
        """Runs a captured graph."""
        self._call('cuGraphLaunch', executable, self._stream)

    def destroy_graph(self, executable: int) -> None:
        self._call('cuGraphExecDestroy', executable)

    def event(self) -> int:
        """A new event, recorded now; see `milliseconds`."""
        event = c_void_p()
        self._call('cuEventCreate', byref(event), 0)
        self._call('cuEventRecord', event, self._stream)
        return event.value or 0

    def milliseconds(self, start: int, end: int) -> float:
        """Device time between two events; waits for the later one and destroys both."""
        elapsed = c_float()
        self._call('cuEventSynchronize', end)
        self._call('cuEventElapsedTime', byref(elapsed), start, end)
        for event in (start, end):
            self._call('cuEventDestroy_v2', event)
        return float(elapsed.value)

    def close(self) -> None:
        """Destroys the stream; memory and other streams must have been given back before.

        The primary context stays: TensorRT keeps things in it until the process ends.
        """
        with self.current():
            self.destroy_stream(self._stream)
