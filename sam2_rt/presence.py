"""Occlusion-head logits over time -> visible, occluded or lost."""

from __future__ import annotations

from math import exp, isfinite

from sam2_rt.config import PresenceConfig
from sam2_rt.types import Presence, PresenceState


def probability(object_score: float) -> float:
    """Sigmoid of the occlusion head's logit; a logit that is not finite counts as absent."""
    if not isfinite(object_score):
        return 0.0
    return 1.0 / (1.0 + exp(-max(min(object_score, 60.0), -60.0)))


class PresenceFilter:
    """Steadies one object's presence with hysteresis.

    Time is the frames' stamps. Stamps that go backwards (a bag that loops) never give a negative
    duration: the state's clock starts again from the earlier stamp.
    """

    def __init__(self, config: PresenceConfig) -> None:
        self._config = config
        self._started = False
        self._state = PresenceState.OCCLUDED
        self._since_ns = 0
        self._last_seen_ns = 0
        self._opposing = 0

    def update(self, object_score: float, stamp_ns: int) -> Presence:
        """Takes in one frame.

        Args:
            object_score: the occlusion head's logit on that frame.
            stamp_ns: the frame's stamp.
        """
        likely = probability(object_score)
        if not self._started:  # a first frame has no history to be steadied by
            self._started = True
            first = PresenceState.VISIBLE if likely >= 0.5 else PresenceState.OCCLUDED
            self._enter(first, stamp_ns)
        elif self._flips(likely):
            was_visible = self._state is PresenceState.VISIBLE
            self._enter(PresenceState.OCCLUDED if was_visible else PresenceState.VISIBLE, stamp_ns)
        self._since_ns = min(self._since_ns, stamp_ns)
        hidden_s = (stamp_ns - self._since_ns) / 1e9
        if self._state is PresenceState.VISIBLE:
            self._last_seen_ns = stamp_ns
        elif self._state is PresenceState.OCCLUDED and hidden_s >= self._config.lost_after_s:
            self._enter(PresenceState.LOST, stamp_ns)
        return Presence(
            state=self._state,
            probability=likely,
            seconds_in_state=(stamp_ns - self._since_ns) / 1e9,
            last_seen_ns=self._last_seen_ns,
        )

    def restart(self, object_score: float, stamp_ns: int) -> Presence:
        """Takes in a prompted frame: it counts at once, whatever came before."""
        self._started = False
        return self.update(object_score, stamp_ns)

    def _flips(self, likely: float) -> bool:
        """Whether enough consecutive frames now speak against the present state."""
        config = self._config
        if self._state is PresenceState.VISIBLE:
            opposes, needed = likely < config.hide_below, config.hide_frames
        else:
            opposes, needed = likely > config.show_above, config.show_frames
        self._opposing = self._opposing + 1 if opposes else 0
        return self._opposing >= needed

    def _enter(self, state: PresenceState, stamp_ns: int) -> None:
        self._state = state
        self._since_ns = stamp_ns
        self._opposing = 0
