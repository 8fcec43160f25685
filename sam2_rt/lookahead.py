"""Looking ahead in a file: the next frame is read and prepared while this one is tracked."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sam2_rt.sources import Source
from sam2_rt.tracker import PreparedFrame, Tracker


@contextmanager
def prepared_frames(
    source: Source, tracker: Tracker
) -> Iterator[Iterator[tuple[int, PreparedFrame]]]:
    """The frames of a source, ready for `Tracker.step`, each with its position in the source.

    Of a source whose every frame is wanted, one frame is read, prepared and uploaded ahead, in a
    thread. Of a live source none is: the newest frame wins, and which one that will be is not
    known before the current one is done.

    Leaving the context waits for that thread: only then may source and tracker be closed.

    Yields:
        an iterator that ends like the source's own, with its error and where it was stopped.
    """
    frames = iter(source)

    def read() -> tuple[int, PreparedFrame] | None:
        frame = next(frames, None)
        return None if frame is None else (source.position, tracker.prepare(frame))

    def ahead(reader: ThreadPoolExecutor) -> Iterator[tuple[int, PreparedFrame]]:
        coming = reader.submit(read)
        while (found := coming.result()) is not None and not source.stopped:
            coming = reader.submit(read)
            yield found

    if source.live:
        yield iter(read, None)
    else:
        with ThreadPoolExecutor(1, thread_name_prefix=f'read {source.name}') as reader:
            yield ahead(reader)
