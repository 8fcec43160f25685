"""The bundled engine is one that every TensorRT reads; and the rules notice what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam2_rt.runtime.manifest import GRAPH_NAMES, load_manifest

onnx = pytest.importorskip('onnx', reason='the rules read ONNX graphs: pip install onnx')
from onnx import TensorProto, helper  # noqa: E402

from sam2_rt.runtime.precision import rewrite  # noqa: E402
from tests.tensorrt_rules import problems  # noqa: E402

BUNDLED = Path(__file__).parents[2] / 'engines/micro'


@pytest.mark.parametrize('graph', GRAPH_NAMES)
def test_bundled_engine(graph: str, tmp_path: Path) -> None:
    # As a plan is built of it: its weights are stored as fp16, and rewritten as constants first.
    rewritten = rewrite(load_manifest(BUNDLED).path(graph), 'fp32', tmp_path)
    assert list(problems(onnx.load(rewritten, load_external_data=False))) == []


@pytest.mark.parametrize(
    ('node', 'opset', 'expected'),
    [
        (('Transpose', ['b'], ['y']), 17, 'Transpose of a uint8 input; TensorRT can only cast it'),
        (
            ('Unique', ['x'], ['y']),
            17,
            'operator Unique, which is not in the list of allowed ones',
        ),
        (('Conv', ['x', 'x'], ['y']), 17, 'Conv : input 1 is not a constant'),
        (('Relu', ['x'], ['y']), 18, 'opset 18; TensorRT 8.6 reads 9 to 17'),
    ],
)
def test_what_some_tensorrt_refuses(
    node: tuple[str, list[str], list[str]], opset: int, expected: str
) -> None:
    graph = helper.make_graph(
        [helper.make_node(*node)],
        'graph',
        [
            helper.make_tensor_value_info('x', TensorProto.FLOAT, [1, 1, 4, 4]),
            helper.make_tensor_value_info('b', TensorProto.UINT8, [1, 4, 4, 3]),
        ],
        [helper.make_tensor_value_info('y', TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)])
    assert list(problems(model)) == [expected]
    model.opset_import.append(helper.make_opsetid('com.microsoft', 1))
    assert 'operators of com.microsoft, which no TensorRT has' in problems(model)
