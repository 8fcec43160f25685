"""Precision policies: which arithmetic a plan uses, written into the graph that is compiled.

TensorRT takes precision from the types in a graph, so a policy is a rewriting of the graph. An
fp16 plan of which the masks are wrong (fused attention has been seen to do that) is followed by
one that computes attention in fp32, and that by one that does everything in fp32; inputs and
outputs keep their types, so that nothing else notices.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sam2_rt.errors import BackendError, EngineError

POLICIES: dict[str, tuple[str, ...]] = {
    'fp16': ('fp16', 'fp16_fp32_attention', 'fp32'),
    'fp32': ('tf32', 'fp32'),
}
"""Policies to try, fastest first, by the precision of the engine's graphs. tf32 is fp32 of which
the matrix products may round their operands to ten bits."""

# ONNX's TensorProto.DataType, an open standard's constants.
_FLOAT, _HALF = 1, 10
# What may lie between an attention's softmax and its two products.
_BETWEEN = frozenset({'Add', 'Sub', 'Mul', 'Div', 'Cast', 'Where', 'Identity', 'Reshape'})


def rewrite(model: Path, policy: str, scratch: Path) -> Path:
    """The graph to compile under a policy.

    Args:
        model: the exported ONNX file.
        policy: one of POLICIES.
        scratch: an empty folder that outlives the use of the result.

    Returns:
        The file itself if it can be compiled as it is, else a rewritten one in `scratch`.

    Raises:
        EngineError: the file is not an ONNX graph, its weights are missing, or it has subgraphs.
        BackendError: the onnx package is needed and not installed.
    """
    if policy == 'fp16':
        return model
    if policy in ('tf32', 'fp32') and _HALF not in _types(_load(model, weights=False)).values():
        return model
    proto = _load(model, weights=True)
    if policy == 'fp16_fp32_attention':
        _widen_attention(proto)
    else:
        _widen_all(proto)
    rewritten = scratch / model.name
    _onnx().save(
        proto, str(rewritten), save_as_external_data=True, location=f'{model.stem}.weights'
    )
    return rewritten


def half_islands(model: Path, policy: str) -> set[str]:
    """Names of the nodes that compute in fp32 under an fp16 policy, for a TensorRT that does not
    take types from the graph.
    """
    proto = _load(model, weights=False)
    if policy == 'fp16_fp32_attention':
        _widen_attention(proto)
    types = _types(proto)
    return {node.name for node in proto.graph.node if types.get(node.output[0]) == _FLOAT}


def _onnx() -> Any:
    try:
        return importlib.import_module('onnx')
    except ImportError as error:
        raise BackendError(
            f'onnx cannot be imported ({error}); another precision policy needs it: pip install '
            "'sam2_rt[tensorrt]'"
        ) from error


def _load(model: Path, *, weights: bool) -> Any:
    onnx = _onnx()
    try:
        proto = onnx.load(str(model), load_external_data=weights)
    except Exception as error:  # protobuf's own exception type differs between its versions
        raise EngineError(
            f'{model}: not a whole ONNX graph ({error}); copy the whole engine folder again'
        ) from error
    nested = {n.op_type for n in proto.graph.node for a in n.attribute if a.HasField('g')}
    if nested:
        raise EngineError(
            f'{model}: expected a graph without control flow, got {sorted(nested)}; export the '
            'engine again'
        )
    return proto


def _types(proto: Any) -> dict[str, int]:
    """Element type of every tensor, by name."""
    inferred = _onnx().shape_inference.infer_shapes(proto).graph
    types = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for values in (inferred.input, inferred.output, inferred.value_info):
        types.update({value.name: value.type.tensor_type.elem_type for value in values})
    return types


class _Casts:
    """Adds Cast nodes in front of or behind the nodes of a graph."""

    def __init__(self, proto: Any) -> None:
        self._make_node = _onnx().helper.make_node
        self._nodes: list[Any] = []
        self._made: dict[tuple[str, int], str] = {}
        self._graph = proto.graph

    def cast(self, name: str, kind: int, result: str = '') -> str:
        """A tensor's value as another type; made once."""
        if not result and self.known(name, kind):
            return self.known(name, kind)
        result = result or f'{name}__as_{kind}'
        self._nodes.append(
            self._make_node('Cast', [name], [result], name=f'{result}__cast', to=kind)
        )
        self._made[name, kind] = result
        return result

    def known(self, name: str, kind: int) -> str:
        """The tensor's value as that type where there is one already, else ''."""
        return self._made.get((name, kind), '')

    def remember(self, name: str, kind: int, same: str) -> None:
        """Says that `same` is the tensor's value as that type, before it was rounded."""
        self._made[name, kind] = same

    def add(self, node: Any) -> None:
        self._nodes.append(node)

    def finish(self) -> None:
        """Puts the new list of nodes in place."""
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        # They name types that may have changed, and nothing needs them.
        del self._graph.value_info[:]


