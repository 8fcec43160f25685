"""Textured, shaded, articulated objects: sprites for their parts, and how they hang together.

An object lives in its own coordinates, where its radius is about 1. Each part is a small RGBA
image with a joint; limbs swing about their joints, soft parts ripple.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from export.micro.textures import palette, texture

_MARGIN = 1.15  # a sprite shows [-1.15, 1.15] of its part, so that soft edges are never cut


@dataclass(frozen=True)
class Part:
    """One rigid or rippling piece.

    Attributes:
        sprite: RGBA uint8 (n, n, 4). Colour is defined everywhere, alpha only inside the outline.
        centre: Sprite centre when the joint is at rest, object coordinates (x, y).
        joint: Point about which the part swings, object coordinates.
        half_size: Object units that half of the outline's unit square spans.
        rest: Rest angle, radians.
        swing: Amplitude of the swing, radians.
        rate: Swing frequency, radians a frame.
        phase: Swing phase, radians.
    """

    sprite: np.ndarray
    centre: np.ndarray
    joint: np.ndarray
    half_size: float
    rest: float = 0.0
    swing: float = 0.0
    rate: float = 0.0
    phase: float = 0.0

    def matrix(self, time: float) -> np.ndarray:
        """Sprite pixels to object coordinates at `time` (frames): float64 (3, 3)."""
        n = self.sprite.shape[0]
        unit = 2 * _MARGIN / n * self.half_size
        to_object = np.array([[unit, 0, 0], [0, unit, 0], [0, 0, 1.0]])
        to_object[:2, 2] = -_MARGIN * self.half_size + 0.5 * unit
        placed = _turn(self.rest, np.zeros(2)) @ to_object
        placed[:2, 2] += self.centre
        angle = self.swing * np.sin(self.rate * time + self.phase)
        return _turn(angle, self.joint) @ placed


@dataclass(frozen=True)
class Thing:
    """An object: its parts from back to front, and how much it ripples (object units)."""

    parts: tuple[Part, ...]
    ripple: float = 0.0
    ripple_rate: float = 0.0


def _turn(angle: float, about: np.ndarray) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    x, y = about
    return np.array([[c, -s, x - c * x + s * y], [s, c, y - s * x - c * y], [0, 0, 1.0]])


# Outlines, in [-1, 1]^2. -------------------------------------------------------------------------


def _blob(rng: np.random.Generator) -> np.ndarray:
    theta = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    radius = np.ones(64)
    for k in range(2, 7):
        radius += rng.normal(0, 0.45 / k) * np.cos(k * theta + rng.uniform(0, 6.3))
    radius = np.clip(radius, 0.25, None)
    return _fit(
        np.stack([radius * np.cos(theta), radius * np.sin(theta) * rng.uniform(0.4, 1)], -1)
    )


def _polygon(rng: np.random.Generator) -> np.ndarray:
    corners = int(rng.integers(3, 10))
    theta = 2 * np.pi * (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) / corners
    radius = rng.uniform(rng.choice([0.35, 0.8]), 1, corners)
    return _fit(np.stack([radius * np.cos(theta), radius * np.sin(theta)], -1))


def _rounded(
    rng: np.random.Generator, aspect: float | None = None, taper: float | None = None
) -> np.ndarray:
    """Superellipse: from ellipse to rounded box, tapered at random (cups, bottles, boxes)."""
    aspect = rng.uniform(0.35, 1) if aspect is None else aspect
    theta = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    power = 2 / rng.choice([2.0, 3.0, 6.0, 12.0])
    x = np.sign(np.cos(theta)) * np.abs(np.cos(theta)) ** power * aspect
    y = np.sign(np.sin(theta)) * np.abs(np.sin(theta)) ** power
    if taper is None:
        taper = float(rng.choice([0.0, rng.uniform(-0.4, 0.4)]))
    return np.stack([x * (1 + taper * y) / (1 + abs(taper)), y], -1)


def _stroke(rng: np.random.Generator) -> np.ndarray:
    """A thin curved ribbon: cables, sticks, tools."""
    s = np.linspace(-1, 1, 24)
    bend = rng.normal(0, 0.3) * s**2 + rng.normal(0, 0.2) * np.sin(3 * s)
    width = rng.uniform(0.03, 0.12)
    side = np.stack([s, bend + width], -1)
    other = np.stack([s, bend - width], -1)[::-1]
    return _fit(np.concatenate([side, other]))


def _fit(outline: np.ndarray) -> np.ndarray:
    outline = outline - (outline.max(0) + outline.min(0)) / 2
    return outline / np.abs(outline).max()


def _outline(rng: np.random.Generator) -> np.ndarray:
    kind = rng.random()
    if kind < 0.35:
        return _blob(rng)
    if kind < 0.6:
        return _polygon(rng)
    if kind < 0.93:
        return _rounded(rng)
    return _stroke(rng)


# Sprites. ----------------------------------------------------------------------------------------


def _sprite(
    rng: np.random.Generator, outline: np.ndarray, surface: np.ndarray, hole: float = 0.0
) -> np.ndarray:
    """Rasterises an outline and shades the surface as if it bulged: RGBA uint8 (n, n, 4).

    Args:
        rng: Source of the shading.
        outline: Polygon (k, 2) in [-1, 1].
        surface: RGB uint8 (n, n, 3).
        hole: Size of a concentric hole, 0 for none (rings, handles).
    """
    n = surface.shape[0]
    alpha = np.zeros((2 * n, 2 * n), np.uint8)
    pixels = (outline / _MARGIN + 1) * n
    cv2.fillPoly(alpha, [np.round(pixels * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    if hole:
        inner = (outline * hole / _MARGIN + 1) * n
        cv2.fillPoly(alpha, [np.round(inner * 16).astype(np.int32)], 0, cv2.LINE_AA, 4)
    alpha = cv2.resize(alpha, (n, n), interpolation=cv2.INTER_AREA)
    colour = surface.astype(np.float32)
    if rng.random() < 0.8:
        colour = _shade(rng, colour, alpha)
    if rng.random() < 0.25:
        alpha = cv2.GaussianBlur(alpha, (3, 3), 0)
    return np.dstack([np.clip(colour, 0, 255).astype(np.uint8), alpha])


def _shade(rng: np.random.Generator, colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lambert shading and a highlight, from a height field that rises away from the outline."""
    n = alpha.shape[0]
    inside = cv2.distanceTransform((alpha > 127).astype(np.uint8), cv2.DIST_L2, 3)
    reach = rng.uniform(0.1, 1.0) * max(float(inside.max()), 1.0)
    depth = np.clip(inside / reach, 0, 1)
    height = cv2.GaussianBlur(np.sqrt(depth * (2 - depth)), (0, 0), max(0.6, n / 40))
    height *= reach * rng.uniform(0.3, 1.0)
    slope_x, slope_y = (
        cv2.Sobel(height, cv2.CV_32F, 1, 0) / 8,
        cv2.Sobel(height, cv2.CV_32F, 0, 1) / 8,
    )
    light = np.array([rng.normal(0, 0.6), rng.normal(-0.5, 0.6), 1.0])
    light /= np.linalg.norm(light)
    steep = np.sqrt(slope_x**2 + slope_y**2 + 1)
    lit = np.clip((-light[0] * slope_x - light[1] * slope_y + light[2]) / steep, 0, 1)
    ambient = rng.uniform(0.25, 0.7)
    colour = colour * (ambient + (1.15 - ambient) * lit)[..., None]
    if rng.random() < 0.4:
        colour = colour + rng.uniform(60, 220) * (lit ** rng.uniform(12, 60))[..., None]
    return colour


