"""Writing files so that none ever looks whole without being it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
from numpy.typing import NDArray

from sam2_rt.errors import OutputError

_LEAST_FREE_BYTES = 1 << 20


def write_png(path: Path, image: NDArray[Any]) -> None:
    """Writes a PNG, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    _, encoded = cv2.imencode('.png', image)
    write_bytes(path, encoded.tobytes())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    part = path.with_name(path.name + '.part')
    with reported(path):
        part.write_bytes(data)
        part.replace(path)


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turns the system's errors into OutputErrors that name the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(f'{path} cannot be written: {error.strerror or error}') from error


def require_writable(path: Path) -> None:
    """Fails early where writing would fail late.

    Raises:
        OutputError: the folder does not exist or may not be written, or the disk is full.
    """
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f'{path} cannot be written: {folder} is not a folder; make it first')
    probe = folder / f'.{path.name}.probe.part'
    with reported(path):
        probe.touch()
        probe.unlink()
    require_space(path)


def require_space(path: Path) -> None:
    """Raises OutputError if next to nothing is free where a file is written."""
    with reported(path):
        free = shutil.disk_usage(path.parent).free
    if free < _LEAST_FREE_BYTES:
        raise OutputError(
            f'{path} cannot be written: only {free // 1024} kB are free in {path.parent.resolve()}'
        )
