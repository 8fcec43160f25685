"""Which TensorRT is taken, what it says, and what differs between its generations."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sam2_rt.errors import BackendError, DeviceMemoryError
from sam2_rt.runtime import compile_plan, trt_execution
from sam2_rt.runtime.compile_plan import MAX_POINTS, profiles
from sam2_rt.runtime.trt_execution import KernelCache, create_context, scratch_bytes
from sam2_rt.runtime.trt_library import TensorRT, flags, import_tensorrt


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


def module(name: str = 'tensorrt', version: str = '10.3.0', **more: Any) -> SimpleNamespace:
    calls: list[Any] = []
    return SimpleNamespace(
        __name__=name,
        __version__=version,
        ILogger=ILogger,
        NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0),
        init_libnvinfer_plugins=lambda *arguments: calls.append(arguments),
        calls=calls,
        **more,
    )


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `import` finds; an exception as value is raised."""
    found: dict[str, Any] = {}

    def import_module(name: str) -> Any:
        what = found.get(name, ModuleNotFoundError(f'No module named {name!r}'))
        if isinstance(what, Exception):
            raise what
        return what

    monkeypatch.setattr(importlib, 'import_module', import_module)
    return found


def test_the_first_that_is_installed(installed: dict[str, Any]) -> None:
    installed['tensorrt_rtx'] = module('tensorrt_rtx', '1.7.1')
    assert import_tensorrt().name == 'tensorrt_rtx'
    installed['tensorrt'] = module()
    assert import_tensorrt().name == 'tensorrt'
    assert import_tensorrt('tensorrt_rtx').version == '1.7.1'


def test_none_is_installed(installed: dict[str, Any]) -> None:
    installed['tensorrt'] = OSError('libnvinfer.so.10: cannot open shared object file')
    with pytest.raises(BackendError, match=r'libnvinfer\.so\.10.*tensorrt_rtx.*--system-site'):
        import_tensorrt()


def test_no_such_library(installed: dict[str, Any]) -> None:
    with pytest.raises(BackendError, match="got 'tensorflow'"):
        import_tensorrt('tensorflow')


def test_plugins_are_registered_where_the_library_has_them() -> None:
    full, rtx = module(), module('tensorrt_rtx')
    TensorRT(full)
    TensorRT(rtx)
    assert len(full.calls) == 1
    assert rtx.calls == []


def test_errors_carry_what_tensorrt_said() -> None:
    library = TensorRT(module())
    for number in range(9):
        library.logger.log(ILogger.ERROR, f'error {number}')
    library.logger.log(ILogger.WARNING, 'a warning')
    text = str(library.error('build of track'))
    assert 'tensorrt 10.3.0: build of track: error 5 | error 6 | error 7 | error 8;' in text
    assert 'it gave no reason' in str(library.error('again'))


@pytest.mark.parametrize(
    ('said', 'kind'),
    [
        (
            'Error Code 2: OutOfMemory (Requested size was 99 bytes. out of memory)',
            DeviceMemoryError,
        ),
        ('[defaultAllocator.cpp::allocate::31] Cuda Runtime (out of memory)', DeviceMemoryError),
        ('Could not find any implementation for node {x}', BackendError),
    ],
)
def test_full_memory_is_told_apart(said: str, kind: type) -> None:
    library = TensorRT(module())
    library.logger.log(ILogger.INTERNAL_ERROR, said)
    assert type(library.error('load')) is kind


def test_flags_that_a_version_lacks_are_left_out() -> None:
    kind = SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1)
    assert flags(kind, 'EXPLICIT_BATCH', 'STRONGLY_TYPED') == 3
    assert flags(SimpleNamespace(STRONGLY_TYPED=0), 'EXPLICIT_BATCH', 'STRONGLY_TYPED') == 1


@pytest.mark.parametrize(
    ('graph', 'most', 'expected'),
    [
        ('encode', 8, []),
        ('track', 1, [(1, 1, 1)]),
        ('track', 8, [(1, 1, 1), (2, 4, 8)]),
        ('track', 3, [(1, 1, 1), (2, 3, 3)]),
        ('prompt', 8, [(1, 1, 8)]),
        ('prompt_mask', 1, [(1, 1, 1)]),
    ],
)
def test_shape_profiles(graph: str, most: int, expected: list[tuple[int, ...]]) -> None:
    found = profiles(graph, most)
    assert [tuple(lengths['N'] for lengths in bounds) for bounds in found] == expected
    if graph == 'prompt':
        assert [lengths['Q'] for lengths in found[0]] == [1, 2, MAX_POINTS]


# -- contexts without memory of their own, by generation ------------------------------------------


def test_context_of_8_6() -> None:
    engine = SimpleNamespace(
        create_execution_context_without_device_memory=lambda: 'context', device_memory_size=77
    )
    assert create_context(TensorRT(module(version='8.6.0')), engine, None) == 'context'
    assert scratch_bytes(engine) == 77


