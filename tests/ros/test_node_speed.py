"""Frames received, age, answers and memory under load.

The machine's other load is not what is tested, so a figure must be reached in one of a few tries.
"""

from __future__ import annotations

import os
import time

import numpy as np
import psutil
import pytest
from lifecycle_msgs.srv import GetState

from tests.ros.graph import BOTH, LEFT, RED, detection, eventually, scene, slow_engine

HD = scene(((320, 360), RED), size=(1280, 720), side=200)
TRIES = 4


def missed(tries: list[str]) -> None:
    """No try reached its figure: a failure, unless the machine has no time left for the test."""
    figures = '\n'.join(tries)
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores:
        pytest.skip(
            f'the machine is busy (load {load:.0f} on {cores} cores), so times say nothing about '
            f'the node; run this again when it is idle. Measured:\n{figures}'
        )
    pytest.fail(figures)


def play(client, image, rate: float, seconds: float, meanwhile=lambda: None) -> list[int]:
    """Publishes like a camera: at its own pace, whatever becomes of the images."""
    stamps, start = [], time.monotonic()
    for index in range(round(rate * seconds)):
        time.sleep(max(0.0, start + index / rate - time.monotonic()))
        stamps.append(client.send_image(image))
        meanwhile()
    time.sleep(0.5)
    return stamps


def summary(client, stage: str, since: int) -> tuple[float, float]:
    """Mean and largest seconds of a stage in the latency reports since then."""
    reports = [item for item in client.latency[since:] if item.metrics_source == stage]
    means, counts = ([item.statistics[k].data for item in reports] for k in (0, 4))
    return np.average(means, weights=counts) / 1e3, max(
        i.statistics[2].data for i in reports
    ) / 1e3


@pytest.mark.transport
def test_hd_at_30_hz_arrives_whole_and_comes_back_in_time(start) -> None:
    _, client = start(prelude=slow_engine(0.004))
    client.connected()
    client.track(HD)
    client.prompt(detection(320, 360, id='a'))
    client.listed(HD, ['a'])
    tries = []
    for _ in range(TRIES):
        before = {p.key: p.value for p in client.health[-1].values} if client.health else {}
        since = len(client.latency)
        stamps = play(client, HD, 30, 4)
        eventually(lambda since=since: len(client.latency) > since + 8, 5)
        after = eventually(lambda: {p.key: p.value for p in client.health[-1].values})
        received = 1 - (len(set(stamps) - set(client.masks)) / len(stamps))
        ages = np.array([client.arrived[s] - s / 1e9 for s in stamps if s in client.arrived])
        inference = float(after['encode_p95_ms']) / 1e3 + float(after['track_p95_ms']) / 1e3
        tries.append(
            f'{received:.1%} came back; age p50 {np.median(ages) * 1e3:.1f}, '
            f'p95 {np.percentile(ages, 95) * 1e3:.1f} ms; inference p95 {inference * 1e3:.1f} ms; '
            f'node: {after["age_p95_ms"]} ms, received {before.get("received")} -> '
            f'{after["received"]}, dropped {after["dropped"]}'
        )
        print(tries[-1])
        in_time = float(after['age_p95_ms']) / 1e3 <= inference + 1 / 30 + 0.015
        if received >= 0.99 and in_time:
            break
    else:
        missed(tries)
    for stamp in stamps:
        if stamp in client.masks:
            assert client.ids(stamp) == ['a']


@pytest.mark.transport
def test_a_slow_engine_behind_a_fast_camera_stays_at_the_newest_frame(start) -> None:
    _, client = start(prelude=slow_engine(0.05))  # encode + track: 100 ms
    client.connected()
    client.track(BOTH)
    client.prompt(detection(*LEFT, id='a'))
    client.listed(BOTH, ['a'])
    answers: list[float] = []
    service = client.node.create_client(GetState, f'{client.name}/get_state')
    service.wait_for_service()

    def ask() -> None:
        asked = time.monotonic()
        future = service.call_async(GetState.Request())
        future.add_done_callback(lambda _: answers.append(time.monotonic() - asked))

    tries = []
    for _ in range(TRIES):
        answers.clear()
        stamps = play(client, BOTH, 60, 3, meanwhile=ask)
        ages = np.array([client.arrived[s] - s / 1e9 for s in stamps if s in client.arrived])
        drops = int(next(p.value for p in client.health[-1].values if p.key == 'dropped'))
        tries.append(
            f'{len(ages)} of {len(stamps)} tracked; age p50 {np.median(ages) * 1e3:.0f}, p95 '
            f'{np.percentile(ages, 95) * 1e3:.0f} ms; dropped {drops}; '
            f'service p95 {np.percentile(answers, 95) * 1e3:.1f} ms'
        )
        print(tries[-1])
        # The work of one frame, one more of waiting, and the bound's 15 ms.
        bounded = np.percentile(ages, 95) < 2 * 0.1 + 1 / 60 + 0.015
        if bounded and drops > 0 and np.percentile(answers, 95) < 0.05:
            return
    missed(tries)


@pytest.mark.endurance
def test_memory_is_flat_over_ten_thousand_frames(start) -> None:
    process, client = start()
    client.connected()
    small = scene((LEFT, RED), size=(160, 160))
    client.track(small)
    client.prompt(detection(80, 120, id='a'))
    client.listed(small, ['a'])
    memory = psutil.Process(process.popen.pid).memory_info
    sizes: dict[int, float] = {}  # images received -> resident megabytes
    end = time.monotonic() + 120
    while max(sizes, default=0) < 10_000 and time.monotonic() < end:
        play(client, small, 500, 2)
        client.masks.clear()
        client.objects.clear()
        values = {pair.key: pair.value for pair in client.health[-1].values}
        sizes[int(values['received'])] = memory().rss / 1e6
    print('resident megabytes by images received:', sizes)
    if max(sizes) < 10_000:
        missed([f'{max(sizes)} of 10000 images received in 120 s'])
    warm = next(size for received, size in sizes.items() if received >= 1_000)
    assert sizes[max(sizes)] < warm + 5
    client.listed(small, ['a'])
