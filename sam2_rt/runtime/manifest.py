"""manifest.json: what an engine folder contains, and the checks that it is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from sam2_rt.errors import EngineError

FORMAT_VERSION = 1
FILE_NAME = 'manifest.json'
GRAPH_NAMES = ('encode', 'track', 'prompt', 'prompt_mask')
DTYPES = ('uint8', 'int32', 'float16', 'float32')
_ADVICE = 'export the engine again (python -m export.to_onnx) or copy the whole folder again'


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: as in the ONNX file.
        dtype: NumPy name, one of DTYPES.
        shape: axis lengths; the names 'N' (objects) and 'Q' (points) are the dynamic axes.
        resident: True if it stays where the engine runs between frames.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    resident: bool = False


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX file and its tensors."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class MemorySpec:
    """The memory bank that the graphs were made for: its sizes, and what goes into it.

    Attributes:
        conditioning_slots: C, memories of prompted frames.
        recent_slots: R, memories of the latest tracked frames.
        recent_pointers: object pointers of the latest tracked frames (15 in SAM 2).
        memory_dim: Dm, channels of a memory.
        hidden_dim: D, channels of the network and of an object pointer.
        remember_above: object score (a logit) above which a tracked frame is remembered; None for
            every frame, as in SAM 2. With it the memory does not fill with frames on which the
            object is hidden: however long that lasts, the memory is one that short clips know from
            training, and the mistakes of an absence have no time to add up.
    """

    conditioning_slots: int
    recent_slots: int
    recent_pointers: int
    memory_dim: int
    hidden_dim: int
    remember_above: float | None = None

    @property
    def memory_slots(self) -> int:
        """M, memory slots of one object."""
        return self.conditioning_slots + self.recent_slots

    @property
    def pointer_slots(self) -> int:
        """P, object-pointer slots of one object."""
        return self.conditioning_slots + self.recent_pointers


@dataclass(frozen=True)
class Manifest:
    """A parsed manifest.json.

    Attributes:
        folder: where it was read from.
        variant: network variant, e.g. 'sam2.1_hiera_tiny'.
        image_size: S, side of the square network input in pixels.
        precision: 'fp32' or 'fp16', the arithmetic written in the graphs.
        max_objects: most objects a graph call may carry.
        trained: False for random weights (tests and plumbing): masks then mean nothing.
        memory: bank sizes.
        graphs: by name, see GRAPH_NAMES.
        files: SHA-256 of every file of the folder but the manifest, by relative name.
        source: where the weights came from (checkpoint file name and hash).
        versions: versions of the tools that exported it.
        accuracy: what `export.verify` measured, by backend and precision.
    """

    folder: Path
    variant: str
    image_size: int
    precision: str
    max_objects: int
    trained: bool
    memory: MemorySpec
    graphs: Mapping[str, GraphSpec]
    files: Mapping[str, str]
    source: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)

    def path(self, graph: str) -> Path:
        """The ONNX file of a graph."""
        return self.folder / self.graphs[graph].file

    def verify_files(self) -> None:
        """Compares every file with its hash.

        Raises:
            EngineError: a file is missing, unreadable, or its content is not what the manifest
                says.
        """
        for name, expected in self.files.items():
            path = self.folder / name
            if not path.is_file():
                raise EngineError(f'{self.folder}: {name} is missing; {_ADVICE}')
            try:
                came = sha256(path)
            except OSError as error:
                raise EngineError(f'{path} cannot be read: {error}') from error
            if came != expected:
                raise EngineError(
                    f'{path}: expected SHA-256 {expected[:12]}…, got {came[:12]}… '
                    f'({path.stat().st_size} bytes): truncated or altered; {_ADVICE}'
                )

    def save(self) -> Path:
        """Writes manifest.json into its folder, whole or not at all."""
        data = {'format_version': FORMAT_VERSION, **asdict(self)}
        del data['folder']
        path = self.folder / FILE_NAME
        part = path.with_suffix('.json.part')
        part.write_text(json.dumps(data, indent=1) + '\n', encoding='utf-8')
        part.replace(path)
        return path


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def load_manifest(folder: str | Path) -> Manifest:
    """Reads and checks an engine folder's manifest (not the files' hashes: see verify_files).

    Raises:
        EngineError: no such folder, no manifest, not JSON, another format version, or a field is
            missing or of the wrong kind.
    """
    folder = Path(folder)
    path = folder / FILE_NAME
    if not path.is_file():
        what = 'has no manifest.json' if folder.is_dir() else 'is not a folder'
        raise EngineError(
            f'engine {folder} {what}; give an engine folder (see `sam2_rt engines`), or make one '
            'with python -m export.to_onnx'
        )
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise EngineError(f'{path} cannot be read as JSON: {error}; {_ADVICE}') from error
    version = data.get('format_version') if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise EngineError(
            f'{path}: expected format version {FORMAT_VERSION}, got {version!r}; {_ADVICE}'
        )
    try:
        manifest = _parse(folder, data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(
            f'{path}: a field is missing or malformed ({type(error).__name__}: {error}); {_ADVICE}'
        ) from error
    missing = [name for name in GRAPH_NAMES if name not in manifest.graphs]
    if missing:
        raise EngineError(f'{path}: graphs {missing} are not listed; {_ADVICE}')
    unhashed = {graph.file for graph in manifest.graphs.values()} - set(manifest.files)
    if unhashed:
        raise EngineError(f'{path}: no SHA-256 is given for {sorted(unhashed)}; {_ADVICE}')
    return manifest


def _parse(folder: Path, data: Mapping[str, Any]) -> Manifest:
    def tensor(item: Mapping[str, Any]) -> TensorSpec:
        if item['dtype'] not in DTYPES:
            raise ValueError(f'dtype {item["dtype"]!r} of {item["name"]} is none of {DTYPES}')
        shape = tuple(axis if axis in ('N', 'Q') else int(axis) for axis in item['shape'])
        return TensorSpec(str(item['name']), item['dtype'], shape, bool(item['resident']))

    def graph(item: Mapping[str, Any]) -> GraphSpec:
        inputs, outputs = (tuple(map(tensor, item[side])) for side in ('inputs', 'outputs'))
        return GraphSpec(str(item['file']), inputs, outputs)

    sizes = dict(data['memory'])
    least = sizes.pop('remember_above', None)  # engines of before know no such rule
    if least is not None and not isfinite(least):
        raise ValueError(f'remember_above {least} is no object score')
    memory = MemorySpec(
        **{name: int(value) for name, value in sizes.items()},
        remember_above=None if least is None else float(least),
    )
    return Manifest(
        folder=folder,
        variant=str(data['variant']),
        image_size=int(data['image_size']),
        precision=str(data['precision']),
        max_objects=int(data['max_objects']),
        trained=bool(data['trained']),
        memory=memory,
        graphs={name: graph(item) for name, item in data['graphs'].items()},
        files=dict(data['files']),
        source=dict(data['source']),
        versions=dict(data['versions']),
        accuracy=dict(data['accuracy']),
    )
