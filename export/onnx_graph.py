"""One stage -> one ONNX graph: traced, simplified, checked; its weights shared in one file."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnxslim
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from torch import Tensor, nn

from export.errors import ExportError
from sam2_rt.runtime.manifest import GraphSpec, TensorSpec

OPSET = 17
"""The newest opset that every supported TensorRT (from 8.6), OpenVINO and ONNX Runtime reads."""

WEIGHTS_FILE = 'weights.bin'

FORBIDDEN_OPS = {
    'If': 'control flow',
    'Loop': 'control flow',
    'Scan': 'control flow',
    'NonZero': 'an output whose size depends on values',
    'Unique': 'an output whose size depends on values',
    'ScatterND': 'an indexed write',
    'ScatterElements': 'an indexed write',
    'SequenceConstruct': 'a sequence',
    'SplitToSequence': 'a sequence',
    'DFT': 'complex numbers',
    'Bernoulli': 'chance',
    'RandomNormalLike': 'chance',
    'RandomUniformLike': 'chance',
}
"""Operators that some target cannot run or cannot compile ahead, and why."""

_ALIGNMENT = 64  # bytes; lets a backend use mapped weights in place
_INLINE_BYTES = 1024  # smaller constants (shapes, scalars, biases) stay in the graph
_TRACED = {'N': 2, 'Q': 3}  # any lengths but 1, which would be taken for a broadcast


class _Stage(nn.Module):
    """A network's stage as the `forward` that the exporter wants."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network = network
        self.name = name

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(getattr(self.network, self.name)(*inputs))


def export_stage(network: nn.Module, name: str, spec: GraphSpec) -> onnx.ModelProto:
    """Traces one stage and simplifies it.

    Args:
        network: prepared for export, with a method called `name`.
        name: the stage.
        spec: its tensors, in the method's order.

    Raises:
        ExportError: the graph has an operator that a target cannot run, or other tensors.
    """
    tensors = (*spec.inputs, *spec.outputs)
    dynamic = {
        tensor.name: {index: axis for index, axis in enumerate(tensor.shape) if axis in _TRACED}
        for tensor in tensors
    }
    example = tuple(
        torch.zeros([_TRACED.get(axis, axis) for axis in x.shape], dtype=getattr(torch, x.dtype))
        for x in spec.inputs
    )
    buffer = io.BytesIO()
    with _quiet():
        torch.onnx.export(
            # The exporter puts back the mode it found: a wrapper left in training mode would hand
            # the network back with dropout on.
            _Stage(network, name).eval(),
            example,
            buffer,
            opset_version=OPSET,
            dynamo=False,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_axes={name: axes for name, axes in dynamic.items() if axes},
        )
        model = onnxslim.slim(onnx.load_from_string(buffer.getvalue()))
    _declare(model, spec)
    _check(model, name)
    return model


@contextmanager
def _quiet() -> Iterable[None]:
    """Silences the exporter's advice on itself and the tracer's notes on constants."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def _declare(model: onnx.ModelProto, spec: GraphSpec) -> None:
    """Declares exactly the specified tensors.

    An input that a stage does not use is dropped by the simplifier; it is declared all the same,
    so that all graphs are fed alike. Inferred inner shapes go: backends infer their own.
    """
    graph = model.graph
    found = {side: {x.name for x in getattr(graph, side)} for side in ('input', 'output')}
    wanted = {'input': spec.inputs, 'output': spec.outputs}
    for side, tensors in wanted.items():
        names = {tensor.name for tensor in tensors}
        if not found[side] <= names or (side == 'output' and found[side] != names):
            raise ExportError(
                f'{spec.file}: expected {side}s {sorted(names)}, got {sorted(found[side])}'
            )
        field = getattr(graph, side)
        del field[:]
        field.extend(_value_info(tensor) for tensor in tensors)
    del graph.value_info[:]


def _value_info(tensor: TensorSpec) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(tensor.name, dtype, tensor.shape)


def _check(model: onnx.ModelProto, name: str) -> None:
    for node in model.graph.node:
        if node.domain not in ('', 'ai.onnx'):
            raise ExportError(f'{name}: operator {node.domain}::{node.op_type} is not standard')
        if node.op_type in FORBIDDEN_OPS:
            raise ExportError(
                f'{name}: operator {node.op_type} ({FORBIDDEN_OPS[node.op_type]}) at '
                f'{node.name}: rewrite that part of the network without it'
            )


def operator_counts(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(node.op_type for node in model.graph.node)


def halve_weights(model: onnx.ModelProto) -> None:
    """Stores float32 weights as float16, cast back to float32 in the graph.

    Half the file; backends fold the cast when they load it, so the arithmetic stays float32.
    """
    graph = model.graph
    casts = []
    for initializer in graph.initializer:
        if initializer.data_type != TensorProto.FLOAT or not _is_weight(initializer):
            continue
        full = initializer.name
        half = numpy_helper.to_array(initializer).astype(np.float16)
        initializer.CopyFrom(numpy_helper.from_array(half, full + '_half'))
        casts.append(helper.make_node('Cast', [full + '_half'], [full], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _is_weight(initializer: TensorProto) -> bool:
    floating = initializer.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
    return floating and numpy_helper.to_array(initializer).nbytes >= _INLINE_BYTES


class WeightFile:
    """The weights of all graphs in one file, equal ones stored once.

    Args:
        path: where it is written; ONNX finds it by its name, in the graphs' folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open('wb')
        self._offsets: dict[bytes, int] = {}

    def take(self, model: onnx.ModelProto) -> None:
        """Moves a graph's weights into the file."""
        for initializer in model.graph.initializer:
            if _is_weight(initializer):
                data = numpy_helper.to_array(initializer).tobytes()
                external_data_helper.set_external_data(
                    initializer, self.path.name, self._offset(data), len(data)
                )
                for field in ('raw_data', 'float_data', 'int32_data'):
                    initializer.ClearField(field)

    def _offset(self, data: bytes) -> int:
        digest = hashlib.sha256(data).digest()
        if digest not in self._offsets:
            self._file.write(b'\0' * (-self._file.tell() % _ALIGNMENT))
            self._offsets[digest] = self._file.tell()
            self._file.write(data)
        return self._offsets[digest]

    def close(self) -> None:
        self._file.close()
