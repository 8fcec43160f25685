"""Engine folders with one small graph, for tests of the runners alone."""

from pathlib import Path

import numpy as np

from sam2_rt.runtime.manifest import GraphSpec, Manifest, MemorySpec, TensorSpec
from tests.onnx_builder import Graph

A = TensorSpec('a', 'float32', ('N', 3))
B = TensorSpec('b', 'int32', (1, 3))
SUM = TensorSpec('sum', 'float32', ('N', 3))
TWICE = TensorSpec('twice', 'float32', ('N', 3))


def add_engine(folder: Path, spec: GraphSpec | None = None) -> Manifest:
    """An engine whose one graph, `add`, gives sum = a + b and twice = 2 a.

    Args:
        folder: where add.onnx goes.
        spec: what the manifest says instead of the truth.
    """
    graph = Graph([A, B])
    a, b = graph.inputs['a'], graph.inputs['b']
    graph.save(folder / 'add.onnx', [SUM, TWICE], {'sum': a + b.float(), 'twice': a * 2.0})
    return _manifest(folder, 'add', spec or GraphSpec('add.onnx', (A, B), (SUM, TWICE)))


def cut_engine(folder: Path) -> Manifest:
    """An engine whose graph, `cut`, returns the first `count` columns, not 3 as it should."""
    count = TensorSpec('count', 'int32', (1,))
    graph = Graph([A, count])
    zero, axis = np.asarray([0]), np.asarray([1])
    end = graph.inputs['count'].cast(7)  # INT64
    columns = graph.op('Slice', graph.inputs['a'], zero, end, axis)
    loose = TensorSpec('columns', 'float32', ('N', 'Q'))
    graph.save(folder / 'cut.onnx', [loose], {'columns': columns})
    promised = TensorSpec('columns', 'float32', ('N', 3))
    return _manifest(folder, 'cut', GraphSpec('cut.onnx', (A, count), (promised,)))


def _manifest(folder: Path, name: str, spec: GraphSpec) -> Manifest:
    return Manifest(
        folder=folder,
        variant='one graph',
        image_size=64,
        precision='fp32',
        max_objects=2,
        trained=False,
        memory=MemorySpec(2, 6, 15, 8, 32),
        graphs={name: spec},
        files={},
    )


def product_engine(folder: Path) -> Manifest:
    """An engine whose graph, `product`, multiplies 768 x 768 matrices: work for every thread."""
    matrix = TensorSpec('matrix', 'float32', (768, 768))
    graph = Graph([matrix])
    value = graph.inputs['matrix']
    result = TensorSpec('result', 'float32', (768, 768))
    graph.save(folder / 'product.onnx', [result], {'result': graph.op('MatMul', value, value)})
    return _manifest(folder, 'product', GraphSpec('product.onnx', (matrix,), (result,)))
