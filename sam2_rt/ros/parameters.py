"""The node's parameters: declared once, with types, ranges and descriptions, checked together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from sam2_rt.config import PresenceConfig, TrackerConfig
from sam2_rt.errors import ConfigError
from sam2_rt.runtime.select import AUTO, BACKENDS, PRECISIONS

UNLIMITED = 1e9


@dataclass(frozen=True)
class Option:
    """One parameter.

    Attributes:
        default: its value where none is given; its type is the parameter's type.
        description: what `ros2 param describe` prints.
        between: lowest and highest value of a number.
        choices: the values of a string that are allowed; empty = any.
        live: whether it may change while the node is configured.
    """

    default: Any
    description: str
    between: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """The declaration as ROS tools see it."""
        described = ParameterDescriptor(description=self.description)
        notes = [f'one of: {", ".join(self.choices)}'] if self.choices else []
        notes += [] if self.live else ['takes effect at the next configure']
        described.additional_constraints = '; '.join(notes)
        if self.between is not None:
            low, high = self.between
            if isinstance(self.default, int):
                described.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
            else:
                described.floating_point_range = [
                    FloatingPointRange(from_value=float(low), to_value=float(high))
                ]
        return described


_TRACKER, _PRESENCE = TrackerConfig(), PresenceConfig()

OPTIONS: Mapping[str, Option] = {
    'autostart': Option(True, 'configure and activate at start, without a lifecycle manager'),
    'engine': Option('', 'engine folder; empty = the bundled engine'),
    'backend': Option(
        AUTO,
        'what runs the engine; auto = the fastest one that is installed and accurate',
        choices=(AUTO, *BACKENDS),
    ),
    'precision': Option(AUTO, 'arithmetic, as the backend offers it', choices=(AUTO, *PRECISIONS)),
    'threads': Option(0, 'CPU threads of the engine; 0 = as the backend likes', (0, 1024)),
    'build_plans': Option(
        False, 'build TensorRT plans when configured, if this machine has none: takes minutes'
    ),
    'image_transport': Option(
        'raw',
        'type of the image topic: sensor_msgs/Image or sensor_msgs/CompressedImage',
        choices=('raw', 'compressed'),
    ),
    'max_objects': Option(
        0, 'objects tracked at once; 0 = as many as the engine was exported for', (0, 65535)
    ),
    'held_frames': Option(
        _TRACKER.held_frames, 'past frames kept so that a late prompt finds its own', (1, 100000)
    ),
    'held_megabytes': Option(
        _TRACKER.held_megabytes, 'most memory those frames may take', (1.0, 1e6)
    ),
    'catch_up_frames': Option(
        _TRACKER.catch_up_frames,
        'held frames per live frame through which a late prompt is carried forward',
        (2, 100),
    ),
    'late_prompts_use_newest': Option(
        _TRACKER.late_prompts_use_newest,
        'apply a prompt older than every held frame to the newest one instead of refusing it',
    ),
    'presence.show_above': Option(
        _PRESENCE.show_above, 'probability from which a hidden object is visible', (0.0, 1.0)
    ),
    'presence.hide_below': Option(
        _PRESENCE.hide_below, 'probability under which an object is occluded', (0.0, 1.0)
    ),
    'presence.show_frames': Option(
        _PRESENCE.show_frames, 'consecutive frames that showing again takes', (1, 1000)
    ),
    'presence.hide_frames': Option(
        _PRESENCE.hide_frames, 'consecutive frames that hiding takes', (1, 1000)
    ),
    'presence.lost_after_s': Option(
        _PRESENCE.lost_after_s, 'seconds after which an occluded object is lost', (0.0, UNLIMITED)
    ),
    'click_object': Option(
        '',
        'object that clicks on ~/prompt_point belong to; empty = each click is a new object',
        live=True,
    ),
    'stale_after_s': Option(
        1.0,
        'seconds without an image after which diagnostics say stale',
        (0.01, 3600.0),
        live=True,
    ),
    'auto_prompt.topic': Option('', "a detector's Detection2DArray topic; empty = off"),
    'auto_prompt.labels': Option([''], "labels to track from it; [''] = every label", live=True),
    'auto_prompt.min_score': Option(
        0.5, 'lowest score of a detection that is believed', (0.0, 1.0), live=True
    ),
    'auto_prompt.max_objects': Option(
        4, 'no new object is added while this many are tracked', (1, 65535), live=True
    ),
    'auto_prompt.overlap': Option(
        0.3, 'box IoU from which a detection counts as tracked already', (0.0, 1.0), live=True
    ),
}


@dataclass(frozen=True)
class AutoPromptConfig:
    """Which of a detector's boxes become objects; see OPTIONS."""

    labels: frozenset[str]
    min_score: float
    max_objects: int
    overlap: float


