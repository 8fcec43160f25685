"""A fake libcuda whose device memory is host memory.

It is strict where the real one is silent. Work is only done when the stream is waited for, so that
reading too early, or reusing a staging buffer too early, gives wrong values. Memory starts as NaN.
Every address must lie in memory that is allocated; every call needs a current context; a captured
graph keeps the addresses it was captured with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Work = Callable[[], None]
OUT_OF_MEMORY, INVALID_CONTEXT, ILLEGAL_ADDRESS, CAPTURE_UNSUPPORTED = 2, 201, 700, 900


class FakeDriver:
    """libcuda as `sam2_rt.runtime.cuda` calls it.

    Attributes:
        capacity: device memory in bytes.
        fail: function name -> result code it returns from now on.
        calls: how often each function was called.
        log: names of what was done to the stream, in order.
    """

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        self.fail: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        self.log: list[str] = []
        self.blocks: dict[int, NDArray[np.uint8]] = {}
        self.pinned: dict[int, NDArray[np.uint8]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.name = b'Fake GPU'
        self.devices = 1
        self._queue: list[Work] = []
        self._capture: list[Work] | None = None
        self._depth = 0
        self._fault = 0
        self._handles = 1000

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith('cu'):
            raise AttributeError(name)
        function = getattr(self, f'_{name.removesuffix("_v2")}')

        def call(*arguments: Any) -> int:
            self.calls[name] = self.calls.get(name, 0) + 1
            code = self.fail.get(name, 0) or self._fault
            return code or int(function(*arguments) or 0)

        return call

    def enqueue(self, name: str, work: Work) -> int:
        """Puts work on the stream, or into the graph that is being captured."""
        if not self._depth:
            return INVALID_CONTEXT
        self.log.append(name)
        (self._queue if self._capture is None else self._capture).append(work)
        return 0

    def memory(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """The bytes at a device address; KeyError unless all of them are allocated."""
        for start, block in self.blocks.items():
            if start <= address and address + nbytes <= start + len(block):
                return block[address - start : address - start + nbytes]
        raise KeyError(f'{nbytes} bytes at {address:#x} are not allocated')

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
        self._depth += 1

    def _cuCtxPopCurrent(self, context: Any) -> None:
        self._depth -= 1

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
        self._cuStreamSynchronize(None)  # as the real one does
        return 0 if self.blocks.pop(address, None) is not None else ILLEGAL_ADDRESS

    def _cuMemHostAlloc(self, pointer: Any, nbytes: int, flags: int) -> None:
        block = np.full(nbytes, 0xFF, np.uint8)
        self.pinned[block.ctypes.data] = block
        pointer._obj.value = block.ctypes.data

    def _cuMemFreeHost(self, address: int) -> int:
        return 0 if self.pinned.pop(address, None) is not None else ILLEGAL_ADDRESS

    def _host(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        pointer = np.ctypeslib.ctypes.c_uint8 * nbytes
        return np.ctypeslib.as_array(pointer.from_address(address))

    def _cuMemcpyHtoDAsync(self, target: int, source: int, nbytes: int, stream: Any) -> int:
        def work() -> None:
            self.memory(target, nbytes)[:] = self._host(source, nbytes)

        return self.enqueue('upload', work)

    def _cuMemcpyDtoHAsync(self, target: int, source: int, nbytes: int, stream: Any) -> int:
        def work() -> None:
            self._host(target, nbytes)[:] = self.memory(source, nbytes)

        return self.enqueue('download', work)

    def _cuMemcpyDtoDAsync(self, target: int, source: int, nbytes: int, stream: Any) -> int:
        def work() -> None:
            self.memory(target, nbytes)[:] = self.memory(source, nbytes)

        return self.enqueue('copy', work)

    def _cuMemsetD8Async(self, address: int, byte: int, nbytes: int, stream: Any) -> int:
        def work() -> None:
            self.memory(address, nbytes)[:] = byte

        return self.enqueue('fill', work)

    def _cuStreamCreate(self, stream: Any, flags: int) -> None:
        self._handle(stream)

    def _cuStreamDestroy(self, stream: Any) -> None: ...

    def _cuStreamSynchronize(self, stream: Any) -> int:
        if self._capture is not None:
            return CAPTURE_UNSUPPORTED
        self.log.append('synchronise')
        queue, self._queue = self._queue, []
        try:
            for work in queue:
                work()
        except KeyError:
            self._fault = ILLEGAL_ADDRESS  # the real device, too, is of no use after this
        return self._fault

    def _cuStreamBeginCapture(self, stream: Any, mode: int) -> None:
        self._capture = []

    def _cuStreamEndCapture(self, stream: Any, graph: Any) -> None:
        assert self._capture is not None
        self.graphs[self._handle(graph)] = self._capture
        self._capture = None

    def _cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: int) -> None:
        self.graphs[self._handle(executable)] = self.graphs[graph.value]

    def _cuGraphDestroy(self, graph: Any) -> None:
        del self.graphs[graph.value]

    def _cuGraphExecDestroy(self, executable: int) -> None:
        del self.graphs[executable]

    def _cuGraphLaunch(self, executable: int, stream: Any) -> int:
        work = self.graphs[executable]
        return self.enqueue('launch', lambda: [each() for each in work] and None)

    def _cuEventCreate(self, event: Any, flags: int) -> None:
        self._handle(event)

    def _cuEventRecord(self, event: Any, stream: Any) -> None: ...

    def _cuEventSynchronize(self, event: int) -> int:
        return self._cuStreamSynchronize(None)

    def _cuEventElapsedTime(self, elapsed: Any, start: int, end: int) -> None:
        elapsed._obj.value = 1.5

    def _cuEventDestroy(self, event: int) -> None: ...

    def _cuGetErrorName(self, code: int, name: Any) -> None:
        names = {2: b'CUDA_ERROR_OUT_OF_MEMORY', 700: b'CUDA_ERROR_ILLEGAL_ADDRESS'}
        name._obj.value = names.get(code)
