"""Settings, validated when constructed: a bad value fails at start, never on the first frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

from sam2_rt.errors import ConfigError


def _require(condition: bool, name: str, expected: str, came: object) -> None:
    if not condition:
        raise ConfigError(f'{name}: expected {expected}, got {came!r}')


def _require_count(name: str, came: object, least: int) -> None:
    whole = isinstance(came, int) and not isinstance(came, bool)
    _require(whole and came >= least, name, f'a whole number >= {least}', came)  # type: ignore[operator]


@dataclass(frozen=True)
class PresenceConfig:
    """How the occlusion head's probability becomes visible / occluded / lost.

    Attributes:
        show_above: probability from which a hidden object counts as visible again.
        hide_below: probability under which a visible object counts as occluded. Between the two
            the state stays as it is: that is the hysteresis. Under 0.5 the network empties the
            mask, so a lower value keeps an object visible that has none.
        show_frames: consecutive frames above `show_above` that it takes.
        hide_frames: consecutive frames below `hide_below` that it takes.
        lost_after_s: seconds of frame time after which an occluded object is called lost.
    """

    show_above: float = 0.6
    hide_below: float = 0.5
    show_frames: int = 1
    hide_frames: int = 1
    lost_after_s: float = 2.0

    def __post_init__(self) -> None:
        for name in ('show_above', 'hide_below'):
            value = getattr(self, name)
            _require(0.0 < value < 1.0, f'presence.{name}', 'a probability inside 0..1', value)
        _require(
            self.hide_below <= self.show_above,
            'presence.hide_below',
            f'at most show_above ({self.show_above})',
            self.hide_below,
        )
        for name in ('show_frames', 'hide_frames'):
            _require_count(f'presence.{name}', getattr(self, name), 1)
        _require(
            isfinite(self.lost_after_s) and self.lost_after_s >= 0.0,
            'presence.lost_after_s',
            'seconds >= 0',
            self.lost_after_s,
        )


@dataclass(frozen=True)
class TrackerConfig:
    """Settings of a Tracker.

    Attributes:
        max_objects: objects tracked at once; the engine's own limit applies as well.
        held_frames: past frames kept so that a late prompt lands on the frame it was made for.
        held_megabytes: upper bound of the memory those frames may take; fewer are held if needed.
        catch_up_frames: held frames per live frame through which a late prompt is carried forward.
        late_prompts_use_newest: apply a prompt that is older than every held frame to the newest
            frame instead of refusing it.
        presence: see PresenceConfig.
    """

    max_objects: int = 8
    held_frames: int = 30
    held_megabytes: float = 512.0
    catch_up_frames: int = 2
    late_prompts_use_newest: bool = False
    presence: PresenceConfig = field(default_factory=PresenceConfig)

    def __post_init__(self) -> None:
        _require_count('max_objects', self.max_objects, 1)
        _require_count('held_frames', self.held_frames, 1)
        # At 1 a carried object would stay behind for ever: the stream moves on one frame as well.
        _require_count('catch_up_frames', self.catch_up_frames, 2)
        _require(self.held_megabytes > 0, 'held_megabytes', 'megabytes > 0', self.held_megabytes)
