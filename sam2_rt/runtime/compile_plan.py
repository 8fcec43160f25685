"""One ONNX graph -> one TensorRT plan. It runs on the machine that will run the plan."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sam2_rt.errors import BackendError, EngineError
from sam2_rt.runtime.manifest import GraphSpec, TensorSpec
from sam2_rt.runtime.precision import half_islands, rewrite
from sam2_rt.runtime.trt_library import TensorRT, flags

MAX_POINTS = 32
"""Most points that one prompt may have, Q."""

Progress = Callable[[str], None]
Lengths = dict[str, int]


def profiles(graph: str, max_objects: int) -> list[tuple[Lengths, Lengths, Lengths]]:
    """Least, usual and most lengths of a graph's dynamic axes; TensorRT tunes for the usual ones.

    For `track`, one object, the common case, gets a profile of its own, in which nothing is
    dynamic. Prompts come one object at a time and seldom: one profile serves all.
    """
    if graph == 'encode':
        return []
    if graph == 'track':
        single = {'N': 1}, {'N': 1}, {'N': 1}
        several = {'N': 2}, {'N': min(4, max_objects)}, {'N': max_objects}
        return [single, several] if max_objects > 1 else [single]
    return [({'N': 1, 'Q': 1}, {'N': 1, 'Q': 2}, {'N': max_objects, 'Q': MAX_POINTS})]


def sized(tensor: TensorSpec, lengths: Lengths) -> tuple[int, ...]:
    """A tensor's shape for given lengths of the dynamic axes."""
    return tuple(lengths[axis] if isinstance(axis, str) else axis for axis in tensor.shape)


def compile_plan(
    library: TensorRT,
    graph: str,
    model: Path,
    spec: GraphSpec,
    *,
    policy: str,
    max_objects: int,
    workspace_bytes: int,
    timing_cache: Path | None = None,
    progress: Progress = lambda line: None,
) -> bytes:
    """Builds a plan.

    Args:
        library: the TensorRT to build with.
        graph: its name.
        model: the ONNX file; its external weights lie beside it.
        spec: the graph's tensors, from the manifest.
        policy: see precision.POLICIES.
        max_objects: largest N.
        workspace_bytes: most memory that tactics may take.
        timing_cache: file of measured kernel times, read and extended: makes the next build
            faster. TensorRT for RTX has none.
        progress: gets a line of text now and then.

    Raises:
        EngineError: TensorRT cannot read the graph, or its tensors are not the manifest's.
        BackendError: the build failed.
    """
    trt = library.module
    if library.is_rtx:
        timing_cache = None
    builder = trt.Builder(library.logger)
    network = builder.create_network(
        flags(trt.NetworkDefinitionCreationFlag, 'EXPLICIT_BATCH', 'STRONGLY_TYPED')
    )
    parser = trt.OnnxParser(network, library.logger)  # it owns the weights until the build is done
    with TemporaryDirectory(prefix='sam2_rt_') as scratch:
        # By file, not by content: the parser looks for the weights beside it.
        parsed = parser.parse_from_file(str(rewrite(model, policy, Path(scratch))))
    if not parsed:
        raise _unreadable(library, parser, model)
    _check_tensors(library, network, model, spec)

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    _configure(library, network, config, model, policy)
    _add_profiles(builder, config, spec, profiles(graph, max_objects))
    if timing_cache is not None:
        known = timing_cache.read_bytes() if timing_cache.is_file() else b''
        # A damaged cache is as good as none.
        cache = config.create_timing_cache(known) or config.create_timing_cache(b'')
        config.set_timing_cache(cache, False)
    if hasattr(trt, 'IProgressMonitor'):
        config.progress_monitor = _make_monitor(trt, progress)

    plan = builder.build_serialized_network(network, config)
    if plan is None and library.is_rtx:
        # No GPU, or one that TensorRT for RTX does not know: a plan for any may still run there.
        progress(f'not for this GPU ({library.said()}); building for any RTX GPU')
        config.num_compute_capabilities = 0
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise library.error(f'build of {model}')
    if timing_cache is not None:
        part = timing_cache.with_suffix('.part')
        part.write_bytes(bytes(config.get_timing_cache().serialize()))
        part.replace(timing_cache)
    return bytes(plan)


