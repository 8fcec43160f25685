"""Messages about the node itself: presence of each object, latency per stage, health."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from statistics_msgs.msg import MetricsMessage, StatisticDataPoint, StatisticDataType
from std_msgs.msg import Header

from sam2_rt.ros.convert import header
from sam2_rt.runtime.base import Runner
from sam2_rt.stream import StreamStats, TrackingStream
from sam2_rt.tracker import Tracker
from sam2_rt.types import PresenceState, TrackedObject

_PRESENCE_LEVEL = {
    PresenceState.VISIBLE: DiagnosticStatus.OK,
    PresenceState.OCCLUDED: DiagnosticStatus.WARN,
    PresenceState.LOST: DiagnosticStatus.ERROR,
}


def _status(level: Any, name: str, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
    items = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, values=items)


def presence_message(
    node_name: str, objects: Iterable[TrackedObject], head: Header
) -> DiagnosticArray:
    """One status per object: its state is the message, its probability and times are values."""
    message = DiagnosticArray(header=head)
    for item in objects:
        presence = item.presence
        seen = header(presence.last_seen_ns, '').stamp
        values = {
            'object_id': item.object_id,
            'label': item.label,
            'probability': f'{presence.probability:.4f}',
            'seconds_in_state': f'{presence.seconds_in_state:.3f}',
            'last_seen': f'{seen.sec}.{seen.nanosec:09d}',
        }
        level = _PRESENCE_LEVEL[presence.state]
        name = f'{node_name}: object {item.object_id}'
        message.status.append(_status(level, name, presence.state.value, values))
    return message


class LatencyWindow:
    """Seconds per stage since the last report. Not thread safe."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def add(self, seconds: Mapping[str, float]) -> None:
        """Takes in one frame."""
        for name, value in seconds.items():
            self._seconds.setdefault(name, []).append(value)

    def report(self, node_name: str, start_ns: int, stop_ns: int) -> list[MetricsMessage]:
        """One message per stage, in milliseconds; the window then starts anew."""
        seconds, self._seconds = self._seconds, {}
        return [
            MetricsMessage(
                measurement_source_name=node_name,
                metrics_source=name,
                unit='ms',
                window_start=header(start_ns, '').stamp,
                window_stop=header(stop_ns, '').stamp,
                statistics=_statistics(np.asarray(values) * 1e3),
            )
            for name, values in seconds.items()
        ]


def _statistics(values: np.ndarray[Any, Any]) -> list[StatisticDataPoint]:
    kinds = StatisticDataType
    points = {
        kinds.STATISTICS_DATA_TYPE_AVERAGE: values.mean(),
        kinds.STATISTICS_DATA_TYPE_MINIMUM: values.min(),
        kinds.STATISTICS_DATA_TYPE_MAXIMUM: values.max(),
        kinds.STATISTICS_DATA_TYPE_STDDEV: values.std(),
        kinds.STATISTICS_DATA_TYPE_SAMPLE_COUNT: len(values),
    }
    return [StatisticDataPoint(data_type=kind, data=float(x)) for kind, x in points.items()]


class HealthReporter:
    """Publishes the node's health on /diagnostics.

    Args:
        node: publishes.
        now_ns: the clock of the messages' stamps.
    """

    def __init__(self, node: Node, now_ns: Callable[[], int]) -> None:
        self._name = node.get_fully_qualified_name()
        self._now_ns = now_ns
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.restart()

    def restart(self) -> None:
        """A new stream starts."""
        self._last_image_s: float | None = None
        self._counted = (time.monotonic(), 0, 0)

    def image_came(self) -> None:
        """Remembers when."""
        self._last_image_s = time.monotonic()

    def report(
        self,
        stream: TrackingStream | None,
        runner: Runner | None,
        tracker: Tracker | None,
        prompts: Mapping[str, int],
        problem: str,
        stale_after_s: float,
    ) -> None:
        """Publishes one message.

        Args:
            stream: None while the node is not active.
            runner: None while the node is not configured; likewise the tracker.
            tracker: only numbers that its worker never leaves half-written are read.
            prompts: how many were answered so far, by answer.
            problem: why the node cannot work, '' if it can.
            stale_after_s: seconds without an image from which that is reported.
        """
        values: dict[str, object] = {f'prompts_{name}': count for name, count in prompts.items()}
        if runner is not None and tracker is not None:
            values |= {
                'engine': runner.manifest.folder,
                'variant': runner.manifest.variant,
                'backend': f'{runner.info.backend} {runner.info.version}',
                'precision': runner.info.precision,
                'device': runner.info.device,
                'objects': len(tracker.objects),
                'memory_megabytes': f'{tracker.memory_bytes / 1e6:.1f}',
                'non_finite_entries': tracker.non_finite_entries,
            }
        if stream is not None:
            values |= self._stream_values(stream.stats())
        if stream is not None:
            level, words = self._verdict(stream, stale_after_s)
        else:
            level, words = DiagnosticStatus.OK, 'unconfigured' if tracker is None else 'inactive'
        if problem:
            level, words = DiagnosticStatus.ERROR, problem
        status = _status(level, f'{self._name}: tracking', words, values)
        status.hardware_id = runner.info.device if runner else ''
        self._publisher.publish(
            DiagnosticArray(header=header(self._now_ns(), ''), status=[status])
        )

    def _verdict(self, stream: TrackingStream, stale_after_s: float) -> tuple[Any, str]:
        if stream.paused:
            return DiagnosticStatus.OK, 'paused'
        if self._last_image_s is None:
            return DiagnosticStatus.STALE, 'no image yet; check the image topic and its QoS'
        age = time.monotonic() - self._last_image_s
        if age > stale_after_s:
            return DiagnosticStatus.STALE, f'no image for {age:.1f} s; check the camera'
        return DiagnosticStatus.OK, 'tracking'

    def _stream_values(self, stats: StreamStats) -> dict[str, object]:
        before, received, processed = self._counted
        now = time.monotonic()
        self._counted = now, stats.received, stats.processed
        passed = max(now - before, 1e-3)
        values: dict[str, object] = {
            'received': stats.received,
            'processed': stats.processed,
            'dropped': stats.dropped,
            'refused': stats.refused,
            'ignored': stats.ignored,
            'received_per_s': f'{(stats.received - received) / passed:.1f}',
            'processed_per_s': f'{(stats.processed - processed) / passed:.1f}',
        }
        for name, summary in stats.seconds.items():
            for key in ('p50', 'p95', 'p99'):
                values[f'{name}_{key}_ms'] = f'{getattr(summary, key) * 1e3:.2f}'
        return values
