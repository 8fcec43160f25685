"""plans/: the TensorRT plans that a machine built for itself, and the record of them.

A plan runs only under the TensorRT and on the kind of GPU that built it. Its file name says both,
and says which graph and which precision policy it is of, by a hash; plans/manifest.json says what
was chosen and what the accuracy gate measured. The engine's own manifest stays as it was exported:
it is the same on every machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sam2_rt.errors import EngineError
from sam2_rt.runtime.cuda import Device
from sam2_rt.runtime.manifest import GRAPH_NAMES, Manifest, sha256

FOLDER = 'plans'
RECORD = 'manifest.json'
FORMAT_VERSION = 1
BUILD_REVISION = 1
"""Raise it when compile_plan changes what it builds: older plans are then stale."""
_ADVICE = 'build them on this machine with `sam2_rt build`'


@dataclass(frozen=True)
class Target:
    """What a plan is tied to.

    Attributes:
        library: 'tensorrt' or 'tensorrt_rtx'.
        version: its version.
        device: the GPU.
    """

    library: str
    version: str
    device: Device

    @property
    def name(self) -> str:
        """For file names, e.g. 'tensorrt-10.3.0.orin-sm87-8mp'."""
        gpu = re.sub(r'[^a-z0-9]+', '-', self.device.name.lower()).strip('-')
        major, minor = self.device.compute_capability
        return (
            f'{self.library}-{self.version}.{gpu}-sm{major}{minor}-{self.device.multiprocessors}mp'
        )

    def __str__(self) -> str:
        major, minor = self.device.compute_capability
        return (
            f'{self.library} {self.version} on {self.device.name} (compute capability '
            f'{major}.{minor}, {self.device.multiprocessors} multiprocessors)'
        )


@dataclass(frozen=True)
class PlanFile:
    """One built plan.

    Attributes:
        file: name in the plans folder.
        sha256: of its content.
        build_seconds: how long it took.
    """

    file: str
    sha256: str
    build_seconds: float


@dataclass(frozen=True)
class PlanSet:
    """The plans that a target runs.

    Attributes:
        policy: precision policy that passed the gate.
        plans: by graph name.
        accuracy: what the gate measured, by policy tried; None where it could not be measured.
        built: when, ISO 8601.
    """

    policy: str
    plans: Mapping[str, PlanFile]
    accuracy: Mapping[str, Mapping[str, float] | None]
    built: str


def plans_folder(manifest: Manifest) -> Path:
    """Where plans are written; made if need be.

    Raises:
        EngineError: it cannot be made.
    """
    folder = manifest.folder / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _unwritable(path: Path, error: OSError) -> EngineError:
    return EngineError(
        f'{path} cannot be written ({error}); copy the engine folder to where you may write '
        'and has room, and build there'
    )


def plan_name(manifest: Manifest, graph: str, target: Target, policy: str) -> str:
    """File name of a plan. Whatever its content depends on is in it, by name or in the hash."""
    weights = sorted(
        digest for name, digest in manifest.files.items() if not name.endswith(('.onnx', '.npz'))
    )
    depends = [
        manifest.files[manifest.graphs[graph].file],
        weights,
        manifest.max_objects,
        BUILD_REVISION,
    ]
    key = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:12]
    return f'{graph}.{key}.{target.name}.{policy}.plan'


def find_plans(manifest: Manifest, target: Target) -> PlanSet:
    """The plans this target may load.

    Raises:
        EngineError: there are none, or they are of another TensorRT, GPU or export, or damaged;
            the message says which.
    """
    folder = manifest.folder / FOLDER
    records = read_record(manifest)
    if target.name not in records:
        others = ', '.join(sorted(records)) or 'none'
        raise EngineError(
            f'{folder}: no plans for {target}; there are plans for: {others}; a plan runs only '
            f'where it was built, {_ADVICE}'
        )
    found = records[target.name]
    for graph in GRAPH_NAMES:
        expected = plan_name(manifest, graph, target, found.policy)
        plan = found.plans.get(graph)
        if plan is None or plan.file != expected:
            came = plan.file if plan else 'nothing'
            raise EngineError(
                f'{folder}: expected plan {expected}, got {came}: the graphs or this program have '
                f'changed since it was built; {_ADVICE}'
            )
        path = folder / plan.file
        if not path.is_file() or sha256(path) != plan.sha256:
            raise EngineError(f'{path} is missing, truncated or altered; {_ADVICE}')
    return found


def read_record(manifest: Manifest) -> dict[str, PlanSet]:
    """All recorded plan sets, by target name; empty if nothing was built.

    Raises:
        EngineError: the record cannot be read.
    """
    path = manifest.folder / FOLDER / RECORD
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
        if data['format_version'] != FORMAT_VERSION:
            return {}  # of another version of this program: as good as not built
        return {name: _plan_set(item) for name, item in data['targets'].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            f'{path} cannot be read ({type(error).__name__}: {error}); delete {path.parent} and '
            f'{_ADVICE}'
        ) from error


def _plan_set(item: Mapping[str, Any]) -> PlanSet:
    plans = {graph: PlanFile(**plan) for graph, plan in item['plans'].items()}
    return PlanSet(str(item['policy']), plans, dict(item['accuracy']), str(item['built']))


def write_record(manifest: Manifest, target: Target, plans: PlanSet) -> Path:
    """Records a target's plans, and deletes plans of this target that are no longer used."""
    records = read_record(manifest)
    records[target.name] = plans
    data = {
        'format_version': FORMAT_VERSION,
        'targets': {name: asdict(found) for name, found in sorted(records.items())},
    }
    folder = plans_folder(manifest)
    path = write_whole(folder / RECORD, (json.dumps(data, indent=1) + '\n').encode())
    used = {plan.file for plan in plans.plans.values()}
    for old in folder.glob(f'*.{target.name}.*.plan'):
        if old.name not in used:
            old.unlink()
    return path


def write_whole(path: Path, content: bytes) -> Path:
    """Writes a file whole or not at all: a power cut leaves the old one, or none.

    Raises:
        EngineError: the folder cannot be written to.
    """
    try:
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix='.part')
        try:
            with os.fdopen(handle, 'wb') as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(part).replace(path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable(path, error) from error
    return path
