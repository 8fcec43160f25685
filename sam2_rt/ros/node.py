"""The lifecycle node: topics and services on one side, a TrackingStream on the other.

Callbacks never wait: an image is put into the stream's mailbox, a prompt into its queue, and the
stream's worker does the rest and publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from sam2_rt.errors import Sam2RtError, StreamError
from sam2_rt.ros import parameters, process
from sam2_rt.ros.auto_prompt import AutoPrompter
from sam2_rt.ros.commands import Commands
from sam2_rt.ros.convert import frame_from
from sam2_rt.ros.diagnostics import HealthReporter
from sam2_rt.ros.outputs import Outputs
from sam2_rt.runtime.base import Runner
from sam2_rt.runtime.build import build
from sam2_rt.runtime.locate import locate_engine
from sam2_rt.runtime.select import open_runner
from sam2_rt.stream import TrackingStream
from sam2_rt.tracker import Tracker
from sam2_rt.types import Frame, TrackResult

NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
MAX_COMMANDS = 16
"""Prompts that may wait for the worker; a flood beyond them is refused, frames go on."""


class TrackerNode(LifecycleNode):
    """configure loads and warms up the engine, activate tracks, cleanup releases the engine."""

    def __init__(self) -> None:
        super().__init__('sam2_rt')
        parameters.declare(self)
        self._config = parameters.node_config(parameters.current(self))
        self.add_on_set_parameters_callback(self._on_parameters)
        self._runner: Runner | None = None
        self._tracker: Tracker | None = None
        self._stream: TrackingStream | None = None
        self._problem = ''
        self._throttle = process.Throttle()
        self._auto = AutoPrompter()
        self._outputs = Outputs(self, self._now_ns)
        self._health = HealthReporter(self, self._now_ns)
        self._commands = Commands(self, self._auto, lambda: self._config, self._warn)
        self._image_subscriptions: list[Any] = []
        # Steady: a simulated clock that stops or jumps must not stop the diagnostics.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._report, clock=steady)

    # -- lifecycle -------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the engine; FAILURE, with the reason, leaves the node unconfigured and alive."""
        return self._transition('configure', self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes to the camera and starts the worker."""
        return self._transition('activate', self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops tracking; engine and objects are kept."""
        return self._transition('deactivate', self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Releases the engine and forgets the objects."""
        return self._transition('clean up', self._cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Releases everything, from any state."""
        return self._transition('shut down', self._cleanup)

    def _transition(self, name: str, act: Callable[[], None]) -> TransitionCallbackReturn:
        # rclpy swallows what a transition raises, so it is told here.
        try:
            act()
        except Exception as error:
            kind = '' if isinstance(error, Sam2RtError) else f'{type(error).__name__}: '
            self._problem = f'cannot {name}: {kind}{error}'
            self.get_logger().error(self._problem)
            return TransitionCallbackReturn.FAILURE
        self._problem = ''
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        config = parameters.node_config(parameters.current(self))
        folder = locate_engine(config.engine)
        if config.build_plans:
            build(folder, progress=self.get_logger().info)
        runner = open_runner(
            folder,
            config.backend,
            precision=config.precision,
            threads=config.threads,
        )
        try:
            tracker = Tracker(runner, config.tracker_config(runner.manifest.max_objects))
            tracker.warm_up()
        except BaseException:
            runner.close()
            raise
        self._config, self._runner, self._tracker = config, runner, tracker
        manifest, info = runner.manifest, runner.info
        self.get_logger().info(
            f'engine {manifest.folder} ({manifest.variant}, {manifest.image_size} pixels) on '
            f'{info.backend} {info.version}, {info.precision}, {info.device}'
        )
        if not manifest.trained:
            self.get_logger().warning('the engine has random weights: its masks mean nothing')

    def _activate(self) -> None:
        if self._tracker is None:
            raise StreamError('no engine is loaded; configure first')
        self._stream = TrackingStream(
            self._tracker,
            self._on_result,
            self._on_stream_error,
            max_commands=MAX_COMMANDS,
            clock_ns=self._now_ns,
        )
        self._stream.start()
        self._commands.stream = self._stream
        self._health.restart()
        kind, topic = Image, 'image'
        if self._config.compressed:
            # As image_transport names it: after the raw topic, with that one's remapping.
            kind, topic = CompressedImage, self.resolve_topic_name('image') + '/compressed'
        subscribe = self.create_subscription
        self._image_subscriptions = [subscribe(kind, topic, self._on_image, NEWEST)]
        if self._config.auto_prompt_topic:
            self._image_subscriptions.append(
                subscribe(
                    Detection2DArray,
                    self._config.auto_prompt_topic,
                    self._commands.on_detections,
                    10,
                )
            )

    def _deactivate(self, timeout: float = 30.0) -> None:
        for subscription in self._image_subscriptions:
            self.destroy_subscription(subscription)
        self._image_subscriptions = []
        stream, self._stream, self._commands.stream = self._stream, None, None
        if stream is not None:
            stream.close(timeout)

    def _cleanup(self) -> None:
        self._deactivate()
        self._tracker = None
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()
        self._auto.forget()
        self._outputs.forget()

    def start(self) -> None:
        """Configures and activates, unless a lifecycle manager does."""
        if not self.get_parameter('autostart').value:
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def stop(self) -> bool:
        """Stops the worker for good; False if it is still inside a frame after a second."""
        try:
            self._deactivate(timeout=1.0)
        except StreamError:
            return False
        self._cleanup()
        return True

    # -- in and out ------------------------------------------------------------------------------

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._health.image_came()
        if self._stream is not None:
            self._stream.submit(partial(frame_from, message))

    def _on_result(self, frame: Frame, result: TrackResult) -> None:
        """Called by the stream's worker."""
        self._auto.note(result)
        self._outputs.publish(frame, result)  # type: ignore[arg-type]

    def _on_stream_error(self, error: Exception) -> None:
        """Called by the stream's worker."""
        if not rclpy.ok():
            return  # the process is ending, and publishing with it
        if self._stream is None or self._stream.failure is None:
            return self._warn(str(error))
        self._problem = f'tracking stopped: {error}; deactivate and activate the node'
        self.get_logger().error(self._problem)

    def _on_parameters(self, changes: Sequence[Any]) -> SetParametersResult:
        configured = self._tracker is not None
        try:
            self._config = parameters.changed(self, changes, configured=configured)
        except (Sam2RtError, TypeError, ValueError) as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _report(self) -> None:
        self._outputs.report()
        self._health.report(
            self._stream,
            self._runner,
            self._tracker,
            self._commands.answered(),
            self._problem,
            self._config.stale_after_s,
        )

    def _warn(self, text: str) -> None:
        if self._throttle.news(text):
            self.get_logger().warning(text)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main() -> int:
    """Entry point of `ros2 run sam2_rt sam2_rt_node`."""
    return process.run(TrackerNode, TrackerNode.start, TrackerNode.stop)
