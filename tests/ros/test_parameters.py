"""Parameters: declared with types and ranges, checked together, some of them changeable live."""

import re
from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.parameter import Parameter

from sam2_rt.config import TrackerConfig
from sam2_rt.errors import ConfigError
from sam2_rt.ros import parameters

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def node(ros):
    made = rclpy.create_node('parameters_under_test')
    parameters.declare(made)
    yield made
    made.destroy_node()


def test_the_defaults_are_those_of_the_tracker(node) -> None:
    config = parameters.node_config(parameters.current(node))
    assert config.tracker == TrackerConfig()
    assert config.tracker_config(engine_limit=3).max_objects == 3
    assert config.threads is None
    assert config.auto_prompt.labels == frozenset()


def flat(values, prefix=''):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f'{prefix}{name}.')
        else:
            yield prefix + name, value


def test_the_shipped_file_has_every_default() -> None:
    text = (REPOSITORY / 'launch' / 'sam2_rt.yaml').read_text(encoding='utf-8')
    shipped = dict(flat(yaml.safe_load(text)['/**']['ros__parameters']))
    by_argument = {'engine', 'backend'}  # of the launch file
    assert shipped == {
        name: option.default
        for name, option in parameters.OPTIONS.items()
        if name not in by_argument
    }


def test_every_parameter_is_documented() -> None:
    rows = (REPOSITORY / 'docs' / 'ros.md').read_text(encoding='utf-8').splitlines()
    names = {name for row in rows if row.startswith('| `') for name in re.findall('`(.+?)`', row)}
    assert set(parameters.OPTIONS) <= names


def test_every_parameter_is_described(node) -> None:
    for name in parameters.OPTIONS:
        described = node.describe_parameter(name)
        assert described.description
        static = 'next configure' in described.additional_constraints
        assert static == (not parameters.OPTIONS[name].live)
    assert (
        'one of: raw, compressed'
        in node.describe_parameter('image_transport').additional_constraints
    )


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('max_objects', -1),
        ('catch_up_frames', 1),
        ('presence.show_above', 1.5),
        ('threads', -1),
        ('backend', 3),
        ('auto_prompt.labels', 'cup'),
    ],
)
def test_ros_refuses_wrong_types_and_numbers_out_of_range(node, name, value) -> None:
    before = node.get_parameter(name).value
    (outcome,) = node.set_parameters([Parameter(name, value=value)])
    assert not outcome.successful
    assert node.get_parameter(name).value == before


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'backend': 'abacus'}, "backend: expected one of auto, .*, got 'abacus'"),
        ({'precision': 'fp7'}, 'precision: expected one of auto'),
        ({'image_transport': 'pigeon'}, 'image_transport: expected one of raw, compressed'),
        ({'presence.show_above': 0.2}, 'presence.hide_below: expected at most show_above'),
    ],
)
def test_values_that_make_no_sense_are_refused_with_the_reason(node, changes, words) -> None:
    wanted = [Parameter(name, value=value) for name, value in changes.items()]
    with pytest.raises(ConfigError, match=words):
        parameters.changed(node, wanted, configured=False)


def test_a_change_is_seen_together_with_the_other_values(node) -> None:
    both = {'presence.show_above': 0.3, 'presence.hide_below': 0.2}
    wanted = [Parameter(name, value=value) for name, value in both.items()]
    presence = parameters.changed(node, wanted, configured=False).tracker.presence
    assert (presence.show_above, presence.hide_below) == (0.3, 0.2)


def test_only_live_parameters_change_while_configured(node) -> None:
    with pytest.raises(ConfigError, match='engine: takes effect at configure only'):
        parameters.changed(node, [Parameter('engine', value='/other')], configured=True)
    live = [
        Parameter('click_object', value='cup'),
        Parameter('auto_prompt.labels', value=['cup', 'dog']),
        Parameter('use_sim_time', value=True),  # not ours
        Parameter('engine', value=''),  # unchanged
    ]
    config = parameters.changed(node, live, configured=True)
    assert config.click_object == 'cup'
    assert config.auto_prompt.labels == {'cup', 'dog'}
