"""A bare subscriber in a process of its own: what machine and transport do without the tracker.

It prints a line for each message that reaches it: topic, stamp in nanoseconds, age in
milliseconds. Its service answers as the tracker's does.
"""

from __future__ import annotations

from functools import partial

from rclpy.node import Node
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from sam2_rt.ros import process
from sam2_rt.ros.convert import stamp_ns
from tests.ros.graph import BEST_EFFORT


class Witness(Node):
    """Watches the image topics `image` and `mask`."""

    def __init__(self) -> None:
        super().__init__('witness')
        for topic in ('image', 'mask'):
            self.create_subscription(Image, topic, partial(self._on_image, topic), BEST_EFFORT)
        self.create_service(SetBool, '~/pause', lambda request, response: response)

    def _on_image(self, topic: str, message: Image) -> None:
        stamp = stamp_ns(message.header)
        age = self.get_clock().now().nanoseconds - stamp
        print(topic, stamp, age / 1e6, flush=True)


def main() -> int:
    return process.run(Witness, lambda node: None, lambda node: True)