def _widen_attention(proto: Any) -> None:
    """Computes every attention in fp32, from its first product to its second."""
    types = _types(proto)
    wide = _attention_nodes(list(proto.graph.node))
    casts = _Casts(proto)
    for node in list(proto.graph.node):
        source, output = node.input[0] if node.input else '', node.output[0]
        if output not in wide:
            casts.add(node)
        elif node.op_type == 'Cast':
            if types.get(output) == _FLOAT:
                node.input[0] = casts.known(source, _FLOAT) or source
            elif types.get(source) == _FLOAT:
                casts.remember(output, _FLOAT, source)
            casts.add(node)
        else:
            for index, name in enumerate(node.input):
                if types.get(name) == _HALF:
                    node.input[index] = casts.cast(name, _FLOAT)
            casts.add(node)
            if types.get(output) == _HALF:
                node.output[0] = f'{output}__wide'
                casts.cast(node.output[0], _HALF, output)
                casts.remember(output, _FLOAT, node.output[0])
    casts.finish()


def _attention_nodes(nodes: Sequence[Any]) -> set[str]:
    """Nodes of every attention, by first output: two products, a softmax, what lies between."""
    maker = {name: node for node in nodes for name in node.output}
    users: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            users.setdefault(name, []).append(node)

    found: set[str] = set()

    def search(frontier: list[Any], forward: bool) -> None:
        seen: set[str] = set()
        while frontier:
            node = frontier.pop()
            if node.output[0] in seen or node.op_type not in _BETWEEN | {'MatMul'}:
                continue
            seen.add(node.output[0])
            found.add(node.output[0])
            if node.op_type == 'MatMul':
                continue
            if forward:
                frontier += [user for name in node.output for user in users.get(name, [])]
            else:
                frontier += [maker[name] for name in node.input if name in maker]

    for node in nodes:
        if node.op_type in ('Attention', 'Softmax'):
            found.add(node.output[0])
        if node.op_type == 'Softmax':
            search([maker[name] for name in node.input if name in maker], forward=False)
            search(list(users.get(node.output[0], [])), forward=True)
    return found


def _widen_all(proto: Any) -> None:
    """Computes everything in fp32; inputs and outputs keep their types.

    Weights that an fp32 graph stores as fp16 become fp32 where they lie, without the Cast behind
    them: older TensorRT takes only constants as a convolution's weights.
    """
    graph = proto.graph
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == _FLOAT}
    same: dict[str, str] = {}
    half_inputs, half_outputs = (
        {value.name for value in values if value.type.tensor_type.elem_type == _HALF}
        for values in (graph.input, graph.output)
    )
    casts = _Casts(proto)
    for node in list(graph.node):
        if node.op_type == 'Cast' and node.input[0] in weights:
            same[node.output[0]] = node.input[0]
            continue
        for attribute in node.attribute:
            if node.op_type == 'Cast' and attribute.name == 'to' and attribute.i == _HALF:
                attribute.i = _FLOAT
            elif attribute.HasField('t'):
                _widen_tensor(attribute.t)
        for index, name in enumerate(node.input):
            if name in same:
                node.input[index] = same[name]
            elif name in half_inputs:
                node.input[index] = casts.cast(name, _FLOAT)
            elif name in half_outputs:
                node.input[index] = f'{name}__wide'
        made = [(index, name) for index, name in enumerate(node.output) if name in half_outputs]
        for index, name in made:
            node.output[index] = f'{name}__wide'
        casts.add(node)
        for index, name in made:
            casts.cast(node.output[index], _HALF, name)
    casts.finish()


def _widen_tensor(tensor: Any) -> None:
    if tensor.data_type == _HALF:
        value = _onnx().numpy_helper.to_array(tensor).astype('float32')
        tensor.CopyFrom(_onnx().numpy_helper.from_array(value, tensor.name))
