"""Downloads official checkpoints: `python -m export.fetch sam2.1_hiera_tiny`."""

from __future__ import annotations

import argparse
import errno
import http.client
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from export.errors import FetchError
from sam2_rt.errors import Sam2RtError
from sam2_rt.runtime.manifest import sha256 as file_sha256

_PIN_FILE = 'SHA256SUMS'
_PIECE = 1 << 20

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes there will be (None if unknown)."""


# The hashes are those of the same files in the publisher's Hugging Face repositories
# (facebook/sam2.1-hiera-*, facebook/sam2-hiera-*).
CHECKPOINT_SHA256 = {
    'sam2.1_hiera_tiny': '7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69',
    'sam2.1_hiera_small': '6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38',
    'sam2.1_hiera_base_plus': 'a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5',
    'sam2.1_hiera_large': '2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318',
    'sam2_hiera_tiny': '65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125',
    'sam2_hiera_small': '95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3',
    'sam2_hiera_base_plus': 'd0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071',
    'sam2_hiera_large': '7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b',
}


def checkpoint_url(name: str) -> str:
    """Address of an official checkpoint, one of CHECKPOINT_SHA256."""
    folder = '092824' if name.startswith('sam2.1') else '072824'
    return f'https://dl.fbaipublicfiles.com/segment_anything_2/{folder}/{name}.pt'


class Pins:
    """SHA256SUMS beside the downloads: hashes seen on first use, in sha256sum's own format."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / _PIN_FILE

    def get(self, name: str) -> str | None:
        if not self.path.is_file():
            return None
        for line in self.path.read_text(encoding='utf-8').splitlines():
            digest, _, file = line.partition('  ')
            if file == name:
                return digest
        return None

    def add(self, name: str, digest: str) -> None:
        with self.path.open('a', encoding='utf-8') as file:
            file.write(f'{digest}  {name}\n')


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    progress: Progress = lambda done, total: None,
    say: Callable[[str], None] = lambda text: None,
    tries: int = 4,
    pause_s: float = 1.0,
    timeout_s: float = 30.0,
) -> Path:
    """Downloads a file, whole or not at all.

    The bytes go to `<path>.part`, which a broken or interrupted download leaves behind and the
    next one continues, provided the server still has the same version of the file (If-Range).
    The file appears under its own name only once its hash is right.

    Args:
        url: http or https.
        path: where the file goes.
        sha256: its hash; None: the one pinned beside it, or, the first time, whatever comes,
            which is then pinned.
        progress: called after every piece.
        say: called with what a person should know.
        tries: attempts in a row that may bring no new byte before giving up.
        pause_s: seconds before the second attempt, doubled for each further one.
        timeout_s: seconds without a byte after which an attempt counts as broken.

    Returns:
        `path`.

    Raises:
        FetchError: offline, refused by the server, disk full, or the wrong content.
    """
    if urlsplit(url).scheme not in ('http', 'https'):
        raise FetchError(f'{url}: expected an http:// or https:// address')
    pins = Pins(path.parent)
    expected = sha256 or pins.get(path.name)
    if path.exists():
        return _accept_existing(path, expected, say)
    part = path.with_name(path.name + '.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(_Transfer(url, part, progress, timeout_s), tries, pause_s)
        came = file_sha256(part)
        if expected is None:
            say(
                f'no SHA-256 is known for {path.name}; recorded {came} in {pins.path}: '
                'from now on it must stay the same'
            )
            pins.add(path.name, came)
        elif came != expected:
            size = part.stat().st_size
            _forget(part)
            raise FetchError(
                f'{url}: expected SHA-256 {expected}, got {came} ({size} bytes); the download was '
                'deleted. A proxy or login page may have answered instead: open the address in a '
                'browser'
            )
        part.replace(path)
    except OSError as error:
        raise FetchError(f'{part}: cannot be written: {error}; choose another --folder') from error
    _validator_file(part).unlink(missing_ok=True)
    return path


def _accept_existing(path: Path, expected: str | None, say: Callable[[str], None]) -> Path:
    came = file_sha256(path)
    if expected is None:
        say(f'{path} is already there; no SHA-256 is known to check it against (it is {came})')
    elif came != expected:
        raise FetchError(
            f'{path} is already there, but expected SHA-256 {expected}, got {came}; '
            'delete it and fetch it again'
        )
    else:
        say(f'{path} is already there and its SHA-256 is right')
    return path


@dataclass(frozen=True)
class _Transfer:
    url: str
    part: Path
    progress: Progress
    timeout_s: float


def _download(transfer: _Transfer, tries: int, pause_s: float) -> None:
    """Attempts until the part file is complete; an attempt that brought bytes costs no try."""
    failures = 0
    while True:
        before = _size(transfer.part)
        try:
            _attempt(transfer)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise FetchError(
                    f'{transfer.url}: the server answered {error.code} {error.reason}; check the '
                    'address, or whether the file has moved'
                ) from error
            reason = f'the server answered {error.code} {error.reason}'
        except urllib.error.URLError as error:
            reason = f'cannot be reached: {error.reason}'
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            reason = f'the connection broke: {error or type(error).__name__}'
        failures = 1 if _size(transfer.part) > before else failures + 1
        if failures >= tries:
            raise FetchError(
                f'{transfer.url}: {reason}. Check the network and its proxy settings and run this '
                f'again ({_size(transfer.part)} bytes are kept and continued), or download it '
                f'elsewhere and put it at {transfer.part.with_suffix("")}'
            )
        time.sleep(pause_s * 2 ** (failures - 1))


def _attempt(transfer: _Transfer) -> None:
    """One request: continues the part file if the server can, else starts it anew.

    Raises:
        OSError: the network (ConnectionError, TimeoutError, URLError) or the disk.
        http.client.HTTPException: the body ended early.
    """
    part, validator_file = transfer.part, _validator_file(transfer.part)
    headers = {'User-Agent': 'sam2_rt', 'Accept-Encoding': 'identity'}
    start = _size(part)
    if start and validator_file.is_file():
        headers['Range'] = f'bytes={start}-'
        headers['If-Range'] = validator_file.read_text(encoding='utf-8')
    request = urllib.request.Request(transfer.url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=transfer.timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing after `start`: the part is complete, or not of this file
            if error.headers.get('Content-Range') == f'bytes */{start}':
                return
            _forget(part)
            raise ConnectionError(
                'the server no longer has the part that was asked for'
            ) from error
        raise
    with response:
        range_start, total = _range_of(response)
        if range_start not in (0, start):
            _forget(part)
            raise ConnectionError(f'asked for bytes from {start}, got them from {range_start}')
        if total is not None and shutil.disk_usage(part.parent).free < total - range_start:
            raise OSError(errno.ENOSPC, f'{total - range_start} more bytes do not fit on the disk')
        validator = _validator(response)
        if validator:
            validator_file.write_text(validator, encoding='utf-8')
        else:
            validator_file.unlink(missing_ok=True)
        done = range_start
        with part.open('ab' if range_start else 'wb') as file:
            while piece := response.read(_PIECE):
                file.write(piece)
                done += len(piece)
                transfer.progress(done, total)
    if total is not None and done != total:
        raise http.client.HTTPException(f'the body ended after {done} of {total} bytes')


def _range_of(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """The position of the body's first byte in the file, and the file's size if it is told."""
    if response.status == 206:
        span, _, total = response.headers.get('Content-Range', '').partition('/')
        start = span.removeprefix('bytes ').partition('-')[0]
        if not start.isdigit():
            raise http.client.HTTPException('a partial answer without a usable Content-Range')
        return int(start), int(total) if total.isdigit() else None
    length = response.headers.get('Content-Length', '')
    return 0, int(length) if length.isdigit() else None


def _validator(response: http.client.HTTPResponse) -> str | None:
    """What proves later that the file is still the same (RFC 9110: not a weak entity tag)."""
    tag = response.headers.get('ETag')
    if tag and not tag.startswith('W/'):
        return tag
    return response.headers.get('Last-Modified')


def _validator_file(part: Path) -> Path:
    return part.with_suffix('.etag.part')


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)


class ProgressLine:
    """One line that counts up on a terminal; a line per tenth in a log."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._begin: tuple[float, int] | None = None
        self._shown = -1

    def __call__(self, done: int, total: int | None) -> None:
        now = self._clock()
        if self._begin is None:
            self._begin = (now, done)
        seconds, first = now - self._begin[0], self._begin[1]
        rate = (done - first) / seconds / 1e6 if seconds > 0 else 0.0
        terminal = sys.stderr.isatty()
        step = int(done / total * (1000 if terminal else 10)) if total else done // (10 * _PIECE)
        if step == self._shown:
            return
        self._shown = step
        of = f' of {total / 1e6:.1f} MB ({done / total:.0%})' if total else ' MB'
        text = f'{self._name}: {done / 1e6:.1f}{of}, {rate:.1f} MB/s'
        end = '\n' if not terminal or done == total else ''
        print(f'\r{text}  ' if terminal else text, end=end, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(
        prog='python -m export.fetch',
        description='Download an official SAM 2 / SAM 2.1 checkpoint, checked by its SHA-256. '
        'A download that breaks off is continued when this is run again.',
        epilog='example: python -m export.fetch sam2.1_hiera_tiny',
    )
    parser.add_argument('name', nargs='?', help=f'one of: {", ".join(CHECKPOINT_SHA256)}')
    parser.add_argument('--url', help='another file instead; its hash is pinned on first use')
    parser.add_argument('--folder', type=Path, default=Path('checkpoints'), help='%(default)s')
    options = parser.parse_args(arguments)
    if (options.name is None) == (options.url is None):
        parser.error('give the name of a checkpoint, or --url')
    if options.name is not None and options.name not in CHECKPOINT_SHA256:
        parser.error(
            f'unknown checkpoint {options.name!r}; one of: {", ".join(CHECKPOINT_SHA256)}'
        )
    url = checkpoint_url(options.name) if options.name else options.url
    file_name = unquote(urlsplit(url).path).rpartition('/')[2]
    if not file_name:
        parser.error(f'--url {url} does not name a file')
    try:
        path = fetch(
            url,
            options.folder / file_name,
            sha256=CHECKPOINT_SHA256.get(options.name),
            progress=ProgressLine(file_name),
            say=lambda text: print(text, file=sys.stderr),
        )
    except Sam2RtError as error:
        print(f'export.fetch: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nexport.fetch: stopped; run it again to continue', file=sys.stderr)
        return 130
    print(path)
    return 0


if __name__ == '__main__':
    sys.exit(main())
