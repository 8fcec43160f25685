"""open_runner: the fastest backend and precision of this machine that gives the right masks."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from sam2_rt.errors import BackendError, ConfigError, Sam2RtError
from sam2_rt.runtime.base import Runner
from sam2_rt.runtime.check import REQUIRED_IOU, Accuracy, check_accuracy, load_clip
from sam2_rt.runtime.cpu import cpu_name, usable_cores
from sam2_rt.runtime.cuda import gpu_name
from sam2_rt.runtime.manifest import FILE_NAME, Manifest, load_manifest, sha256
from sam2_rt.timing import Clock

AUTO = 'auto'
PRECISIONS = ('fp32', 'bf16', 'fp16')
BACKENDS = {
    'tensorrt': ('sam2_rt.runtime.trt', 'TrtRunner'),
    'onnxruntime-cuda': ('sam2_rt.runtime.ort', 'OrtCudaRunner'),
    'openvino': ('sam2_rt.runtime.openvino', 'OpenVinoRunner'),
    'onnxruntime': ('sam2_rt.runtime.ort', 'OrtRunner'),
}
"""Backend -> module and class, a RunnerClass; imported only when it is considered."""

_log = logging.getLogger(__name__)


class RunnerClass(Protocol):
    """What a backend's runner class offers besides Runner."""

    def __call__(self, manifest: Manifest, precision: str, threads: int | None) -> Runner:
        """Opens the engine."""

    def precisions(self, manifest: Manifest) -> tuple[str, ...]:
        """Those this engine can be run in here; BackendError, with the reason, if in none."""

    def version(self) -> str:
        """Of what runs the graphs: when it changes, speed is measured again."""


@dataclass(frozen=True)
class Choice:
    """A backend and a precision, and a sentence on why."""

    backend: str
    precision: str
    reason: str = ''

    def __str__(self) -> str:
        return f'{self.backend} {self.precision}'


def open_runner(
    folder: str | Path,
    backend: str = AUTO,
    *,
    precision: str = AUTO,
    threads: int | None = None,
    remeasure: bool = False,
    clock: Clock = time.perf_counter,
) -> Runner:
    """Opens an engine folder, once every file in it is what its manifest says.

    Where `backend` or `precision` is 'auto' and leaves a choice, every candidate replays the
    engine's check clip; the fastest of those whose masks agree with the fp32 reference (mean IoU
    >= 0.99) is taken. What was found is kept in the user's cache folder until engine, processor,
    GPU, threads or a backend's version change.

    Args:
        folder: an engine folder.
        backend: 'auto' or one of BACKENDS.
        precision: 'auto' or one of PRECISIONS.
        threads: CPU threads for one graph; None for all usable physical cores.
        remeasure: do not trust the cache.
        clock: seconds.

    Raises:
        ConfigError: no such backend or precision, or less than one thread.
        EngineError: the folder is incomplete, corrupt or of another version.
        BackendError: nothing can run it correctly as asked; lists every candidate's reason.
    """
    _require('backend', backend, (AUTO, *BACKENDS))
    _require('precision', precision, (AUTO, *PRECISIONS))
    if threads is not None and threads < 1:
        raise ConfigError(f'threads: expected at least 1, got {threads}')
    manifest = load_manifest(folder)
    manifest.verify_files()

    candidates, unavailable = _candidates(backend, precision, manifest)
    if not candidates:
        raise _nothing_runs(manifest, unavailable)
    if len(candidates) == 1 and backend != AUTO:
        return _open(candidates[0], manifest, threads)
    cache = ChoiceCache(manifest, candidates, threads)
    known = None if remeasure else cache.read()
    if known is not None:
        try:
            runner = _open(known, manifest, threads)
        except Sam2RtError as error:
            _log.warning('%s was chosen before, but fails now: %s', known, error)
        else:
            _log.info(
                'engine %s: %s (measured before; kept in %s)', folder, known.reason, cache.path
            )
            return runner
    choice = _fastest(candidates, unavailable, manifest, threads, clock)
    _log.info('engine %s: %s', folder, choice.reason)
    cache.write(choice)
    return _open(choice, manifest, threads)


def _require(name: str, came: str, expected: tuple[str, ...]) -> None:
    if came not in expected:
        raise ConfigError(f'{name}: expected one of {", ".join(expected)}, got {came!r}')


def _runner_class(backend: str) -> RunnerClass:
    module, name = BACKENDS[backend]
    try:
        found: RunnerClass = getattr(import_module(module), name)
    except ImportError as error:
        raise BackendError(f'{backend} cannot be imported: {error}') from error
    return found


