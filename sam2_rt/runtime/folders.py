"""Which engine folders there are, and whether they are whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sam2_rt.errors import EngineError
from sam2_rt.runtime.manifest import FILE_NAME, Manifest, load_manifest


@dataclass(frozen=True)
class EngineFolder:
    """One engine folder.

    Attributes:
        folder: where it is.
        manifest: None if that cannot be read.
        nbytes: size of all files in it.
        problem: '' if it is whole, else what is wrong and what to do.
    """

    folder: Path
    manifest: Manifest | None
    nbytes: int
    problem: str


def find_engines(root: str | Path) -> list[EngineFolder]:
    """Looks for engine folders: `root` itself, or the folders in it, by name.

    A folder counts if it has a manifest or ONNX files, unless it is hidden: an export in progress
    is. Its files are compared with their hashes.

    Raises:
        EngineError: there is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise EngineError(f'{root} is not a folder; give an engine folder or a folder of them')
    if _is_engine(root):
        return [inspect_engine(root)]
    paths = sorted(path for path in root.iterdir() if not path.name.startswith('.'))
    return [inspect_engine(path) for path in paths if _is_engine(path)]


def inspect_engine(folder: Path) -> EngineFolder:
    """Reads one folder's manifest and compares its files with their hashes."""
    nbytes = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
    manifest = None
    try:
        manifest = load_manifest(folder)
        manifest.verify_files()
    except EngineError as error:
        return EngineFolder(folder, manifest, nbytes, str(error))
    return EngineFolder(folder, manifest, nbytes, '')


def _is_engine(path: Path) -> bool:
    return path.is_dir() and ((path / FILE_NAME).is_file() or any(path.glob('*.onnx')))
