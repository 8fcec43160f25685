"""The options that choose an engine and what runs it."""

from __future__ import annotations

import argparse

from sam2_rt.cli.progress import say, telling
from sam2_rt.runtime.base import Runner
from sam2_rt.runtime.build import build
from sam2_rt.runtime.locate import locate_engine
from sam2_rt.runtime.select import AUTO, BACKENDS, PRECISIONS, open_runner


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds --engine, --backend, --precision, --remeasure, --build-plans and --threads."""
    group = parser.add_argument_group('engine')
    group.add_argument(
        '--engine',
        metavar='FOLDER',
        default='',
        help='engine folder, or the name of one that `sam2_rt engines` lists '
        '(default: the bundled one)',
    )
    group.add_argument(
        '--backend',
        choices=(AUTO, *BACKENDS),
        default=AUTO,
        help='what runs it (default: the fastest one here that gives the right masks)',
    )
    group.add_argument(
        '--precision',
        choices=(AUTO, *PRECISIONS),
        default=AUTO,
        help='arithmetic (default: the fastest that gives the right masks)',
    )
    group.add_argument(
        '--remeasure',
        action='store_true',
        help='measure again which backend and precision that is; it is remembered otherwise',
    )
    group.add_argument(
        '--build-plans',
        action='store_true',
        help='build TensorRT plans first, if this machine has none (see `sam2_rt build`)',
    )
    group.add_argument('--threads', type=int, metavar='N', help='CPU threads (default: all cores)')


def open_engine(args: argparse.Namespace) -> Runner:
    """Opens the engine that the options ask for, and says what runs it.

    Raises:
        EngineError: there is none, or it is not whole.
        BackendError: nothing here can run it.
    """
    folder = locate_engine(args.engine)
    if args.build_plans:
        build(folder, progress=say)
    with telling():  # finding the fastest backend takes a while, the first time
        runner = open_runner(
            folder,
            args.backend,
            precision=args.precision,
            threads=args.threads,
            remeasure=args.remeasure,
        )
    manifest, info = runner.manifest, runner.info
    say(
        f'engine {folder.name}: {manifest.variant}, {manifest.image_size} pixels, on '
        f'{info.backend} {info.version} {info.precision}, {info.device}'
    )
    if not manifest.trained:
        say('this engine has random weights: its masks mean nothing')
    return runner
