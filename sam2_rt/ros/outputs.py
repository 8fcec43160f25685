"""Outputs: a result becomes messages, each with the stamp and frame_id of its image."""

from __future__ import annotations

import threading
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from statistics_msgs.msg import MetricsMessage
from std_msgs.msg import Header
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
)

from sam2_rt.overlay import Overlay
from sam2_rt.postprocess import label_image
from sam2_rt.ros.convert import CameraFrame, header, image_from, label_image_message
from sam2_rt.ros.diagnostics import LatencyWindow, presence_message
from sam2_rt.types import PresenceState, TrackedObject, TrackResult


def objects_message(objects: tuple[TrackedObject, ...], head: Header) -> Detection2DArray:
    """id, label, presence probability and tight box, which is empty where the mask is."""
    message = Detection2DArray(header=head)
    for item in objects:
        detection = Detection2D(header=head, id=item.object_id)
        found = ObjectHypothesis(class_id=item.label, score=float(item.presence.probability))
        detection.results.append(ObjectHypothesisWithPose(hypothesis=found))
        if item.box is not None:
            x0, y0, x1, y1 = item.box
            detection.bbox.center.position.x = (x0 + x1) / 2
            detection.bbox.center.position.y = (y0 + y1) / 2
            detection.bbox.size_x, detection.bbox.size_y = float(x1 - x0), float(y1 - y0)
        message.detections.append(detection)
    return message


class Outputs:
    """The publishers of results.

    `publish` is called by the stream's worker, `report` by the node's timer.

    Args:
        node: publishes.
        now_ns: the clock of the images' stamps.
    """

    def __init__(self, node: Node, now_ns: Callable[[], int]) -> None:
        # Masks are large: a slow subscriber must not make the worker wait for an old one.
        self._mask = node.create_publisher(Image, '~/mask', 1)
        self._overlay = node.create_publisher(Image, '~/overlay', 1)
        self._objects = node.create_publisher(Detection2DArray, '~/objects', 10)
        self._latency = node.create_publisher(MetricsMessage, '~/latency', 50)
        kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._presence = node.create_publisher(DiagnosticArray, '~/presence', kept)
        self._drawing = Overlay()
        self._node_name = node.get_fully_qualified_name()
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._window = LatencyWindow()
        self._window_start_ns = now_ns()
        self._last: tuple[TrackResult, Header] | None = None
        self._states: dict[str, PresenceState] = {}

    def publish(self, frame: CameraFrame, result: TrackResult) -> None:
        """Publishes everything that belongs to one frame."""
        start_ns = self._now_ns()
        head = header(result.stamp_ns, frame.frame_id)
        self._objects.publish(objects_message(result.objects, head))
        if self._mask.get_subscription_count():
            self._mask.publish(label_image_message(label_image(result), head))
        states = {item.object_id: item.presence.state for item in result.objects}
        with self._lock:
            self._last = result, head
            changed, self._states = states != self._states, states
        if changed:
            self._publish_presence(result, head)
        done_ns = self._now_ns()
        seconds = {
            **result.stage_seconds,
            'publish': (done_ns - start_ns) / 1e9,
            'age': (done_ns - result.stamp_ns) / 1e9,
        }
        with self._lock:
            self._window.add(seconds)
        if self._overlay.get_subscription_count():
            drawn = self._drawing.draw(frame, result)
            self._overlay.publish(image_from(drawn, frame.colour_order + '8', head))

    def report(self) -> None:
        """Once a second: presence again, and the latency since the last report."""
        now = self._now_ns()
        with self._lock:
            last = self._last
            start, self._window_start_ns = self._window_start_ns, now
            messages = self._window.report(self._node_name, min(start, now), now)
        for message in messages:
            self._latency.publish(message)
        if last is not None:
            self._publish_presence(*last)

    def forget(self) -> None:
        """Forgets the last result, when the tracker was released."""
        with self._lock:
            self._last, self._states = None, {}

    def _publish_presence(self, result: TrackResult, head: Header) -> None:
        self._presence.publish(presence_message(self._node_name, result.objects, head))
