"""Commands: prompts, removals, reset and pause, from topics and services to the stream."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

from geometry_msgs.msg import PointStamped
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2DArray

from sam2_rt.errors import PromptError, StreamError
from sam2_rt.ros import prompts
from sam2_rt.ros.auto_prompt import AutoPrompter
from sam2_rt.ros.parameters import NodeConfig
from sam2_rt.ros.prompts import PromptRequest
from sam2_rt.stream import TrackingStream
from sam2_rt.types import PromptResult

QUEUED = 1000
"""Messages of a topic that the middleware keeps for this node. More than the worker may have
waiting, because what the middleware drops nobody hears of, and what is refused is told."""


class Commands:
    """Subscriptions and services that change what is tracked. None of them waits for the worker.

    Args:
        node: owns the subscriptions and services.
        auto: is told what became of the prompts it chose.
        config: the parameters as they are now.
        warn: says why something was refused.

    Attributes:
        stream: where commands go; None while the node is not active.
    """

    def __init__(
        self,
        node: Node,
        auto: AutoPrompter,
        config: Callable[[], NodeConfig],
        warn: Callable[[str], None],
    ) -> None:
        self.stream: TrackingStream | None = None
        self._auto = auto
        self._config = config
        self._warn = warn
        self._log = node.get_logger()
        self._lock = threading.Lock()
        self._answered: Counter[str] = Counter(applied=0, refused=0)
        subscribe = node.create_subscription
        subscribe(Detection2DArray, '~/prompt', self._on_prompt, QUEUED)
        subscribe(PointStamped, '~/prompt_point', self._on_prompt_point, QUEUED)
        subscribe(Image, '~/prompt_mask', self._on_prompt_mask, 2)  # large
        subscribe(String, '~/remove', self._on_remove, QUEUED)
        node.create_service(Trigger, '~/reset', self._on_reset)
        node.create_service(SetBool, '~/pause', self._on_pause)

    def answered(self) -> dict[str, int]:
        """How many prompts were applied and refused so far."""
        with self._lock:
            return dict(self._answered)

    def on_detections(self, message: Detection2DArray) -> None:
        """A detector's boxes, for the auto-prompt."""
        for request in self._auto.choose(message, self._config().auto_prompt):
            self._submit(request)

    def _on_prompt(self, message: Detection2DArray) -> None:
        for group in prompts.prompt_groups(message):
            with self._refusals():
                self._submit(prompts.request_from(group, message.header))

    def _on_prompt_point(self, message: PointStamped) -> None:
        with self._refusals():
            self._submit(prompts.request_from_point(message, self._config().click_object))

    def _on_prompt_mask(self, message: Image) -> None:
        with self._refusals():
            for request in prompts.requests_from_mask(message):
                self._submit(request)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """A message that makes no prompt is told about and changes nothing."""
        try:
            yield
        except PromptError as error:
            self._refuse(error)

    def _refuse(self, error: BaseException) -> None:
        self._count('refused')
        self._warn(str(error))

    def _count(self, answer: str) -> None:
        with self._lock:
            self._answered[answer] += 1

    def _submit(self, request: PromptRequest) -> None:
        def send(stream: TrackingStream) -> Future[PromptResult]:
            return stream.add_prompt(
                request.prompt, request.object_id, label=request.label, stamp_ns=request.stamp_ns
            )

        if not self._send(send, partial(self._prompted, request)):
            self._count('refused')
            self._auto.refused(request)

    def _prompted(self, request: PromptRequest, future: Future[PromptResult]) -> None:
        error = future.exception()
        if error is not None:
            self._auto.refused(request)
            return self._refuse(error)
        self._count('applied')
        done = future.result()
        self._auto.accepted(request, done.object.object_id)
        where = 'the newest frame' if done.caught_up else 'an older frame, being carried forward'
        self._log.info(f'object {done.object.object_id!r} prompted on {where}')

    def _on_remove(self, message: String) -> None:
        def done(future: Future[None]) -> None:
            error = future.exception()
            if error is not None:
                return self._warn(str(error))
            self._auto.forget(message.data)

        self._send(lambda stream: stream.remove_object(message.data), done)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        def done(future: Future[None]) -> None:
            self._auto.forget()

        response.success = self._send(lambda stream: stream.reset(), done)
        response.message = 'reset' if response.success else 'refused: not active, or too busy'
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self.stream is None:
            response.success, response.message = False, 'refused: not active'
            return response
        self.stream.pause(request.data)
        response.success = True
        response.message = 'paused' if request.data else 'tracking'
        return response

    def _send(
        self,
        send: Callable[[TrackingStream], Future[Any]],
        done: Callable[[Future[Any]], None],
    ) -> bool:
        """Hands a command to the worker, which calls `done`; False if it was refused at once."""
        try:
            if self.stream is None:
                raise StreamError('the node is not active: prompts and removals are refused')
            send(self.stream).add_done_callback(done)
        except StreamError as error:
            self._warn(str(error))
            return False
        return True
