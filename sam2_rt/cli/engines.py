"""`sam2_rt engines`: which engine folders there are, and whether they are whole."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sam2_rt.cli.progress import say
from sam2_rt.cli.table import table
from sam2_rt.runtime.folders import EngineFolder, find_engines
from sam2_rt.runtime.locate import engine_roots

DESCRIPTION = """\
Lists engine folders and checks that their files are what their manifests say.

An engine is a network exported for one image size: ONNX graphs and a manifest. Without FOLDER,
those in ./engines and the ones that came with the package are listed. The exit status is 2 if one
of them is damaged."""

EXAMPLES = """\
examples:
  sam2_rt engines
  sam2_rt engines engines/sam2.1_hiera_tiny_512
  sam2_rt engines --json | jq '.[].variant'"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        'engines',
        help='list engines and check their files',
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        'folders', nargs='*', type=Path, metavar='FOLDER', help='an engine, or a folder of engines'
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    roots: Sequence[Path] = args.folders or engine_roots()
    engines = [engine for root in roots for engine in find_engines(root)]
    if args.json:
        print(json.dumps([_as_json(engine) for engine in engines], indent=1))
    elif engines:
        print(table([_HEADINGS, *map(_row, engines)]))
    else:
        looked = ', '.join(map(str, roots)) or 'no engines folder here'
        say(
            f'no engines found ({looked}); export one from a checkout: '
            'python -m export.to_onnx --checkpoint FILE --out engines/NAME'
        )
    damaged = [engine for engine in engines if engine.problem]
    for engine in damaged:
        say(f'{engine.folder}: {engine.problem}')
    return 2 if damaged else 0


_HEADINGS = ('engine', 'variant', 'pixels', 'precision', 'objects', 'memory', 'MB', 'weights', '')


def _row(engine: EngineFolder) -> tuple[str, ...]:
    megabytes = f'{engine.nbytes / 1e6:.1f}'
    state = 'damaged, see below' if engine.problem else 'ok'
    manifest = engine.manifest
    if manifest is None:
        return (str(engine.folder), '?', '?', '?', '?', '?', megabytes, '?', state)
    memory = manifest.memory
    return (
        str(engine.folder),
        manifest.variant,
        str(manifest.image_size),
        manifest.precision,
        str(manifest.max_objects),
        f'{memory.conditioning_slots}+{memory.recent_slots}',
        megabytes,
        'trained' if manifest.trained else 'random',
        state,
    )


def _as_json(engine: EngineFolder) -> dict[str, Any]:
    line: dict[str, Any] = {
        'folder': str(engine.folder),
        'bytes': engine.nbytes,
        'problem': engine.problem,
    }
    manifest = engine.manifest
    if manifest is not None:
        line |= {
            'variant': manifest.variant,
            'image_size': manifest.image_size,
            'precision': manifest.precision,
            'max_objects': manifest.max_objects,
            'conditioning_slots': manifest.memory.conditioning_slots,
            'recent_slots': manifest.memory.recent_slots,
            'remember_above': manifest.memory.remember_above,
            'trained': manifest.trained,
            'source': dict(manifest.source),
            'versions': dict(manifest.versions),
            'accuracy': dict(manifest.accuracy),
        }
    return line
