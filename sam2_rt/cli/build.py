"""`sam2_rt build`: TensorRT plans for this machine's GPU."""

from __future__ import annotations

import argparse

from sam2_rt.cli.progress import say
from sam2_rt.cli.table import table
from sam2_rt.runtime.build import build
from sam2_rt.runtime.locate import locate_engine
from sam2_rt.runtime.precision import POLICIES
from sam2_rt.runtime.trt_library import LIBRARIES

DESCRIPTION = """\
Builds the TensorRT plans of an engine on the machine that will run it; takes minutes.

A plan runs only under the TensorRT and on the kind of GPU that built it. The build ends with a
check: the plans replay the engine's own clip, and unless their masks agree with the fp32 reference
(mean IoU >= 0.99) they are thrown away and a more careful precision is tried. Afterwards every
command and the ROS node can use the backend tensorrt."""

EXAMPLES = """\
examples:
  sam2_rt build engines/sam2.1_hiera_tiny_512
  sam2_rt build engines/sam2.1_hiera_tiny_512 --policy fp16_fp32_attention --rebuild
  sam2_rt track video.mp4 --point 400,300 --backend tensorrt"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        'build',
        help='build TensorRT plans for this GPU',
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        'engines',
        nargs='*',
        default=[''],
        metavar='ENGINE',
        help='engine folders, or names that `sam2_rt engines` lists (default: the bundled one)',
    )
    parser.add_argument(
        '--policy',
        action='append',
        choices=sorted({policy for each in POLICIES.values() for policy in each}),
        default=[],
        help='precision to try; may be repeated (default: the fastest that gives the right masks)',
    )
    parser.add_argument(
        '--library',
        choices=('auto', *LIBRARIES),
        default='auto',
        help='which TensorRT (default: the first of them that is installed)',
    )
    parser.add_argument('--rebuild', action='store_true', help='even where there are plans')


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    rows = [('engine', 'policy', 'mask IoU', 'worst frame', 'ms per frame')]
    for name in args.engines:
        folder = locate_engine(name)
        plans = build(
            folder,
            policies=args.policy,
            library=args.library,
            rebuild=args.rebuild,
            progress=say,
        )
        measured = plans.accuracy.get(plans.policy)
        figures = (
            ('not measured', '', '')
            if measured is None
            else (
                f'{measured["mean_iou"]:.4f}',
                f'{measured["worst_iou"]:.4f}',
                f'{measured["seconds_per_frame"] * 1e3:.2f}',
            )
        )
        rows.append((str(folder), plans.policy, *figures))
    print(table(rows))
    return 0
