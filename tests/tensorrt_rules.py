"""What a graph must be so that every TensorRT from 8.6 on reads it, as far as that can be told
without one: 8.6 cannot even start on a machine without a GPU.

From the operator tables and change logs of onnx-tensorrt, the parser in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

OPSETS = {'8.6': (9, 17), '10.0': (9, 20), '10.15': (9, 24), '11.0': (9, 25)}
"""TensorRT -> the opsets it reads, as far as known; those between are no narrower."""

_SINCE_8_4 = """
    Abs Add And ArgMax Cast Clip Concat ConstantOfShape Conv ConvTranspose Cos Div Equal Erf Exp
    Expand Flatten Gather Gemm Greater GreaterOrEqual Identity Less LessOrEqual Log MatMul Max
    MaxPool Min Mul Neg Not Or Pad Pow ReduceMax ReduceMean ReduceSum Relu Reshape Resize Shape
    Sigmoid Sin Slice Softmax Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze Where
"""
OPERATORS = {**dict.fromkeys(_SINCE_8_4.split(), '8.4'), 'LayerNormalization': '8.6'}
"""Operators that may be used -> the first TensorRT that reads them."""

CONSTANT_INPUTS = {
    'Conv': (1,),
    'ConvTranspose': (1,),
    'LayerNormalization': (1, 2),
    'Pad': (1,),
    'Slice': (3,),
    'Squeeze': (1,),
    'Unsqueeze': (1,),
}
"""Inputs that TensorRT 8 wants as constants, by position."""


def problems(model: onnx.ModelProto) -> Iterator[str]:
    """What some TensorRT would refuse in a graph."""
    for opset in model.opset_import:
        if opset.domain not in ('', 'ai.onnx'):
            yield f'operators of {opset.domain}, which no TensorRT has'
            continue
        for version, (least, most) in OPSETS.items():
            if not least <= opset.version <= most:
                yield f'opset {opset.version}; TensorRT {version} reads {least} to {most}'
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == 'Constant'}
    bytes_in = {
        value.name
        for value in graph.input
        if value.type.tensor_type.elem_type == TensorProto.UINT8
    }
    for node in graph.node:
        if node.op_type not in (*OPERATORS, 'Constant'):
            yield f'operator {node.op_type}, which is not in the list of allowed ones'
        if node.op_type != 'Cast' and bytes_in & set(node.input):
            yield f'{node.op_type} of a uint8 input; TensorRT can only cast it'
        for position in CONSTANT_INPUTS.get(node.op_type, ()):
            name = node.input[position] if position < len(node.input) else ''
            if name and name not in constants:
                yield f'{node.op_type} {node.name}: input {position} is not a constant'
