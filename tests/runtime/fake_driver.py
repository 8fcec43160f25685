"""A fake libcuda whose device memory is host memory.

It is strict where the real one is silent. Work is only done when its stream is waited for, so that
reading too early, or reusing a staging buffer too early, gives wrong values; with `eager`, streams
after the first do theirs at once, so that writing too early does so too. Memory starts as NaN.
Every address must lie in memory that is allocated; every call needs a current context; a captured
graph keeps the addresses it was captured with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from ctypes import c_uint8
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_rt.runtime.cuda import _SIGNATURES

Work = Callable[[], None]
OUT_OF_MEMORY, INVALID_CONTEXT, ILLEGAL_ADDRESS, CAPTURE_UNSUPPORTED = 2, 201, 700, 900


def _within(blocks: dict[int, NDArray[np.uint8]], address: int, nbytes: int) -> NDArray[np.uint8]:
    for start, block in blocks.items():
        if start <= address and address + nbytes <= start + len(block):
            return block[address - start : address - start + nbytes]
    raise KeyError(f'{nbytes} bytes at {address:#x} are not allocated')


def _number(handle: Any) -> int:
    """A handle's number, however it was passed."""
    return int(getattr(handle, 'value', handle))


class FakeDriver:
    """libcuda as `sam2_rt.runtime.cuda` calls it.

    Attributes:
        capacity: device memory in bytes.
        fail: function name -> result code it returns from now on.
        fault: what every function returns since the device was lost.
        calls: how often each function was called.
        eager: whether streams after the first do their work at once.
        log: names of what was done to streams, in order, with ' on 2' for the second one and so
            on; 'block' is a host that waits for an event that has not come yet.
    """

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        self.fail: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        self.fault = 0
        self.log: list[str] = []
        self.blocks: dict[int, NDArray[np.uint8]] = {}
        self.pinned: dict[int, NDArray[np.uint8]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.name = b'Fake GPU'
        self.devices = 1
        self.eager = False
        self.capturing: int | None = None  # the stream
        self._capture: list[Work] = []
        self._streams: dict[int, list[Work]] = {}  # all that it was ever given
        self._done: dict[int, int] = {}  # how much of that is done
        self._events: dict[int, tuple[int, int]] = {}  # stream, and how much must be done
        self._thread = threading.local()
        self._lock = threading.RLock()
        self._handles = 1000

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith('cu'):
            raise AttributeError(name)
        function = getattr(self, f'_{name.removesuffix("_v2")}')

        def call(*arguments: Any) -> int:
            for kind, argument in zip(_SIGNATURES[name], arguments, strict=True):
                kind.from_param(argument)  # as ctypes does, which raises TypeError
            with self._lock:
                self.calls[name] = self.calls.get(name, 0) + 1
                code = self.fail.get(name, 0) or self.fault
                return code or int(function(*arguments) or 0)

        return call

    @property
    def _depth(self) -> int:
        """How many contexts this thread has pushed."""
        return int(getattr(self._thread, 'depth', 0))

    def enqueue(self, name: str, work: Work, stream: Any) -> int:
        """Puts work on a stream, or into the graph that is being captured from it."""
        stream = _number(stream)
        if not self._depth:
            return INVALID_CONTEXT
        number = list(self._streams).index(stream) + 1
        self.log.append(name if number == 1 else f'{name} on {number}')
        if self.capturing == stream:
            self._capture.append(work)
        else:
            self._streams[stream].append(work)
            if self.eager and number > 1:
                self._advance(stream)
        return self.fault

    def _advance(self, stream: int, until: int | None = None) -> int:
        """Does a stream's work, up to a count or all of it."""
        queue = self._streams[stream]
        until = len(queue) if until is None else until
        try:
            while self._done[stream] < until:
                self._done[stream] += 1
                queue[self._done[stream] - 1]()
        except KeyError:
            self.fault = ILLEGAL_ADDRESS  # the real device, too, is of no use after this
        return self.fault

    def memory(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """The bytes at a device address; KeyError unless all of them are allocated."""
        return _within(self.blocks, address, nbytes)

    @property
    def used(self) -> int:
        return sum(map(len, self.blocks.values()))

    def _handle(self, pointer: Any) -> int:
        self._handles += 1
        pointer._obj.value = self._handles
        return self._handles

    # -- the driver's functions ------------------------------------------------------------------

    def _cuInit(self, flags: int) -> None: ...

    def _cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = self.devices

    def _cuDeviceGet(self, device: Any, ordinal: int) -> None:
        device._obj.value = ordinal

    def _cuDeviceGetName(self, name: Any, size: int, device: int) -> None:
        name.value = self.name

    def _cuDriverGetVersion(self, version: Any) -> None:
        version._obj.value = 12020

    def _cuDeviceGetAttribute(self, value: Any, which: int, device: int) -> None:
        value._obj.value = {16: 8, 75: 8, 76: 7}[which]

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> None:
        self._handle(context)

    def _cuCtxPushCurrent(self, context: Any) -> None:
        self._thread.depth = self._depth + 1

    def _cuCtxPopCurrent(self, context: Any) -> None:
        self._thread.depth = self._depth - 1

    def _cuMemGetInfo(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = self.capacity - self.used, self.capacity

    def _cuMemAlloc(self, pointer: Any, nbytes: int) -> int:
        if not self._depth:
            return INVALID_CONTEXT
        if self.used + nbytes > self.capacity:
            return OUT_OF_MEMORY
        block = np.full(nbytes + 512, 0xFF, np.uint8)
        block = block[-block.ctypes.data % 512 :][:nbytes]
        self.blocks[block.ctypes.data] = block
        pointer._obj.value = block.ctypes.data
        return 0

    def _cuMemFree(self, address: int) -> int:
        for stream in list(self._streams):  # as the real one does
            self._advance(stream)
        return 0 if self.blocks.pop(address, None) is not None else ILLEGAL_ADDRESS

    def _cuMemHostAlloc(self, pointer: Any, nbytes: int, flags: int) -> None:
        block = np.full(nbytes, 0xFF, np.uint8)
        self.pinned[block.ctypes.data] = block
        pointer._obj.value = block.ctypes.data

    def _cuMemFreeHost(self, address: int) -> int:
        return 0 if self.pinned.pop(address, None) is not None else ILLEGAL_ADDRESS

    def _host(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        return _within(self.pinned, address, nbytes)

    def _cuMemcpyHtoDAsync(self, target: int, source: int, nbytes: int, stream: Any) -> int:
        def work() -> None:
            self.memory(target, nbytes)[:] = self._host(source, nbytes)

        return self.enqueue('upload', work, stream)

    def _cuMemcpyDtoHAsync(self, target: int, source: int, nbytes: int, stream: Any) -> int:
        # Into pageable memory, too: that only makes the host wait.
        pinned = any(start <= target < start + len(x) for start, x in self.pinned.items())
        host = None if pinned else (c_uint8 * nbytes).from_address(target)

        def work() -> None:
            found = self._host(target, nbytes) if host is None else np.ctypeslib.as_array(host)
            found[:] = self.memory(source, nbytes)

        return self.enqueue('download', work, stream)

    def _cuMemcpyDtoDAsync(self, target: int, source: int, nbytes: int, stream: Any) -> int:
        def work() -> None:
            self.memory(target, nbytes)[:] = self.memory(source, nbytes)

        return self.enqueue('copy', work, stream)

    def _cuMemsetD8Async(self, address: int, byte: int, nbytes: int, stream: Any) -> int:
        def work() -> None:
            self.memory(address, nbytes)[:] = byte

        return self.enqueue('fill', work, stream)

    def _cuStreamCreate(self, stream: Any, flags: int) -> None:
        number = self._handle(stream)
        self._streams[number], self._done[number] = [], 0

    def _cuStreamDestroy(self, stream: Any) -> None:
        self._advance(_number(stream))
        del self._streams[_number(stream)]

    def _cuStreamSynchronize(self, stream: Any) -> int:
        if self.capturing == _number(stream):
            return CAPTURE_UNSUPPORTED
        self.log.append('synchronise')
        return self._advance(_number(stream))

    def _cuStreamBeginCapture(self, stream: Any, mode: int) -> None:
        self.capturing, self._capture = _number(stream), []

    def _cuStreamEndCapture(self, stream: Any, graph: Any) -> None:
        assert self.capturing == _number(stream)
        self.graphs[self._handle(graph)] = self._capture
        self.capturing = None

    def _cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: int) -> None:
        self.graphs[self._handle(executable)] = self.graphs[graph.value]

    def _cuGraphDestroy(self, graph: Any) -> None:
        del self.graphs[graph.value]

    def _cuGraphExecDestroy(self, executable: int) -> None:
        del self.graphs[executable]

    def _cuGraphLaunch(self, executable: int, stream: Any) -> int:
        work = self.graphs[executable]
        return self.enqueue('launch', lambda: [each() for each in work] and None, stream)

    def _cuEventCreate(self, event: Any, flags: int) -> None:
        self._handle(event)

    def _cuEventRecord(self, event: Any, stream: Any) -> None:
        stream = _number(stream)
        self._events[_number(event)] = stream, len(self._streams[stream])

    def _cuStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> int:
        if event not in self._events:
            return 0  # never recorded: nothing to wait for
        other, position = self._events[event]
        return self.enqueue('wait', lambda: self._advance(other, position) and None, stream)

    def _cuEventSynchronize(self, event: int) -> int:
        stream, position = self._events.get(event, (0, 0))
        if not stream or self._done[stream] >= position:
            return self.fault
        self.log.append('block')
        return self._advance(stream, position)

    def _cuEventElapsedTime(self, elapsed: Any, start: int, end: int) -> None:
        between = self._events[end][1] - self._events[start][1]
        elapsed._obj.value = 1.5 if between > 0 else 0.0

    def _cuEventDestroy(self, event: int) -> None:
        self._events.pop(event, None)

    def _cuGetErrorName(self, code: int, name: Any) -> None:
        names = {2: b'CUDA_ERROR_OUT_OF_MEMORY', 700: b'CUDA_ERROR_ILLEGAL_ADDRESS'}
        name._obj.value = names.get(code)
