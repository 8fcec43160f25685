"""Frames received, age, answers and memory under load.

The machine's other load is not what is tested. So each try measures first what a bare subscriber
gets at the same rate. Where that is late already, the tracker may be late in proportion; where
not even a bare subscriber gets every image, nothing can be said.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from std_srvs.srv import SetBool

from tests.ros.graph import (
    LEFT,
    RED,
    REPOSITORY,
    Client,
    Process,
    detection,
    eventually,
    scene,
    slow_engine,
)

HD = scene((LEFT, RED), size=(1280, 720), side=120)
SMALL = scene((LEFT, RED))
SLACK_MS = 15.0
ANSWER_MS = 50.0


class Measured(NamedTuple):
    """A stretch of images from a camera.

    Attributes:
        stamps: of the images sent.
        rate: images per second that the camera really sent.
        ages: milliseconds from the image's stamp until the witness had what was waited for.
        answers: milliseconds that the service took, each time.
    """

    stamps: list[int]
    rate: float
    ages: dict[int, float]
    answers: list[float]

    @property
    def age(self) -> float:
        return float(np.percentile([*self.ages.values()], 95))

    @property
    def answer(self) -> float:
        return float(np.percentile(self.answers, 95))

    @property
    def came(self) -> float:
        return len(self.ages) / len(self.stamps)

    def __str__(self) -> str:
        return (
            f'{len(self.stamps)} images at {self.rate:.1f} Hz, {self.came:.1%} came (back); age '
            f'p95 {self.age:.1f} ms; service p95 {self.answer:.1f}, max {max(self.answers):.1f} ms'
        )


class Stage:
    """A camera, the tracker node and a witness of its masks, which is also a bare subscriber."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client = client
        self._witness = Process(
            'tests.ros.nodes.witness', folder, {}, '-r', f'mask:={client.name}/mask'
        )
        self._bare = Client(self._witness.namespace, 'witness')
        eventually(self._bare.images.get_subscription_count)
        eventually(lambda: client.node.count_subscribers(f'{client.name}/mask') == 2)
        self._ask = {
            each: each.node.create_client(SetBool, f'{each.name}/pause')
            for each in (client, self._bare)
        }
        for service in self._ask.values():
            assert service.wait_for_service(10)

    def close(self) -> None:
        self._bare.close()
        self._witness.stop()

    def bare(self, image: np.ndarray, rate: float, seconds: float) -> Measured:
        """The witness alone gets the images."""
        return self._play(self._bare, 'image', image, rate, seconds)

    def node(self, image: np.ndarray, rate: float, seconds: float) -> Measured:
        """The node gets the images and the witness its masks."""
        return self._play(self.client, 'mask', image, rate, seconds)

    def _play(
        self, client: Client, topic: str, image: np.ndarray, rate: float, seconds: float
    ) -> Measured:
        """Publishes like a camera: at its own pace, whatever becomes of the images."""
        stamps: list[int] = []
        questions = 0
        answers: list[float] = []
        start = time.monotonic()
        for index in range(round(rate * seconds)):
            time.sleep(max(0.0, start + index / rate - time.monotonic()))
            stamps.append(client.send_image(image))
            if index % 5 == 0:
                questions += 1
                asked = time.monotonic()
                future = self._ask[client].call_async(SetBool.Request(data=False))
                future.add_done_callback(
                    lambda _, asked=asked: answers.append(1e3 * (time.monotonic() - asked))
                )
        sent = time.monotonic() - start
        time.sleep(0.5)  # for the last masks
        eventually(lambda: len(answers) == questions, what='answers of the service')
        lines = (line.split() for line in self._witness.text().splitlines())
        seen = {int(line[1]): float(line[2]) for line in lines if line[:1] == [topic]}
        ages = {stamp: seen[stamp] for stamp in stamps if stamp in seen}
        return Measured(stamps, (len(stamps) - 1) / sent, ages, answers)


def health(client: Client) -> dict[str, str]:
    """Of a report that is yet to come."""
    count = len(client.health)
    eventually(lambda: len(client.health) > count + 1, 5, 'reports of health')
    return {pair.key: pair.value for pair in client.health[-1].values}


