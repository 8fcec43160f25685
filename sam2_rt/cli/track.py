"""`sam2_rt track`: objects through a video or a camera stream."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sam2_rt.cli import engine, prompts
from sam2_rt.cli.outputs import JsonLines, JsonToStdout, MaskFolder, Outputs, VideoOutput
from sam2_rt.cli.progress import Progress, interruptible, say
from sam2_rt.cli.prompts import PromptRequest
from sam2_rt.config import TrackerConfig
from sam2_rt.errors import ConfigError, PromptError, SourceError
from sam2_rt.lookahead import prepared_frames
from sam2_rt.sources import Source, open_source
from sam2_rt.timing import Rolling
from sam2_rt.tracker import PreparedFrame, Tracker
from sam2_rt.types import TrackResult

DESCRIPTION = f"""\
Tracks objects through a video or a camera stream.

SOURCE is a video file, a folder of images, a webcam's number, a URL (rtsp://…) or a GStreamer
pipeline. Of a file every frame is tracked, unless --realtime is given; of a camera always the
newest, so that nothing falls behind. Ctrl-C ends a run and completes its files.

{prompts.HELP}"""

EXAMPLES = """\
examples:
  sam2_rt track cups.mp4 --point 400,462 --save out.mp4
  sam2_rt track photos/ --box 366,428,436,500 --masks masks/ --json out.jsonl
  sam2_rt track 0 --point 320,240 --json - | jq .objects
  sam2_rt track rtsp://camera/stream --object cup --box 100,80,300,260 --save out.mp4

