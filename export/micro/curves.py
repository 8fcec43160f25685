"""Training curves as a picture, drawn with OpenCV: no plotting library for one picture."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

_CHARTS = (
    ('loss', ('loss',)),
    ('mask J', ('box.J', 'click.J_best', 'track.J_best', 'fixed.J')),
    ('object score loss', ('track.score',)),
    ('IoU head error', ('box.iou', 'click.iou', 'track.iou')),
)
_INKS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40))
_WIDTH, _HEIGHT, _MARGIN = 640, 300, 46


def draw_curves(log: Path, picture: Path) -> None:
    """Draws a training log (one JSON object a line, with `step` and numbers) as a PNG."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    charts = [_chart(entries, title, names) for title, names in _CHARTS]
    grid = np.vstack([np.hstack(charts[:2]), np.hstack(charts[2:])])
    cv2.imwrite(str(picture), grid[..., ::-1])


def _chart(entries: list[dict], title: str, names: tuple[str, ...]) -> np.ndarray:
    image = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    series = {
        name: np.array([(e['step'], e[name]) for e in entries if name in e], float)
        for name in names
    }
    series = {name: points for name, points in series.items() if len(points)}
    _write(image, title, (_MARGIN, 20), (0, 0, 0))
    if not series:
        return image
    last = max(points[-1, 0] for points in series.values())
    top = max(np.percentile(points[:, 1], 98) for points in series.values()) * 1.1 + 1e-9
    low, right = _HEIGHT - 26, _WIDTH - 10
    for level in np.linspace(0, top, 5):
        y = int(low - level / top * (low - 30))
        cv2.line(image, (_MARGIN, y), (right, y), (225, 225, 225))
        _write(image, f'{level:.2f}', (2, y + 4), (90, 90, 90))
    _write(image, f'step {last:.0f}', (right - 90, _HEIGHT - 8), (90, 90, 90))
    for row, (name, points) in enumerate(series.items()):
        x = _MARGIN + points[:, 0] / last * (right - _MARGIN)
        y = low - np.clip(points[:, 1] / top, 0, 1) * (low - 30)
        line = np.stack([x, y], 1).round().astype(np.int32)
        cv2.polylines(image, [line], False, _INKS[row], 1, cv2.LINE_AA)
        _write(image, name, (right - 110, 44 + 16 * row), _INKS[row])
    return image


def _write(image: np.ndarray, text: str, at: tuple[int, int], ink: tuple[int, int, int]) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, ink, 1, cv2.LINE_AA)
