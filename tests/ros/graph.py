"""A node in a process of its own, and this process's end of its topics and services."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter as RclpyParameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from statistics_msgs.msg import MetricsMessage
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
)

from sam2_rt.ros.convert import header, image_from, labels_from, stamp_ns

REPOSITORY = Path(__file__).resolve().parents[2]
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
_numbers = itertools.count()

GREY, RED, GREEN = (90, 90, 90), (220, 30, 40), (20, 200, 60)


def scene(*squares: tuple[tuple[int, int], tuple[int, int, int]], size=(320, 240), side=60):
    """(H, W, 3) RGB: grey, with squares ((x, y) of the centre, colour); size is (W, H)."""
    image = np.full((size[1], size[0], 3), GREY, np.uint8)
    for (x, y), colour in squares:
        image[max(0, y - side // 2) : y + side // 2, max(0, x - side // 2) : x + side // 2] = (
            colour
        )
    return image


LEFT, RIGHT = (80, 120), (240, 120)
BOTH = scene((LEFT, RED), (RIGHT, GREEN))


def eventually(
    condition: Callable[[], Any], seconds: float = 15.0, what: str | Callable[[], str] = ''
) -> Any:
    """Waits until a condition holds, and returns its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        said = what() if callable(what) else what
        assert time.monotonic() < end, f'not within {seconds} s: {said}'
        time.sleep(0.005)
    return value


def slow_engine(seconds: float) -> str:
    """A prelude for a Process in which every graph takes so much longer, as on a slow device."""
    return f"""
import time
from sam2_rt.runtime.ort import OrtRunner
compute = OrtRunner._run
def compute_slowly(self, graph, inputs):
    time.sleep({seconds})
    return compute(self, graph, inputs)
OrtRunner._run = compute_slowly
"""


class Process:
    """A module's `main`, in a session of its own; its output goes to a file."""

    def __init__(
        self,
        module: str,
        folder: Path,
        parameters: dict[str, Any],
        *arguments: str,
        prelude: str = '',
        namespace: str = '',
    ) -> None:
        self.namespace = namespace or f'/test_{os.getpid()}_{next(_numbers)}'
        self.log = folder / f'{module}{self.namespace.replace("/", "_")}.log'
        settings = folder / f'{self.log.stem}.yaml'
        settings.write_text(json.dumps({'/**': {'ros__parameters': parameters}}))
        run = f'{prelude}\nimport sys; from {module} import main; sys.exit(main())'
        command = [sys.executable, '-c', run, '--ros-args', '--params-file', str(settings)]
        command += ['-r', f'__ns:={self.namespace}', *arguments]
        with self.log.open('wb') as log:
            self.popen = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, 'PYTHONFAULTHANDLER': '1'},
            )

    def text(self) -> str:
        return self.log.read_text(errors='replace')

    def logged(self, words: str, seconds: float = 15.0) -> None:
        """Waits until the process has said something."""
        eventually(lambda: words in self.text(), seconds, lambda: f'{words!r} in\n{self.text()}')

    def stop(self, number: int = signal.SIGINT, seconds: float = 20.0) -> tuple[int, float]:
        """Sends a signal; returns exit code and seconds until the end."""
        start = time.monotonic()
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        try:
            code = self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.send_signal(signal.SIGABRT)  # every thread's stack goes into the log
            self.popen.wait()
            raise AssertionError(
                f'still alive {seconds} s after the signal:\n{self.text()}'
            ) from None
        return code, time.monotonic() - start


