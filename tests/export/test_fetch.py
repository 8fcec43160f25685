"""export.fetch against a local server that misbehaves in every way a real one does."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from export import fetch as module
from export.errors import FetchError
from export.fetch import CHECKPOINT_SHA256, checkpoint_url, fetch, main

CONTENT = np.random.default_rng(0).bytes(3_000_000)
HASH = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """What the server does, and what it was asked."""

    content: bytes = CONTENT
    etag: str | None = '"first"'
    cut: list[int] = field(default_factory=list)  # bytes after which each answer breaks off
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)  # answered before anything else
    requests: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Server:
    url: str
    does: Behaviour


@pytest.fixture
def server() -> Iterator[Server]:
    does = Behaviour()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            does.requests.append(dict(self.headers))
            if does.statuses:
                self.send_error(does.statuses.pop(0))
                return
            start = 0
            asked = self.headers.get('Range')
            same = self.headers.get('If-Range') in (None, does.etag)
            if does.ranges and asked and same:
                start = int(asked.removeprefix('bytes=').rstrip('-'))
                if start >= len(does.content):
                    self.send_response(416)
                    self.send_header('Content-Range', f'bytes */{len(does.content)}')
                    self.send_header('Content-Length', '0')
                    self.end_headers()
                    return
            body = does.content[start:]
            self.send_response(206 if start else 200)
            if start:
                last, size = len(does.content) - 1, len(does.content)
                self.send_header('Content-Range', f'bytes {start}-{last}/{size}')
            if does.etag:
                self.send_header('ETag', does.etag)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the client may hang up
                self.wfile.write(body[: does.cut.pop(0)] if does.cut else body)

        def log_message(self, *arguments: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield Server(f'http://127.0.0.1:{httpd.server_port}/model.pt', does)
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def get(server: Server, tmp_path: Path) -> Callable[..., Path]:
    def download(**changes: object) -> Path:
        options = {'sha256': HASH, 'pause_s': 0.0, **changes}
        return fetch(server.url, tmp_path / 'model.pt', **options)  # type: ignore[arg-type]

    return download


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_whole_file_and_progress(get: Callable[..., Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = get(progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) >= 3
    assert files(tmp_path) == ['model.pt']


def test_a_broken_connection_is_continued(get: Callable[..., Path], server: Server) -> None:
    server.does.cut = [1_100_000, 700_000]
    assert get().read_bytes() == CONTENT
    asked = [request.get('Range') for request in server.does.requests]
    assert asked == [None, 'bytes=1100000-', 'bytes=1800000-']
    assert server.does.requests[1]['If-Range'] == '"first"'


def test_a_second_run_continues_the_first(get: Callable[..., Path], server: Server) -> None:
    server.does.cut = [1_000_000, 0, 0]
    with pytest.raises(FetchError, match='1000000 bytes are kept'):
        get(tries=2)
    server.does.cut = []
    assert get().read_bytes() == CONTENT
    assert server.does.requests[-1]['Range'] == 'bytes=1000000-'


def test_server_without_ranges_starts_again(get: Callable[..., Path], server: Server) -> None:
    server.does.cut = [1_000_000]
    server.does.ranges = False
    assert get().read_bytes() == CONTENT


def test_without_validator_nothing_is_continued(get: Callable[..., Path], server: Server) -> None:
    server.does.cut = [1_000_000]
    server.does.etag = None
    assert get().read_bytes() == CONTENT
    assert 'Range' not in server.does.requests[1]


def test_changed_file_is_not_mixed_with_the_old(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    server.does.cut = [1_000_000, 0]
    with pytest.raises(FetchError):
        get(tries=1)
    other = CONTENT[::-1]
    server.does.content, server.does.etag, server.does.cut = other, '"second"', []
    assert get(sha256=hashlib.sha256(other).hexdigest()).read_bytes() == other


def test_part_that_is_already_complete(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    (tmp_path / 'model.pt.part').write_bytes(CONTENT)
    (tmp_path / 'model.pt.etag.part').write_text('"first"')
    assert get().read_bytes() == CONTENT
    assert len(server.does.requests) == 1


def test_part_longer_than_the_file_is_dropped(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    (tmp_path / 'model.pt.part').write_bytes(CONTENT + b'more')
    (tmp_path / 'model.pt.etag.part').write_text('"first"')
    assert get().read_bytes() == CONTENT


def test_wrong_content_is_deleted(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    server.does.content = b'<html>please log in</html>'
    with pytest.raises(FetchError, match=f'expected SHA-256 {HASH}, got .*login page'):
        get()
    assert files(tmp_path) == []


def test_body_that_is_always_short(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    server.does.cut = [10] * 9
    server.does.ranges = False
    with pytest.raises(FetchError, match='the body ended after 10 of 3000000 bytes'):
        get()
    assert not (tmp_path / 'model.pt').exists()


def test_not_found_is_final(get: Callable[..., Path], server: Server) -> None:
    server.does.statuses = [404]
    with pytest.raises(FetchError, match='answered 404 Not Found'):
        get()
    assert len(server.does.requests) == 1


def test_busy_server_is_tried_again(get: Callable[..., Path], server: Server) -> None:
    server.does.statuses = [503, 429]
    assert get().read_bytes() == CONTENT


def test_offline(tmp_path: Path) -> None:
    # Port 9 (discard) is closed on any machine that runs tests.
    with pytest.raises(FetchError, match=r'cannot be reached: .*put it at .*model\.pt'):
        fetch('http://127.0.0.1:9/model.pt', tmp_path / 'model.pt', pause_s=0.0)
    assert not (tmp_path / 'model.pt').exists()


def test_disk_full(
    get: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(FetchError, match=r'3000000 more bytes do not fit on the disk.*--folder'):
        get()


def test_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(FetchError, match='cannot be written'):
        fetch(server.url, tmp_path / 'file' / 'model.pt')


def test_unknown_hash_is_pinned_on_first_use(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    said: list[str] = []
    path = get(sha256=None, say=said.append)
    assert 'no SHA-256 is known' in said[0]
    assert HASH in said[0]
    assert (tmp_path / 'SHA256SUMS').read_text() == f'{HASH}  model.pt\n'
    path.unlink()
    server.does.content = CONTENT[:-1] + b'!'
    with pytest.raises(FetchError, match=f'expected SHA-256 {HASH}'):
        get(sha256=None)


def test_file_that_is_already_there(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    said: list[str] = []
    get()
    get(say=said.append)
    assert len(server.does.requests) == 1
    assert 'already there and its SHA-256 is right' in said[0]
    (tmp_path / 'model.pt').write_bytes(CONTENT[:1000])
    with pytest.raises(FetchError, match='already there, but expected SHA-256'):
        get()


def test_only_http() -> None:
    with pytest.raises(FetchError, match='expected an http:// or https:// address'):
        fetch('file:///etc/hostname', Path('hostname'))


def test_command_line(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['--url', server.url, '--folder', str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / 'model.pt')
    server.does.content = b'other'
    (tmp_path / 'model.pt').unlink()
    assert main(['--url', server.url, '--folder', str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith('model.pt: 0.0 of 0.0 MB (100%)')


@pytest.mark.parametrize(
    'arguments', [[], ['sam2_tiny'], ['sam2_hiera_tiny', '--url', 'http://a']]
)
def test_command_line_mistakes(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_official_addresses() -> None:
    root = 'https://dl.fbaipublicfiles.com/segment_anything_2'
    assert checkpoint_url('sam2.1_hiera_large') == f'{root}/092824/sam2.1_hiera_large.pt'
    assert checkpoint_url('sam2_hiera_tiny') == f'{root}/072824/sam2_hiera_tiny.pt'
    assert len(set(CHECKPOINT_SHA256.values())) == 8
