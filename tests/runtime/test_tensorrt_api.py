"""Every name that our code uses on a TensorRT object exists in every TensorRT that it is for.

tests/data/tensorrt_api.json lists the Python interfaces as the real packages have them. Our files
call a TensorRT object of a kind by one name, always, so that reading the source finds all uses.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

RUNTIME = Path(__file__).parents[2] / 'sam2_rt/runtime'
FILES = ('trt_library.py', 'compile_plan.py', 'trt_execution.py', 'trt.py')
API: dict[str, dict[str, list[str]]] = json.loads(
    (Path(__file__).parents[1] / 'data/tensorrt_api.json').read_text()
)
CLASS_OF = {
    'builder': 'Builder',
    'config': 'IBuilderConfig',
    'context': 'IExecutionContext',
    'engine': 'ICudaEngine',
    'layer': 'ILayer',
    'network': 'INetworkDefinition',
    'parser': 'OnnxParser',
    'problem': 'ParserError',
    'profile': 'IOptimizationProfile',
    'runtime': 'Runtime',
    'runtime_cache': 'IRuntimeCache',
    'runtime_config': 'IRuntimeConfig',
}
MODULE = ('trt', 'module')
V8, V10, V11, RTX = '8.6.0', '10.3.0 10.13.3.9 10.16.1.11', '11.0.0.114 11.4.0.106', 'rtx-1.7.1'
ABSENT = {
    # Named only where this version has it (hasattr, getattr, flags).
    'ICudaEngine.create_execution_context_without_device_memory': f'{V11} {RTX}',
    'ICudaEngine.device_memory_size_v2': V8,
    'ICudaEngine.device_memory_size': f'{V11} {RTX}',
    'IExecutionContext.set_device_memory': V8,
    'IExecutionContext.is_stream_capturable': f'{V8} {V10} {V11}',
    'BuilderFlag.REQUIRE_USER_ALLOCATION': f'{V8} {V10} {V11}',
    'NetworkDefinitionCreationFlag.EXPLICIT_BATCH': f'{V11} {RTX}',
    'NetworkDefinitionCreationFlag.STRONGLY_TYPED': V8,
    'IProgressMonitor': V8,
    'ParserError.node_name': V8,
    'ParserError.node_operator': V8,
    'IBuilderConfig.progress_monitor': V8,
    # Only for a TensorRT that does not take types from the graph, and that is 8.6.
    'BuilderFlag.FP16': f'{V11} {RTX}',
    'BuilderFlag.OBEY_PRECISION_CONSTRAINTS': f'{V11} {RTX}',
    'ILayer.precision': f'{V11} {RTX}',
    'PreviewFeature.PROFILE_SHARING_0806': f'{V11} {RTX}',
    # Only after create_execution_context_without_device_memory was not there.
    'ExecutionContextAllocationStrategy.USER_MANAGED': V8,
    # Only for TensorRT for RTX.
    'ComputeCapability.CURRENT': f'{V8} {V10} {V11}',
    'DynamicShapesKernelSpecializationStrategy.EAGER': f'{V8} {V10} {V11}',
    'IBuilderConfig.num_compute_capabilities': f'{V8} {V10} {V11}',
    'IBuilderConfig.set_compute_capability': f'{V8} {V10} {V11}',
    'ICudaEngine.create_runtime_config': f'{V8} 10.3.0',
    'IRuntimeConfig.create_runtime_cache': f'{V8} {V10} {V11}',
    'IRuntimeConfig.set_runtime_cache': f'{V8} {V10} {V11}',
    'IRuntimeCache.deserialize': f'{V8} {V10} {V11}',
    'IRuntimeCache.serialize': f'{V8} {V10} {V11}',
    'IRuntimeConfig.set_execution_context_allocation_strategy': f'{V8} 10.3.0',
    'IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy': f'{V8} {V10} {V11}',
}
"""Names that some versions lack, and which; why that does no harm."""


def _word(node: ast.expr) -> str:
    """The last word of an expression: `trt`, `self._context` -> 'context'."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr.lstrip('_') if isinstance(node, ast.Attribute) else ''


def _name(node: ast.expr) -> str:
    """The TensorRT name an expression stands for, as 'Class' or 'Class.member'; '' for none."""
    if not isinstance(node, ast.Attribute):
        return ''
    base = _word(node.value)
    if base in CLASS_OF:
        return f'{CLASS_OF[base]}.{node.attr}'
    if base in MODULE:
        return node.attr
    kind = _name(node.value)
    return f'{kind}.{node.attr}' if kind and '.' not in kind and kind[0].isupper() else ''


def _used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield _name(node)
        if isinstance(node, ast.Call) and _word(node.func) in ('hasattr', 'getattr', 'flags'):
            base, literals = node.args[0], node.args[1:]
            kind = CLASS_OF.get(_word(base)) or _name(base)
            for literal in literals:
                if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
                    yield f'{kind}.{literal.value}' if kind else literal.value


USED = sorted(
    {
        name
        for file in FILES
        for name in _used(ast.parse((RUNTIME / file).read_text()))
        if name and '__' not in name
    }
)
USED = [name for name in USED if not any(other.startswith(f'{name}.') for other in USED)]


def _present(name: str, version: str) -> bool:
    kind, _, member = name.partition('.')
    return kind in API[version] and (not member or member in API[version][kind])


@pytest.mark.parametrize('name', USED)
def test_name_exists_wherever_it_is_used(name: str) -> None:
    absent = [version for version in API if not _present(name, version)]
    expected = ABSENT.get(name, '').split()
    assert absent == expected
    assert len(absent) < len(API), f'{name} exists nowhere'


def test_the_list_of_absences_is_not_longer_than_needed() -> None:
    assert set(ABSENT) <= set(USED)


@pytest.mark.parametrize(
    'name',
    [
        'Builder.build_serialized_network',
        'ICudaEngine.get_tensor_shape',
        'IExecutionContext.execute_async_v3',
        'NetworkDefinitionCreationFlag.STRONGLY_TYPED',
        'OnnxParser.parse_from_file',
        'Runtime.deserialize_cuda_engine',
    ],
)
def test_reading_the_source_finds(name: str) -> None:
    assert name in USED
