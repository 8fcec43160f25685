"""Result files. Each is written under a temporary name and renamed when it is whole."""

from __future__ import annotations

import json
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sam2_rt.cli.files import reported, require_space, require_writable, write_png
from sam2_rt.errors import OutputError
from sam2_rt.overlay import Overlay
from sam2_rt.postprocess import label_image
from sam2_rt.types import Frame, TrackedObject, TrackResult

CODECS = {'.mp4': 'mp4v', '.mov': 'mp4v', '.mkv': 'mp4v', '.avi': 'MJPG'}
"""What every build of OpenCV can write, by a video's suffix."""


class Output(ABC):
    """One result file or folder.

    Attributes:
        path: its final name.
        part: its name until it is whole.
        is_folder: whether it is a folder.
    """

    is_folder = False

    def __init__(self, path: Path, part: Path) -> None:
        self.path = path
        self.part = part
        require_writable(path)
        if path.is_dir() and not self.is_folder:
            raise OutputError(f'{path} is a folder; give the name of a file')

    @abstractmethod
    def write(self, frame: Frame, result: TrackResult, position: int, age_s: float | None) -> None:
        """Adds one frame.

        Args:
            frame: what was tracked.
            result: what came of it.
            position: the frame's index in its source.
            age_s: seconds from its capture until now; None where frames have no such time.
        """

    @abstractmethod
    def _close(self) -> None:
        """Writes what is still to be written."""

    def finish(self) -> None:
        """Completes the file and gives it its name.

        Raises:
            OutputError: it could not be written whole; its part stays under the temporary name.
        """
        with reported(self.path):
            self._close()
            self.part.replace(self.path)

    def abandon(self) -> None:
        """Closes what there is, whatever is wrong with it, and leaves the temporary name."""
        try:
            self._close()
        except (OSError, OutputError):
            return


class VideoOutput(Output):
    """The frames with their masks drawn on them.

    Args:
        path: one of CODECS by its suffix; overwritten.
        fps: frames per second of the video.
        keep_time: repeat frames where some were dropped, so that it plays at the right speed.
    """

    def __init__(self, path: Path, fps: float, *, keep_time: bool = False) -> None:
        if path.suffix.lower() not in CODECS:
            raise OutputError(
                f'{path}: a video must end in one of {" ".join(CODECS)}, got {path.suffix!r}'
            )
        super().__init__(path, path.with_suffix(f'.part{path.suffix}'))
        self._fps = fps
        self._keep_time = keep_time
        self._overlay = Overlay()
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._first_ns = 0
        self._written = 0

    def write(self, frame: Frame, result: TrackResult, position: int, age_s: float | None) -> None:
        require_space(self.path)  # OpenCV does not say when a write fails
        writer = self._writer or self._open(frame)
        if (frame.height, frame.width) != self._size:
            raise OutputError(
                f'{self.path}: frame {position} has {frame.width}x{frame.height} pixels, but the '
                f'video began with {self._size[1]}x{self._size[0]}; a video has one size'
            )
        image = self._overlay.draw(frame, result)
        if frame.colour_order == 'rgb':
            image = np.ascontiguousarray(image[..., ::-1])
        due = round((frame.stamp_ns - self._first_ns) / 1e9 * self._fps) if self._keep_time else 0
        for _ in range(max(1, due + 1 - self._written)):
            writer.write(image)
            self._written += 1

    def _open(self, frame: Frame) -> cv2.VideoWriter:
        codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
        size = (frame.width, frame.height)
        writer = cv2.VideoWriter(str(self.part), codec, self._fps, size)
        if not writer.isOpened():
            raise OutputError(
                f'{self.path}: OpenCV cannot write a {size[0]}x{size[1]} video here; '
                'try another suffix, e.g. .avi'
            )
        self._writer, self._size, self._first_ns = writer, frame.image.shape[:2], frame.stamp_ns
        return writer

    def _close(self) -> None:
        if self._writer is None:
            raise OutputError(f'{self.path}: no frame came, so there is no video')
        self._writer.release()
        # Whether the disk took it all shows only when it is read back.
        written = cv2.VideoCapture(str(self.part))
        count, readable = int(written.get(cv2.CAP_PROP_FRAME_COUNT)), written.read()[0]
        written.release()
        if count != self._written or not readable:
            raise OutputError(
                f'{self.path} could not be written whole ({count} of {self._written} frames); is '
                f'the disk full, or a quota? What there is stays in {self.part}'
            )


class JsonLines(Output):
    """One line of JSON per frame.

    Args:
        path: overwritten.
        masks: also writes each mask, as COCO's uncompressed run lengths.
    """

    def __init__(self, path: Path, *, masks: bool = False) -> None:
        super().__init__(path, path.with_name(path.name + '.part'))
        self._masks = masks
        with reported(path):
            self._file: IO[str] = self.part.open('w', encoding='utf-8')

    def write(self, frame: Frame, result: TrackResult, position: int, age_s: float | None) -> None:
        line = result_json(result, position, age_s, masks=self._masks)
        with reported(self.path):
            self._file.write(json.dumps(line, ensure_ascii=False) + '\n')

    def _close(self) -> None:
        self._file.close()


