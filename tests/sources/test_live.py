"""Cameras, and files played like one: the newest frame, stamped at its capture."""

import http.server
import threading

import cv2
import numpy as np
import pytest

from sam2_rt.errors import InputError, SourceError
from sam2_rt.sources import Camera, Paced, VideoFile, open_source
from tests.sources.pictures import FPS, FRAMES, index_of, picture, truncated


class FakeCapture:
    """A camera that delivers some frames and then fails, instead of cv2.VideoCapture."""

    def __init__(self, count, on_read=lambda index: None):
        self.count = count
        self.on_read = on_read
        self.index = 0
        self.released = False
        self.settings = {}

    def __call__(self, target, api):
        self.target, self.api = target, api
        return self

    def isOpened(self):
        return True

    def set(self, key, value):
        self.settings[key] = value

    def get(self, key):
        return 15.0

    def read(self):
        self.on_read(self.index)
        if self.index >= self.count:
            return False, None
        self.index += 1
        return True, picture(self.index - 1)

    def release(self):
        self.released = True


def fake_camera(monkeypatch, count, on_read=lambda index: None, **options):
    capture = FakeCapture(count, on_read)
    monkeypatch.setattr(cv2, 'VideoCapture', capture)
    return Camera(0, **options), capture


def test_camera_frames_are_stamped_at_capture(monkeypatch):
    times = iter(range(100, 200))
    camera, capture = fake_camera(monkeypatch, 3, clock_ns=lambda: next(times))
    reader = camera._frames()
    assert [next(reader).stamp_ns for _ in range(3)] == [100, 101, 102]
    with pytest.raises(SourceError, match='0 stopped delivering after 3 frames'):
        next(reader)
    assert capture.released
    assert (capture.target, capture.api, camera.fps) == (0, cv2.CAP_ANY, 15.0)
    # Drivers queue frames; old ones are of no use.
    assert capture.settings == {cv2.CAP_PROP_BUFFERSIZE: 1}


def test_the_newest_camera_frame_wins_and_the_end_is_an_error(monkeypatch):
    first_taken, rest_read = threading.Event(), threading.Event()

    def on_read(index):
        if index == 1:
            assert first_taken.wait(20)
        if index == 10:
            rest_read.set()

    camera, capture = fake_camera(monkeypatch, 10, on_read)
    seen = []

    def consume():
        for frame in camera:
            seen.append((camera.position, index_of(frame)))
            first_taken.set()
            assert rest_read.wait(20)

    with camera, pytest.raises(SourceError, match='stopped delivering after 10 frames'):
        consume()
    assert seen == [(0, 0), (9, 9)]
    assert camera.dropped == 8
    assert capture.released


def test_a_camera_that_was_stopped_ends_without_an_error(monkeypatch):
    camera, capture = fake_camera(monkeypatch, 10**9)
    for _ in camera:
        camera.stop()
    camera.close()
    assert capture.released


def test_the_last_frame_is_not_lost_when_it_comes_as_the_source_ends(monkeypatch):
    may_read = threading.Event()
    camera, _ = fake_camera(monkeypatch, 1, lambda index: may_read.wait(20))
    take = camera._mailbox.take

    def nothing_yet(timeout):
        """Time is over; right after that the frame comes and the source ends."""
        camera._mailbox.take = take
        may_read.set()
        camera._thread.join(20)
        return None

    camera._mailbox.take = nothing_yet
    frames = []
    with pytest.raises(SourceError, match='after 1 frames'):
        frames.extend(camera)
    assert len(frames) == 1


def test_a_camera_that_was_never_read_is_released(monkeypatch):
    camera, capture = fake_camera(monkeypatch, 1)
    camera.close()
    assert capture.released


def test_an_unexpected_failure_of_the_reader_reaches_the_consumer(monkeypatch):
    def explode(index):
        raise ZeroDivisionError('inside the driver')

    camera, _ = fake_camera(monkeypatch, 1, explode)
    with pytest.raises(ZeroDivisionError, match='inside the driver'):
        list(camera)


def test_a_camera_of_another_pixel_format_says_what_is_wrong(monkeypatch):
    camera, capture = fake_camera(monkeypatch, 1)
    monkeypatch.setattr(capture, 'read', lambda: (True, np.zeros((4, 4), np.uint8)))
    with pytest.raises(InputError, match='expected shape'):
        list(camera)


