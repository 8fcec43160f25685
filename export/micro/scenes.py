"""Endless generated clips with perfect truth: what `micro` is trained and measured on.

A clip is a pure function of its seed and arguments. The actors' paths are written in view pixels,
so that a script can say 'behind the occluder' or 'outside the image' whatever the camera does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from export.micro.camera import Degradation, camera_path, wander
from export.micro.objects import Part, Thing, lookalike, make, solid, tinted
from export.micro.textures import texture

DIFFICULTIES = ('plain', 'occlusion', 'exit_return', 'distractors', 'several')


@dataclass(frozen=True)
class Clip:
    """A generated clip and its truth.

    Attributes:
        frames: uint8 RGB (T, H, W, 3).
        masks: Visible part of each object, bool (T, N, H, W).
        presence: Whether any of it is visible, bool (T, N).
    """

    frames: np.ndarray
    masks: np.ndarray
    presence: np.ndarray


@dataclass
class _Actor:
    """A thing on stage: where it is, how it is turned and how large, per frame."""

    thing: Thing
    path: np.ndarray  # (T, 2) view pixels
    radius: np.ndarray  # (T,) view pixels
    angle: np.ndarray  # (T,)
    stretch: np.ndarray  # (T,) width over height: the foreshortening of a turning body
    target: int = -1
    shadow: bool = field(default=False)
    light: np.ndarray | None = None  # (T, 3) gain of its colours, where that changes

    def matrix(self, index: int, squash: float) -> np.ndarray:
        """Object coordinates to view pixels on frame `index`: float64 (3, 3)."""
        c, s = np.cos(self.angle[index]), np.sin(self.angle[index])
        r, wide = self.radius[index], self.stretch[index]
        turned = np.array([[c * wide, -s / wide], [s * wide, c / wide]]) * r
        turned[0] *= squash
        matrix = np.eye(3)
        matrix[:2, :2], matrix[:2, 2] = turned, self.path[index]
        return matrix


class Stage:
    """One scene being written: its camera, its clock and its actors from back to front."""

    def __init__(
        self,
        rng: np.random.Generator,
        length: int,
        height: int,
        width: int,
        photo_share: float,
        pace: float | None = None,
        magnify: float = 1.0,
        lasting: float = 0.0,
        decoys: float = 0.0,
        relit: float = 0.0,
    ) -> None:
        self.rng, self.length, self.height, self.width = rng, length, height, width
        self.photo_share, self.lasting, self.decoys = photo_share, lasting, decoys
        self.relit = relit
        self.size = float(np.sqrt(height * width)) * magnify
        # The whole clip's tempo: from nearly still to a frame rate too low for the motion.
        self.pace = float(np.exp(rng.uniform(np.log(0.25), np.log(2.0)))) if pace is None else pace
        self.times = np.arange(length) * 1.0
        self.squash = float(rng.choice([1.0, rng.uniform(0.55, 1)])) if height == width else 1.0
        still = rng.random() < 0.3
        self.cameras = camera_path(rng, self.times, height, width, 0.0 if still else self.pace)
        self.zoom = np.hypot(self.cameras[:, 0, 0], self.cameras[:, 1, 0])
        self.shadows = rng.random() < 0.4
        self.actors: list[_Actor] = []

    def chance(self, share: float) -> bool:
        """True for a share of scenes; nothing is drawn for 0, so a seed's scene stays as it is."""
        return share > 0 and self.rng.random() < share

    def draw_radius(self, largest: float = 0.3) -> float:
        """Log-uniform: tiny objects as common as large ones. Pixels."""
        return self.size * float(np.exp(self.rng.uniform(np.log(0.045), np.log(largest))))

    def roam(self, radius: float) -> np.ndarray:
        """A path (T, 2) that stays in view, about."""
        rng = self.rng
        speed = self.pace * self.size * np.exp(rng.uniform(np.log(0.003), np.log(0.05)))
        room = np.array([self.width, self.height]) - 1.2 * radius
        centre = radius * 0.6 + rng.uniform(0.05, 0.95, 2) * np.maximum(room, 1)
        reach = np.minimum(centre, [self.width, self.height] - centre)
        steps = [wander(rng, self.times, 0.6 * max(r, 1.0), speed) for r in reach]
        return centre + np.stack(steps, -1)

    def anchored(self) -> np.ndarray:
        """The path (T, 2) of something that stands still in the world while the camera moves."""
        spot = self.rng.uniform(-0.5, 0.5, 2) * [self.width, self.height]
        return self.cameras[:, :2, :2] @ spot + self.cameras[:, :2, 2]

    def enter(
        self, thing: Thing, path: np.ndarray, radius: float, target: int = -1, calm: bool = False
    ) -> _Actor:
        """Puts a thing on the stage, in front of what is there."""
        rng, t = self.rng, self.times
        spin = 0.0 if calm else self.pace * rng.choice([0.0, 0.02, 0.1])
        actor = _Actor(
            thing=thing,
            path=path,
            radius=radius * self.zoom * np.exp(wander(rng, t, 0.2, 0.01 * self.pace)),
            angle=(0.0 if calm else rng.normal(0, 0.7)) + wander(rng, t, 0.8, spin),
            stretch=np.exp(wander(rng, t, 0.15, 0.015 * self.pace)),
            target=target,
            shadow=self.shadows,
        )
        if target >= 0 and self.chance(self.relit):
            actor.light = self._draw_light()
        self.actors.append(actor)
        return actor

    def _draw_light(self) -> np.ndarray:
        """Gains (T, 3) of something that gets into another light in the course of the clip."""
        speed = 2.5 / self.length
        shared = wander(self.rng, self.times, 0.25, 0.25 * speed)
        each = [wander(self.rng, self.times, 0.12, 0.12 * speed) for _ in range(3)]
        return np.exp(shared[:, None] + np.stack(each, -1)).astype(np.float32)

    def render(self) -> Clip:
        """Draws every frame and its masks."""
        background = _background(self)
        faults = Degradation.draw(self.rng, self.times, self.height, self.width)
        count = 1 + max(actor.target for actor in self.actors)
        frames = np.empty((self.length, self.height, self.width, 3), np.uint8)
        masks = np.empty((self.length, count, self.height, self.width), bool)
        middle = np.eye(3)
        middle[0, 2], middle[1, 2] = -background.shape[1] / 2, -background.shape[0] / 2
        for index in range(self.length):
            view = (self.cameras[index] @ middle)[:2]
            frame = cv2.warpAffine(
                background, view, (self.width, self.height), borderMode=cv2.BORDER_REFLECT
            )
            owner = np.full((self.height, self.width), -1, np.int8)
            for actor in self.actors:
                _draw(frame, owner, actor, index, self.squash)
            frames[index] = faults.apply(frame, index)
            masks[index] = owner == np.arange(count)[:, None, None]
        return Clip(frames, masks, masks.any((2, 3)))