def _part(
    rng: np.random.Generator,
    outline: np.ndarray,
    pixels: int,
    surface: np.ndarray | None,
    photo_share: float,
    half_size: float = 1.0,
    centre: tuple[float, float] = (0, 0),
    joint: tuple[float, float] | None = None,
    rest: float = 0.0,
    swing: float = 0.0,
    hole: float = 0.0,
) -> Part:
    n = int(np.clip(2 * _MARGIN * pixels * half_size, 12, 1024))
    if surface is None:
        surface = texture(rng, n, n, photo_share)
    else:
        surface = cv2.resize(surface, (n, n), interpolation=cv2.INTER_AREA)
    where = np.array(centre, float)
    return Part(
        sprite=_sprite(rng, outline, surface, hole),
        centre=where,
        joint=where if joint is None else np.array(joint, float),
        half_size=half_size,
        rest=rest,
        swing=swing,
        rate=float(np.exp(rng.uniform(np.log(0.05), np.log(0.7)))),
        phase=rng.uniform(0, 6.3),
    )


# Objects. ----------------------------------------------------------------------------------------


def solid(rng: np.random.Generator, pixels: int, photo_share: float = 0.0) -> Thing:
    """An object without holes or limbs that fills its circle well: what can hide another."""
    outline = _rounded(rng, rng.uniform(0.85, 1.0), taper=0.0)
    return Thing((_part(rng, _fit(outline), pixels, None, photo_share),))


