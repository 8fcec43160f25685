"""Precision policies: rewritten graphs compute what they should, in what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sam2_rt.errors import BackendError, EngineError
from sam2_rt.runtime import precision
from sam2_rt.runtime.precision import half_islands, rewrite

onnx = pytest.importorskip('onnx', reason='policies rewrite ONNX graphs: pip install onnx')
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

TOKENS, WIDTH = 6, 8


def attention(path: Path, *, external: bool = False) -> Path:
    """An fp16 graph: layer norm in fp32, attention with softmax in fp32, a product after it.

    Its first product overflows fp16 before the scale brings it back: 300 * 300 * 8 / 1000.
    """
    half = np.float16
    rng = np.random.default_rng(0)
    weights = {
        'gain': np.ones(WIDTH, np.float32),
        'shift': np.zeros(WIDTH, np.float32),
        'scale': np.asarray(1e-3, half),
        'bias': np.asarray(0.25, half),
        'out': rng.normal(size=(WIDTH, WIDTH)).astype(half),
    }
    float_, half_ = TensorProto.FLOAT, TensorProto.FLOAT16

    def cast(source: str, to: int, result: str) -> onnx.NodeProto:
        return helper.make_node('Cast', [source], [result], to=to, name=f'{result}_node')

    def node(kind: str, inputs: str, result: str, **more: object) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [result], name=f'{result}_node', **more)

    nodes = [
        cast('x', float_, 'x32'),
        node('LayerNormalization', 'x32 gain shift', 'n32', axis=-1, epsilon=1e-6),
        cast('n32', half_, 'n'),
        node('Transpose', 'k', 'kt', perm=(0, 2, 1)),
        node('MatMul', 'x kt', 'product'),
        node('Mul', 'product scale', 'scaled'),
        cast('scaled', float_, 'scaled32'),
        node('Softmax', 'scaled32', 'p32', axis=-1),
        cast('p32', half_, 'p'),
        node('MatMul', 'p n', 'mixed'),
        node('Add', 'mixed bias', 'biased'),
        node('MatMul', 'biased out', 'y'),
    ]
    shape = ['N', TOKENS, WIDTH]
    graph = helper.make_graph(
        nodes,
        'attention',
        [helper.make_tensor_value_info(name, half_, shape) for name in ('x', 'k')],
        [helper.make_tensor_value_info('y', half_, shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(
        model, path, save_as_external_data=external, location='weights.bin', size_threshold=0
    )
    return path


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    x = 300 * rng.choice([-1, 1], size=(2, TOKENS, WIDTH))
    return {'x': x.astype(np.float16), 'k': x.astype(np.float16)}


def expected() -> np.ndarray:
    """The same in float64."""
    x, k = (value.astype(np.float64) for value in inputs().values())
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    scaled = x @ k.transpose(0, 2, 1) * 1e-3
    weights = np.exp(scaled - scaled.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    rng = np.random.default_rng(0)
    out = rng.normal(size=(WIDTH, WIDTH)).astype(np.float16).astype(np.float64)
    return np.asarray((weights @ normal + 0.25) @ out)


def run(model: Path) -> np.ndarray:
    """Evaluates node by node, each in its own type, which no optimising runtime does."""
    with np.errstate(all='ignore'):
        return np.asarray(ReferenceEvaluator(str(model)).run(None, inputs())[0])


def types(model: Path) -> dict[str, int]:
    """Element type of each node's output."""
    found = onnx.shape_inference.infer_shapes(onnx.load(str(model))).graph
    known = {value.name: value.type.tensor_type.elem_type for value in found.value_info}
    known |= {value.name: value.type.tensor_type.elem_type for value in found.output}
    return {node.op_type + ':' + node.name: known[node.output[0]] for node in found.node}


@pytest.fixture(params=[False, True], ids=['inline', 'external'])
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return attention(tmp_path / 'track.onnx', external=request.param)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / 'scratch'
    folder.mkdir()
    return folder


def test_the_graph_as_exported_is_wrong(model: Path, scratch: Path) -> None:
    assert rewrite(model, 'fp16', scratch) == model
    assert not np.isfinite(run(model)).all()


@pytest.mark.parametrize('policy', ['fp16_fp32_attention', 'fp32'])
def test_a_wider_policy_mends_it(model: Path, scratch: Path, policy: str) -> None:
    rewritten = rewrite(model, policy, scratch)
    onnx.checker.check_model(str(rewritten), full_check=True)
    result = run(rewritten)
    assert result.dtype == np.float16
    np.testing.assert_allclose(result, expected(), rtol=5e-3, atol=5e-3)


