"""Builds small ONNX graphs by hand: arithmetic on a Value adds nodes to its Graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam2_rt.runtime.manifest import TensorSpec

onnx = pytest.importorskip('onnx', reason='these tests build their graphs: pip install onnx')
helper, numpy_helper = onnx.helper, onnx.numpy_helper


class Value:
    """A tensor of a graph under construction. Comparisons give 1.0 or 0.0."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def __add__(self, other: Any) -> Value:
        return self.graph.op('Add', self, other)

    def __sub__(self, other: Any) -> Value:
        return self.graph.op('Sub', self, other)

    def __rsub__(self, other: Any) -> Value:
        return self.graph.op('Sub', other, self)

    def __mul__(self, other: Any) -> Value:
        return self.graph.op('Mul', self, other)

    def __truediv__(self, other: Any) -> Value:
        return self.graph.op('Div', self, other)

    def __gt__(self, other: Any) -> Value:
        return self.graph.op('Greater', self, other).cast(onnx.TensorProto.FLOAT)

    def __le__(self, other: Any) -> Value:
        return self.graph.op('LessOrEqual', self, other).cast(onnx.TensorProto.FLOAT)

    def equals(self, other: int) -> Value:
        return self.graph.op('Equal', self, np.int32(other)).cast(onnx.TensorProto.FLOAT)

    def choose(self, yes: Any, no: Any) -> Value:
        """`yes` where this is not 0, else `no`."""
        return self.graph.op('Where', self.cast(onnx.TensorProto.BOOL), yes, no)

    def cast(self, to: int) -> Value:
        return self.graph.op('Cast', self, to=to)

    def float(self) -> Value:
        return self.cast(onnx.TensorProto.FLOAT)

    def abs(self) -> Value:
        return self.graph.op('Abs', self)

    def sum(self, *axes: int) -> Value:
        return self.graph.op('ReduceSum', self, np.asarray(axes), keepdims=0)

    def mean(self, *axes: int) -> Value:
        return self.graph.op('ReduceMean', self, axes=axes, keepdims=0)

    def max(self, *axes: int) -> Value:
        return self.graph.op('ReduceMax', self, axes=axes, keepdims=0)

    def expand(self, *axes: int) -> Value:
        """Inserts axes of length 1."""
        return self.graph.op('Unsqueeze', self, np.asarray(axes))

    def part(self, start: int, stop: int, axis: int) -> Value:
        """Entries start..stop-1 of an axis."""
        return self.graph.op('Slice', self, *(np.asarray([x]) for x in (start, stop, axis)))

    def pool(self, side: int) -> Value:
        """Means of side x side entries of the last two axes of (N, C, H, W)."""
        return self.graph.op('AveragePool', self, kernel_shape=(side, side), strides=(side, side))

    def pad_channels(self, by: int, rank: int) -> Value:
        """Zeros appended to axis 1."""
        ends = np.zeros(2 * rank, np.int64)
        ends[rank + 1] = by
        return self.graph.op('Pad', self, ends)


class Graph:
    """An ONNX graph under construction; arrays and numbers given to `op` become constants."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self.specs = inputs
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self.inputs = {tensor.name: Value(self, tensor.name) for tensor in inputs}

    def op(self, kind: str, *inputs: Any, **attributes: Any) -> Value:
        """Adds a node; returns its output."""
        names = [x.name if isinstance(x, Value) else self._constant(x) for x in inputs]
        name = f'{kind}_{len(self._nodes)}'
        self._nodes.append(helper.make_node(kind, names, [name], **attributes))
        return Value(self, name)

    def _constant(self, value: Any) -> str:
        array = np.asarray(value, np.float32 if isinstance(value, float) else None)
        name = f'constant_{len(self._constants)}'
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def save(self, path: Path, outputs: Sequence[TensorSpec], values: Mapping[str, Value]) -> None:
        """Checks the graph and writes it; `values` become the outputs of their names."""
        ends = [helper.make_node('Identity', [values[x.name].name], [x.name]) for x in outputs]
        graph = helper.make_graph(
            self._nodes + ends, 'graph', _infos(self.specs), _infos(outputs), self._constants
        )
        opset = helper.make_opsetid('', 17)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


def _infos(tensors: Sequence[TensorSpec]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(
            tensor.name, helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), tensor.shape
        )
        for tensor in tensors
    ]