def make(rng: np.random.Generator, pixels: int, photo_share: float = 0.0) -> Thing:
    """A random object.

    Args:
        rng: Source of randomness.
        pixels: Radius at which it will appear, which sets the sprites' resolution.
        photo_share: See `textures.texture`.
    """
    n = int(np.clip(2 * _MARGIN * pixels, 16, 1024))
    surface = texture(rng, n, n, photo_share)
    if rng.random() < 0.2:
        _decals(rng, surface := np.ascontiguousarray(surface))
    builder = rng.choice(['one', 'mug', 'limbs', 'chain', 'cart'], p=[0.5, 0.14, 0.14, 0.12, 0.1])
    share = photo_share
    if builder == 'one':
        parts = [_part(rng, _outline(rng), pixels, surface, share)]
    elif builder == 'mug':
        body = _part(
            rng, _rounded(rng, rng.uniform(0.6, 1)), pixels, surface, share, 0.8, (0.1, 0)
        )
        ring = _rounded(rng, rng.uniform(0.6, 1))
        side = float(rng.choice([-1, 1])) * rng.uniform(0.5, 0.75)
        handle = _part(
            rng, ring, pixels, surface, share, 0.42, (side, rng.uniform(-0.2, 0.2)),
            hole=rng.uniform(0.5, 0.75),
        )  # fmt: skip
        parts = [handle, body]
    elif builder == 'limbs':
        parts = _limbs(rng, pixels, surface, share)
    elif builder == 'chain':
        parts = _chain(rng, pixels, surface, share)
    else:
        parts = _cart(rng, pixels, surface, share)
    soft = rng.random() < 0.3
    return Thing(tuple(parts), rng.uniform(0.02, 0.12) if soft else 0.0, rng.uniform(0.05, 0.6))


def lookalike(rng: np.random.Generator, thing: Thing) -> Thing:
    """Another specimen of the same kind: same build, slightly other colour, other phase."""
    gain, shift = 1 + rng.normal(0, 0.12, 3), rng.normal(0, 10, 3)
    parts = []
    for part in thing.parts:
        sprite = part.sprite.copy()
        sprite[..., :3] = np.clip(sprite[..., :3] * gain + shift, 0, 255)
        parts.append(replace(part, sprite=sprite, phase=rng.uniform(0, 6.3)))
    return replace(thing, parts=tuple(parts))


