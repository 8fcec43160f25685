"""HostRunner: what the runners have in common whose tensors are NumPy arrays in host memory."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2_rt.errors import BackendError, EngineError
from sam2_rt.runtime.base import Runner
from sam2_rt.runtime.manifest import GraphSpec, Manifest, TensorSpec

HostArrays = Mapping[str, NDArray[Any]]

Execute = Callable[[HostArrays, HostArrays], None]
"""Runs a loaded graph: reads the inputs and overwrites every element of the outputs, by name."""

Signature = Mapping[str, tuple[str, tuple[int | None, ...]]]
"""What a backend found in an ONNX file: name -> (dtype, shape), None for a dynamic axis."""


class HostRunner(Runner):
    """Runs graphs on NumPy arrays, without copying them in or out.

    A graph is loaded when it first runs (`warm_up` runs all), because a process that only segments
    images needs half of them. Every run writes into outputs that it allocates: they are the
    caller's, and a later run leaves them alone.
    """

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        self._loaded: dict[str, Execute] = {}
        self._closed = False

    def allocate(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        return np.zeros(shape, dtype)

    def copy(self, destination: NDArray[Any], source: NDArray[Any]) -> None:
        if destination.shape != source.shape or destination.dtype != source.dtype:
            raise BackendError(
                f'copy: expected {destination.shape} {destination.dtype}, '
                f'got {source.shape} {source.dtype}'
            )
        destination[...] = source

    @abstractmethod
    def _load(self, graph: str) -> Execute:
        """Opens a graph's ONNX file and checks it with `check_signature`.

        Raises:
            EngineError: the file is not a whole ONNX graph, or not the one the manifest describes.
            BackendError: the backend cannot run it as asked.
        """

    def _run(self, graph: str, inputs: HostArrays) -> dict[str, NDArray[Any]]:
        if self._closed:
            raise BackendError(f'graph {graph}: the runner is closed; open another one')
        if graph not in self._loaded:
            self._loaded[graph] = self._load(graph)
        spec = self.manifest.graphs[graph]
        outputs = allocate_outputs(spec, inputs)
        try:
            # C order is the only one backends read in place; OpenVINO wants its inputs writeable.
            ready = {name: np.require(x, requirements=('C', 'W')) for name, x in inputs.items()}
            self._loaded[graph](ready, outputs)
        except BackendError:
            raise
        except Exception as error:  # the backends' own types have no common base but this one
            raise BackendError(
                f'graph {graph} failed in {self.info.backend} {self.info.version}: {error}'
            ) from error
        return outputs

    def close(self) -> None:
        self._loaded.clear()
        self._closed = True


def allocate_outputs(spec: GraphSpec, inputs: HostArrays) -> dict[str, NDArray[Any]]:
    """Uninitialised arrays for a graph's outputs, sized by the dynamic axes of its inputs."""
    axes = {
        axis: length
        for tensor in spec.inputs
        for axis, length in zip(tensor.shape, inputs[tensor.name].shape, strict=True)
        if isinstance(axis, str)
    }
    return {
        tensor.name: np.empty(
            [axes[axis] if isinstance(axis, str) else axis for axis in tensor.shape], tensor.dtype
        )
        for tensor in spec.outputs
    }


def check_signature(path: Path, spec: GraphSpec, inputs: Signature, outputs: Signature) -> None:
    """Compares an ONNX file with what the manifest says about it.

    Raises:
        EngineError: naming the file and the first tensor that differs.
    """
    for side, expected, found in (
        ('input', spec.inputs, inputs),
        ('output', spec.outputs, outputs),
    ):
        names = {tensor.name for tensor in expected}
        if names != set(found):
            raise EngineError(
                f'{path}: the manifest lists {side}s {sorted(names)}, the file has '
                f'{sorted(found)}; export the engine again'
            )
        for tensor in expected:
            if not _fits(tensor, *found[tensor.name]):
                raise EngineError(
                    f'{path}: the manifest says {side} {tensor.name} is {tensor.dtype} '
                    f'{tensor.shape}, the file has {found[tensor.name]}; export the engine again'
                )


def _fits(tensor: TensorSpec, dtype: str, shape: tuple[int | None, ...]) -> bool:
    return (
        tensor.dtype == dtype
        and len(tensor.shape) == len(shape)
        and all(length in (None, axis) for axis, length in zip(tensor.shape, shape, strict=True))
    )


def import_backend(module: str, extra: str) -> Any:
    """Imports a backend's package, which is optional.

    Raises:
        BackendError: it is not installed or does not load; says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendError(
            f'{module} cannot be imported ({error}); install it with '
            f"pip install '{extra}', or choose another backend"
        ) from error