def _unreadable(library: TensorRT, parser: Any, model: Path) -> EngineError:
    problems = [parser.get_error(index) for index in range(min(3, parser.num_errors))]
    reasons = ' | '.join(map(_reason, problems)) or library.said()
    return EngineError(
        f'{model}: {library.name} {library.version} cannot read this graph: {reasons}; copy the '
        'whole engine folder again, or export it with this version of sam2_rt'
    )


def _reason(problem: Any) -> str:
    where = f'node {problem.node()}'
    if hasattr(problem, 'node_operator'):  # from 10 on
        where += f' ({problem.node_operator()} {problem.node_name()})'
    return f'{where}: {problem.desc()}'[:300]


def _check_tensors(library: TensorRT, network: Any, model: Path, spec: GraphSpec) -> None:
    """Compares a network's inputs and outputs with the manifest's."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    for side, tensors, wanted in (
        ('inputs', inputs, spec.inputs),
        ('outputs', outputs, spec.outputs),
    ):
        came = {t.name: (library.dtype(t.dtype), len(t.shape)) for t in tensors}
        expected = {t.name: (t.dtype, len(t.shape)) for t in wanted}
        if came != expected:
            raise EngineError(
                f'{model}: expected {side} (dtype, rank) {expected}, got {came}; the manifest is '
                'of another export, copy the whole engine folder again'
            )


def _configure(library: TensorRT, network: Any, config: Any, model: Path, policy: str) -> None:
    """Everything but memory, shapes and cache."""
    trt = library.module
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if policy == 'fp32':
        config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt.BuilderFlag, 'REQUIRE_USER_ALLOCATION'):
        # TensorRT for RTX: without it a run may allocate, which cannot be captured.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if library.is_rtx:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    if not library.strongly_typed and policy.startswith('fp16'):
        _constrain_precision(library, network, config, half_islands(model, policy))
    if library.version.startswith('8.'):
        # Several contexts use one profile, one after the other; from 10 on that needs no asking.
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)


def _add_profiles(
    builder: Any, config: Any, spec: GraphSpec, wanted: list[tuple[Lengths, Lengths, Lengths]]
) -> None:
    for bounds in wanted:
        profile = builder.create_optimization_profile()
        for tensor in spec.inputs:
            if any(isinstance(axis, str) for axis in tensor.shape):
                profile.set_shape(tensor.name, *(sized(tensor, lengths) for lengths in bounds))
        if config.add_optimization_profile(profile) < 0:
            raise BackendError(f'TensorRT refuses the shape profile {bounds} of {spec.file}')


def _constrain_precision(library: TensorRT, network: Any, config: Any, wide: set[str]) -> None:
    """TensorRT 8.6, which does not take types from the graph: allow fp16, except where told.

    Args:
        library: the TensorRT in use.
        network: the parsed graph.
        config: of the build.
        wide: names of the ONNX nodes that must compute in fp32.
    """
    trt = library.module
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        # A node may become several layers: the parser appends to its name.
        if layer.type not in (trt.LayerType.CONSTANT, trt.LayerType.SHAPE) and any(
            layer.name == node or layer.name.startswith(f'{node}_') for node in wide
        ):
            layer.precision = trt.DataType.FLOAT


def _make_monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Reports the latest step, at most once a second."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._last = time.monotonic()

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = steps

        def step_complete(self, name: str, step: int) -> bool:
            now = time.monotonic()
            if now - self._last > 1.0:
                self._last = now
                progress(f'{name}: {step + 1} of {self._steps.get(name, step + 1)}')
            return True

        def phase_finish(self, name: str) -> None:
            self._steps.pop(name, None)

    return Monitor()
