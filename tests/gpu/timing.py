"""Timings on a GPU: device events for the graphs, wall clock for whole frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sam2_rt.config import TrackerConfig
from sam2_rt.lookahead import prepared_frames
from sam2_rt.runtime.trt import TrtRunner
from sam2_rt.tracker import Tracker
from tests.gpu.checks import Replay, Subject, track_inputs

WARM_UP, RUNS = 20, 100
OBJECTS = (1, 2, 4, 8)


def percentiles(values: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {'p50': round(float(p50), 4), 'p95': round(float(p95), 4), 'p99': round(float(p99), 4)}


def device_ms(runner: TrtRunner, run: Callable[[], object]) -> dict[str, float]:
    """Device time of what one call enqueues, copies included, what the host does after it not."""
    cuda, values = runner.cuda, []
    wait, ends = runner._synchronise, []

    def record_and_wait() -> None:
        ends.append(cuda.event())
        wait()

    runner._synchronise = record_and_wait  # type: ignore[method-assign]
    try:
        for index in range(WARM_UP + RUNS):
            ends.clear()
            with cuda.current():
                start = cuda.event()
            run()
            with cuda.current():
                elapsed = cuda.milliseconds(start, ends[-1] if ends else cuda.event())
            if index >= WARM_UP:
                values.append(elapsed)
    finally:
        runner._synchronise = wait  # type: ignore[method-assign]
    return percentiles(values)


def graph_ms(subject: Subject) -> dict[str, Any]:
    """Encode and track per object count, replayed and enqueued plainly."""
    figures: dict[str, Any] = {}
    size = subject.manifest.image_size
    image = np.zeros((1, size, size, 3), np.uint8)
    for capture, kind in ((True, 'captured'), (False, 'plain')):
        with subject.open(capture=capture) as runner:
            # Uploaded before, as a live image is: giving it from the host again and again would
            # wait for the last upload each time.
            staged = runner.upload(image)
            figures[f'encode_{kind}_ms'] = device_ms(
                runner,
                lambda runner=runner, staged=staged: runner.run('encode', {'image': staged}),
            )
            for objects in OBJECTS:
                if objects <= subject.manifest.max_objects:
                    inputs = track_inputs(runner, subject, objects)
                    figures[f'track_{objects}_{kind}_ms'] = device_ms(
                        runner, lambda runner=runner, inputs=inputs: runner.run('track', inputs)
                    )
            if capture:
                figures['capture_refused'] = runner.capture_refused
    return figures


def end_to_end_ms(subject: Subject) -> dict[str, Any]:
    """Wall clock from one frame's masks at image size to the next one's.

    As of a camera, each frame being prepared in its turn, and as of a file, the next one being
    prepared while this one is tracked ('ahead').
    """
    figures = {}
    for objects in (1, 8):
        if objects > subject.manifest.max_objects:
            continue
        for ahead, suffix in ((False, ''), (True, '_ahead')):
            source = Replay(subject.clip, WARM_UP + RUNS, ahead=ahead)
            with subject.open() as runner:
                tracker = Tracker(runner, TrackerConfig(max_objects=objects, held_frames=8))
                values, last = [], time.perf_counter()
                with prepared_frames(source, tracker) as frames:
                    for index, prepared in frames:
                        tracker.step(prepared)
                        now = time.perf_counter()
                        if index >= WARM_UP:
                            values.append((now - last) * 1e3)
                        last = now
                        if index == 0:
                            for _ in range(objects):
                                tracker.add_prompt(subject.clip.prompt)
            figures[f'frame_{objects}{suffix}_ms'] = percentiles(values)
    return figures


def overlap_ms(subject: Subject) -> dict[str, Any]:
    """Wall clock of an encode and a track: one after the other, and side by side on two streams.

    What a pipeline could gain that encodes the next frame while it tracks this one, at the price
    of a frame's delay.
    """
    size = subject.manifest.image_size
    image = np.zeros((1, size, size, 3), np.uint8)
    with subject.open() as one, subject.open() as other:
        lanes = [(runner, track_inputs(runner, subject, 1)) for runner in (one, other)]

        def serial(index: int) -> None:
            runner, inputs = lanes[0]
            runner.run('encode', {'image': image})
            runner.run('track', inputs)

        def side_by_side(index: int) -> None:
            encoding, tracking = lanes[index % 2], lanes[(index + 1) % 2]
            encoding[0].run('encode', {'image': image})  # only enqueued
            tracking[0].run('track', tracking[1])

        figures = {}
        for name, run in (('serial', serial), ('overlapped', side_by_side)):
            values = []
            for index in range(WARM_UP + RUNS):
                start = time.perf_counter()
                run(index)
                if index >= WARM_UP:
                    values.append((time.perf_counter() - start) * 1e3)
            figures[f'encode_and_track_{name}_ms'] = percentiles(values)
    return figures


def transfer_ms(subject: Subject) -> dict[str, Any]:
    """Masks to the host: as low-res logits, and as they would be if resized and packed there."""
    side = subject.manifest.image_size // 4
    sizes = {'low_res_logits': 4 * side**2, 'packed_1080p_bits': 1920 * 1080 // 8}
    figures = {}
    with subject.open() as runner:
        for name, nbytes in sizes.items():
            array = runner.allocate((nbytes,), 'uint8')
            with runner.cuda.current():
                host = runner.cuda.allocate_pinned(nbytes)

            def download(address: int = array.address, host: Any = host) -> None:
                with runner.cuda.current():
                    runner.cuda.download_async(host, address)

            figures[f'{name}_to_host_ms'] = device_ms(runner, download)
            with runner.cuda.current():
                runner.cuda.free_pinned(host)
    return figures


def flops(model: Path, objects: int = 1) -> float:
    """Multiply-adds times two of a graph's matrix products and convolutions."""
    import onnx  # not needed for anything else here

    proto = onnx.load(str(model), load_external_data=False)
    for value in (*proto.graph.input, *proto.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_value = objects
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        shapes[value.name] = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
    total = 0.0
    for node in inferred.node:
        if node.op_type not in ('MatMul', 'Gemm', 'Conv', 'ConvTranspose'):
            continue
        first, second = shapes[node.input[0]], shapes[node.input[1]]
        result = float(np.prod(shapes[node.output[0]]))
        if node.op_type == 'Conv':
            total += 2 * result * float(np.prod(second[1:]))
        elif node.op_type == 'ConvTranspose':
            total += 2 * float(np.prod(first)) * float(np.prod(second[1:]))
        else:
            total += 2 * result * first[-1]
    return total


def measured_peak_tflops() -> dict[str, float]:
    """What this GPU reaches on a large matrix product, by type; empty without torch."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    peaks = {}
    for name in ('float16', 'float32'):
        torch.backends.cuda.matmul.allow_tf32 = True
        a, b = (torch.randn(8192, 8192, device='cuda', dtype=getattr(torch, name)) for _ in 'ab')
        times = []
        for index in range(13):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in 'ab')
            start.record()
            torch.mm(a, b)
            end.record()
            end.synchronize()
            if index >= 3:
                times.append(start.elapsed_time(end))
        peaks['tf32' if name == 'float32' else 'fp16'] = 2 * 8192**3 / np.median(times) / 1e9
    return {name: round(float(value), 1) for name, value in peaks.items()}


def utilisation(subject: Subject, figures: dict[str, Any], policy: str) -> dict[str, Any]:
    """Operations of encode and of track with one object, and the share of the peak they reach."""
    peaks = measured_peak_tflops()
    peak = peaks.get('fp16' if policy.startswith('fp16') else 'tf32')
    found: dict[str, Any] = {'measured_peak_tflops': peaks}
    for graph in ('encode', 'track'):
        operations = flops(subject.manifest.path(graph))
        name = f'{graph}_captured_ms' if graph == 'encode' else 'track_1_captured_ms'
        rate = operations / figures[name]['p50'] / 1e9
        found[f'{graph}_gflop'] = round(operations / 1e9, 2)
        found[f'{graph}_tflops'] = round(rate, 2)
        found[f'{graph}_share_of_peak'] = round(rate / peak, 4) if peak else None
    return found
