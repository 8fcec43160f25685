"""Engine folders as export writes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: make test-workshop')
onnx = pytest.importorskip('onnx', reason='needs onnx: make test-workshop')
ort = pytest.importorskip('onnxruntime', reason='needs onnxruntime: make test-workshop')

from numpy.typing import NDArray  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from export import to_onnx  # noqa: E402
from export.errors import ExportError  # noqa: E402
from export.networks import Network, with_random_weights  # noqa: E402
from export.onnx_graph import (  # noqa: E402
    FORBIDDEN_OPS,
    WeightFile,
    export_stage,
    halve_weights,
)
from export.stages import graph_specs  # noqa: E402
from export.to_onnx import Options, export_engine, main  # noqa: E402
from export.torch_runner import TorchRunner  # noqa: E402
from sam2_rt.runtime.base import Runner  # noqa: E402
from sam2_rt.runtime.check import check_accuracy  # noqa: E402
from sam2_rt.runtime.manifest import (  # noqa: E402
    GRAPH_NAMES,
    GraphSpec,
    Manifest,
    MemorySpec,
    TensorSpec,
    load_manifest,
)
from sam2_rt.runtime.select import open_runner  # noqa: E402


@pytest.fixture(scope='module')
def network() -> Network:
    return with_random_weights('micro', 256, 2, seed=0)


def random_inputs(spec: GraphSpec, objects: int, points: int) -> dict[str, NDArray[Any]]:
    """Inputs as the tracker makes them: some slots empty, with rubbish in them."""
    rng = np.random.default_rng(1)
    inputs = {}
    for tensor in spec.inputs:
        shape = [{'N': objects, 'Q': points}.get(str(axis), axis) for axis in tensor.shape]
        if tensor.dtype.startswith('float'):
            inputs[tensor.name] = rng.standard_normal(shape).astype(tensor.dtype)
        else:
            top = {'mask': 2, 'image': 256, 'point_labels': 4, 'has_previous': 2}
            high = top.get(tensor.name, 7)
            low = -1 if high == 7 else 0
            inputs[tensor.name] = rng.integers(low, high, shape).astype(tensor.dtype)
    for values, times in (('memory_features', 'memory_time'), ('object_pointers', 'pointer_time')):
        if values in inputs:
            inputs[times][:, 1] = -1
            inputs[times][:, 0] = 0
            inputs[values][inputs[times] < 0] = np.nan
    return inputs


def test_folder_is_whole(micro_engine: Path) -> None:
    manifest = load_manifest(micro_engine)
    manifest.verify_files()
    assert (manifest.variant, manifest.image_size, manifest.precision) == ('micro', 256, 'fp32')
    assert manifest.memory.remember_above == 2.0
    assert manifest.source['random_weights'] == '0'
    assert not manifest.trained
    assert manifest.graphs == graph_specs(256, 'fp32', manifest.memory)
    assert sorted(manifest.files) == sorted(
        [*(f'{name}.onnx' for name in GRAPH_NAMES), 'weights.bin', 'check.npz']
    )
    assert sorted(p.name for p in micro_engine.iterdir()) == sorted(
        [*manifest.files, 'manifest.json']
    )


@pytest.mark.parametrize('name', GRAPH_NAMES)
def test_graphs_run_everywhere(micro_engine: Path, name: str) -> None:
    model = onnx.load(micro_engine / f'{name}.onnx', load_external_data=False)
    onnx.checker.check_model(str(micro_engine / f'{name}.onnx'), full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [('', 17)]
    assert not {node.op_type for node in model.graph.node} & FORBIDDEN_OPS.keys()
    # Shapes that are computed while the graph runs: a few for N and Q, no storm.
    assert sum(node.op_type == 'Shape' for node in model.graph.node) <= 10
    assert model.ByteSize() < 300_000  # everything heavy is in weights.bin
    assert all(not str(node.doc_string) for node in model.graph.node)


@pytest.fixture(params=['onnxruntime', 'openvino'])
def runner(request: pytest.FixtureRequest, micro_engine: Path) -> Iterator[Runner]:
    pytest.importorskip(request.param, reason=f'needs {request.param}: make test-workshop')
    with open_runner(micro_engine, request.param, precision='fp32') as opened:
        yield opened


@pytest.mark.parametrize('name', GRAPH_NAMES)
def test_graphs_agree_with_torch(runner: Runner, network: Network, name: str) -> None:
    torch_runner = TorchRunner(runner.manifest, network.model)
    for objects, points in ((1, 1), (3, 4), (2, 2)):  # one loaded graph takes them all
        inputs = random_inputs(runner.manifest.graphs[name], objects, points)
        outputs = runner.run(name, inputs)
        for key, value in torch_runner.run(name, inputs).items():
            assert np.isfinite(value).all(), key
            tolerance = 1e-4 * np.abs(value).max()
            np.testing.assert_allclose(outputs[key], value, rtol=0, atol=tolerance, err_msg=key)


def test_closed_loop_agrees_with_torch(runner: Runner) -> None:
    runner.warm_up()
    assert check_accuracy(runner).worst_iou > 0.999


def test_equal_weights_are_stored_once(micro_engine: Path) -> None:
    places: dict[str, dict[tuple[int, ...], set[str]]] = {}
    total = 0
    for name in GRAPH_NAMES:
        model = onnx.load(micro_engine / f'{name}.onnx', load_external_data=False)
        for initializer in model.graph.initializer:
            where = {entry.key: entry.value for entry in initializer.external_data}
            if where:
                assert where['location'] == 'weights.bin'
                total += int(where['length'])
                places.setdefault(where['offset'], {}).setdefault(name, set())
    size = (micro_engine / 'weights.bin').stat().st_size
    assert total > 1.8 * size
    shared = [offset for offset, graphs in places.items() if {'track', 'prompt'} <= graphs.keys()]
    assert len(shared) > 50


def test_same_weights_make_the_same_files(
    micro_engine: Path, network: Network, tmp_path: Path
) -> None:
    spec = load_manifest(micro_engine).graphs['encode']
    model = export_stage(network.model.prepare_for_export(), 'encode', spec)
    WeightFile(tmp_path / 'weights.bin').take(model)
    assert model.SerializeToString() == (micro_engine / 'encode.onnx').read_bytes()


def test_half_precision_is_written_in_the_graphs(network: Network, tmp_path: Path) -> None:
    said: list[str] = []
    manifest = export_engine(network, tmp_path / 'fp16', Options('fp16'), said.append)
    assert 'all prompts' in said[-1]
    resident = [t for g in manifest.graphs.values() for t in g.outputs if t.resident]
    assert {tensor.dtype for tensor in resident} == {'float16'}
    for name in GRAPH_NAMES:
        model = onnx.load(manifest.path(name))
        graph = onnx.shape_inference.infer_shapes(model).graph
        types = {x.name: x.type.tensor_type.elem_type for x in graph.value_info}
        types |= {x.name: x.type.tensor_type.elem_type for x in (*graph.input, *graph.output)}
        types |= {x.name: x.data_type for x in graph.initializer}
        seen: dict[str, set[int]] = {}
        for node in graph.node:
            seen.setdefault(node.op_type, set()).add(types[node.input[0]])
        for op in ('LayerNormalization', 'Softmax'):
            assert seen.get(op, {TensorProto.FLOAT}) == {TensorProto.FLOAT}, (name, op)
        for op in ('Conv', 'Gemm', 'ConvTranspose'):
            assert TensorProto.FLOAT not in seen.get(op, set()), (name, op)


def test_halved_weights_keep_the_arithmetic() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    x = helper.make_tensor_value_info('x', TensorProto.FLOAT, ['N', 64])
    y = helper.make_tensor_value_info('y', TensorProto.FLOAT, ['N', 32])
    small = numpy_helper.from_array(np.float32([3.0]), 'bias')
    graph = helper.make_graph(
        [
            helper.make_node('MatMul', ['x', 'w'], ['p']),
            helper.make_node('Add', ['p', 'bias'], ['y']),
        ],
        'g',
        [x],
        [y],
        [numpy_helper.from_array(weight, 'w'), small],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    halve_weights(model)
    onnx.checker.check_model(model, full_check=True)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds == {'w_half': TensorProto.FLOAT16, 'bias': TensorProto.FLOAT}
    session = ort.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    ones = np.ones((2, 64), np.float32)
    (came,) = session.run(None, {'x': ones})
    rounded = weight.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(came, ones @ rounded + 3, rtol=1e-5)


@pytest.mark.parametrize(
    ('stage', 'message'),
    [
        (lambda x: x.nonzero().float(), 'operator NonZero .*size depends on values'),
        (lambda x: x.bernoulli(), r'operator Bernoulli \(chance\)'),
    ],
)
def test_operators_that_some_target_lacks(stage: Callable[[Tensor], Tensor], message: str) -> None:
    class Bad(nn.Module):
        def encode(self, x: Tensor) -> tuple[Tensor]:
            return (stage(x),)

    spec = GraphSpec(
        'encode.onnx',
        (TensorSpec('x', 'float32', ('N', 4)),),
        (TensorSpec('y', 'float32', ('N', 4)),),
    )
    with pytest.raises(ExportError, match=message):
        export_stage(Bad(), 'encode', spec)


def test_a_failed_export_leaves_nothing_and_harms_nothing(
    micro_engine: Path, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / 'engine'
    shutil.copytree(micro_engine, out)

    def write_graphs_with_other_masks(
        network: Network, folder: Path, options: Options, say: object
    ) -> Manifest:
        shutil.copytree(micro_engine, folder, dirs_exist_ok=True)
        with np.load(folder / 'check.npz') as clip:
            np.savez(folder / 'check.npz', **{**clip, 'masks': ~clip['masks']})
        return replace(load_manifest(micro_engine), folder=folder)

    monkeypatch.setattr(to_onnx, '_write', write_graphs_with_other_masks)
    with pytest.raises(ExportError, match=r'do not give the masks .* in onnxruntime: .*0\.99'):
        export_engine(network, out)
    assert [path.name for path in tmp_path.iterdir()] == ['engine']
    load_manifest(out).verify_files()


def test_an_engine_is_replaced_and_other_folders_are_not(
    network: Network, micro_engine: Path, tmp_path: Path
) -> None:
    work = tmp_path / 'work'
    work.mkdir()
    (work / 'thesis.txt').write_text('precious')
    with pytest.raises(ExportError, match='exists and is not an engine folder'):
        export_engine(network, work)
    file = tmp_path / 'file'
    file.write_text('')
    with pytest.raises(ExportError, match='exists and is not an engine folder'):
        export_engine(network, file)
    with pytest.raises(ExportError, match='cannot be written'):
        export_engine(network, file / 'engine')

    out, part = tmp_path / 'engine', tmp_path / 'part'
    shutil.copytree(micro_engine, out)
    (out / 'stale').write_text('')
    shutil.copytree(micro_engine, part)
    to_onnx._put_in_place(part, out)
    assert not (out / 'stale').exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['engine', 'file', 'work']


def test_specifications_follow_the_sizes() -> None:
    memory = MemorySpec(1, 6, 15, 64, 256)
    specs = graph_specs(1024, 'fp16', memory)
    track = {tensor.name: tensor for tensor in specs['track'].inputs}
    assert track['memory_features'] == TensorSpec(
        'memory_features', 'float16', ('N', 7, 64, 64, 64), resident=True
    )
    assert track['pointer_time'] == TensorSpec('pointer_time', 'int32', ('N', 16))
    assert specs['prompt'].outputs[0] == TensorSpec('low_res_masks', 'float32', ('N', 256, 256))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / 'none.pt'
    assert main(['--checkpoint', str(missing), '--out', str(tmp_path / 'engine')]) == 1
    assert f'export.to_onnx: {missing}: no such checkpoint' in capsys.readouterr().err
    for mistake, message in (
        (['--random-weights', '0'], '--random-weights needs --variant'),
        (['--checkpoint', 'x', '--max-objects', '0'], 'at least 1'),
        (['--checkpoint', 'x', '--image-size', '300'], 'invalid choice'),
        ([], 'required'),
    ):
        with pytest.raises(SystemExit):
            main([*mistake, '--out', str(tmp_path / 'engine')])
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
