"""`python -m tests.gpu`: build, check and time the TensorRT backend on this machine's GPU."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from sam2_rt import __version__
from sam2_rt.errors import Sam2RtError
from sam2_rt.runtime.build import build
from sam2_rt.runtime.manifest import load_manifest
from tests.gpu import official, timing
from tests.gpu.checks import CHECKS, Subject


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def examine(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one engine; failures are recorded, and the rest goes on."""
    started = time.monotonic()
    plans = build(folder, library=options.library, rebuild=options.rebuild, progress=say)
    manifest = load_manifest(folder)
    subject = Subject(manifest, options.library, options.long_frames, options.flat_frames)
    report: dict[str, Any] = {
        'engine': folder.name,
        'variant': manifest.variant,
        'image_size': manifest.image_size,
        'precision': manifest.precision,
        'trained': manifest.trained,
        'policy': plans.policy,
        'gate': plans.accuracy,
        'build_seconds': {name: plan.build_seconds for name, plan in plans.plans.items()},
        'checks': {},
    }
    with subject.open() as runner:
        info, device = runner.info, runner.cuda.device
        report |= {
            'tensorrt': f'{info.backend} {info.version}',
            'device': device.name,
            'compute_capability': device.compute_capability,
            'driver_cuda': device.driver_version,
        }
    for check in CHECKS:
        found, failure = attempt(partial(check, subject))
        report['checks'][check.__name__] = {'passed': not failure, 'found': failure or found}
        say(f'{"FAILED" if failure else "ok    "} {check.__name__}: {failure or found}')
    report['measured'] = subject.figures
    if not options.no_timings:
        figures = report['timings'] = {}
        steps: dict[str, Callable[[], dict[str, Any]]] = {
            measure.__name__: partial(measure, subject)
            for measure in (
                timing.graph_ms,
                timing.end_to_end_ms,
                timing.overlap_ms,
                timing.transfer_ms,
            )
        }
        steps['utilisation'] = lambda: timing.utilisation(subject, figures, plans.policy)
        for name, step in steps.items():
            found, failure = attempt(step)
            figures |= found or {f'{name}_failed': failure}
            say(f'{"FAILED" if failure else "timed "} {name}: {failure or found}')
        report['failed_timings'] = [name for name in steps if f'{name}_failed' in figures]
        if not options.no_official:
            report['official_ms'] = official.milliseconds(
                manifest.variant, manifest.image_size, subject.clip
            )
    report['seconds'] = round(time.monotonic() - started, 1)
    return report


def attempt(step: Callable[[], Any]) -> tuple[Any, str]:
    """What a step gives, and why it failed; that is '' if it did not."""
    try:
        return step(), ''
    except Exception as error:
        traceback.print_exc()
        return None, f'{type(error).__name__}: {error}'


def as_table(reports: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of the figures that matter."""
    heads = ['engine', 'GPU', 'TensorRT', 'policy', 'mask IoU', 'encode', 'track', 'track of 8']
    heads += ['frame', 'ahead', 'frame of 8', 'official eager', 'compiled', 'speed-up']
    lines = ['| ' + ' | '.join(heads) + ' |', '|' + '---|' * len(heads)]
    for report in reports:
        times, rivals = report.get('timings', {}), report.get('official_ms', {})

        def p50(found: Any) -> str:
            return f'{found["p50"]:.2f}' if isinstance(found, dict) and 'p50' in found else ''

        compiled, ours = p50(rivals.get('compiled')), p50(times.get('frame_1_ms'))
        cells = [
            report['engine'],
            report.get('device', ''),
            report.get('tensorrt', ''),
            report.get('policy', report.get('failed', '')),
            f'{report.get("measured", {}).get("bundled_iou", float("nan")):.4f}',
            *(p50(times.get(f'{n}_captured_ms')) for n in ('encode', 'track_1', 'track_8')),
            ours,
            p50(times.get('frame_1_ahead_ms')),
            p50(times.get('frame_8_ms')),
            p50(rivals.get('eager')),
            compiled,
            f'{float(compiled) / float(ours):.1f}x' if compiled and ours else '',
        ]
        lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    legend = (
        'Median milliseconds; one object unless said otherwise. Encode and track are device time; '
        'a frame is wall clock, as of a camera and, ahead, as of a file whose next frame is '
        'prepared meanwhile.'
    )
    return '\n'.join([*lines, '', legend])


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if every check of every engine passed."""
    parser = argparse.ArgumentParser(prog='python -m tests.gpu', description=__doc__)
    parser.add_argument('engines', nargs='*', type=Path, default=[Path('engines/micro')])
    parser.add_argument('--library', default='auto', help='tensorrt, tensorrt_rtx or auto')
    parser.add_argument('--rebuild', action='store_true', help='build even where there are plans')
    parser.add_argument('--long-frames', type=int, default=200, help='beside ONNX Runtime')
    parser.add_argument('--flat-frames', type=int, default=1000, help='watching the memory')
    parser.add_argument('--no-timings', action='store_true')
    parser.add_argument('--no-official', action='store_true', help='not the official predictor')
    parser.add_argument('--out', type=Path, default=Path('out/gpu-check'))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    reports = []
    for folder in options.engines:
        say(f'== {folder}')
        try:
            report = examine(folder, options)
        except Exception as error:
            if not isinstance(error, Sam2RtError):
                traceback.print_exc()
            report = {'engine': folder.name, 'failed': f'{type(error).__name__}: {error}'}
            say(f'FAILED {folder}: {error}')
        reports.append(report)
        # After each engine: what was found must survive a machine that is taken away.
        data = {
            'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'sam2_rt': __version__,
            'engines': reports,
        }
        (options.out / 'report.json').write_text(json.dumps(data, indent=1) + '\n')
        (options.out / 'report.md').write_text(as_table(reports) + '\n')
    print(as_table(reports))
    failed = [
        report['engine']
        for report in reports
        if 'failed' in report
        or report.get('failed_timings')
        or not all(check['passed'] for check in report['checks'].values())
    ]
    say(f'failed: {", ".join(failed)}' if failed else 'everything passed')
    say(f'written: {options.out / "report.json"}, {options.out / "report.md"}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
