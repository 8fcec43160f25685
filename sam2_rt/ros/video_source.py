"""A camera for the graph: a video, a folder of images or a webcam, published on `image`."""

from __future__ import annotations

import threading
import time
from typing import Any

import rclpy
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from sam2_rt.errors import ConfigError, Sam2RtError
from sam2_rt.ros import process
from sam2_rt.ros.convert import header, image_from
from sam2_rt.sources import Source, open_source


class VideoSource(Node):
    """Publishes frames at their rate, stamped when they are published.

    Raises:
        SourceError: the source cannot be opened.
        ConfigError: none is given.
    """

    def __init__(self) -> None:
        super().__init__('video_source')
        self._name = self._declared('source', '', 'video file, folder, webcam number or URL')
        self._rate = self._declared('rate', 0.0, "frames per second of files; 0 = the file's own")
        self._loop = self._declared('loop', True, 'start files again when they end')
        self._frame_id = self._declared('frame_id', 'camera', 'TF frame of the images')
        wait = self._declared(
            'wait_for_subscriber', False, 'publish nothing until somebody listens'
        )
        if not self._name:
            raise ConfigError(
                'source: expected a video file, folder, webcam number or URL, got ""'
            )
        self._source = open_source(self._name)
        self._images = self.create_publisher(Image, 'image', qos_profile_sensor_data)
        self._wait = wait
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name='video_source')

    def _declared(self, name: str, default: Any, description: str) -> Any:
        described = ParameterDescriptor(description=description, read_only=True)
        if isinstance(default, float):
            described.floating_point_range = [FloatingPointRange(from_value=0.0, to_value=1000.0)]
        return self.declare_parameter(name, default, described).value

    def start(self) -> None:
        """Begins to publish."""
        self._thread.start()

    def stop(self) -> bool:
        """Ends publishing; False if the source does not let go of a read."""
        self._stopping.set()
        self._source.stop()
        self._thread.join(timeout=1.0)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while self._wait and not self._images.get_subscription_count():
            if self._stopping.wait(0.05):
                return
        try:
            self._play()
            while self._loop and not self._source.live and not self._stopping.is_set():
                self._source = open_source(self._name)
                self._play()
        except Sam2RtError as error:
            self.get_logger().error(str(error))
        except Exception:
            if rclpy.ok():
                raise
            return  # a signal took the middleware away in the middle of publishing
        if not self._stopping.is_set():
            self.get_logger().info(f'{self._name} has ended')
            rclpy.try_shutdown()

    def _play(self) -> None:
        """Publishes the source once, from its first frame to its last."""
        source: Source = self._source
        period = 1.0 / (self._rate or source.fps)
        due = time.monotonic()
        with source:
            for frame in source:
                if not source.live:
                    due = max(due + period, time.monotonic() - period)
                    if self._stopping.wait(max(0.0, due - time.monotonic())):
                        return
                head = header(self.get_clock().now().nanoseconds, self._frame_id)
                self._images.publish(image_from(frame.image, frame.colour_order + '8', head))


def main() -> int:
    """Entry point of `ros2 run sam2_rt sam2_rt_video_source`."""
    return process.run(VideoSource, VideoSource.start, VideoSource.stop)