class JsonToStdout(JsonLines):
    """The same lines on standard output, each at once, for another program to read."""

    def __init__(self, *, masks: bool = False) -> None:
        self.path = self.part = Path('-')
        self._masks = masks
        self._file = sys.stdout

    def write(self, frame: Frame, result: TrackResult, position: int, age_s: float | None) -> None:
        super().write(frame, result, position, age_s)
        with reported(self.path):
            self._file.flush()

    def finish(self) -> None:
        """Nothing is left to do."""

    def abandon(self) -> None:
        """Nothing is left to do."""


class MaskFolder(Output):
    """One label image per frame, and objects.json, which says what the labels mean.

    Args:
        path: a folder that does not exist yet or is empty.
        object_ids: in the order of their labels 1, 2, …
    """

    is_folder = True

    def __init__(self, path: Path, object_ids: Sequence[str]) -> None:
        super().__init__(path, path.with_name(path.name + '.part'))
        for folder in (self.path, self.part):
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise OutputError(
                    f'{folder} exists and is not an empty folder; give another name, or delete it'
                )
        self._labels = {object_id: index + 1 for index, object_id in enumerate(object_ids)}
        with reported(path):
            self.part.mkdir(exist_ok=True)
            text = json.dumps(self._labels, ensure_ascii=False, indent=1)
            (self.part / 'objects.json').write_text(text + '\n', encoding='utf-8')

    def write(self, frame: Frame, result: TrackResult, position: int, age_s: float | None) -> None:
        labels = label_image(result)
        # The tracker counts the objects of this frame; the file's labels stay the same.
        own = [0, *(self._labels[tracked.object_id] for tracked in result.objects)]
        write_png(self.part / f'{position:06d}.png', np.asarray(own, labels.dtype)[labels])

    def _close(self) -> None:
        pass


class Outputs:
    """All outputs of a run."""

    def __init__(self) -> None:
        self._outputs: list[Output] = []
        self._frames = 0

    def add(self, output: Output) -> None:
        self._outputs.append(output)

    def write(self, frame: Frame, result: TrackResult, position: int, age_s: float | None) -> None:
        for output in self._outputs:
            output.write(frame, result, position, age_s)
        self._frames += 1

    def finish(self) -> list[Path]:
        """Completes all; returns their names.

        Raises:
            OutputError: the first that went wrong, after all others have been completed.
        """
        outputs, self._outputs = self._outputs, []
        failures = []
        for output in outputs:
            try:
                output.finish()
            except OutputError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return [output.path for output in outputs]

    def abandon(self) -> list[Path]:
        """Closes those that are not finished, without completing them.

        Returns:
            What is left under temporary names; nothing is if no frame had been written.
        """
        outputs, self._outputs = self._outputs, []
        for output in outputs:
            output.abandon()
            if not self._frames:
                _remove(output.part)
        return [output.part for output in outputs if output.part.exists()]


def result_json(
    result: TrackResult, position: int, age_s: float | None, *, masks: bool = False
) -> dict[str, Any]:
    """A result as plain values; times in milliseconds, stamps in nanoseconds."""
    line: dict[str, Any] = {
        'frame_index': result.frame_index,
        'source_frame': position,
        'stamp_ns': result.stamp_ns,
        'objects': [_object_json(tracked, masks) for tracked in result.objects],
        'stage_ms': {name: round(1e3 * s, 3) for name, s in result.stage_seconds.items()},
    }
    if age_s is not None:
        line['age_ms'] = round(1e3 * age_s, 3)
    return line


def _object_json(tracked: TrackedObject, with_mask: bool) -> dict[str, Any]:
    presence = tracked.presence
    line: dict[str, Any] = {
        'id': tracked.object_id,
        'label': tracked.label,
        'state': presence.state.value,
        'probability': round(presence.probability, 5),
        'seconds_in_state': round(presence.seconds_in_state, 3),
        'last_seen_ns': presence.last_seen_ns,
        'box': tracked.box,
        'area': int(np.count_nonzero(tracked.mask)),
        'iou_score': round(tracked.iou_score, 5),
    }
    if with_mask:
        line['mask'] = run_lengths(tracked.mask)
    return line


def run_lengths(mask: NDArray[np.bool_]) -> Mapping[str, list[int]]:
    """COCO's uncompressed form: lengths of runs down the columns, the first one of background."""
    column = mask.ravel(order='F')
    changes = np.flatnonzero(column[1:] != column[:-1]) + 1
    edges = np.concatenate(([0], changes, [column.size]))
    counts = np.diff(edges).tolist()
    return {'size': list(mask.shape), 'counts': [0, *counts] if column[0] else counts}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
