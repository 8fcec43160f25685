"""A video through the official predictor and through our Tracker: same weights, same prompts.

Each side runs closed loop: every frame stands on the memory that side made of its own past. The
scenario has a box, a click on a second object mid-stream, a correction click on a frame that was
already tracked, a mask prompt, and black frames on which the objects are absent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='needs PyTorch: make test-workshop')
pytest.importorskip('sam2', reason='needs the official sam2 package: make test-workshop')

from export.checkpoint import load, read_checkpoint  # noqa: E402
from export.model import VARIANTS, ModelConfig  # noqa: E402
from export.model.variants import build_from_config  # noqa: E402
from export.networks import Network, from_checkpoint  # noqa: E402
from export.to_onnx import Options, export_engine  # noqa: E402
from export.torch_runner import TorchRunner  # noqa: E402
from sam2_rt.config import TrackerConfig  # noqa: E402
from sam2_rt.postprocess import image_logits  # noqa: E402
from sam2_rt.runtime.base import Runner  # noqa: E402
from sam2_rt.runtime.manifest import Manifest, load_manifest  # noqa: E402
from sam2_rt.runtime.ort import OrtRunner  # noqa: E402
from sam2_rt.tracker import Tracker  # noqa: E402
from sam2_rt.types import BoxPrompt, Frame, MaskPrompt, PointPrompt  # noqa: E402
from tests.parity import official  # noqa: E402
from tests.parity.pairs import NARROW, NARROW_20, blocks_image  # noqa: E402

# The official predictor takes minutes for the true Hiera-T on a small CPU.
pytestmark = pytest.mark.timeout(1800)

FRAMES = 24
ABSENT = range(17, 20)
ROUNDING = 5e-6  # of the largest logit; the closed loop's float32 error is about 2e-6

Masks = dict[tuple[int, str], np.ndarray]
"""Logits at image size, by frame index and object id."""


@dataclass(frozen=True)
class Event:
    """A prompt, given after its frame was tracked."""

    frame: int
    object_id: str
    prompt: BoxPrompt | MaskPrompt | PointPrompt


@dataclass(frozen=True)
class Scenario:
    """Frames of the network's own size, so that no resize comes between, and prompts."""

    frames: list[np.ndarray]
    events: list[Event]


def scenario(size: int, objects: int) -> Scenario:
    whole = blocks_image(size, seed=3)
    # A camera that pans over blocks of colour: every frame differs from the one before.
    frames = [
        np.zeros_like(whole) if t in ABSENT else np.roll(whole, (3 * t, 5 * t), axis=(0, 1))
        for t in range(FRAMES)
    ]
    mask = np.zeros((size, size), bool)
    mask[size // 2 : size // 2 + size // 5, size // 8 : size // 2] = True
    events = [
        Event(0, '1', BoxPrompt((0.2 * size, 0.25 * size, 0.6 * size, 0.7 * size))),
        Event(5, '2', PointPrompt((0.7 * size, 0.3 * size))),
        Event(11, '1', PointPrompt((0.4 * size, 0.5 * size))),
        Event(14, '3', MaskPrompt(mask)),
    ]
    return Scenario(frames, [event for event in events if int(event.object_id) <= objects])


def run_official(
    predictor: official.SAM2VideoPredictor, given: Scenario, done: Callable[[int], None] = int
) -> Masks:
    """`done` is called with the index of a frame whenever work on that frame is finished."""
    # As SAM 2 was trained: a frame that is corrected becomes a conditioning frame.
    predictor.add_all_frames_to_correct_as_cond = True
    video = official.OfficialVideo(predictor, given.frames)
    masks: Masks = {}
    known: list[str] = []
    stops = sorted({event.frame + 1 for event in given.events})
    for start, stop in zip([0, *stops], [*stops, FRAMES], strict=True):
        if known:
            for index, _, logits in video.propagate(start, stop):
                for object_id, one in zip(known, logits, strict=True):
                    masks[index, object_id] = one.copy()
                done(index)
        for event in (event for event in given.events if event.frame == stop - 1):
            if event.object_id not in known:
                known.append(event.object_id)
            number, prompt = int(event.object_id), event.prompt
            if isinstance(prompt, MaskPrompt):
                logits = video.add_mask(event.frame, number, prompt.mask)
            elif isinstance(prompt, BoxPrompt):
                logits = video.add_points(event.frame, number, box=prompt.box)
            else:
                logits = video.add_points(event.frame, number, prompt.points, prompt.labels)
            masks[event.frame, event.object_id] = logits[known.index(event.object_id)].copy()
            done(event.frame)
    return masks


def make_objects_vanish(predictor: official.SAM2VideoPredictor, given: Scenario) -> None:
    """Fits the last layer of the object score head: -4 on the black frames, +4 on all others."""
    layer = predictor.sam_mask_decoder.pred_obj_score_head.layers[-1]
    activations: list[torch.Tensor] = []
    frames: list[int] = []

    def label(frame: int) -> None:
        frames.extend([frame] * (len(activations) - len(frames)))

    hook = layer.register_forward_pre_hook(lambda _, x: activations.append(x[0].flatten(0, -2)))
    run_official(predictor, given, label)
    hook.remove()
    inputs = torch.cat(activations).double()
    wanted = torch.tensor([-4.0 if frame in ABSENT else 4.0 for frame in frames]).double()
    centre = inputs.mean(dim=0)
    centred = inputs - centre
    gram = centred.T @ centred
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram)).double()
    weight = torch.linalg.solve(gram + ridge, centred.T @ (wanted - wanted.mean()))
    with torch.no_grad():
        layer.weight.copy_(weight[None])
        layer.bias.copy_(wanted.mean() - weight @ centre)


