"""A fake TensorRT on the fake driver, of any version that tests/data/tensorrt_api.json lists.

Every object shows only the names that its class has in that version, so that code which uses
another one fails here as it would there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sam2_rt.runtime.trt_library import TensorRT
from tests.runtime.fake_builder import FakeBuilder, FakeConfig, FakeParser
from tests.runtime.fake_driver import FakeDriver
from tests.runtime.fake_engine import DataType, FakeEngine, TensorIOMode

API: dict[str, dict[str, list[str]]] = json.loads(
    (Path(__file__).parents[1] / 'data/tensorrt_api.json').read_text()
)
_NAMES = (
    'BuilderFlag',
    'ComputeCapability',
    'DynamicShapesKernelSpecializationStrategy',
    'ExecutionContextAllocationStrategy',
    'LayerType',
    'MemoryPoolType',
    'PreviewFeature',
    'ProfilingVerbosity',
)
"""Enumerations whose values do not matter: each name stands for itself."""


class FakeLogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Shown:
    """A TensorRT object with nothing but the names that its class has in one version."""

    def __init__(self, kind: str, names: Container[str], behind: Any) -> None:
        for name, value in (('_kind', kind), ('_names', names), ('_behind', behind)):
            object.__setattr__(self, name, value)

    def _check(self, name: str) -> None:
        if name not in self._names:
            raise AttributeError(f'{self._kind} has no {name} in this version of TensorRT')

    def __getattr__(self, name: str) -> Any:
        self._check(name)
        return getattr(self._behind, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._check(name)
        setattr(self._behind, name, value)


class FakeTensorRT(SimpleNamespace):
    """The module `tensorrt` on a fake driver.

    Attributes:
        contexts_fail, enqueues_fail, no_capture: make that step fail.
        builds_fail: the message a build fails with; '' for none.
        spoil: changes a model on its way into a plan, given the builder config.
        built: configs of all builds.

    Args:
        driver: what it runs on.
        version: one of API: nothing has a name then that it lacks there.
    """

    def __init__(self, driver: FakeDriver, version: str = '10.3.0') -> None:
        super().__init__()
        rtx, self.__version__ = version.startswith('rtx-'), version.removeprefix('rtx-')
        self.__name__ = 'tensorrt_rtx' if rtx else 'tensorrt'
        self.driver, self.api = driver, API[version]
        self.contexts_fail = self.enqueues_fail = self.no_capture = False
        self.builds_fail = ''
        self.spoil: Callable[[bytes, Any], bytes] = lambda model, config: model
        self.enqueues = 0
        self.built: list[FakeConfig] = []
        self.logger: Any = None
        self.ILogger, self.DataType, self.TensorIOMode = FakeLogger, DataType, TensorIOMode
        self.IProgressMonitor = type('IProgressMonitor', (), {})
        kinds = SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1)
        self.NetworkDefinitionCreationFlag = self.shown('NetworkDefinitionCreationFlag', kinds)
        for kind in _NAMES:
            names = {name: name for name in self.api.get(kind, ())}
            setattr(self, kind, SimpleNamespace(**names))

    @property
    def module(self) -> Shown:
        """What `import` gives."""
        return Shown('module', {*self.api, '__name__', '__version__'}, self)

    def shown(self, kind: str, thing: Any) -> Any:
        """An object of ours as one of a TensorRT class."""
        return Shown(kind, self.api[kind], thing)

    @staticmethod
    def hidden(thing: Any) -> Any:
        """What is behind something that `shown` gave."""
        return thing._behind

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> None:
        self.logger = logger

    def Builder(self, logger: Any) -> Any:
        self.logger = logger
        return self.shown('Builder', FakeBuilder(self))

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        return self.shown('OnnxParser', FakeParser(self.hidden(network), self))

    def Runtime(self, logger: Any) -> Any:
        self.logger = logger

        def deserialize(plan: bytes) -> Any:
            if not plan.startswith(b'{'):
                logger.log(FakeLogger.ERROR, 'not a plan')
                return None
            return self.shown('ICudaEngine', FakeEngine(self, plan))

        return self.shown('Runtime', SimpleNamespace(deserialize_cuda_engine=deserialize))


def install(monkeypatch: pytest.MonkeyPatch, version: str = '10.3.0') -> SimpleNamespace:
    """Puts a fake driver and a fake TensorRT where the runner and the build look for them."""
    driver = FakeDriver()
    trt = FakeTensorRT(driver, version)
    for module in ('trt', 'build'):
        monkeypatch.setattr(f'sam2_rt.runtime.{module}.load_driver', lambda: driver)
        monkeypatch.setattr(
            f'sam2_rt.runtime.{module}.import_tensorrt', lambda name='auto': TensorRT(trt.module)
        )
    return SimpleNamespace(driver=driver, trt=trt)