def generate(
    seed: int,
    difficulty: str = 'plain',
    length: int = 8,
    height: int = 256,
    width: int = 256,
    photo_share: float = 0.0,
    pace: float | None = None,
    magnify: float = 1.0,
    lasting: float = 0.0,
    decoys: float = 0.0,
    relit: float = 0.0,
) -> Clip:
    """Generates one clip.

    Args:
        seed: The same seed and arguments give the same clip.
        difficulty: One of DIFFICULTIES. `plain`: one object on a busy background. `occlusion`: it
            is covered, in part or whole, for a while. `exit_return`: it leaves the image and comes
            back. `distractors`: others that look like it move about. `several`: three to five
            objects cross each other, each of them a target.
        length: Frames T; 1 gives a still.
        height: Rows of the frames.
        width: Columns of the frames.
        photo_share: Share of surfaces cut out of photographs (see `textures.photographs`).
        pace: Tempo; 1 is lively. Drawn at random where not given.
        magnify: Size of the objects relative to the view: above 1, a crop of a larger scene.
        lasting: Chance that what is covered or has left stays away until the end.
        decoys: Chance, each, of a double and of a thing in the target's colours where a target
            hides, and of an occluder in its colours.
        relit: Chance that a target's colours change, as in another light.

    Raises:
        ValueError: For a difficulty that does not exist.
    """
    if difficulty not in DIFFICULTIES:
        raise ValueError(
            f'unknown difficulty {difficulty!r}: use one of {", ".join(DIFFICULTIES)}'
        )
    rng = np.random.default_rng((seed, DIFFICULTIES.index(difficulty)))
    stage = Stage(rng, length, height, width, photo_share, pace, magnify, lasting, decoys, relit)
    for _ in range(int(rng.integers(0, 4))):  # clutter that stands behind the targets
        radius = stage.draw_radius()
        stage.enter(make(rng, int(radius), photo_share), stage.anchored(), radius, calm=True)
    _SCRIPTS[difficulty](stage)
    return stage.render()