class Client:
    """A node of this process: publishes images and prompts, and keeps what comes back."""

    def __init__(self, namespace: str, node: str = 'sam2_rt') -> None:
        self.name = f'{namespace}/{node}'
        self.node = rclpy.create_node(f'client_{next(_numbers)}', namespace=namespace)
        self.images = self.node.create_publisher(Image, 'image', BEST_EFFORT)
        self.prompts = self.node.create_publisher(Detection2DArray, f'{node}/prompt', 10)
        self.masks: dict[int, Image] = {}
        self.objects: dict[int, Detection2DArray] = {}
        self.presence: list[DiagnosticArray] = []
        self.health: list[Any] = []
        self.latency: list[MetricsMessage] = []
        self.arrived: dict[int, float] = {}  # stamp -> when its mask came
        kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        listen = self.node.create_subscription
        self._mask_subscription = listen(Image, f'{node}/mask', self._on_mask, 10)
        listen(Detection2DArray, f'{node}/objects', self._on_objects, 10)
        listen(DiagnosticArray, f'{node}/presence', self.presence.append, kept)
        listen(DiagnosticArray, '/diagnostics', self._on_health, 10)
        listen(MetricsMessage, f'{node}/latency', self.latency.append, 100)
        self._closing = False
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        # spin_once and not spin: the executor's own end comes in the middle of a callback.
        while not self._closing:
            self._executor.spin_once(0.1)

    def close(self) -> None:
        # Without the join, ending while the executor waits aborts the process now and then.
        self._closing = True
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()

    def _on_mask(self, message: Image) -> None:
        self.arrived[stamp_ns(message.header)] = time.time()
        self.masks[stamp_ns(message.header)] = message

    def _on_objects(self, message: Detection2DArray) -> None:
        self.objects[stamp_ns(message.header)] = message

    def _on_health(self, message: DiagnosticArray) -> None:
        self.health += [item for item in message.status if item.name == f'{self.name}: tracking']

    # -- services --------------------------------------------------------------------------------

    def call(self, kind: Any, name: str, request: Any, seconds: float = 15.0) -> Any:
        client = self.node.create_client(kind, f'{self.name}/{name}')
        try:
            assert client.wait_for_service(seconds), f'no service {name}'
            future = client.call_async(request)
            eventually(future.done, seconds, f'answer of {name}')
            return future.result()
        finally:
            self.node.destroy_client(client)

    def state(self) -> str:
        return str(self.call(GetState, 'get_state', GetState.Request()).current_state.label)

    def change_state(self, transition: int, seconds: float = 30.0) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.call(ChangeState, 'change_state', request, seconds).success)

    def set_parameter(self, name: str, value: Any) -> tuple[bool, str]:
        wire: Parameter = RclpyParameter(name, value=value).to_parameter_msg()
        answer = self.call(
            SetParameters, 'set_parameters', SetParameters.Request(parameters=[wire])
        )
        return bool(answer.results[0].successful), str(answer.results[0].reason)

    def reset(self) -> None:
        assert self.call(Trigger, 'reset', Trigger.Request()).success

    def pause(self, paused: bool) -> None:
        assert self.call(SetBool, 'pause', SetBool.Request(data=paused)).success

    # -- topics ----------------------------------------------------------------------------------

    def connected(self) -> None:
        """Waits until the node hears this one, and is heard."""
        for topic in (self.images, self.prompts):
            eventually(topic.get_subscription_count, what=f'subscription of {topic.topic_name}')
        for name in ('mask', 'objects', 'presence'):
            eventually(lambda name=name: self.node.count_publishers(f'{self.name}/{name}'))

    def send_image(
        self, pixels: np.ndarray, stamp: int | None = None, encoding: str = 'rgb8'
    ) -> int:
        stamp = time.time_ns() if stamp is None else stamp
        self.images.publish(image_from(pixels, encoding, header(stamp, 'camera')))
        return stamp

    def track(
        self,
        pixels: np.ndarray,
        stamp: int | None = None,
        encoding: str = 'rgb8',
        patience: float = 0.5,
    ) -> int:
        """Sends an image until its mask and objects have come back; returns its stamp.

        The image topic is best effort, so one that is lost at discovery is sent again after so
        many seconds. Where that one was only slow, the node tracks it twice.
        """
        stamp = time.time_ns() if stamp is None else stamp
        end = time.monotonic() + 20 * patience
        while stamp not in self.masks or stamp not in self.objects:
            assert time.monotonic() < end, f'no result for an image within {20 * patience} s'
            self.send_image(pixels, stamp, encoding)
            again = time.monotonic() + patience
            while time.monotonic() < min(again, end) and not (
                stamp in self.masks and stamp in self.objects
            ):
                time.sleep(0.002)
        return stamp

    def prompt(self, *detections: Detection2D, stamp: int = 0) -> None:
        self.prompts.publish(
            Detection2DArray(header=header(stamp, 'camera'), detections=detections)
        )

    def unsubscribe_masks(self) -> None:
        """For good: `track` and what is built on it wait for masks."""
        self.node.destroy_subscription(self._mask_subscription)

    def labels(self, stamp: int) -> np.ndarray:
        return labels_from(self.masks[stamp])

    def ids(self, stamp: int) -> list[str]:
        return [item.id for item in self.objects[stamp].detections]

    def listed(self, pixels: np.ndarray, ids: list[str]) -> int:
        """Sends images until exactly these objects are listed; returns the last stamp."""
        return int(eventually(lambda: self._stamp_if_listed(pixels, ids), what=f'objects {ids}'))

    def _stamp_if_listed(self, pixels: np.ndarray, ids: list[str]) -> int:
        stamp = self.track(pixels)
        return stamp if self.ids(stamp) == ids else 0


def detection(
    x: float,
    y: float,
    width: float = 0.0,
    height: float = 0.0,
    *,
    id: str = '',
    label: str = '',
    score: float = 1.0,
) -> Detection2D:
    """A box prompt, or a click where width and height are 0; x and y are the centre."""
    made = Detection2D(id=id)
    made.bbox.center.position.x, made.bbox.center.position.y = float(x), float(y)
    made.bbox.size_x, made.bbox.size_y = float(width), float(height)
    if label:
        found = ObjectHypothesis(class_id=label, score=float(score))
        made.results.append(ObjectHypothesisWithPose(hypothesis=found))
    return made


@contextmanager
def running(
    folder: Path, parameters: dict[str, Any], *arguments: str, prelude: str = ''
) -> Iterator[tuple[Process, Client]]:
    """A tracker node and a client of it; both are gone afterwards."""
    process = Process('sam2_rt.ros.node', folder, parameters, *arguments, prelude=prelude)
    client = Client(process.namespace)
    try:
        yield process, client
    finally:
        client.close()
        process.stop()
