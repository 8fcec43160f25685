"""Real-time promptable object tracking with SAM 2: masks, presence and latency for robots."""

__version__ = '0.1.0'