Every line of --json is one frame: frame_index, source_frame, stamp_ns, stage_ms and, per object,
id, label, state (visible, occluded, lost), probability, box (left, top, right, bottom; null while
hidden), area in pixels and iou_score. --masks writes one label image per frame; its objects.json
says which grey value is which object."""

INTERRUPTED = 130  # as shells have it


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        'track',
        help='track objects through a video or a camera stream',
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument('source', metavar='SOURCE', help='see above')
    prompts.add_options(parser, tracking=True)
    results = parser.add_argument_group('results')
    results.add_argument('--save', type=Path, metavar='VIDEO', help='video with masks drawn on it')
    results.add_argument('--masks', type=Path, metavar='DIR', help='label images, as PNG')
    results.add_argument('--json', metavar='FILE', help='one JSON line per frame; - is stdout')
    results.add_argument('--rle', action='store_true', help='masks in the JSON as well (COCO RLE)')
    engine.add_options(parser)
    pace = parser.add_argument_group('pace')
    pace.add_argument(
        '--realtime', action='store_true', help='play a file like a camera, dropping late frames'
    )
    pace.add_argument(
        '--fps', type=float, default=30.0, help='of a folder of images (default: %(default)g)'
    )
    pace.add_argument(
        '--prompt-delay',
        type=int,
        default=0,
        metavar='FRAMES',
        help='make every prompt this many frames late, as a slow detector would: it is applied '
        'to its own frame and carried forward',
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    requests = prompts.parse_prompts(args.prompts)
    if not requests:
        raise PromptError('nothing to track: give --point, --box or --mask (see --help)')
    if args.prompt_delay < 0:
        raise ConfigError(f'--prompt-delay: expected 0 or more frames, got {args.prompt_delay}')
    if not 0.1 <= args.fps <= 1000:
        raise ConfigError(f'--fps: expected 0.1 to 1000 frames per second, got {args.fps:g}')
    object_ids = tuple(dict.fromkeys(request.object_id for request in requests))
    with open_source(args.source, realtime=args.realtime, fps=args.fps) as source:
        _check_frames(requests, source)
        outputs = Outputs()
        try:
            _add_outputs(outputs, args, source, object_ids)
            with engine.open_engine(args) as runner:
                config = TrackerConfig(
                    max_objects=len(object_ids), held_frames=args.prompt_delay + 2
                )
                tracker = Tracker(runner, config)
                tracker.warm_up()
                session = _Session(source, tracker, outputs, requests, args.prompt_delay)
                return session.run()
        finally:
            left = outputs.abandon()
            if left:
                say(f'unfinished results are left in {", ".join(map(str, left))}')


def _check_frames(requests: Sequence[PromptRequest], source: Source) -> None:
    last = max(requests, key=lambda request: request.frame)
    if source.frame_count is not None and last.frame >= source.frame_count:
        raise PromptError(
            f'object {last.object_id!r}: a prompt is for frame {last.frame}, but {source.name} '
            f'has {source.frame_count} frames, 0 to {source.frame_count - 1}'
        )


def _add_outputs(
    outputs: Outputs, args: argparse.Namespace, source: Source, object_ids: Sequence[str]
) -> None:
    if args.save is not None:
        outputs.add(VideoOutput(args.save, source.fps, keep_time=source.live))
    if args.masks is not None:
        outputs.add(MaskFolder(args.masks, object_ids))
    if args.json == '-':
        outputs.add(JsonToStdout(masks=args.rle))
    elif args.json is not None:
        outputs.add(JsonLines(Path(args.json), masks=args.rle))


@dataclass
class _Session:
    """One run through a source."""

    source: Source
    tracker: Tracker
    outputs: Outputs
    requests: Sequence[PromptRequest]
    prompt_delay: int
    frames: int = 0
    seconds: Rolling = field(default_factory=lambda: Rolling(window=100_000))
    seen: dict[str, int] = field(default_factory=dict)

    def run(self) -> int:
        """Tracks to the end of the source, whatever that is, and completes the outputs."""
        failure: SourceError | None = None
        start = time.perf_counter()
        progress = Progress(self.source.frame_count)
        with interruptible(self.source) as interruption:
            try:
                with prepared_frames(self.source, self.tracker) as frames:
                    self._track(frames, progress)
            except SourceError as error:
                if not self.frames:
                    raise
                failure = error  # what came before it is good, and kept
            finally:
                progress.close()
            if not self.frames and interruption.requested:
                return INTERRUPTED
            written = self.outputs.finish()
        self._report(time.perf_counter() - start, [str(path) for path in written])
        if failure is not None:
            raise failure
        if interruption.requested and not self.source.live:
            say(f'interrupted after {self.frames} frames; the results end there')
            return INTERRUPTED
        return 0

    def _track(self, frames: Iterator[tuple[int, PreparedFrame]], progress: Progress) -> None:
        waiting = deque(sorted(self.requests, key=lambda request: request.frame))
        stamps: dict[int, int] = {}  # of the frames that prompts are for
        for position, prepared in frames:
            start = time.perf_counter()
            frame = prepared.frame
            result = self.tracker.step(prepared)
            for request in waiting:
                if request.frame <= position:
                    stamps.setdefault(request.frame, frame.stamp_ns)
            while waiting and waiting[0].frame + self.prompt_delay <= position:
                request = waiting.popleft()
                # A stamp of 0 would mean the newest frame.
                stamp_ns = max(1, stamps[request.frame]) if self.prompt_delay else None
                result = self._prompt(request, result, stamp_ns)
            self.seconds.add(prepared.seconds + time.perf_counter() - start)
            age_s = (time.time_ns() - frame.stamp_ns) / 1e9 if self.source.live else None
            self.outputs.write(frame, result, position, age_s)
            self.frames += 1
            for tracked in result.objects:
                visible = tracked.presence.visible
                self.seen[tracked.object_id] = self.seen.get(tracked.object_id, 0) + visible
            progress.update(self.frames, _states(result), position=position + 1)
        if waiting and not self.source.stopped:
            raise SourceError(
                f'{self.source.name} ended after {self.source.position + 1} frames, before the '
                f'prompt for frame {waiting[0].frame} could be made'
            )

    def _prompt(
        self, request: PromptRequest, result: TrackResult, stamp_ns: int | None
    ) -> TrackResult:
        """Makes a prompt and puts what it gave into the result of the newest frame."""
        answer = self.tracker.add_prompt(
            request.prompt, request.object_id, label=request.label, stamp_ns=stamp_ns
        )
        if answer.frame_index != result.frame_index:
            return result  # made for an older frame; the object is being carried forward
        objects = {tracked.object_id: tracked for tracked in result.objects}
        objects[request.object_id] = answer.object
        return replace(result, objects=tuple(objects.values()))

    def _report(self, seconds: float, written: Sequence[str]) -> None:
        dropped = f', {self.source.dropped} dropped' if self.source.live else ''
        say(f'{self.frames} frames in {seconds:.1f} s, {self.frames / seconds:.1f} fps{dropped}')
        times = self.seconds.summary()
        if times is not None:
            say(
                f'tracking took p50 {1e3 * times.p50:.1f} ms, p95 {1e3 * times.p95:.1f} ms, '
                f'p99 {1e3 * times.p99:.1f} ms per frame'
            )
        for object_id, count in self.seen.items():
            say(f'{object_id}: visible in {count} of {self.frames} frames')
        files = [name for name in written if name != '-']
        if files:
            say(f'wrote {", ".join(files)}')


def _states(result: TrackResult) -> str:
    return '  '.join(
        f'{tracked.object_id} {tracked.presence.state.value} {tracked.presence.probability:.2f}'
        for tracked in result.objects
    )
