"""What the camera does to a scene: its motion, the light, and the faults of sensor and codec."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np


def wander(rng: np.random.Generator, times: np.ndarray, reach: float, speed: float) -> np.ndarray:
    """A smooth bounded walk, float64 (T,), that starts at 0.

    Args:
        rng: Source of randomness.
        times: Frame times (T,).
        reach: Bound of the walk, about.
        speed: Typical change a frame, in the unit of `reach`.
    """
    rate = speed / max(reach, 1e-6)
    walk = np.zeros(len(times))
    for share, factor in ((0.75, rng.uniform(0.6, 1.2)), (0.25, rng.uniform(1.5, 3.5))):
        phase = rng.uniform(0, 2 * np.pi)
        walk += share * reach * (np.sin(rate * factor * times + phase) - np.sin(phase))
    return walk


def camera_path(
    rng: np.random.Generator, times: np.ndarray, height: int, width: int, pace: float
) -> np.ndarray:
    """World-to-view matrices, float64 (T, 3, 3); world 0 is the scene's centre, in view pixels.

    Args:
        rng: Source of randomness.
        times: Frame times (T,).
        height: View rows.
        width: View columns.
        pace: Motion scale: 1 is a lively hand-held camera, 0 a tripod.
    """
    size = np.sqrt(height * width)
    x = wander(rng, times, 0.15 * size, pace * rng.uniform(0, 0.02) * size)
    y = wander(rng, times, 0.10 * size, pace * rng.uniform(0, 0.015) * size)
    zoom = np.exp(wander(rng, times, 0.12, pace * rng.uniform(0, 0.012)))
    roll = wander(rng, times, 0.15, pace * rng.uniform(0, 0.012))
    shake = pace * size * rng.choice([0.0, 0.002, 0.008])
    x = x + shake * rng.standard_normal(len(times))
    y = y + shake * rng.standard_normal(len(times))
    matrices = np.zeros((len(times), 3, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = zoom * np.cos(roll)
    matrices[:, 1, 0] = zoom * np.sin(roll)
    matrices[:, 0, 1] = -matrices[:, 1, 0]
    matrices[:, 0, 2], matrices[:, 1, 2], matrices[:, 2, 2] = x + width / 2, y + height / 2, 1
    return matrices


@lru_cache(maxsize=2)
def _noise_bank(side: int) -> np.ndarray:
    """Gaussian noise drawn once, of which frames take random windows: int16 (side, side, 3)."""
    noise = np.random.default_rng(7).standard_normal((side, side, 3), np.float32)
    return np.clip(noise * 32, -127, 127).astype(np.int16)


@dataclass(frozen=True)
class Degradation:
    """How one clip's frames are spoiled; draw one with `Degradation.draw`, apply it per frame.

    Attributes:
        light: Static multiplicative light field, float32 (H, W, 1), or None.
        gain: Brightness per frame (T,).
        tint: Colour gain per channel (3,).
        gamma: Exponent of the tone curve.
        blur: Gaussian sigma, pixels.
        streak: Motion-blur kernel, or None.
        noise: Sensor noise, grey levels.
        quality: JPEG quality, or 0 for none.
        seed: Of the per-frame noise windows.
    """

    light: np.ndarray | None
    gain: np.ndarray
    tint: np.ndarray
    gamma: float
    blur: float
    streak: np.ndarray | None
    noise: float
    quality: int
    seed: int

    @classmethod
    def draw(
        cls, rng: np.random.Generator, times: np.ndarray, height: int, width: int
    ) -> Degradation:
        """Random faults for a clip of len(times) frames of height x width."""
        light = None
        if rng.random() < 0.4:
            coarse = 1 + rng.uniform(0.1, 0.35) * rng.standard_normal((3, 3)).astype(np.float32)
            light = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
            light = np.clip(light, 0.3, 1.7)[..., None]
        flicker = rng.choice([0.0, 0.03]) * rng.standard_normal(len(times))
        drift = wander(rng, times, 0.3, rng.choice([0.0, 0.01, 0.06]))
        size = np.sqrt(height * width) / 256
        streak = None
        if rng.random() < 0.15:
            streak = _streak(rng.uniform(0, np.pi), int(size * rng.uniform(3, 9)))
        return cls(
            light=light,
            gain=rng.uniform(0.75, 1.2) * np.exp(drift + flicker),
            tint=1 + rng.normal(0, 0.05, 3),
            gamma=float(np.exp(rng.normal(0, 0.2))),
            blur=float(size * rng.choice([0, 0, 0.5, rng.uniform(0.5, 1.5)])),
            streak=streak,
            noise=float(rng.choice([0.0, 2.0, rng.uniform(2, 14)])),
            quality=int(rng.choice([0, 0, rng.integers(20, 90)])),
            seed=int(rng.integers(2**31)),
        )

    def apply(self, frame: np.ndarray, index: int) -> np.ndarray:
        """Spoils frame number `index`, uint8 RGB (H, W, 3), and returns the result."""
        height, width = frame.shape[:2]
        if self.light is not None:
            frame = np.clip(frame * self.light, 0, 255).astype(np.uint8)
        tone = (np.arange(256) / 255) ** self.gamma * self.gain[index] * 255
        curve = np.clip(tone[:, None] * self.tint, 0, 255).astype(np.uint8)
        frame = cv2.LUT(frame, curve[None])
        if self.blur > 0.3:
            frame = cv2.GaussianBlur(frame, (0, 0), self.blur)
        if self.streak is not None:
            frame = cv2.filter2D(frame, -1, self.streak)
        if self.noise:
            bank = _noise_bank(max(height, width) + 256)
            top, left = np.random.default_rng((self.seed, index)).integers(0, 256, 2)
            window = bank[top : top + height, left : left + width]
            noisy = cv2.addWeighted(
                frame, 1.0, window, self.noise / 32, 0, dtype=cv2.CV_8U
            )  # saturates
            frame = noisy
        if self.quality:
            _, packed = cv2.imencode('.jpg', frame, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            frame = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        return frame


def _streak(angle: float, length: int) -> np.ndarray:
    """Kernel of a straight motion blur, float32 (length, length), sum 1."""
    length = max(3, length | 1)
    kernel = np.zeros((length, length), np.float32)
    middle, arm = length // 2, (length // 2) * np.array([np.cos(angle), np.sin(angle)])
    tail, tip = (middle - arm).round().astype(int), (middle + arm).round().astype(int)
    cv2.line(kernel, tail.tolist(), tip.tolist(), 1.0)
    return kernel / kernel.sum()