@pytest.mark.parametrize(
    ('text', 'target', 'pipeline'),
    [
        ('0', 0, False),
        ('12', 12, False),
        ('rtsp://user:secret@camera/1', 'rtsp://user:secret@camera/1', False),
        ('videotestsrc ! videoconvert ! appsink', 'videotestsrc ! videoconvert ! appsink', True),
        ('/dev/null', '/dev/null', False),
    ],
)
def test_what_is_taken_for_a_camera(monkeypatch, text, target, pipeline):
    capture = FakeCapture(1)
    monkeypatch.setattr(cv2, 'VideoCapture', capture)
    with open_source(text) as source:
        assert source.live
    assert capture.target == target
    assert source.name == text.replace('secret', '***')
    assert (capture.api == cv2.CAP_GSTREAMER) is pipeline


@pytest.mark.parametrize(
    ('target', 'gstreamer', 'message'),
    [
        (57, 'NO', 'webcam 57 cannot be opened; this machine has '),
        ('/dev/null', 'NO', 'device /dev/null cannot be opened; this machine has '),
        ('rtsp://127.0.0.1:1/x', 'NO', 'stream rtsp://.* cannot be opened; check the address'),
        ('nonsense ! appsink', 'NO', 'pipeline .* this OpenCV was built without GStreamer'),
        ('nonsense ! appsink', 'YES (1.20)', 'pipeline .* try it with gst-launch-1.0'),
    ],
)
def test_a_camera_that_cannot_be_opened(monkeypatch, target, gstreamer, message):
    monkeypatch.setattr(cv2, 'getBuildInformation', lambda: f'  GStreamer:      {gstreamer}\n')
    with pytest.raises(SourceError, match=message):
        Camera(target)


def test_a_network_stream_over_http(monkeypatch):
    """A real stream: motion JPEG from a local server, decoded by OpenCV."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header('Content-Type', 'multipart/x-mixed-replace; boundary=frame')
            self.end_headers()
            for index in range(20):
                _, jpeg = cv2.imencode('.jpg', picture(index))
                self.wfile.write(b'--frame\r\nContent-Type: image/jpeg\r\n')
                self.wfile.write(b'Content-Length: %d\r\n\r\n' % len(jpeg))
                self.wfile.write(jpeg.tobytes() + b'\r\n')

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    frames = []
    try:
        with (
            open_source(f'http://127.0.0.1:{server.server_port}/stream.mjpg') as source,
            pytest.raises(SourceError, match='stopped delivering after'),
        ):
            frames.extend(source)
    finally:
        server.shutdown()
        server.server_close()
    seen = [index_of(frame) for frame in frames]
    assert seen == sorted(seen)
    assert len(seen) + source.dropped == source.position + 1 >= 15


class FakeTime:
    def __init__(self):
        self.now_ns = 1_000_000_000_000
        self.slept = 0.0

    def ns(self):
        return self.now_ns

    def sleep(self, seconds):
        assert seconds > 0
        self.slept += seconds
        self.now_ns += round(seconds * 1e9)


def test_a_paced_file_delivers_each_frame_when_it_is_due(video):
    time = FakeTime()
    paced = Paced(VideoFile(video), clock_ns=time.ns, sleep=time.sleep)
    start = time.now_ns
    for index, frame in enumerate(paced._frames()):
        assert frame.stamp_ns == start + index * 40_000_000 == time.now_ns
    assert index == FRAMES - 1
    assert time.slept == pytest.approx((FRAMES - 1) / FPS)
    assert (paced.live, paced.frame_count, paced.fps) == (True, FRAMES, FPS)


def test_a_paced_file_does_not_wait_for_frames_that_are_due(video):
    time = FakeTime()
    reader = Paced(VideoFile(video), clock_ns=time.ns, sleep=time.sleep)._frames()
    next(reader)
    time.now_ns += 10_000_000_000
    list(reader)
    assert time.slept == 0.0


def test_open_source_plays_files_in_real_time_on_demand(video):
    with open_source(str(video), realtime=True) as source:
        seen = []
        for frame in source:
            seen.append(index_of(frame))
            assert source.position == seen[-1]
    assert isinstance(source, Paced)
    assert len(seen) + source.dropped == FRAMES


def test_a_paced_file_reports_a_break_like_the_file_does(video):
    with (
        open_source(str(truncated(video, keep=0.8)), realtime=True) as source,
        pytest.raises(SourceError, match='breaks off'),
    ):
        list(source)