# Scripts. ----------------------------------------------------------------------------------------


def _plain(stage: Stage) -> None:
    radius = stage.draw_radius()
    thing = make(stage.rng, int(radius), stage.photo_share)
    path = stage.anchored() if stage.rng.random() < 0.25 else stage.roam(radius)
    stage.enter(thing, np.clip(path, 0, [stage.width, stage.height]), radius, target=0)


def _occlusion(stage: Stage) -> None:
    """Either the occluder comes to the target, or the target goes behind the occluder."""
    rng = stage.rng
    radius = stage.draw_radius(0.2)
    path, away = stage.roam(radius), _envelope(stage)[:, None]
    whole = rng.random() < 0.65
    cover = radius * (rng.uniform(1.6, 2.3) if whole else rng.uniform(0.6, 1.3))
    angle = rng.uniform(0, 2 * np.pi, 2)
    clear = (cover + 1.3 * radius) * rng.uniform(1.0, 2.0)
    before, after = (clear * np.array([np.cos(a), np.sin(a)]) for a in angle)
    late = (stage.times > stage.times[int(np.argmax(away))])[:, None]
    offset = (1 - away) * np.where(late, after, before)
    if not whole:
        offset = offset + away * rng.uniform(0.2, 0.9) * radius * rng.standard_normal(2)
    occluder_path = path + offset
    if rng.random() < 0.5:  # the target moves instead: same encounter, seen from the occluder
        path = path - offset + np.where(late, after, before) * 0.5
        occluder_path = path + offset
    target = make(rng, int(radius), stage.photo_share)
    _add_decoys(stage, target, radius)
    stage.enter(target, path, radius, target=0)
    screen = solid if whole else make
    occluder = screen(rng, int(cover), stage.photo_share)
    if stage.chance(stage.decoys):
        occluder = tinted(rng, occluder, target)
    stage.enter(occluder, occluder_path, cover, calm=True)


def _exit_return(stage: Stage) -> None:
    rng = stage.rng
    radius = stage.draw_radius(0.2)
    path, away = stage.roam(radius), _envelope(stage)[:, None]
    half = np.array([stage.width, stage.height]) / 2
    late = (stage.times > stage.times[int(np.argmax(away))])[:, None]
    gates = []
    for angle in rng.uniform(0, 2 * np.pi, 2):
        ray = np.array([np.cos(angle), np.sin(angle)])
        to_edge = np.min((half + 2.2 * radius) / np.maximum(np.abs(ray), 1e-6))
        gates.append(half + ray * to_edge)
    path = (1 - away) * path + away * np.where(late, gates[1], gates[0])
    target = make(rng, int(radius), stage.photo_share)
    _add_decoys(stage, target, radius)
    stage.enter(target, path, radius, target=0)


def _distractors(stage: Stage) -> None:
    rng = stage.rng
    radius = stage.draw_radius(0.2)
    thing = make(rng, int(radius), stage.photo_share)
    others = int(rng.integers(1, 4))
    place = int(rng.integers(others + 1))  # the target's depth among its doubles
    for depth in range(others + 1):
        kind = thing if depth == place else lookalike(rng, thing)
        size = radius * (1.0 if depth == place else rng.uniform(0.8, 1.25))
        stage.enter(kind, stage.roam(radius), size, target=0 if depth == place else -1)


def _several(stage: Stage) -> None:
    rng = stage.rng
    for target in range(int(rng.integers(3, 6))):
        radius = stage.draw_radius(0.22)
        thing = make(rng, int(radius), stage.photo_share)
        stage.enter(thing, stage.roam(radius), radius, target=target)


_SCRIPTS = {
    'plain': _plain,
    'occlusion': _occlusion,
    'exit_return': _exit_return,
    'distractors': _distractors,
    'several': _several,
}


def _add_decoys(stage: Stage, target: Thing, radius: float) -> None:
    """Perhaps a double of the target and a thing in its colours, which roam behind it."""
    rng = stage.rng
    decoys = []
    if stage.chance(stage.decoys):
        decoys.append(lookalike(rng, target))
    if stage.chance(stage.decoys):
        decoys.append(tinted(rng, make(rng, int(radius), stage.photo_share), target))
    for decoy in decoys:
        stage.enter(decoy, stage.roam(radius), radius * rng.uniform(0.7, 1.5))


