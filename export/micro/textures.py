"""Procedural surfaces: what objects and backgrounds of the generated scenes are painted with.

A network that is to work on camera images must not learn that surfaces are flat. Natural images
have a spectrum that falls as 1/f, so the base of most textures is fractal noise with such a
spectrum, pushed through a random colour palette; stripes, cells, print and collages add the
structure that people put on things. The photographs that scikit-image and scikit-learn carry
inside their wheels are further surfaces, where those libraries are installed, when asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

_PHOTO_FOLDERS = (('skimage', 'data'), ('sklearn', 'datasets/images'))
_PHOTO_NAMES = (
    'astronaut.png', 'brick.png', 'camera.png', 'chelsea.png', 'coffee.png', 'coins.png',
    'color.png', 'grass.png', 'gravel.png', 'hubble_deep_field.jpg', 'ihc.png', 'moon.png',
    'motorcycle_left.png', 'page.png', 'retina.jpg', 'rocket.jpg', 'text.png', 'china.jpg',
    'flower.jpg',
)  # fmt: skip


@lru_cache(maxsize=1)
def photographs() -> tuple[np.ndarray, ...]:
    """Photographs shipped inside installed imaging libraries, RGB uint8 (h, w, 3), 640 px at most.

    Returns an empty tuple where neither scikit-image nor scikit-learn is installed: the generator
    then paints with procedural textures only.
    """
    found = []
    for package, folder in _PHOTO_FOLDERS:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for path in sorted((Path(spec.origin).parent / folder).glob('*')):
            image = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.name in _PHOTO_NAMES else None
            if image is None:
                continue
            shrink = min(1.0, 640 / max(image.shape[:2]))
            image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
            found.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    return tuple(found)


def fractal(rng: np.random.Generator, height: int, width: int, roughness: float) -> np.ndarray:
    """Noise summed over octaves, float32 (height, width) in [0, 1].

    Args:
        rng: Source of randomness.
        height: Rows.
        width: Columns.
        roughness: Amplitude ratio of one octave to the coarser one: 0.5 is a 1/f spectrum.
    """
    # Coarse to fine, doubling the resolution: each octave costs its own size, not the image's.
    aspect = height / width
    cells, amplitude = int(rng.integers(2, 6)), 1.0
    field = np.zeros((2, 2), np.float32)
    while cells < 2 * max(height, width):
        shape = (
            max(2, round(cells * min(1.0, aspect))),
            max(2, round(cells * min(1.0, 1 / aspect))),
        )
        field = cv2.resize(field, shape[::-1], interpolation=cv2.INTER_LINEAR)
        field += amplitude * rng.standard_normal(shape, np.float32)
        cells, amplitude = cells * 2, amplitude * roughness
    field = cv2.resize(field, (width, height), interpolation=cv2.INTER_AREA)
    low, high = float(field.min()), float(field.max())
    return (field - low) / max(high - low, 1e-6)


def palette(rng: np.random.Generator, colours: int) -> np.ndarray:
    """Colours that go together, float32 (colours, 3) in 0..255: shades of a hue, or of several."""
    hue, spread = rng.random(), rng.choice([0.02, 0.08, 0.5])
    hsv = np.empty((1, colours, 3), np.float32)
    hsv[..., 0] = (hue + rng.normal(0, spread, colours)) % 1.0 * 360
    hsv[..., 1] = np.clip(rng.beta(1.0, 2.4) + rng.normal(0, 0.1, colours), 0, 1)
    hsv[..., 2] = np.clip(rng.beta(1.6, 1.4) + rng.normal(0, 0.22, colours), 0.03, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0] * 255


def _paint(rng: np.random.Generator, field: np.ndarray, colours: int) -> np.ndarray:
    """Maps a field in [0, 1] through a palette: uint8 (h, w, 3)."""
    stops = np.sort(rng.random(colours))
    stops[0], stops[-1] = 0, 1
    shades = palette(rng, colours)
    ramp = np.linspace(0, 1, 256)
    table = np.stack([np.interp(ramp, stops, shades[:, c]) for c in range(3)], -1)
    return table.astype(np.uint8)[(field * 255).astype(np.uint8)]


def _clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    field = fractal(rng, height, width, rng.uniform(0.4, 0.8))
    return _paint(rng, field, int(rng.integers(2, 6)))


def _plain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Nearly one colour, with the faint mottle and gradient that real surfaces have."""
    colour = palette(rng, 1)[0]
    field = fractal(rng, height, width, 0.6) - 0.5
    strength = rng.uniform(5, 45)
    return np.clip(colour + strength * field[..., None], 0, 255).astype(np.uint8)


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Stripes or wood grain: a wave along one direction, bent by noise."""
    angle, waves = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(1.5), np.log(14)))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / max(height, width)
    bend = fractal(rng, height, width, 0.5) * rng.choice([0.0, 0.1, 0.5, 1.5])
    phase = (x * np.cos(angle) + y * np.sin(angle)) * waves + bend
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * phase)
    if rng.random() < 0.5:
        wave = (wave > 0.5).astype(np.float32)
    return _paint(rng, wave, int(rng.integers(2, 4)))


def _cells(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Voronoi cells: tiles, pebbles, scales."""
    seeds = np.full((height, width), 255, np.uint8)
    count = int(rng.integers(6, 90))
    seeds[rng.integers(0, height, count), rng.integers(0, width, count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    shades = palette(rng, count + 2)
    image = shades[np.minimum(labels, count + 1)]
    edge = np.clip(distance / max(float(distance.max()), 1.0), 0, 1)[..., None]
    return np.clip(image * (1 - rng.uniform(0, 0.6) * edge), 0, 255).astype(np.uint8)


def _print(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Lettering on a plain ground: labels, books, packaging."""
    image = _plain(rng, height, width)
    for colour in palette(rng, int(rng.integers(1, 8))):
        word = ''.join(chr(c) for c in rng.integers(48, 91, int(rng.integers(1, 9))))
        size = rng.uniform(0.3, 2.5) * height / 128
        origin = (int(rng.integers(-20, width)), int(rng.integers(0, height + 20)))
        thickness = max(1, int(size * rng.uniform(1, 4)))
        font = int(rng.integers(0, 8))
        cv2.putText(image, word, origin, font, size, colour.tolist(), thickness, cv2.LINE_AA)
    return image


def _collage(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Overlapping plates, discs and lines on another texture: clutter with hard edges."""
    image = np.ascontiguousarray(_clouds(rng, height, width))
    for colour in palette(rng, int(rng.integers(3, 14))):
        reach = rng.uniform(0.03, 0.4) * max(height, width)
        centre = rng.uniform((0, 0), (width, height))
        turn = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        corners = centre + reach * np.stack([np.cos(turn), np.sin(turn)], -1)
        cv2.fillPoly(image, [corners.astype(np.int32)], colour.tolist(), cv2.LINE_AA)
    return image


def _photo(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random window of a photograph, mirrored and tinted at random."""
    photo = photographs()[int(rng.integers(len(photographs())))]
    rows = int(photo.shape[0] * rng.uniform(0.15, 1.0))
    cols = min(photo.shape[1], max(8, int(rows * width / height)))
    top = int(rng.integers(photo.shape[0] - rows + 1))
    left = int(rng.integers(photo.shape[1] - cols + 1))
    window = photo[top : top + rows, left : left + cols]
    way = cv2.INTER_AREA if rows > height else cv2.INTER_LINEAR
    image = cv2.resize(window, (width, height), interpolation=way)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if rng.random() < 0.3:
        image = image[..., rng.permutation(3)]
    tint = 1 + rng.normal(0, 0.12, 3)
    return np.clip(image * tint + rng.normal(0, 15), 0, 255).astype(np.uint8)


_Painter = Callable[[np.random.Generator, int, int], np.ndarray]
_PAINTERS: tuple[tuple[_Painter, float], ...] = (
    (_clouds, 0.30), (_plain, 0.30), (_stripes, 0.12),
    (_cells, 0.08), (_print, 0.08), (_collage, 0.12),
)  # fmt: skip


def texture(
    rng: np.random.Generator, height: int, width: int, photo_share: float = 0.0
) -> np.ndarray:
    """One random surface, uint8 RGB (height, width, 3).

    Args:
        rng: Source of randomness: the same state gives the same surface.
        height: Rows.
        width: Columns.
        photo_share: Chance of a window of a photograph instead of a procedural surface; without
            an installed library that ships photographs it has no effect.
    """
    if rng.random() < photo_share and photographs():
        return _photo(rng, height, width)
    weights = np.array([weight for _, weight in _PAINTERS])
    painter = _PAINTERS[int(rng.choice(len(_PAINTERS), p=weights))][0]
    image = painter(rng, height, width)
    if rng.random() < 0.5:  # grime: fine detail common to all real surfaces
        grain = fractal(rng, height, width, 0.9)[..., None] - 0.5
        image = np.clip(image + rng.uniform(10, 60) * grain, 0, 255).astype(np.uint8)
    return image