class Trial:
    """The bare subscriber and then the tracker, for a few seconds each.

    Attributes:
        machine: what the bare subscriber had.
        node: what the tracker gave.
        counts: images that the tracker received, processed and dropped.
        inference: of the tracker, 95th percentile in milliseconds.

    Args:
        works: inferences that the age may hold.
    """

    def __init__(self, stage: Stage, image: np.ndarray, rate: float, works: int) -> None:
        self._period, self._works = 1e3 / rate, works
        self.machine = stage.bare(image, rate, 1.5)
        before = health(stage.client)
        self.node = stage.node(image, rate, 4)
        after = health(stage.client)
        names = ('received', 'processed', 'dropped')
        self.counts = {name: int(after[name]) - int(before[name]) for name in names}
        self.inference = float(after['encode_p95_ms']) + float(after['track_p95_ms'])

    def busy(self) -> bool:
        """Whether one transport takes the time of two."""
        return self.machine.age > SLACK_MS / 2

    def bound(self) -> float:
        """Largest age: half of the slack is for two transports, however late they are here."""
        slack = max(SLACK_MS, SLACK_MS / 2 + 2 * self.machine.age)
        return self._works * self.inference + self._period + slack

    def good(self) -> bool:
        answer = max(ANSWER_MS, 2 * self.machine.answer)
        in_time = self.node.age <= self.bound() and self.node.answer < answer
        share = self.counts['received'] / len(self.node.stamps)
        return in_time and share >= (0.9 if self.busy() else 0.99)

    def possible(self) -> bool:
        """Whether the camera kept its rate, and a bare subscriber got its images."""
        return self.machine.came >= 0.99 and self.machine.rate * self._period >= 0.99e3

    def __str__(self) -> str:
        return (
            f'bare subscriber: {self.machine}\ntracker: {self.node}; {self.counts}; inference '
            f'p95 {self.inference:.1f} ms, so the age p95 may be {self.bound():.1f} ms'
        )


@pytest.fixture
def stage(start, tmp_path: Path, request):
    _, client = start(**request.param)
    client.connected()
    made = Stage(client, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    ('stage', 'image', 'rate', 'works'),
    [
        # The newest image waits a period at most …
        pytest.param(
            {'prelude': slow_engine(0.004)},
            HD,
            30,
            1,
            id='HD at 30 Hz',
            marks=pytest.mark.transport,
        ),
        pytest.param(
            {'engine': str(REPOSITORY / 'engines' / 'micro'), 'threads': 0},
            HD,
            30,
            1,
            id='HD at 30 Hz, bundled engine',
        ),
        # … and never longer than the work on the one before.
        pytest.param(
            {'prelude': slow_engine(0.05)}, SMALL, 60, 2, id='60 Hz before a slow engine'
        ),
    ],
    indirect=['stage'],
)
def test_images_arrive_results_are_in_time_and_services_answer(
    stage: Stage, image: np.ndarray, rate: float, works: int
) -> None:
    client = stage.client
    client.track(image)
    client.prompt(detection(*LEFT, id='a'))
    client.listed(image, ['a'])
    # The witness has the masks from now on; sending them twice is no camera's load.
    client.unsubscribe_masks()
    trials = []
    while not (trials and trials[-1].good()) and len(trials) < 2:
        trials.append(Trial(stage, image, rate, works))
        print(trials[-1])
    node, counts = trials[-1].node, trials[-1].counts
    # On any machine every image that came is accounted for, and every output is one of them.
    assert counts['received'] == counts['processed'] + counts['dropped']
    assert counts['dropped'] > 0 or trials[-1].inference < 1e3 / rate
    outputs = [stamp for stamp in client.objects if node.stamps[0] <= stamp <= node.stamps[-1]]
    assert set(outputs) <= set(node.stamps)
    assert len(node.ages) <= len(outputs) <= counts['processed']
    assert {tuple(client.ids(stamp)) for stamp in outputs} == {('a',)}
    if not trials[-1].good():
        said = '\n'.join(map(str, trials))
        if trials[-1].possible():
            pytest.fail(said)
        pytest.skip(
            'this machine loses images of a bare subscriber, so figures say nothing about the '
            f'tracker; run this again when it is idle. Measured:\n{said}'
        )


@pytest.mark.endurance
def test_memory_is_flat_over_ten_thousand_frames(start) -> None:
    process, client = start()
    client.connected()
    small = scene(((32, 24), RED), size=(64, 48), side=20)
    client.track(small)
    client.prompt(detection(32, 24, id='a'))
    client.listed(small, ['a'])
    memory = psutil.Process(process.popen.pid).memory_info
    sizes: dict[int, float] = {}  # images received -> resident megabytes
    end = time.monotonic() + 120
    while max(sizes, default=0) < 10_000 and time.monotonic() < end:
        for _ in range(500):
            client.send_image(small)
            time.sleep(0.001)
        client.masks.clear()
        client.objects.clear()
        values = {pair.key: pair.value for pair in client.health[-1].values}
        sizes[int(values['received'])] = memory().rss / 1e6
    print('resident megabytes by images received:', sizes)
    assert max(sizes) >= 10_000
    warm = next(size for received, size in sizes.items() if received >= 1_000)
    assert sizes[max(sizes)] < warm + 5
    client.listed(small, ['a'])
