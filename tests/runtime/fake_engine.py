"""Plans, contexts and what else runs a graph in the fake TensorRT: ONNX Runtime does it, on what
lies at the addresses it is given, when the stream gets to it.
"""

from __future__ import annotations

import json
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

if TYPE_CHECKING:
    from tests.runtime.fake_tensorrt import FakeTensorRT


class DataType(IntEnum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8 = range(6)


class TensorIOMode(IntEnum):
    NONE, INPUT, OUTPUT = range(3)


ORT_TYPES = {
    'tensor(float)': (DataType.FLOAT, np.float32),
    'tensor(float16)': (DataType.HALF, np.float16),
    'tensor(int32)': (DataType.INT32, np.int32),
    'tensor(uint8)': (DataType.UINT8, np.uint8),
}


def session_of(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=['CPUExecutionProvider'])


class FakeEngine:
    """A deserialised plan."""

    device_memory_size = device_memory_size_v2 = 4096

    def __init__(self, trt: FakeTensorRT, plan: bytes) -> None:
        header, _, model = plan.partition(b'\n')
        self.profiles: list[dict[str, Any]] = json.loads(header)['profiles']
        self.session = session_of(model)
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
        return ORT_TYPES[self.tensors[name].type][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if isinstance(x, str) else x for x in self.tensors[name].shape)

    def create_execution_context(self, how: Any) -> Any:
        if how != 'USER_MANAGED':  # then it is a configuration, of TensorRT for RTX
            settings = self.trt.hidden(how).settings
            assert settings['execution_context_allocation_strategy'] == 'USER_MANAGED'
        return self.create_execution_context_without_device_memory()

    def create_execution_context_without_device_memory(self) -> Any:
        if self.trt.contexts_fail:
            return None
        return self.trt.shown('IExecutionContext', FakeContext(self))

    def create_runtime_config(self) -> Any:
        return self.trt.shown('IRuntimeConfig', RuntimeConfig(self.trt))


class RuntimeConfig:
    """How contexts of TensorRT for RTX are made."""

    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        self.settings: dict[str, Any] = {}
        self.dynamic_shapes_kernel_specialization_strategy = ''

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.settings['execution_context_allocation_strategy'] = strategy

    def create_runtime_cache(self) -> Any:
        return self.trt.shown('IRuntimeCache', RuntimeCache())

    def set_runtime_cache(self, cache: Any) -> bool:
        self.settings['runtime_cache'] = cache
        return True


class RuntimeCache:
    def deserialize(self, blob: bytes) -> bool:
        return True

    def serialize(self) -> bytes:
        return b'kernels'


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

    @property
    def device_memory(self) -> int:
        raise AssertionError('nobody reads it')

    @device_memory.setter
    def device_memory(self, memory: int) -> None:
        self.set_device_memory(memory, self.engine.device_memory_size)

    def is_stream_capturable(self, stream: int) -> bool:
        return not self.engine.trt.no_capture

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
            trt.logger.log(trt.ILogger.ERROR, 'enqueue refused')
            return False
        addresses, shapes = dict(self.addresses), dict(self.shapes)

        def work() -> None:
            feeds = {}
            for name, shape in shapes.items():
                dtype = ORT_TYPES[self.engine.tensors[name].type][1]
                nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
                found = self.driver.memory(addresses[name], nbytes)
                feeds[name] = found.view(dtype).reshape(shape).copy()
            names = [name for name in self.engine.tensors if name not in shapes]
            for name, value in zip(names, self.engine.session.run(names, feeds), strict=True):
                found = self.driver.memory(addresses[name], value.nbytes)
                found[:] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)

        return self.driver.enqueue('execute', work, stream_handle) == 0
