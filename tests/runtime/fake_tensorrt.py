"""A fake TensorRT on the fake driver: its plans are ONNX graphs, run by ONNX Runtime on what lies
at the addresses they are given, when the stream gets to it.
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

from sam2_rt.runtime.trt_library import TensorRT
from tests.runtime.fake_driver import FakeDriver


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
        capturing = self.driver.capturing is not None
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

        return self.driver.enqueue('execute', work, stream_handle) == 0


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
