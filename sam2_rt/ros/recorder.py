"""A headless viewer: writes what the tracker node publishes, and how fast.

In its `folder`: overlay.mp4 (as ~/overlay shows it), objects.jsonl (one line per frame) and, at
the end, latency.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from statistics_msgs.msg import MetricsMessage, StatisticDataType
from vision_msgs.msg import Detection2DArray

from sam2_rt.cli.files import reported, require_writable
from sam2_rt.errors import OutputError
from sam2_rt.ros import process
from sam2_rt.ros.convert import frame_from, stamp_ns
from sam2_rt.ros.prompts import corners, hypothesis
from sam2_rt.timing import Rolling


class Recorder(Node):
    """Records the topics under the name `sam2_rt`, which may be remapped.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self) -> None:
        super().__init__('recorder')
        self._folder = Path(self._declared('folder', 'out', 'where the files go'))
        self._fps = float(self._declared('fps', 30.0, 'frames per second of overlay.mp4'))
        with reported(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        require_writable(self._folder / 'overlay.mp4')
        self._video: cv2.VideoWriter | None = None
        self._video_size = (0, 0)
        self._video_start_ns = 0
        self._video_frames = 0
        with reported(self._folder):
            self._lines = (self._folder / 'objects.jsonl.part').open('w', encoding='utf-8')
        self._age = Rolling(window=100_000)
        self._stages: dict[str, list[tuple[float, float, float]]] = {}
        self._presence: dict[str, Mapping[str, str]] = {}

        listen = self.create_subscription
        newest = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        listen(Image, 'sam2_rt/overlay', self._on_overlay, newest)
        listen(Detection2DArray, 'sam2_rt/objects', self._on_objects, 50)
        listen(DiagnosticArray, 'sam2_rt/presence', self._on_presence, kept)
        listen(MetricsMessage, 'sam2_rt/latency', self._on_latency, 100)

    def _declared(self, name: str, default: Any, description: str) -> Any:
        described = ParameterDescriptor(description=description, read_only=True)
        if isinstance(default, float):
            described.floating_point_range = [FloatingPointRange(from_value=1.0, to_value=1000.0)]
        return self.declare_parameter(name, default, described).value

    def stop(self) -> bool:
        """Completes the files; each gets its name only when it is whole."""
        if self._video is not None:
            self._video.release()
            self._name('overlay.part.mp4', 'overlay.mp4')
        self._lines.close()
        self._name('objects.jsonl.part', 'objects.jsonl')
        report = self._report()
        text = json.dumps(report, indent=1) + '\n'
        (self._folder / 'latency.json').write_text(text, encoding='utf-8')
        # By print: the middleware may be down by now, and logging with it.
        print(f'{report["frames"]} frames recorded in {self._folder.resolve()}')
        for name, times in report['milliseconds'].items():
            print(f'{name:>16}', *(f'{key} {value:8.2f}' for key, value in times.items()), 'ms')
        return True

    def _name(self, part: str, name: str) -> None:
        (self._folder / part).replace(self._folder / name)

    def _on_overlay(self, message: Image) -> None:
        frame = frame_from(message)
        image = frame.image if frame.colour_order == 'bgr' else frame.image[..., ::-1]
        size = (frame.width, frame.height)
        if self._video is None:
            part = str(self._folder / 'overlay.part.mp4')
            self._video = cv2.VideoWriter(part, cv2.VideoWriter.fourcc(*'mp4v'), self._fps, size)
            if not self._video.isOpened():
                raise OutputError(f'{part}: OpenCV cannot write a {size[0]}x{size[1]} video here')
            self._video_size, self._video_start_ns = size, frame.stamp_ns
        if size != self._video_size:
            image = cv2.resize(image, self._video_size)  # type: ignore[assignment]
        # Frames that were dropped are shown as stills, so that the video keeps time.
        due = round((frame.stamp_ns - self._video_start_ns) / 1e9 * self._fps)
        repeats = min(max(1, due + 1 - self._video_frames), round(10 * self._fps))
        for _ in range(repeats):
            self._video.write(np.ascontiguousarray(image))
        self._video_frames += repeats

    def _on_objects(self, message: Detection2DArray) -> None:
        stamp = stamp_ns(message.header)
        age_s = (self.get_clock().now().nanoseconds - stamp) / 1e9
        self._age.add(age_s)
        objects = []
        for item in message.detections:
            label, probability = hypothesis(item)
            visible = item.bbox.size_x > 0
            objects.append(
                {
                    'id': item.id,
                    'label': label,
                    'probability': round(probability, 5),
                    'box': [round(x) for x in corners(item)] if visible else None,
                    **self._presence.get(item.id, {}),
                }
            )
        line = {'stamp_ns': stamp, 'age_ms': round(1e3 * age_s, 3), 'objects': objects}
        self._lines.write(json.dumps(line, ensure_ascii=False) + '\n')

    def _on_presence(self, message: DiagnosticArray) -> None:
        """The state as last told, on change and once a second: it may be a frame behind."""
        self._presence = {
            pair.value: {'state': status.message}
            for status in message.status
            for pair in status.values
            if pair.key == 'object_id'
        }

    def _on_latency(self, message: MetricsMessage) -> None:
        values = {point.data_type: point.data for point in message.statistics}
        kinds = StatisticDataType
        self._stages.setdefault(message.metrics_source, []).append(
            (
                values[kinds.STATISTICS_DATA_TYPE_AVERAGE],
                values[kinds.STATISTICS_DATA_TYPE_MAXIMUM],
                values[kinds.STATISTICS_DATA_TYPE_SAMPLE_COUNT],
            )
        )

    def _report(self) -> dict[str, Any]:
        """Times on arrival here, and of each stage as the node reported them."""
        times: dict[str, dict[str, float]] = {}
        for name, parts in self._stages.items():
            means, longest, counts = zip(*parts, strict=True)
            times[name] = {'mean': float(np.average(means, weights=counts)), 'max': max(longest)}
        age = self._age.summary()
        if age is not None:
            keys = ('mean', 'p50', 'p95', 'p99')
            times['age on arrival'] = {key: 1e3 * getattr(age, key) for key in keys}
        rounded = {
            name: {key: round(value, 3) for key, value in each.items()}
            for name, each in times.items()
        }
        return {'frames': age.count if age else 0, 'milliseconds': rounded}


def main() -> int:
    """Entry point of `ros2 run sam2_rt sam2_rt_recorder`."""
    return process.run(Recorder, lambda node: None, Recorder.stop)