def test_context_of_11() -> None:
    strategies = SimpleNamespace(USER_MANAGED='user')
    library = TensorRT(module(version='11.0.0', ExecutionContextAllocationStrategy=strategies))
    engine = SimpleNamespace(create_execution_context=lambda x: x, device_memory_size_v2=88)
    assert create_context(library, engine, None) == 'user'
    assert scratch_bytes(engine) == 88


def rtx() -> TensorRT:
    return TensorRT(
        module(
            'tensorrt_rtx',
            '1.7.1',
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED='user'),
            DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER='eager'),
        )
    )


class RtxEngine:
    """Its contexts are the configurations they were made with; the cache collects kernels."""

    def __init__(self) -> None:
        self.kernels: list[bytes] = []

    def create_runtime_config(self) -> SimpleNamespace:
        settings = SimpleNamespace()
        settings.set_execution_context_allocation_strategy = lambda x: setattr(
            settings, 'memory', x
        )
        settings.create_runtime_cache = lambda: SimpleNamespace(
            deserialize=self.kernels.append, serialize=lambda: b' '.join(self.kernels)
        )
        settings.set_runtime_cache = lambda x: setattr(settings, 'cache', x)
        return settings

    def create_execution_context(self, settings: SimpleNamespace) -> SimpleNamespace:
        return settings


def test_context_of_rtx_specialises_its_kernels_at_once() -> None:
    settings = create_context(rtx(), RtxEngine(), None)
    assert settings.memory == 'user'
    assert settings.dynamic_shapes_kernel_specialization_strategy == 'eager'
    assert not hasattr(settings, 'cache')


def test_kernels_of_rtx_are_kept(tmp_path: Path) -> None:
    path = tmp_path / 'kernels.cache'
    engine, kernels = RtxEngine(), KernelCache(path)
    kernels.save()
    assert not path.exists()  # nothing has run
    contexts = [create_context(rtx(), engine, kernels) for _ in range(2)]
    assert contexts[0].cache is contexts[1].cache
    engine.kernels.append(b'compiled')
    kernels.save()
    assert path.read_bytes() == b'compiled'

    engine, kernels = RtxEngine(), KernelCache(path)
    create_context(rtx(), engine, kernels)
    assert engine.kernels == [b'compiled']
    path.unlink()
    kernels.save()
    assert not path.exists()  # nothing has been added


def test_kernels_that_cannot_be_kept_are_no_error(tmp_path: Path) -> None:
    engine, kernels = RtxEngine(), KernelCache(tmp_path / 'no such folder' / 'kernels.cache')
    create_context(rtx(), engine, kernels)
    engine.kernels.append(b'compiled')
    kernels.save()


def test_memory_of_a_context_of_8_6(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the property but not the method; one profile, fixed shapes."""
    context = SimpleNamespace(device_memory=0)
    monkeypatch.setattr(trt_execution, 'create_context', lambda *_: context)
    trt_execution.Execution(
        TensorRT(module(version='8.6.0')),
        SimpleNamespace(stream=5),  # type: ignore[arg-type]
        None,
        'encode',
        SimpleNamespace(inputs=()),  # type: ignore[arg-type]
        {},
        max_objects=1,
        scratch=(4096, 77),
        capture=False,
    )
    assert context.device_memory == 4096


def test_precision_of_8_6_follows_the_graph() -> None:
    """It ignores types in the graph: layers of fp32 nodes are pinned, the others are free."""
    kinds = SimpleNamespace(CONSTANT='constant', SHAPE='shape')
    library = TensorRT(
        module(
            version='8.6.0',
            BuilderFlag=SimpleNamespace(FP16='fp16', OBEY_PRECISION_CONSTRAINTS='obey'),
            LayerType=kinds,
            DataType=SimpleNamespace(FLOAT='float'),
        )
    )
    names = ('/norm', '/norm_1', '/normal', '/attention/Softmax', '/conv')
    layers = [SimpleNamespace(name=name, type='other') for name in names]
    layers.append(SimpleNamespace(name='/norm_2', type=kinds.CONSTANT))
    network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
    set_flags: list[str] = []
    config = SimpleNamespace(set_flag=set_flags.append)
    compile_plan._constrain_precision(library, network, config, {'/norm', '/attention/Softmax'})
    assert set_flags == ['fp16', 'obey']
    pinned = [layer.name for layer in layers if getattr(layer, 'precision', '') == 'float']
    assert pinned == ['/norm', '/norm_1', '/attention/Softmax']


def test_a_real_one_where_it_is_installed(tmp_path: Path) -> None:
    pytest.importorskip('tensorrt_rtx', reason='a real TensorRT: pip install tensorrt-rtx')
    library = import_tensorrt('tensorrt_rtx')
    assert library.is_rtx
    assert library.strongly_typed
    assert library.dtype(library.module.DataType.HALF) == 'float16'
    assert library.dtype(library.module.DataType.INT64) == 'INT64'