@dataclass(frozen=True)
class NodeConfig:
    """All parameters, checked together."""

    engine: str
    backend: str
    precision: str
    threads: int | None
    build_plans: bool
    compressed: bool
    max_objects: int
    tracker: TrackerConfig
    click_object: str
    stale_after_s: float
    auto_prompt_topic: str
    auto_prompt: AutoPromptConfig

    def tracker_config(self, engine_limit: int) -> TrackerConfig:
        """The tracker's settings for an engine that was exported for so many objects."""
        return replace(self.tracker, max_objects=self.max_objects or engine_limit)


def node_config(values: Mapping[str, Any]) -> NodeConfig:
    """Checks parameter values together.

    Args:
        values: every name of OPTIONS.

    Raises:
        ConfigError: a value is not one of the choices, or contradicts another.
    """
    for name, option in OPTIONS.items():
        if option.choices and values[name] not in option.choices:
            raise ConfigError(
                f'{name}: expected one of {", ".join(option.choices)}, got {values[name]!r}'
            )
    presence = {
        name.removeprefix('presence.'): value
        for name, value in values.items()
        if name.startswith('presence.')
    }
    held = ('held_frames', 'held_megabytes', 'catch_up_frames', 'late_prompts_use_newest')
    return NodeConfig(
        engine=values['engine'],
        backend=values['backend'],
        precision=values['precision'],
        threads=values['threads'] or None,
        build_plans=values['build_plans'],
        compressed=values['image_transport'] == 'compressed',
        max_objects=values['max_objects'],
        tracker=TrackerConfig(
            **{name: values[name] for name in held},
            presence=PresenceConfig(**presence),
        ),
        click_object=values['click_object'],
        stale_after_s=values['stale_after_s'],
        auto_prompt_topic=values['auto_prompt.topic'],
        auto_prompt=AutoPromptConfig(
            labels=frozenset(filter(None, values['auto_prompt.labels'])),
            min_score=values['auto_prompt.min_score'],
            max_objects=values['auto_prompt.max_objects'],
            overlap=values['auto_prompt.overlap'],
        ),
    )


def declare(node: Node) -> None:
    """Declares every option on a node; ROS then refuses wrong types and numbers out of range."""
    for name, option in OPTIONS.items():
        node.declare_parameter(name, option.default, option.descriptor())


def current(node: Node) -> dict[str, Any]:
    """The values a node has now."""
    return {name: node.get_parameter(name).value for name in OPTIONS}


def changed(node: Node, parameters: Sequence[Any], *, configured: bool) -> NodeConfig:
    """The configuration that a change of parameters would give.

    Args:
        node: it has the values that do not change.
        parameters: rclpy Parameters, as a set-parameters callback gets them.
        configured: whether only live parameters may change.

    Raises:
        ConfigError: the change is not allowed, with the reason.
    """
    values = current(node)
    for parameter in parameters:
        option = OPTIONS.get(parameter.name)
        if option is None:
            continue  # another part's, e.g. use_sim_time
        if configured and not option.live and parameter.value != values[parameter.name]:
            raise ConfigError(
                f'{parameter.name}: takes effect at configure only; deactivate and clean up the '
                'node, set it, and configure again'
            )
        values[parameter.name] = parameter.value
    return node_config(values)
