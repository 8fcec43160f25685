"""A GPU made of host memory: a fake libcuda, and a fake TensorRT that runs plans on it.

Both are strict where the real ones are silent. Work is only done when the stream is waited for, so
that reading too early, or reusing a staging buffer too early, gives wrong values. Memory starts as
NaN. Every address must lie in memory that is allocated; every call needs a current context; a
captured graph keeps the addresses it was captured with. The fake TensorRT runs the very ONNX
graphs, with ONNX Runtime, on what lies at the addresses it was given.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from sam2_rt.runtime.trt_library import TensorRT

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


class DataType(IntEnum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8 = range(6)


class TensorIOMode(IntEnum):
    NONE, INPUT, OUTPUT = range(3)


_ORT_TYPES = {
    'tensor(float)': (DataType.FLOAT, np.float32),
    'tensor(float16)': (DataType.HALF, np.float16),
    'tensor(int32)': (DataType.INT32, np.int32),
    'tensor(uint8)': (DataType.UINT8, np.uint8),
}


def _session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=['CPUExecutionProvider'])


class FakeEngine:
    """A deserialised plan."""

    device_memory_size_v2 = 4096

    def __init__(self, trt: FakeTensorRT, plan: bytes) -> None:
        header, _, model = plan.partition(b'\n')
        self.profiles: list[dict[str, Any]] = json.loads(header)['profiles']
        self.session = _session(model)
        self.tensors = {x.name: x for x in self.session.get_inputs()}
        self.inputs = tuple(self.tensors)
        self.tensors.update({x.name: x for x in self.session.get_outputs()})
        self.num_io_tensors = len(self.tensors)
        self.trt = trt

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return _ORT_TYPES[self.tensors[name].type][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if isinstance(x, str) else x for x in self.tensors[name].shape)

    def create_execution_context(self, strategy: Any) -> FakeContext | None:
        assert strategy == 'USER_MANAGED'
        return None if self.trt.contexts_fail else FakeContext(self)


class FakeContext:
    """An execution context; `execute_async_v3` runs the graph with ONNX Runtime."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.driver = engine, engine.trt.driver
        self.shapes = {
            name: engine.get_tensor_shape(name)
            for name in engine.inputs
            if -1 not in engine.get_tensor_shape(name)
        }
        self.addresses: dict[str, int] = {}
        self.profile = 0
        self.scratch = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        self.driver.memory(memory, size)
        self.scratch = size

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return profile_index < len(self.engine.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.profiles[self.profile][name]
        self.shapes[name] = shape
        return all(a <= x <= b for a, x, b in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return memory % 256 == 0 and name in self.engine.tensors

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt = self.engine.trt
        trt.enqueues += 1
        capturing = self.driver._capture is not None
        ready = set(self.addresses) == set(self.engine.tensors) and set(self.shapes) == set(
            self.engine.inputs
        )
        if not ready or not self.scratch or trt.enqueues_fail or (capturing and trt.no_capture):
            trt.logger.log(FakeLogger.ERROR, 'enqueue refused')
            return False
        addresses, shapes = dict(self.addresses), dict(self.shapes)

        def work() -> None:
            feeds = {}
            for name, shape in shapes.items():
                dtype = _ORT_TYPES[self.engine.tensors[name].type][1]
                nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
                found = self.driver.memory(addresses[name], nbytes)
                feeds[name] = found.view(dtype).reshape(shape).copy()
            names = [name for name in self.engine.tensors if name not in shapes]
            for name, value in zip(names, self.engine.session.run(names, feeds), strict=True):
                found = self.driver.memory(addresses[name], value.nbytes)
                found[:] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)

        return self.driver.enqueue('execute', work) == 0


class FakeLogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class _Parser:
    num_errors = 1

    def __init__(self, network: Any, logger: Any) -> None:
        self.network = network

    def parse_from_file(self, model: str) -> bool:
        with open(model, 'rb') as file:
            self.network.model = file.read()
        try:
            session = _session(self.network.model)
        except Exception:
            return False
        for side, found in (('inputs', session.get_inputs()), ('outputs', session.get_outputs())):
            tensors = [
                SimpleNamespace(name=x.name, dtype=_ORT_TYPES[x.type][0], shape=x.shape)
                for x in found
            ]
            setattr(self.network, side, tensors)
        return True

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(node=lambda: 3, desc=lambda: 'it is broken')


class _Builder:
    def __init__(self, logger: Any, trt: FakeTensorRT) -> None:
        self.trt = trt

    def create_network(self, flags: int) -> Any:
        return _Network()

    def create_builder_config(self) -> Any:
        return _Config(self.trt)

    def create_optimization_profile(self) -> Any:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        self.trt.built.append(config)
        if self.trt.builds_fail:
            self.trt.logger.log(FakeLogger.ERROR, self.trt.builds_fail)
            return None
        config.progress_monitor.phase_start('Building', None, 2)
        config.progress_monitor.step_complete('Building', 0)
        config.progress_monitor.phase_finish('Building')
        header = json.dumps({'profiles': [profile.shapes for profile in config.profiles]})
        return header.encode() + b'\n' + self.trt.spoil(network.model, config)


class _Network:
    def __init__(self) -> None:
        self.model = b''
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_input(self, index: int) -> Any:
        return self.inputs[index]

    def get_output(self, index: int) -> Any:
        return self.outputs[index]


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self.shapes[input] = (min, opt, max)


class _Config:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        self.profiles: list[_Profile] = []
        self.cleared: list[Any] = []
        self.flags: list[Any] = []
        self.progress_monitor: Any = None
        self.cache = b''

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.workspace = size

    def set_flag(self, flag: Any) -> None:
        self.flags.append(flag)

    def clear_flag(self, flag: Any) -> None:
        self.cleared.append(flag)

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized: bytes) -> Any:
        if serialized == b'damaged':
            return None
        return SimpleNamespace(serialize=lambda: serialized + b'timed ')

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self._timing_cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._timing_cache