def _open(choice: Choice, manifest: Manifest, threads: int | None) -> Runner:
    return _runner_class(choice.backend)(manifest, choice.precision, threads)


def _candidates(
    backend: str, precision: str, manifest: Manifest
) -> tuple[list[Choice], dict[str, str]]:
    """What can run the engine here as asked, and by backend why the others cannot."""
    candidates: list[Choice] = []
    unavailable: dict[str, str] = {}
    for name in BACKENDS if backend == AUTO else (backend,):
        try:
            available = _runner_class(name).precisions(manifest)
        except BackendError as error:
            unavailable[name] = str(error)
            _log.debug('%s is not available: %s', name, error)
            continue
        chosen = [Choice(name, each) for each in available if precision in (AUTO, each)]
        candidates += chosen
        if not chosen:
            unavailable[name] = f'calculates in {", ".join(available)} here, not in {precision}'
    return candidates, unavailable


def _fastest(
    candidates: list[Choice],
    unavailable: Mapping[str, str],
    manifest: Manifest,
    threads: int | None,
    clock: Clock,
) -> Choice:
    """Measures the candidates, one after the other, and returns the fastest accurate one."""
    clip = load_clip(manifest.folder)
    passed: dict[Choice, Accuracy] = {}
    failed: dict[str, str] = {}
    for candidate in candidates:
        _log.info('engine %s: trying %s', manifest.folder, candidate)
        try:
            with _open(candidate, manifest, threads) as runner:
                accuracy = check_accuracy(runner, clip, clock)
        except Sam2RtError as error:
            failed[str(candidate)] = str(error)
            continue
        if accuracy.passed:
            passed[candidate] = accuracy
        else:
            failed[str(candidate)] = (
                f'mask IoU {accuracy.mean_iou:.3f} with the reference, {REQUIRED_IOU} is required'
            )
    if not passed:
        raise _nothing_runs(manifest, {**failed, **unavailable})
    ranking = sorted(passed, key=lambda candidate: passed[candidate].seconds_per_frame)
    told = [
        f'{candidate} {passed[candidate].seconds_per_frame * 1e3:.1f} ms per frame with mask IoU '
        f'{passed[candidate].mean_iou:.3f}'
        for candidate in ranking
    ]
    told += [f'{name} refused: {reason}' for name, reason in failed.items()]
    if unavailable:
        told.append(f'not available here: {", ".join(unavailable)}')
    best = ranking[0]
    return Choice(best.backend, best.precision, f'runs on {best} ({"; ".join(told)})')


def _nothing_runs(manifest: Manifest, reasons: Mapping[str, str]) -> BackendError:
    lines = (f'\n  {name}: {reason}' for name, reason in reasons.items())
    return BackendError(
        f'engine {manifest.folder} cannot be run here as asked:{"".join(lines)}\n'
        'install one of these backends, or choose another one or another precision'
    )


class ChoiceCache:
    """The choice that was measured for an engine on this machine, in the user's cache folder.

    Whatever it depends on is in the file's name, as a hash. A cache that cannot be read or written
    is no error: the next start measures again.
    """

    def __init__(self, manifest: Manifest, candidates: list[Choice], threads: int | None) -> None:
        self._candidates = candidates
        self._key = {
            'engine': sha256(manifest.folder / FILE_NAME),
            'cpu': cpu_name(),
            'gpu': gpu_name(),
            'threads': threads or usable_cores(),
            'candidates': {str(c): _runner_class(c.backend).version() for c in candidates},
        }
        name = hashlib.sha256(json.dumps(self._key).encode()).hexdigest()[:16]
        # The freedesktop.org rule; an empty variable counts as unset.
        root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
        self.path = Path(root) / 'sam2_rt' / f'choice-{name}.json'

    def read(self) -> Choice | None:
        """None where nothing usable is kept."""
        try:
            data = json.loads(self.path.read_text(encoding='utf-8'))
            choice = Choice(data['backend'], data['precision'], data['reason'])
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.debug('%s: %s', self.path, error)
            return None
        known = any(str(choice) == str(candidate) for candidate in self._candidates)
        return choice if known else None

    def write(self, choice: Choice) -> None:
        """Keeps a choice, whole or not at all."""
        part = self.path.with_suffix(f'.{os.getpid()}.part')
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps({**asdict(choice), **self._key}, indent=1), 'utf-8')
            part.replace(self.path)
        except OSError as error:
            _log.warning('the measured choice cannot be kept, so each start measures: %s', error)
