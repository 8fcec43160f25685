"""Finding an engine by name: those of a checkout, of an installation, of the current folder."""

from __future__ import annotations

from pathlib import Path

from sam2_rt.errors import EngineError
from sam2_rt.runtime.manifest import FILE_NAME

BUNDLED = 'micro'
"""The small engine that comes with the package."""


def engine_roots() -> list[Path]:
    """Existing folders that may hold engine folders, the nearest first."""
    package = Path(__file__).resolve().parents[1]
    # An installation keeps them in PREFIX/share, some levels above its site-packages.
    shared = (prefix / 'share' / 'sam2_rt' / 'engines' for prefix in package.parents)
    places = (Path.cwd() / 'engines', package.parent / 'engines', *shared)
    return [place for place in dict.fromkeys(places) if place.is_dir()]


def locate_engine(text: str = '') -> Path:
    """The folder of an engine.

    Args:
        text: a folder, or the name of one in `engine_roots`; '' is the bundled engine.

    Raises:
        EngineError: there is none; says which there are and how to get one.
    """
    if text and Path(text).exists():
        return Path(text)
    roots = engine_roots()
    name = text or BUNDLED
    for root in roots:
        if (root / name / FILE_NAME).is_file():
            return root / name
    known = ', '.join(
        sorted({path.parent.name for r in roots for path in r.glob(f'*/{FILE_NAME}')})
    )
    what = f'there is no engine {name!r}' if text else f'the bundled engine {name!r} is missing'
    raise EngineError(
        f'{what}; engines found: {known or "none"}. Give the folder of one, or export one from a '
        'checkout: python -m export.to_onnx --checkpoint FILE --out engines/NAME'
    )
