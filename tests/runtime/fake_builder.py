"""Parser, network and builder of the fake TensorRT: a plan is the ONNX graph and its profiles."""

from __future__ import annotations

import json
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import onnx

from tests.runtime.fake_engine import ORT_TYPES, session_of

if TYPE_CHECKING:
    from tests.runtime.fake_tensorrt import FakeTensorRT


class FakeParser:
    num_errors = 1

    def __init__(self, network: FakeNetwork, trt: FakeTensorRT) -> None:
        self.network, self.trt = network, trt

    def parse_from_file(self, model: str) -> bool:
        try:
            self.network.model = onnx.load(model).SerializeToString()  # its weights included
            session = session_of(self.network.model)
        except Exception:
            return False
        for side, found in (('inputs', session.get_inputs()), ('outputs', session.get_outputs())):
            tensors = [
                SimpleNamespace(name=x.name, dtype=ORT_TYPES[x.type][0], shape=x.shape)
                for x in found
            ]
            setattr(self.network, side, tensors)
        return True

    def get_error(self, index: int) -> Any:
        found = SimpleNamespace(
            node=lambda: 3,
            node_name=lambda: '/conv',
            node_operator=lambda: 'Conv',
            desc=lambda: 'it is broken',
        )
        return self.trt.shown('ParserError', found)


class FakeBuilder:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt

    def create_network(self, flags: int) -> Any:
        return self.trt.shown('INetworkDefinition', FakeNetwork(self.trt, flags))

    def create_builder_config(self) -> Any:
        return self.trt.shown('IBuilderConfig', FakeConfig(self.trt))

    def create_optimization_profile(self) -> Any:
        return self.trt.shown('IOptimizationProfile', FakeProfile())

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        network, config = self.trt.hidden(network), self.trt.hidden(config)
        config.network = network
        self.trt.built.append(config)
        if self.trt.builds_fail:
            self.trt.logger.log(self.trt.ILogger.ERROR, self.trt.builds_fail)
            return None
        if config.progress_monitor is not None:
            config.progress_monitor.phase_start('Building', None, 2)
            config.progress_monitor.step_complete('Building', 0)
            config.progress_monitor.phase_finish('Building')
        header = json.dumps({'profiles': [profile.shapes for profile in config.profiles]})
        return header.encode() + b'\n' + self.trt.spoil(network.model, config)


class FakeNetwork:
    def __init__(self, trt: FakeTensorRT, flags: int) -> None:
        self.trt, self.flags = trt, flags
        self.model = b''
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    @cached_property
    def layers(self) -> list[Any]:
        """One per node, of the node's name; its precision may be set."""
        nodes = onnx.load_from_string(self.model).graph.node
        return [SimpleNamespace(name=node.name, type='OTHER', precision=None) for node in nodes]

    num_layers = property(lambda self: len(self.layers))

    def get_layer(self, index: int) -> Any:
        return self.trt.shown('ILayer', self.layers[index])

    def get_input(self, index: int) -> Any:
        return self.inputs[index]

    def get_output(self, index: int) -> Any:
        return self.outputs[index]


class FakeProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self.shapes[input] = (min, opt, max)


class FakeConfig:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        self.profiles: list[FakeProfile] = []
        self.cleared: list[Any] = []
        self.flags: list[Any] = []
        self.progress_monitor: Any = None
        self.profiling_verbosity: Any = None
        self.num_compute_capabilities = 0
        self.capabilities: dict[int, Any] = {}
        self.preview: dict[Any, bool] = {}

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.workspace = size

    def set_flag(self, flag: Any) -> None:
        self.flags.append(flag)

    def clear_flag(self, flag: Any) -> None:
        self.cleared.append(flag)

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        self.preview[feature] = enable

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        self.capabilities[index] = capability
        return True

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(self.trt.hidden(profile))
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