class FakeTensorRT(SimpleNamespace):
    """The module `tensorrt`, of generation 10, on a fake driver.

    Attributes:
        contexts_fail, enqueues_fail, no_capture: make that step fail.
        builds_fail: the message a build fails with; '' for none.
        spoil: changes a model on its way into a plan, given the builder config.
        built: configs of all builds.
    """

    def __init__(self, driver: FakeDriver, version: str = '10.3.0') -> None:
        super().__init__()
        self.__name__, self.__version__ = 'tensorrt', version
        self.driver = driver
        self.contexts_fail = self.enqueues_fail = self.no_capture = False
        self.builds_fail = ''
        self.spoil: Callable[[bytes, Any], bytes] = lambda model, config: model
        self.enqueues = 0
        self.built: list[_Config] = []
        self.logger: Any = None
        self.ILogger, self.DataType, self.TensorIOMode = FakeLogger, DataType, TensorIOMode
        self.NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1)
        self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED='USER_MANAGED')
        self.MemoryPoolType = SimpleNamespace(WORKSPACE=0)
        self.ProfilingVerbosity = SimpleNamespace(DETAILED=2)
        self.BuilderFlag = SimpleNamespace(TF32='TF32')
        self.IProgressMonitor = type('IProgressMonitor', (), {})
        self.OnnxParser = _Parser
        self.Builder = lambda logger: _Builder(logger, self)

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> None:
        self.logger = logger

    def Runtime(self, logger: Any) -> Any:
        def deserialize(plan: bytes) -> FakeEngine | None:
            if not plan.startswith(b'{'):
                logger.log(FakeLogger.ERROR, 'not a plan')
                return None
            return FakeEngine(self, plan)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


def install(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Puts a fake driver and a fake TensorRT where the runner and the build look for them."""
    driver = FakeDriver()
    trt = FakeTensorRT(driver)
    for module in ('trt', 'build'):
        monkeypatch.setattr(f'sam2_rt.runtime.{module}.load_driver', lambda: driver)
        monkeypatch.setattr(
            f'sam2_rt.runtime.{module}.import_tensorrt', lambda name='auto': TensorRT(trt)
        )
    return SimpleNamespace(driver=driver, trt=trt)
