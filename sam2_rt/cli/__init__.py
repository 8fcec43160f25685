"""The command line: `sam2_rt track | segment | bench | engines | build`."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import cv2

from sam2_rt import __version__
from sam2_rt.cli import bench, build, engines, segment, track
from sam2_rt.errors import Sam2RtError

DESCRIPTION = """\
Real-time promptable object tracking with SAM 2: click an object once, keep its mask, its presence
and its latency.

  sam2_rt track video.mp4 --point 400,300 --save out.mp4   track an object through a video
  sam2_rt segment photo.jpg --point 400,300                cut an object out of an image
  sam2_rt bench                                            how fast is this machine?
  sam2_rt engines                                          which engines are there?
  sam2_rt build                                            TensorRT plans for this GPU

`sam2_rt COMMAND --help` explains each with examples."""

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and where to read more, instead of printing all options."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f'{self.prog}: {message}; see {self.prog} --help\n')


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = _Parser(
        prog='sam2_rt',
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument('--version', action='version', version=f'sam2_rt {__version__}')
    commands = top.add_subparsers(metavar='COMMAND', required=True)
    for command in (track, segment, bench, engines, build):
        command.add_parser(commands)
    for each in commands.choices.values():
        each.add_argument('--debug', action='store_true', help='show where an error comes from')
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0, 2 for anything the user can mend, 130 if interrupted, 1 for a bug.
    """
    args = parser().parse_args(argv)
    if not args.debug:
        # OpenCV and FFmpeg print their own, vaguer, words for what our errors say.
        os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
        with suppress(AttributeError):  # some versions cannot be silenced
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print('sam2_rt: interrupted', file=sys.stderr)
        return INTERRUPTED
    except Sam2RtError as error:
        if args.debug:
            traceback.print_exc()
        print(f'sam2_rt: {error}', file=sys.stderr)
        return USAGE
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        print(
            f'sam2_rt: unexpected error, {type(error).__name__}: {error}\n'
            'This is a bug. Please report it with the command and what it prints with --debug '
            f'added (sam2_rt {__version__}, Python {sys.version.split()[0]}).',
            file=sys.stderr,
        )
        return FAILED
