"""Drawing results on images: masks, outlines, names, presence and the latency line."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_rt.types import Frame, PresenceState, TrackedObject, TrackResult

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

# RGB; bright and far apart, also for most colour-blind eyes, the first ones most.
_PALETTE: Sequence[Colour] = (
    (0, 158, 255),
    (255, 140, 0),
    (40, 200, 90),
    (240, 70, 160),
    (255, 215, 0),
    (150, 100, 255),
    (0, 210, 200),
    (235, 65, 50),
    (165, 220, 30),
    (205, 135, 90),
)
_WHITE, _DARK = (255, 255, 255), (20, 20, 20)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class Overlay:
    """Draws track results; an object keeps its colour for as long as it is listed.

    Args:
        opacity: of a mask's fill, 0 (outline only) to 1 (opaque).
    """

    def __init__(self, opacity: float = 0.45) -> None:
        self._opacity = opacity
        self._colours: dict[str, int] = {}  # object_id -> index of its colour

    def draw(self, frame: Frame, result: TrackResult, status: str | None = None) -> Image:
        """Draws a result on a copy of its frame.

        Args:
            frame: the frame the result is for.
            result: of `Tracker.step`; an object without a mask is only listed.
            status: the bottom line; by default the time spent, in all and per stage.

        Returns:
            (H, W, 3), channels in the frame's own order.
        """
        image: Image = frame.image.copy()
        # Sizes that look alike on all images; never unreadably small.
        scale = max(0.4, min(frame.height, frame.width) / 1200)
        line = max(1, round(2.5 * scale))
        self._assign(result)
        rows: list[tuple[str, Colour]] = []
        for tracked in result.objects:
            colour = _ordered(colour_of(self._colours[tracked.object_id]), frame)
            if tracked.box is not None:
                self._draw_mask(image, tracked, colour, line)
            rows.append((_describe(tracked), colour))
        # Names last, so that no other object's mask covers them.
        for tracked, (_, colour) in zip(result.objects, rows, strict=True):
            if tracked.box is not None:
                x0, y0, x1, _ = tracked.box
                _draw_tag(image, _name(tracked), ((x0 + x1) // 2, y0), colour, scale)
        _draw_legend(image, rows, scale)
        _draw_status(image, latency_line(result) if status is None else status, scale)
        return image

    def _assign(self, result: TrackResult) -> None:
        """Gives new objects the first free colour and forgets those no longer listed."""
        listed = [tracked.object_id for tracked in result.objects]
        self._colours = {key: index for key, index in self._colours.items() if key in listed}
        free = sorted(set(range(len(listed))) - set(self._colours.values()))
        for object_id in listed:
            if object_id not in self._colours:
                self._colours[object_id] = free.pop(0)

    def _draw_mask(self, image: Image, tracked: TrackedObject, colour: Colour, line: int) -> None:
        x0, y0, x1, y1 = tracked.box or (0, 0, 0, 0)
        region = image[y0:y1, x0:x1]
        mask = np.ascontiguousarray(tracked.mask[y0:y1, x0:x1]).view(np.uint8)
        cv2.copyTo(_tinted(region, colour, self._opacity), mask, region)
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_TC89_L1)
        # Smoothing costs several times the line; the dark border under it does without.
        for shade, width, kind in ((_DARK, line + 2, cv2.LINE_8), (colour, line, cv2.LINE_AA)):
            cv2.drawContours(image, contours, -1, shade, width, kind, offset=(x0, y0))


def colour_of(index: int) -> Colour:
    """The index-th RGB colour; the first ones are the easiest to tell apart."""
    if index < len(_PALETTE):
        return _PALETTE[index]
    # Steps of the golden angle never come back to a hue.
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def latency_line(result: TrackResult) -> str:
    """The time a result took, in all and per stage: '38 ms = encode 22 + track 16'."""
    stages = {name: 1e3 * seconds for name, seconds in result.stage_seconds.items()}
    parts = ' + '.join(f'{name} {ms:.0f}' for name, ms in stages.items() if ms >= 0.5)
    return f'{sum(stages.values()):.0f} ms' + (f' = {parts}' if parts else '')


def _name(tracked: TrackedObject) -> str:
    label = tracked.label if tracked.label != tracked.object_id else ''
    return f'{tracked.object_id} ({label})' if label else tracked.object_id


def _describe(tracked: TrackedObject) -> str:
    """An object's line in the legend."""
    presence = tracked.presence
    text = f'{_name(tracked)}  {presence.state.value} {presence.probability:.2f}'
    if presence.state is not PresenceState.VISIBLE:
        text += f'  {presence.seconds_in_state:.1f} s'
    return text