def _envelope(stage: Stage) -> np.ndarray:
    """0 before and after an event, 1 while it lasts, float64 (T,); over by 0.85 T, or never."""
    rng, length = stage.rng, stage.length
    start = max(0.5, rng.uniform(0.08, 0.3) * length)
    ramp = rng.uniform(0.5, min(max(1.0, 0.1 * length), 15))
    hold = rng.uniform(0.15, 0.35) * length
    if stage.chance(stage.lasting):
        hold = 2.0 * length
    rise = (stage.times - start) / ramp
    fall = (start + 2 * ramp + hold - stage.times) / ramp
    level = np.clip(np.minimum(rise, fall), 0, 1)
    return level * level * (3 - 2 * level)


# Drawing. ----------------------------------------------------------------------------------------


def _background(stage: Stage) -> np.ndarray:
    """Canvas larger than the view, with standing clutter: uint8 RGB, world 0 at its centre."""
    rng = stage.rng
    height, width = int(stage.height * 1.5), int(stage.width * 1.5)
    canvas = np.ascontiguousarray(texture(rng, height, width, stage.photo_share))
    if rng.random() < 0.45:  # a floor or a table
        horizon = int(rng.uniform(0.25, 0.75) * height)
        canvas[horizon:] = texture(rng, height - horizon, width, stage.photo_share)
    owner = np.full((height, width), -1, np.int8)
    ones = np.ones(1)
    for _ in range(int(rng.integers(0, 8))):
        radius = stage.draw_radius(0.35)
        spot = rng.uniform(0, 1, (1, 2)) * [width, height]
        tilt = rng.normal(0, 0.8, 1)
        thing = make(rng, int(radius), stage.photo_share)
        actor = _Actor(thing, spot, radius * ones, tilt, ones, shadow=stage.shadows)
        _draw(canvas, owner, actor, 0, stage.squash)
    return canvas


def _draw(frame: np.ndarray, owner: np.ndarray, actor: _Actor, index: int, squash: float) -> None:
    """Paints an actor over `frame` (H, W, 3) and writes its target number into `owner` (H, W)."""
    to_view = actor.matrix(index, squash)
    patches = []
    for part in actor.thing.parts:
        placed = _place(frame.shape, part, to_view @ part.matrix(index), actor, index)
        if placed is not None:
            patches.append(placed)
    if actor.shadow:
        drop = max(1, int(actor.radius[index] * 0.15))
        for (rows, cols), patch in patches:
            below = frame[rows.start + drop : rows.stop + drop, cols]
            shade = cv2.blur(patch[..., 3], (2 * drop + 1, 2 * drop + 1))[: below.shape[0]]
            below[:] = below * (1 - shade[..., None] * np.float32(0.45 / 255))
    for (rows, cols), patch in patches:
        region = frame[rows, cols]
        alpha = patch[..., 3:].astype(np.float32) / 255
        colour = patch[..., :3]
        if actor.light is not None:
            colour = np.minimum(colour * actor.light[index], 255)
        region[:] = region + (colour - region.astype(np.float32)) * alpha + 0.5
        owner[rows, cols][patch[..., 3] > 127] = actor.target


def _place(
    shape: tuple[int, ...], part: Part, matrix: np.ndarray, actor: _Actor, index: int
) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """Warps a part's sprite into the view: its window (rows, cols) and RGBA pixels, if any."""
    n = part.sprite.shape[0]
    corners = matrix[:2, :2] @ np.array([[0, n, n, 0], [0, 0, n, n]]) + matrix[:2, 2:]
    left, top = np.floor(corners.min(1)).astype(int) - 1
    right, bottom = np.ceil(corners.max(1)).astype(int) + 2
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, shape[1]), min(bottom, shape[0])
    if right - left < 1 or bottom - top < 1:
        return None
    shifted = matrix[:2].copy()
    shifted[:, 2] -= (left, top)
    window = (slice(top, bottom), slice(left, right))
    if not actor.thing.ripple:
        return window, cv2.warpAffine(part.sprite, shifted, (right - left, bottom - top))
    inverse = cv2.invertAffineTransform(shifted).astype(np.float32)
    x = np.arange(right - left, dtype=np.float32)[None]
    y = np.arange(bottom - top, dtype=np.float32)[:, None]
    wave, phase = actor.thing.ripple * n / 2, actor.thing.ripple_rate * index
    map_x = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
    map_y = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
    bend_x = map_x + wave * np.sin(map_y * (9 / n) + phase)
    bend_y = map_y + wave * np.sin(map_x * (7 / n) + 1.7 * phase)
    return window, cv2.remap(part.sprite, bend_x, bend_y, cv2.INTER_LINEAR)
