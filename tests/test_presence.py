from math import inf, nan

import pytest

from sam2_rt.config import PresenceConfig
from sam2_rt.errors import ConfigError
from sam2_rt.presence import PresenceFilter, probability
from sam2_rt.types import PresenceState

VISIBLE, OCCLUDED, LOST = PresenceState.VISIBLE, PresenceState.OCCLUDED, PresenceState.LOST
SECOND = 1_000_000_000


def states(config, scores, period_s=0.7):
    steadied = PresenceFilter(config)
    return [
        steadied.update(score, int(index * period_s * SECOND)).state
        for index, score in enumerate(scores)
    ]


@pytest.mark.parametrize(
    ('score', 'expected'), [(0.0, 0.5), (1e9, 1.0), (-1e9, 0.0), (nan, 0.0), (-inf, 0.0)]
)
def test_probability_is_a_sigmoid_that_survives_anything(score, expected):
    assert probability(score) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ('config', 'scores', 'expected'),
    [
        # Logits of +-0.2 are probabilities of 0.55 and 0.45: inside the hysteresis band.
        (PresenceConfig(hide_below=0.4), [5, 0.2, -0.2, 0.2], [VISIBLE] * 4),
        (PresenceConfig(), [-5, -0.2, 0.2], [OCCLUDED] * 3),
        # By default the network's own verdict hides: its mask is empty then.
        (PresenceConfig(), [5, 0.2, -0.2, 0.2], [VISIBLE, VISIBLE, OCCLUDED, OCCLUDED]),
        (PresenceConfig(), [5, -5, 0.2, 5], [VISIBLE, OCCLUDED, OCCLUDED, VISIBLE]),
        # One bad frame does not hide an object that takes two.
        (PresenceConfig(hide_frames=2), [5, -5, 5, -5, -5], [VISIBLE] * 4 + [OCCLUDED]),
        (
            PresenceConfig(show_frames=2, lost_after_s=9),
            [-5, 5, -5, 5, 5],
            [OCCLUDED] * 4 + [VISIBLE],
        ),
        # Occluded becomes lost after two seconds of stamps, and found again at once.
        (PresenceConfig(), [5, -5, -5, -5, -5, 5], [VISIBLE] + [OCCLUDED] * 3 + [LOST, VISIBLE]),
    ],
)
def test_states(config, scores, expected):
    assert states(config, scores) == expected


def test_times_are_those_of_the_stamps():
    steadied = PresenceFilter(PresenceConfig(lost_after_s=10))
    steadied.update(5.0, 1 * SECOND)
    seen = steadied.update(5.0, 3 * SECOND)
    assert (seen.seconds_in_state, seen.last_seen_ns, seen.visible) == (2.0, 3 * SECOND, True)
    steadied.update(-5.0, 4 * SECOND)
    hidden = steadied.update(-5.0, 7 * SECOND)
    assert (hidden.seconds_in_state, hidden.last_seen_ns) == (3.0, 3 * SECOND)


def test_stamps_that_go_backwards_never_give_negative_times():
    steadied = PresenceFilter(PresenceConfig())
    steadied.update(5.0, 100 * SECOND)
    back = steadied.update(5.0, 40 * SECOND)
    assert back.seconds_in_state == 0.0
    assert steadied.update(5.0, 41 * SECOND).seconds_in_state == 1.0


def test_a_prompt_counts_at_once_and_keeps_when_it_was_last_seen():
    steadied = PresenceFilter(PresenceConfig(show_frames=5))
    steadied.update(5.0, 1 * SECOND)
    steadied.update(-5.0, 2 * SECOND)
    assert steadied.restart(-5.0, 3 * SECOND).last_seen_ns == 1 * SECOND
    assert steadied.restart(5.0, 4 * SECOND).visible


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'show_above': 1.0}, r'show_above: expected a probability inside 0\.\.1, got 1\.0'),
        ({'hide_below': 0.7}, r'hide_below: expected at most show_above \(0\.6\), got 0\.7'),
        ({'show_frames': 0}, r'show_frames: expected a whole number >= 1, got 0'),
        ({'hide_frames': 1.5}, r'hide_frames: expected a whole number >= 1, got 1\.5'),
        ({'lost_after_s': nan}, r'lost_after_s: expected seconds >= 0, got nan'),
    ],
)
def test_settings_are_checked_when_constructed(change, message):
    with pytest.raises(ConfigError, match=message):
        PresenceConfig(**change)
