"""Execution: one graph at one shape, enqueued or replayed as a captured CUDA graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sam2_rt.errors import BackendError, DeviceLostError, EngineError
from sam2_rt.runtime.compile_plan import Lengths, profiles, sized
from sam2_rt.runtime.cuda import Cuda
from sam2_rt.runtime.manifest import GraphSpec
from sam2_rt.runtime.plans import write_whole
from sam2_rt.runtime.trt_library import TensorRT

Addresses = Mapping[str, int]
_CAPTURES = 4  # of one shape: live objects, and a late one at times


class Execution:
    """A TensorRT context that keeps its shapes for life.

    The first run of a set of addresses is a plain enqueue, as TensorRT wants before a capture; the
    second is captured, and from then on one launch replays it. Where a capture is refused, plain
    enqueues go on, and `refused` says why.

    Args:
        library: the TensorRT in use.
        cuda: the device.
        engine: the deserialised plan.
        graph: its name.
        spec: its tensors.
        lengths: of the dynamic axes.
        max_objects: that the plan was built for.
        scratch: address and size of device memory for intermediate results. Executions on one
            stream share it, for they never run at the same time.
        capture: whether to capture at all.
        kernels: see KernelCache; for TensorRT for RTX.
    """

    def __init__(
        self,
        library: TensorRT,
        cuda: Cuda,
        engine: Any,
        graph: str,
        spec: GraphSpec,
        lengths: Lengths,
        *,
        max_objects: int,
        scratch: tuple[int, int],
        capture: bool,
        kernels: KernelCache | None = None,
    ) -> None:
        self._library, self._cuda = library, cuda
        self._what = f'graph {graph} with {lengths or "its fixed shapes"}'
        self._capture = capture
        self._addresses: dict[str, int] = {}
        self._seen: OrderedDict[tuple[int, ...], int | None] = OrderedDict()
        self.refused = ''
        context = create_context(library, engine, kernels)
        if context is None:
            raise library.error(f'{self._what}: create a context')
        self._context = context
        if hasattr(context, 'set_device_memory'):
            context.set_device_memory(*scratch)
        else:
            context.device_memory = scratch[0]
        choices = profiles(graph, max_objects)
        for index, (least, _, most) in enumerate(choices):
            if all(
                least[axis] <= lengths[axis] <= most[axis] for axis in least if axis in lengths
            ):
                if not context.set_optimization_profile_async(index, cuda.stream):
                    raise library.error(f'{self._what}: select shape profile {index}')
                break
        else:
            if choices:
                raise BackendError(
                    f'{self._what}: expected lengths from {choices[0][0]} to {choices[-1][2]}, '
                    'for which the plan was built; give fewer points or objects'
                )
        for tensor in spec.inputs:
            if any(isinstance(axis, str) for axis in tensor.shape):
                shape = sized(tensor, lengths)
                if not context.set_input_shape(tensor.name, shape):
                    raise library.error(f'{self._what}: set {tensor.name} to {shape}')

    def run_async(self, addresses: Addresses) -> None:
        """Enqueues one run.

        Args:
            addresses: of every input and output, by name.

        Raises:
            BackendError: TensorRT or the driver refused.
        """
        key = tuple(addresses.values())
        captured = self._seen.get(key)
        if captured:
            self._cuda.launch_async(captured)
        elif key in self._seen and self._capture and not self.refused:
            self._run_captured(key, addresses)
        else:
            self._enqueue(addresses)
            self._remember(key, None)
        if key in self._seen:
            self._seen.move_to_end(key)

    def _bind(self, addresses: Addresses) -> None:
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                if not self._context.set_tensor_address(name, address):
                    raise self._library.error(f'{self._what}: set the address of {name}')
                self._addresses[name] = address

    def _enqueue(self, addresses: Addresses) -> None:
        self._bind(addresses)
        if not self._context.execute_async_v3(self._cuda.stream):
            # A device that is lost says so when it is asked; TensorRT only logs it.
            self._cuda.synchronise()
            raise self._library.error(self._what)

    def _run_captured(self, key: tuple[int, ...], addresses: Addresses) -> None:
        context, stream = self._context, self._cuda.stream
        self._bind(addresses)
        try:
            willing = getattr(context, 'is_stream_capturable', None)
            if willing is not None and not willing(stream):
                raise BackendError(f'{self._what}: TensorRT says it cannot be captured')
            with self._cuda.capture() as captured:
                if not context.execute_async_v3(stream):
                    raise self._library.error(f'{self._what}: capture')
        except DeviceLostError:
            raise
        except BackendError as error:
            self.refused = str(error)
            self._enqueue(addresses)
            return
        self._remember(key, captured[0])
        self._cuda.launch_async(captured[0])

    def _remember(self, key: tuple[int, ...], captured: int | None) -> None:
        self._seen[key] = captured
        while len(self._seen) > _CAPTURES:
            _, old = self._seen.popitem(last=False)
            if old:
                self._cuda.destroy_graph(old)

    @property
    def captured(self) -> bool:
        """Whether any set of addresses is replayed."""
        return any(self._seen.values())

    def close(self) -> None:
        """Destroys captured graphs and the context. Nothing of it may still be running."""
        for captured in self._seen.values():
            if captured:
                self._cuda.destroy_graph(captured)
        self._seen.clear()
        self._context = None


class KernelCache:
    """Kernels that TensorRT for RTX compiled when a shape first ran, kept in a file.

    Args:
        path: where; a file of another driver or version is ignored, and replaced by `save`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = b''
        self._cache: Any = None

    def attach(self, runtime_config: Any) -> None:
        """Lets the contexts made with a configuration use what is kept, and add to it."""
        if self._cache is None:
            self._cache = runtime_cache = runtime_config.create_runtime_cache()
            if self._path.is_file():
                self._known = self._path.read_bytes()
                runtime_cache.deserialize(self._known)
        runtime_config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Writes what has been added; a folder that cannot be written to is no error."""
        if self._cache is None:
            return
        runtime_cache = self._cache
        content = bytes(runtime_cache.serialize())
        if content != self._known:
            self._known = content
            with suppress(EngineError):
                write_whole(self._path, content)


def create_context(library: TensorRT, engine: Any, kernels: KernelCache | None) -> Any:
    """A context without memory of its own for intermediate results; None if TensorRT fails."""
    trt = library.module
    if library.is_rtx:
        # Kernels for the shapes in use are compiled at once: those compiled later, in the
        # background, would never reach a captured graph.
        runtime_config = engine.create_runtime_config()
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        runtime_config.set_execution_context_allocation_strategy(strategy)
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
        if kernels is not None:
            kernels.attach(runtime_config)
        return engine.create_execution_context(runtime_config)
    if hasattr(engine, 'create_execution_context_without_device_memory'):
        return engine.create_execution_context_without_device_memory()
    return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)


def scratch_bytes(engine: Any) -> int:
    """Device memory that any context of this engine needs for intermediate results."""
    if hasattr(engine, 'device_memory_size_v2'):
        return int(engine.device_memory_size_v2)
    return int(engine.device_memory_size)


def check_engine(library: TensorRT, engine: Any, graph: str, spec: GraphSpec) -> None:
    """Compares a plan's tensors with the manifest's.

    Raises:
        BackendError: naming the first that differs.
    """
    trt = library.module
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    for side, mode in (('inputs', trt.TensorIOMode.INPUT), ('outputs', trt.TensorIOMode.OUTPUT)):
        came = {
            name: (
                library.dtype(engine.get_tensor_dtype(name)),
                tuple(engine.get_tensor_shape(name)),
            )
            for name in names
            if engine.get_tensor_mode(name) == mode
        }
        expected = {
            tensor.name: (
                tensor.dtype,
                tuple(-1 if isinstance(axis, str) else axis for axis in tensor.shape),
            )
            for tensor in (spec.inputs if side == 'inputs' else spec.outputs)
        }
        if came != expected:
            raise BackendError(
                f'plan of graph {graph}: expected {side} {expected}, got {came}; build the plans '
                'again with `sam2_rt build`'
            )