def tinted(rng: np.random.Generator, thing: Thing, other: Thing) -> Thing:
    """The thing in the colours of another: its own shape and texture, drawn to their mean."""
    sprite = max(other.parts, key=lambda part: part.sprite[..., 3].sum()).sprite
    colour = np.average(sprite[..., :3], axis=(0, 1), weights=sprite[..., 3])
    share = rng.uniform(0.3, 0.9)
    parts = []
    for part in thing.parts:
        sprite = part.sprite.copy()
        sprite[..., :3] = sprite[..., :3] * (1 - share) + colour * share
        parts.append(replace(part, sprite=sprite))
    return replace(thing, parts=tuple(parts))


def _decals(rng: np.random.Generator, surface: np.ndarray) -> None:
    """Paints marks of other colours on a surface, in place: an object is not one colour."""
    n = surface.shape[0]
    for colour in palette(rng, int(rng.integers(1, 5))):
        centre = rng.integers(n // 4, max(n // 4 + 1, 3 * n // 4), 2).tolist()
        axes = rng.integers(1, max(2, n // 5), 2).tolist()
        turn = float(rng.uniform(0, 180))
        cv2.ellipse(surface, centre, axes, turn, 0, 360, colour.tolist(), -1, cv2.LINE_AA)


def _limbs(
    rng: np.random.Generator, pixels: int, surface: np.ndarray, photo_share: float
) -> list[Part]:
    """A body with a head and swinging limbs."""
    parts = []
    limb_surface = surface if rng.random() < 0.6 else None
    for angle in rng.uniform(0, 2 * np.pi, int(rng.integers(2, 6))):
        root = 0.35 * np.array([np.cos(angle), np.sin(angle)])
        parts.append(
            _part(
                rng, _rounded(rng, rng.uniform(0.2, 0.4)), pixels, limb_surface, photo_share,
                half_size=0.4, centre=tuple(root * 1.9), joint=tuple(root),
                rest=angle - np.pi / 2, swing=rng.uniform(0.1, 0.8),
            )
        )  # fmt: skip
    parts.append(_part(rng, _outline_body(rng), pixels, surface, photo_share, 0.6))
    if rng.random() < 0.6:
        head = (rng.uniform(-0.3, 0.3), -0.7)
        parts.append(
            _part(rng, _blob(rng), pixels, None, photo_share, 0.3, head, (0, -0.4), swing=0.3)
        )
    return parts


def _outline_body(rng: np.random.Generator) -> np.ndarray:
    return _blob(rng) if rng.random() < 0.5 else _rounded(rng)


def _chain(
    rng: np.random.Generator, pixels: int, surface: np.ndarray, photo_share: float
) -> list[Part]:
    """Links in a row: an arm, a worm."""
    links = int(rng.integers(2, 5))
    thick = rng.uniform(0.25, 0.5)
    bow = rng.normal(0, 0.5)
    parts, step = [], 2.0 / links
    for i in range(links):
        x = -1 + (i + 0.5) * step
        shared = surface if rng.random() < 0.6 else None
        centre = (x, bow * (x * x - 0.3))
        parts.append(
            _part(
                rng, _rounded(rng, thick), pixels, shared, photo_share, step * 0.75, centre,
                (x - step / 2, centre[1]), np.pi / 2 + 2 * bow * x, rng.uniform(0, 0.4),
            )
        )  # fmt: skip
    return parts


def _cart(
    rng: np.random.Generator, pixels: int, surface: np.ndarray, photo_share: float
) -> list[Part]:
    """A long body with a cabin and wheels."""
    parts = [_part(rng, _rounded(rng, 0.5), pixels, surface, photo_share, 1.0, rest=np.pi / 2)]
    cabin = (rng.uniform(-0.3, 0.3), -0.45)
    shared = surface if rng.random() < 0.5 else None
    parts.insert(0, _part(rng, _rounded(rng, 0.9), pixels, shared, photo_share, 0.5, cabin))
    wheel = _part(rng, _rounded(rng, 1.0), pixels, None, photo_share, 0.28, (-0.55, 0.4))
    wheel = replace(wheel, swing=rng.uniform(0, 3))
    other = np.array([0.55, 0.4])
    return [*parts, wheel, replace(wheel, centre=other, joint=other)]
