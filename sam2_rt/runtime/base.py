"""Runner: one small interface in front of every backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from sam2_rt.errors import BackendError
from sam2_rt.runtime.manifest import GraphSpec, Manifest
from sam2_rt.types import Array


@dataclass(frozen=True)
class RunnerInfo:
    """What runs the graphs: for logs, diagnostics and benchmark tables."""

    backend: str
    device: str
    precision: str
    version: str


class Runner(ABC):
    """Executes the graphs of one engine folder.

    `run` checks names, dtypes and shapes against the manifest, then calls the backend's `_run`.
    Outputs belong to the caller and stay valid until dropped. Outputs that the manifest calls
    resident, and buffers from `allocate`, live where the engine runs and are passed on as they
    are; all others are NumPy arrays. A runner is used from one thread at a time, but for `upload`.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    @property
    @abstractmethod
    def info(self) -> RunnerInfo:
        """Backend, device and precision in use."""

    @abstractmethod
    def allocate(self, shape: tuple[int, ...], dtype: str) -> Array:
        """A zeroed resident buffer."""

    @abstractmethod
    def copy(self, destination: Array, source: Array) -> None:
        """Copies between resident arrays (or views on their leading axes) of equal shape."""

    def upload(self, image: NDArray[np.uint8]) -> Array:
        """Starts to bring an image to where `encode` will read it; give `run` what it returns.

        One other thread may do so for the next frame while this one's graphs run. Here the image
        is there already.

        Args:
            image: (1, S, S, 3) uint8 RGB; it must not change afterwards.
        """
        return image

    @property
    def max_points(self) -> int | None:
        """Most points `prompt` takes for one object, box corners counted; None for no limit."""
        return None

    @abstractmethod
    def _run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Executes a graph; inputs are complete and checked."""

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Executes a graph.

        Args:
            graph: one of manifest.GRAPH_NAMES.
            inputs: every input of that graph, by name.

        Returns:
            Every output, by name.

        Raises:
            BackendError: an input is missing, unknown or of another dtype or shape, or the
                backend failed.
        """
        check_inputs(graph, self.manifest.graphs[graph], inputs, self.manifest.max_objects)
        return self._run(graph, inputs)

    def warm_up(self) -> None:
        """Runs every graph once on zeros: the first call compiles, allocates and is slow."""
        for name, graph in self.manifest.graphs.items():
            inputs: dict[str, Array] = {}
            for tensor in graph.inputs:
                shape = tuple(1 if isinstance(axis, str) else axis for axis in tensor.shape)
                make = self.allocate if tensor.resident else np.zeros
                inputs[tensor.name] = make(shape, tensor.dtype)
            self.run(name, inputs)

    def close(self) -> None:
        """Releases what the backend holds. The runner cannot be used afterwards."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_inputs(
    graph: str, spec: GraphSpec, inputs: Mapping[str, Array], max_objects: int
) -> dict[str, int]:
    """Checks inputs against a graph's specification; returns the lengths of its dynamic axes.

    Raises:
        BackendError: naming the graph, the tensor, what was expected and what came.
    """
    expected = {tensor.name for tensor in spec.inputs}
    if expected != set(inputs):
        raise BackendError(
            f'graph {graph}: missing inputs {sorted(expected - set(inputs))}, '
            f'unknown inputs {sorted(set(inputs) - expected)}'
        )
    axes: dict[str, int] = {}
    for tensor in spec.inputs:
        value = inputs[tensor.name]
        if value.dtype != tensor.dtype:
            raise BackendError(
                f'graph {graph}: input {tensor.name} must be {tensor.dtype}, got {value.dtype}'
            )
        fits = len(value.shape) == len(tensor.shape) and all(
            axes.setdefault(axis, length) == length if isinstance(axis, str) else axis == length
            for axis, length in zip(tensor.shape, value.shape, strict=True)
        )
        if not fits:
            raise BackendError(
                f'graph {graph}: input {tensor.name} must have shape {tensor.shape}, '
                f'got {tuple(value.shape)} where {axes or "no axis"} was given before'
            )
    if not 1 <= axes.get('N', 1) <= max_objects:
        raise BackendError(
            f'graph {graph}: {axes["N"]} objects, but this engine was exported for 1 to '
            f'{max_objects}; export it with a larger --max-objects'
        )
    return axes