def _ordered(rgb: Colour, frame: Frame) -> Colour:
    return rgb if frame.colour_order == 'rgb' else (rgb[2], rgb[1], rgb[0])


def _tinted(region: Image, colour: Colour, opacity: float) -> Image:
    """Blends one colour over a region: a table look-up, several times faster than arithmetic."""
    levels = np.arange(256, dtype=np.float32)[:, None] * (1 - opacity)
    table = (levels + np.array(colour, np.float32) * opacity).round().astype(np.uint8)
    tinted: Image = cv2.LUT(region, table[None])  # type: ignore[assignment]
    return tinted


def _text_size(text: str, scale: float) -> tuple[int, int]:
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, _stroke(scale))
    return width, height + baseline


def _stroke(scale: float) -> int:
    return max(1, round(1.6 * scale))


def _put(image: Image, text: str, left: int, middle: int, colour: Colour, scale: float) -> None:
    """Writes text whose capitals are centred on a row; it may run out of the image."""
    height = cv2.getTextSize('X', _FONT, scale, 1)[0][1]
    origin = (left, middle + height // 2)
    cv2.putText(image, text, origin, _FONT, scale, colour, _stroke(scale), cv2.LINE_AA)


def _panel(image: Image, x0: int, y0: int, x1: int, y1: int) -> None:
    """Darkens a rectangle, so that text on it can be read."""
    region = image[max(0, y0) : y1, max(0, x0) : x1]
    if region.size:
        region[:] = _tinted(region, _DARK, 0.65)


def _draw_tag(
    image: Image, text: str, anchor: tuple[int, int], colour: Colour, scale: float
) -> None:
    """A filled tag with a name, above a point where there is room, else below it."""
    width, height = _text_size(text, scale)
    pad = round(8 * scale)
    width, height = width + 2 * pad, height + pad
    x0 = int(np.clip(anchor[0] - width // 2, 0, max(0, image.shape[1] - width)))
    y0 = anchor[1] - height - 2 * pad
    y0 = y0 if y0 >= 0 else anchor[1] + 2 * pad
    cv2.rectangle(image, (x0, y0), (x0 + width, y0 + height), colour, cv2.FILLED)
    dark_text = np.dot(colour, (1, 1, 1)) > 330
    _put(image, text, x0 + pad, y0 + height // 2, _DARK if dark_text else _WHITE, scale)


def _draw_legend(image: Image, rows: Sequence[tuple[str, Colour]], scale: float) -> None:
    """All objects, top left: colour, name, state, probability."""
    if not rows:
        return
    pad = round(10 * scale)
    row_height = _text_size('X', scale)[1] + pad
    width = max(_text_size(text, scale)[0] for text, _ in rows)
    _panel(image, 0, 0, width + row_height + 2 * pad, len(rows) * row_height + pad)
    for index, (text, colour) in enumerate(rows):
        middle = pad // 2 + index * row_height + row_height // 2
        swatch = row_height // 4
        centre = (pad + swatch, middle)
        cv2.circle(image, centre, swatch, colour, cv2.FILLED, cv2.LINE_AA)
        _put(image, text, pad + row_height, middle, _WHITE, scale)


def _draw_status(image: Image, text: str, scale: float) -> None:
    """The bottom line."""
    if not text:
        return
    height, image_width = image.shape[0], image.shape[1]
    pad = round(10 * scale)
    line_width, line_height = _text_size(text, scale)
    top = height - line_height - pad
    _panel(image, 0, top, min(image_width, line_width + 2 * pad), height)
    _put(image, text, pad, (top + height) // 2, _WHITE, scale)
