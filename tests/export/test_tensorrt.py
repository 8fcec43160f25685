"""Exported graphs in a real TensorRT: tensorrt-rtx parses and builds without a GPU."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip('torch', reason='needs PyTorch: make test-workshop')
import onnx
from onnx import TensorProto, helper

from export.networks import with_random_weights
from export.onnx_graph import WEIGHTS_FILE, WeightFile, export_stage
from export.stages import graph_specs
from sam2_rt.errors import BackendError, EngineError
from sam2_rt.runtime.compile_plan import compile_plan
from sam2_rt.runtime.manifest import GRAPH_NAMES, GraphSpec, Manifest, load_manifest
from sam2_rt.runtime.trt_library import TensorRT, import_tensorrt
from tests.tensorrt_rules import OPERATORS, problems

SIZE = 256


def export(variant: str, precision: str, folder: Path) -> Manifest:
    """The graphs of a network with random weights, and nothing else of an engine folder."""
    network = with_random_weights(variant, SIZE, 2, seed=0)
    specs = graph_specs(SIZE, precision, network.memory)
    prepared = network.model.prepare_for_export(half=precision == 'fp16')
    weights = WeightFile(folder / WEIGHTS_FILE)
    for name in GRAPH_NAMES:
        graph = export_stage(prepared, name, specs[name])
        weights.take(graph)
        onnx.save(graph, folder / specs[name].file)
    weights.close()
    return Manifest(folder, variant, SIZE, precision, 2, False, network.memory, specs, files={})


@pytest.fixture(scope='module')
def rtx() -> TensorRT:
    pytest.importorskip('tensorrt_rtx', reason='a real TensorRT: pip install tensorrt-rtx')
    return import_tensorrt('tensorrt_rtx')


@pytest.fixture(scope='module')
def micro(micro_engine: Path) -> Manifest:
    return load_manifest(micro_engine)


@pytest.fixture(scope='module')
def micro_half(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return export('micro', 'fp16', tmp_path_factory.mktemp('micro_fp16'))


@pytest.fixture(scope='module')
def hiera_half(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return export('sam2.1_hiera_tiny', 'fp16', tmp_path_factory.mktemp('hiera_fp16'))


@pytest.fixture(scope='module')
def hiera(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return export('sam2.1_hiera_tiny', 'fp32', tmp_path_factory.mktemp('hiera_fp32'))


def plan(library: TensorRT, manifest: Manifest, graph: str, policy: str) -> bytes:
    return compile_plan(
        library,
        graph,
        manifest.path(graph),
        manifest.graphs[graph],
        policy=policy,
        max_objects=manifest.max_objects,
        workspace_bytes=1 << 30,
    )


# -- every graph ----------------------------------------------------------------------------------


@pytest.mark.parametrize('graph', GRAPH_NAMES)
def test_micro_builds(rtx: TensorRT, micro: Manifest, graph: str) -> None:
    assert len(plan(rtx, micro, graph, 'tf32')) > 100_000


@pytest.mark.parametrize('graph', GRAPH_NAMES)
def test_micro_builds_in_half(rtx: TensorRT, micro_half: Manifest, graph: str) -> None:
    assert len(plan(rtx, micro_half, graph, 'fp16')) > 100_000


@pytest.mark.parametrize('graph', GRAPH_NAMES)
def test_hiera_builds(rtx: TensorRT, hiera: Manifest, graph: str) -> None:
    assert len(plan(rtx, hiera, graph, 'tf32')) > 100_000


@pytest.mark.parametrize('graph', GRAPH_NAMES)
def test_hiera_builds_in_half(rtx: TensorRT, hiera_half: Manifest, graph: str) -> None:
    assert len(plan(rtx, hiera_half, graph, 'fp16')) > 100_000


@pytest.mark.parametrize('graph', GRAPH_NAMES)
def test_hiera_builds_in_fp32(rtx: TensorRT, hiera_half: Manifest, graph: str) -> None:
    """By the last resort of an fp16 engine, which is to compute everything in fp32."""
    one_object = replace(hiera_half, max_objects=1)
    assert len(plan(rtx, one_object, graph, 'fp32')) > 100_000


@pytest.mark.parametrize('graph', ['encode', 'track'])
def test_hiera_builds_with_attention_in_fp32(
    rtx: TensorRT, hiera_half: Manifest, graph: str
) -> None:
    one_object = replace(hiera_half, max_objects=1)
    assert len(plan(rtx, one_object, graph, 'fp16_fp32_attention')) > 100_000


@pytest.mark.parametrize('graph', GRAPH_NAMES)
def test_older_tensorrt_reads_it_too(
    micro: Manifest, micro_half: Manifest, hiera: Manifest, hiera_half: Manifest, graph: str
) -> None:
    for manifest in (micro, micro_half, hiera, hiera_half):
        model = onnx.load(manifest.path(graph), load_external_data=False)
        assert list(problems(model)) == []


def test_the_list_of_operators_is_true_of_this_tensorrt(rtx: TensorRT) -> None:
    trt = rtx.module
    builder = trt.Builder(rtx.logger)
    parser = trt.OnnxParser(builder.create_network(0), rtx.logger)
    assert [name for name in OPERATORS if not parser.supports_operator(name)] == []
    assert not parser.supports_operator('NoSuchOperator')


def test_build_reports_progress(
    rtx: TensorRT, micro: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr('sam2_rt.runtime.compile_plan.time.monotonic', lambda: 2.0 * next(ticks))
    lines: list[str] = []
    compile_plan(
        rtx, 'encode', micro.path('encode'), micro.graphs['encode'], policy='tf32', max_objects=1,
        workspace_bytes=1 << 30, progress=lines.append,
    )  # fmt: skip
    assert any(' of ' in line for line in lines)


# -- broken graphs --------------------------------------------------------------------------------


@pytest.fixture
def broken(micro_engine: Path, tmp_path: Path) -> Manifest:
    """A copy of the engine, to be broken."""
    return load_manifest(shutil.copytree(micro_engine, tmp_path / 'broken'))


def alter(manifest: Manifest, graph: str, change: object) -> None:
    model = onnx.load(manifest.path(graph), load_external_data=False)
    change(model.graph)  # type: ignore[operator]
    manifest.path(graph).write_bytes(model.SerializeToString())


def test_unknown_operator(rtx: TensorRT, broken: Manifest) -> None:
    def change(graph: onnx.GraphProto) -> None:
        next(node for node in graph.node if node.op_type == 'Relu').op_type = 'NoSuchOperator'

    alter(broken, 'encode', change)
    with pytest.raises(
        EngineError, match=r'cannot read this graph: node \d+ \(NoSuchOperator .*Plugin not found'
    ):
        plan(rtx, broken, 'encode', 'tf32')


def test_uint8_may_only_be_cast(rtx: TensorRT, broken: Manifest) -> None:
    def change(graph: onnx.GraphProto) -> None:
        turn = helper.make_node('Transpose', ['image'], ['turned'], perm=(0, 1, 2, 3))
        graph.node[0].input[0] = 'turned'
        graph.node.insert(0, turn)

    alter(broken, 'encode', change)
    with pytest.raises(EngineError, match='UInt8'):
        plan(rtx, broken, 'encode', 'tf32')
    model = onnx.load(broken.path('encode'), load_external_data=False)
    assert list(problems(model)) == ['Transpose of a uint8 input; TensorRT can only cast it']


@pytest.mark.parametrize('left', [0, 1000, -20])
def test_truncated_graph(rtx: TensorRT, broken: Manifest, left: int) -> None:
    path = broken.path('encode')
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(EngineError, match='copy the whole engine folder again'):
        plan(rtx, broken, 'encode', 'tf32')


def test_missing_weights(rtx: TensorRT, broken: Manifest) -> None:
    (broken.folder / WEIGHTS_FILE).unlink()
    with pytest.raises(EngineError, match='cannot read this graph'):
        plan(rtx, broken, 'encode', 'tf32')


def test_graph_of_another_manifest(rtx: TensorRT, broken: Manifest) -> None:
    def change(graph: onnx.GraphProto) -> None:
        for value in graph.output:
            if value.name == 'high_res_s4':
                value.name = 'high_res_s2'
        for node in graph.node:
            node.output[:] = [n.replace('high_res_s4', 'high_res_s2') for n in node.output]

    alter(broken, 'encode', change)
    with pytest.raises(EngineError, match=r'expected outputs .*high_res_s4.*got .*high_res_s2'):
        plan(rtx, broken, 'encode', 'tf32')


def test_other_type_than_the_manifest_says(rtx: TensorRT, broken: Manifest) -> None:
    spec = broken.graphs['encode']
    halves = tuple(replace(tensor, dtype='float16') for tensor in spec.outputs)
    graphs = {**broken.graphs, 'encode': GraphSpec(spec.file, spec.inputs, halves)}
    with pytest.raises(EngineError, match=r'expected outputs .*float16'):
        plan(rtx, replace(broken, graphs=graphs), 'encode', 'tf32')


def test_graph_that_cannot_be_computed(rtx: TensorRT, broken: Manifest) -> None:
    """Shapes that do not fit: TensorRT finds that out while parsing or building."""

    def change(graph: onnx.GraphProto) -> None:
        output = graph.output[0].name
        maker = next(node for node in graph.node if output in node.output)
        maker.output[0] = 'inner'
        graph.initializer.append(
            helper.make_tensor('wrong', TensorProto.FLOAT, [3, 5], [0.0] * 15)
        )
        graph.node.append(helper.make_node('MatMul', ['inner', 'wrong'], [output]))

    alter(broken, 'encode', change)
    with pytest.raises((EngineError, BackendError), match=r'encode\.onnx'):
        plan(rtx, broken, 'encode', 'tf32')
