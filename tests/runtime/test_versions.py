"""Build, gate and a whole session under every TensorRT, each faked with only the names it has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip('onnx', reason='plans of the fake GPU are ONNX graphs: pip install onnx')
pytest.importorskip('onnxruntime', reason='it runs the fake GPU: pip install onnxruntime')
from sam2_rt.errors import EngineError
from sam2_rt.runtime.build import build
from sam2_rt.runtime.compile_plan import compile_plan
from sam2_rt.runtime.manifest import GraphSpec, TensorSpec, load_manifest
from sam2_rt.runtime.ort import OrtRunner
from sam2_rt.runtime.plans import read_record
from sam2_rt.runtime.trt import TrtRunner
from sam2_rt.runtime.trt_library import TensorRT
from tests.runtime.fake_tensorrt import API, install
from tests.runtime.sessions import assert_same, play
from tests.runtime.test_precision import TOKENS, WIDTH, attention

OLD, RTX = '8.6.0', 'rtx-1.7.1'


@pytest.fixture(params=API)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gpu(version: str, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return install(monkeypatch, version)


def test_whole_session(gpu: SimpleNamespace, version: str, engine_copy: Path) -> None:
    plans = build(engine_copy)
    assert plans.accuracy['tf32']['mean_iou'] == 1.0
    manifest = load_manifest(engine_copy)
    with TrtRunner(manifest) as runner:
        ours = play(runner, ahead=True)
        assert {'encode', 'track'} <= set(runner.captured)
        (name,) = read_record(manifest)
        assert name.startswith(f'{runner.info.backend}-{runner.info.version}.fake-gpu')
    with OrtRunner(manifest, 'fp32', 1) as runner:
        assert_same(ours, play(runner))
    assert not gpu.driver.blocks
    assert not gpu.driver.graphs
    caches = {path.name.partition('.')[0] for path in (engine_copy / 'plans').glob('*.cache')}
    assert caches == ({'kernels'} if version == RTX else {'timing'})


def test_how_a_plan_is_built(gpu: SimpleNamespace, version: str, tmp_path: Path) -> None:
    """An fp16 graph with parts in fp32 keeps its types everywhere."""
    model = attention(tmp_path / 'attention.onnx')
    shape = ('N', TOKENS, WIDTH)
    spec = GraphSpec(
        model.name,
        (TensorSpec('x', 'float16', shape), TensorSpec('k', 'float16', shape)),
        (TensorSpec('y', 'float16', shape),),
    )
    library = TensorRT(gpu.trt.module)
    compile_plan(
        library, 'track', model, spec, policy='fp16', max_objects=3, workspace_bytes=1000,
        timing_cache=tmp_path / 'timing.cache',
    )  # fmt: skip
    (config,) = gpu.trt.built
    assert config.workspace == 1000
    assert [profile.shapes['x'][2][0] for profile in config.profiles] == [1, 3]
    typed = config.network.flags >> 1 & 1
    pinned = {layer.name for layer in config.network.layers if layer.precision is not None}
    if version == OLD:
        assert not typed
        assert config.flags == ['FP16', 'OBEY_PRECISION_CONSTRAINTS']
        assert pinned == {'x32_node', 'n32_node', 'scaled32_node', 'p32_node'}
        assert config.preview == {'PROFILE_SHARING_0806': True}
    else:
        assert typed
        assert config.flags == (['REQUIRE_USER_ALLOCATION'] if version == RTX else [])
        assert pinned == set()
        assert config.preview == {}
    assert config.capabilities == ({0: 'CURRENT'} if version == RTX else {})
    assert (tmp_path / 'timing.cache').exists() == (version != RTX)
    assert (config.progress_monitor is None) == (version == OLD)


def test_broken_graph(gpu: SimpleNamespace, version: str, tmp_path: Path) -> None:
    model = tmp_path / 'encode.onnx'
    model.write_bytes(attention(tmp_path / 'whole.onnx').read_bytes()[:-20])
    where = 'node 3: ' if version == OLD else r'node 3 \(Conv /conv\): '
    with pytest.raises(EngineError, match=f'cannot read this graph: {where}it is broken'):
        compile_plan(
            TensorRT(gpu.trt.module), 'encode', model, GraphSpec(model.name, (), ()),
            policy='fp16', max_objects=1, workspace_bytes=1000,
        )  # fmt: skip