def run_ours(runner: Runner, given: Scenario) -> Masks:
    tracker = Tracker(runner, TrackerConfig(max_objects=3, held_frames=2))
    masks: Masks = {}
    for index, image in enumerate(given.frames):
        size = image.shape[:2]
        seen = list(tracker.step(Frame(image, stamp_ns=index + 1)).objects)
        for event in (event for event in given.events if event.frame == index):
            seen.append(tracker.add_prompt(event.prompt, event.object_id).object)
        for tracked in seen:
            masks[index, tracked.object_id] = image_logits(tracked.low_res_masks, size)
    return masks


class Agreement(NamedTuple):
    """Worst mask IoU, and worst logit error relative to the largest, of all frames and objects."""

    worst_iou: float
    worst_error: float


def compare(masks: Masks, expected: Masks) -> Agreement:
    """Compares logits with the reference's.

    Pixels whose reference logit is zero within float32 rounding are on neither side and left out:
    in the small masks of random weights a single one counts for 0.1 % of IoU.
    """
    assert masks.keys() == expected.keys()
    ious, errors = [], []
    for key, reference in expected.items():
        decided = np.abs(reference) > ROUNDING * np.abs(reference).max()
        ours, theirs = (masks[key] > 0) & decided, (reference > 0) & decided
        union = int((ours | theirs).sum())
        ious.append(int((ours & theirs).sum()) / union if union else 1.0)
        errors.append(float(np.abs(masks[key] - reference).max() / np.abs(reference).max()))
    return Agreement(min(ious), max(errors))


@dataclass
class Case:
    """One network with what the official predictor made of the scenario."""

    given: Scenario
    expected: Masks
    network: Network
    folder: Path

    def engine(self, precision: str) -> Manifest:
        folder = self.folder / precision
        if not folder.exists():
            export_engine(self.network, folder, Options(precision, max_objects=3))
        return load_manifest(folder)

    def compare(self, runner: Runner) -> Agreement:
        with runner:
            agreement = compare(run_ours(runner, self.given), self.expected)
        print(agreement)
        return agreement


# Configuration, image size, objects, and a seed whose weights give masks of more than a thousand
# pixels throughout that are not the whole image either.
NETWORKS = {
    'narrow 2.1': (NARROW, 256, 3, 5),
    'narrow 2.0': (NARROW_20, 256, 3, 3),
    'sam2.1_hiera_tiny': (VARIANTS['sam2.1_hiera_tiny'], 384, 2, 0),
}


@pytest.fixture(scope='module', params=NETWORKS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    config, size, objects, seed = NETWORKS[request.param]
    folder = tmp_path_factory.mktemp('closed_loop')
    given = scenario(size, objects)
    predictor = official.build_predictor(config, size, seed)
    make_objects_vanish(predictor, given)
    checkpoint = official.save_checkpoint(predictor, folder / 'official.pt')
    expected = run_official(predictor, given)
    network = load_network(request.param, config, size, checkpoint)
    return Case(given, expected, network, folder)


def load_network(name: str, config: ModelConfig, size: int, checkpoint: Path) -> Network:
    """Through our strict loader, and for a known variant through the whole command's path."""
    if name in VARIANTS:
        return from_checkpoint(checkpoint, size, conditioning_slots=2)
    model = build_from_config(config, size)
    load(model, read_checkpoint(checkpoint), source=str(checkpoint))
    return Network(name, model.eval(), {'checkpoint': checkpoint.name})


def test_the_scenario_shows_what_it_should(case: Case) -> None:
    """Objects vanish on the black frames and come back; elsewhere there is a mask to compare."""
    for (index, object_id), logits in case.expected.items():
        if index in ABSENT:
            assert not (logits > 0).any(), (index, object_id)
        else:
            assert 1000 < (logits > 0).sum() < logits.size, (index, object_id)


def test_torch_tracks_as_the_official_predictor(case: Case) -> None:
    agreement = case.compare(TorchRunner(case.engine('fp32'), case.network.model))
    assert agreement.worst_iou >= 0.999
    assert agreement.worst_error <= 1e-3


def test_the_fp32_engine_tracks_as_the_official_predictor(case: Case) -> None:
    agreement = case.compare(OrtRunner(case.engine('fp32')))
    assert agreement.worst_iou >= 0.999
    assert agreement.worst_error <= 1e-3


def test_the_fp16_engine_tracks_as_the_official_predictor(case: Case) -> None:
    agreement = case.compare(OrtRunner(case.engine('fp16')))
    assert agreement.worst_iou >= 0.99
    assert agreement.worst_error <= 5e-3