def test_only_the_attention_is_widened(model: Path, scratch: Path) -> None:
    found = types(rewrite(model, 'fp16_fp32_attention', scratch))
    half, wide = TensorProto.FLOAT16, TensorProto.FLOAT
    assert found['MatMul:product_node'] == wide
    assert found['Mul:scaled_node'] == wide
    assert found['MatMul:mixed_node'] == wide
    assert found['Add:biased_node'] == half
    assert found['MatMul:y_node'] == half
    assert found['Transpose:kt_node'] == half


def test_everything_is_widened_between_input_and_output(model: Path, scratch: Path) -> None:
    rewritten = rewrite(model, 'fp32', scratch)
    found = types(rewritten)
    halves = [name for name, kind in found.items() if kind == TensorProto.FLOAT16]
    assert halves == ['Cast:y__cast']
    stored = onnx.load(str(rewritten)).graph.initializer
    assert {tensor.data_type for tensor in stored} == {TensorProto.FLOAT}


def test_a_graph_in_fp32_is_compiled_as_it_is(tiny_engine: Path, scratch: Path) -> None:
    for policy in ('tf32', 'fp32'):
        model = tiny_engine / 'track.onnx'
        assert rewrite(model, policy, scratch) == model


def test_weights_stored_in_half_become_constants_again(tmp_path: Path, scratch: Path) -> None:
    """As `export.to_onnx --weights fp16` stores them: an fp32 graph with a Cast behind each."""
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float16)
    graph = helper.make_graph(
        [
            helper.make_node('Cast', ['kernel_half'], ['kernel'], to=TensorProto.FLOAT),
            helper.make_node('Conv', ['x', 'kernel'], ['y']),
        ],
        'convolution',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info('y', TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(kernel, 'kernel_half')],
    )
    opset = [helper.make_opsetid('', 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / 'e.onnx')
    for policy in ('tf32', 'fp32'):
        rewritten = onnx.load(str(rewrite(tmp_path / 'e.onnx', policy, scratch)))
        onnx.checker.check_model(rewritten, full_check=True)
        assert [node.op_type for node in rewritten.graph.node] == ['Conv']
        np.testing.assert_array_equal(
            numpy_helper.to_array(rewritten.graph.initializer[0]), kernel.astype(np.float32)
        )


def test_islands_for_a_tensorrt_that_ignores_types(model: Path) -> None:
    assert half_islands(model, 'fp16') == {
        'x32_node', 'n32_node', 'scaled32_node', 'p32_node',
    }  # fmt: skip
    wider = half_islands(model, 'fp16_fp32_attention')
    assert {'product_node', 'scaled_node', 'mixed_node'} < wider
    assert 'y_node' not in wider


def test_missing_weights(tmp_path: Path, scratch: Path) -> None:
    model = attention(tmp_path / 'track.onnx', external=True)
    (tmp_path / 'weights.bin').unlink()
    with pytest.raises(EngineError, match='not a whole ONNX graph'):
        rewrite(model, 'fp32', scratch)


def test_not_a_graph(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / 'track.onnx').write_bytes(b'\x00\xff' * 40)
    with pytest.raises(EngineError, match='copy the whole engine folder'):
        rewrite(tmp_path / 'track.onnx', 'fp32', scratch)


def test_control_flow_is_refused(tmp_path: Path, scratch: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node('Identity', ['x'], ['b'])],
        'branch',
        [],
        [helper.make_tensor_value_info('b', TensorProto.FLOAT16, [1])],
    )
    graph = helper.make_graph(
        [helper.make_node('If', ['c'], ['y'], then_branch=branch, else_branch=branch)],
        'flow',
        [
            helper.make_tensor_value_info('c', TensorProto.BOOL, []),
            helper.make_tensor_value_info('x', TensorProto.FLOAT16, [1]),
        ],
        [helper.make_tensor_value_info('y', TensorProto.FLOAT16, [1])],
    )
    onnx.save(helper.make_model(graph), tmp_path / 'track.onnx')
    with pytest.raises(EngineError, match=r"control flow, got \['If'\]"):
        rewrite(tmp_path / 'track.onnx', 'fp32', scratch)


def test_without_the_onnx_package(
    model: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(f'No module named {name!r}')

    monkeypatch.setattr(precision.importlib, 'import_module', missing)
    assert rewrite(model, 'fp16', scratch) == model
    with pytest.raises(BackendError, match=r"pip install 'sam2_rt\[tensorrt\]'"):
        rewrite(model, 'fp32', scratch)
