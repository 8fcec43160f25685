"""Builds an engine folder's TensorRT plans on the machine that will run them.

The build ends with the accuracy gate: the plans replay the engine's clip through the tracker,
closed loop, and their masks must agree with the fp32 reference. Plans that fail are not used; the
next precision policy is tried.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sam2_rt.errors import BackendError, ConfigError, EngineError
from sam2_rt.runtime.check import REQUIRED_IOU, Accuracy, check_accuracy, load_clip
from sam2_rt.runtime.compile_plan import Progress, compile_plan
from sam2_rt.runtime.cuda import Cuda, load_driver
from sam2_rt.runtime.manifest import GRAPH_NAMES, Manifest, load_manifest, sha256
from sam2_rt.runtime.plans import (
    FOLDER,
    PlanFile,
    PlanSet,
    Target,
    find_plans,
    plan_name,
    plans_folder,
    write_record,
    write_whole,
)
from sam2_rt.runtime.precision import POLICIES
from sam2_rt.runtime.trt import TrtRunner, target
from sam2_rt.runtime.trt_library import TensorRT, import_tensorrt

_WORKSPACE_SHARE = 0.5  # of the memory that is free: on a Jetson the CPU lives in it too


def build(
    folder: str | Path,
    *,
    policies: Sequence[str] = (),
    library: str = 'auto',
    rebuild: bool = False,
    progress: Progress = lambda line: None,
) -> PlanSet:
    """Builds plans, unless this machine already has them.

    Args:
        folder: an engine folder that can be written to.
        policies: precision policies to try, in order; those of the engine's precision if empty.
        library: 'tensorrt', 'tensorrt_rtx', or 'auto'.
        rebuild: build again even where plans are present.
        progress: gets a line of text now and then; a build takes minutes.

    Returns:
        The plans, and what the gate measured.

    Raises:
        ConfigError: no such policy.
        EngineError: the folder is damaged or cannot be written to, or TensorRT cannot read it.
        BackendError: no driver or TensorRT, a build failed, or no policy gives the right masks.
    """
    manifest = load_manifest(folder)
    tried = tuple(policies) or POLICIES[manifest.precision]
    unknown = [policy for policy in tried if policy not in POLICIES[manifest.precision]]
    if unknown:
        raise ConfigError(
            f'policy {unknown[0]!r}: expected some of {POLICIES[manifest.precision]}, which an '
            f'engine in {manifest.precision} can be built with'
        )
    manifest.verify_files()
    driver = load_driver()
    trt = import_tensorrt(library)
    built_for = target(driver, trt)
    if not rebuild:
        try:
            found = find_plans(manifest, built_for)
        except EngineError as error:
            progress(str(error))
        else:
            progress(f'{manifest.folder}: has plans for {built_for}, in {found.policy}')
            return found
    if manifest.trained:
        load_clip(manifest.folder)  # before minutes are spent: the gate will need it
    accuracy: dict[str, Mapping[str, float] | None] = {}
    for policy in tried:
        progress(f'{manifest.folder}: building for {built_for} in {policy}')
        plans = PlanSet(
            policy,
            {
                graph: build_graph(manifest, graph, policy, trt, built_for, driver, progress)
                for graph in GRAPH_NAMES
            },
            accuracy,
            datetime.now(timezone.utc).isoformat(timespec='seconds'),
        )
        measured = _gate(manifest, plans, trt)
        accuracy[policy] = None if measured is None else _summary(measured)
        if measured is None:
            progress('random weights: their masks mean nothing, so nothing was measured')
        else:
            progress(
                f'{policy}: mask IoU with the fp32 reference {measured.mean_iou:.4f}, worst frame '
                f'{measured.worst_iou:.4f}; {REQUIRED_IOU} is required'
            )
        if measured is None or measured.passed:
            write_record(manifest, built_for, plans)
            return plans
        _discard(manifest, plans)
    told = ', '.join(f'{p} {m["mean_iou"]:.3f}' for p, m in accuracy.items() if m)
    raise BackendError(
        f'{manifest.folder}: no precision policy gives the right masks with {built_for}: mask IoU '
        f'{told}, {REQUIRED_IOU} is required; use another TensorRT version or another backend'
    )


def build_graph(
    manifest: Manifest,
    graph: str,
    policy: str,
    library: TensorRT,
    built_for: Target,
    driver: Any,
    progress: Progress,
) -> PlanFile:
    """Builds one graph's plan and writes it."""
    folder = plans_folder(manifest)
    cuda = Cuda(driver)
    try:
        with cuda.current():
            workspace = int(cuda.free_bytes() * _WORKSPACE_SHARE)
            started = time.monotonic()
            content = compile_plan(
                library,
                graph,
                manifest.path(graph),
                manifest.graphs[graph],
                policy=policy,
                max_objects=manifest.max_objects,
                workspace_bytes=workspace,
                timing_cache=folder / f'timing.{built_for.name}.cache',
                progress=lambda line: progress(f'{graph}: {line}'),
            )
    finally:
        cuda.close()
    seconds = round(time.monotonic() - started, 1)
    path = write_whole(folder / plan_name(manifest, graph, built_for, policy), content)
    progress(f'{graph}: {len(content) / 1e6:.1f} MB in {seconds:.0f} s')
    return PlanFile(path.name, sha256(path), seconds)


def _gate(manifest: Manifest, plans: PlanSet, library: TensorRT) -> Accuracy | None:
    """Replays the engine's clip on the plans; None for random weights."""
    if not manifest.trained:
        return None
    clip = load_clip(manifest.folder)
    with TrtRunner(manifest, plans=plans, library=library.name) as runner:
        return check_accuracy(runner, clip)


def _summary(measured: Accuracy) -> dict[str, float]:
    return {
        'mean_iou': measured.mean_iou,
        'worst_iou': measured.worst_iou,
        'presence_agreement': measured.presence_agreement,
        'seconds_per_frame': measured.seconds_per_frame,
    }


def _discard(manifest: Manifest, plans: PlanSet) -> None:
    """Deletes plans that failed, so that nothing can load them."""
    for plan in plans.plans.values():
        (manifest.folder / FOLDER / plan.file).unlink(missing_ok=True)
