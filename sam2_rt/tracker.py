"""Tracker: objects go in as prompts, frames go in one by one, masks and presence come out.

One frame runs `encode` once and `track` once for all objects together. A prompt runs `prompt` (or
`prompt_mask`) on the frame it was made for; if that is not the newest frame, the object is carried
forward through the held frames, a few per live frame, until it is caught up.
"""

from __future__ import annotations

import time
from copy import copy
from dataclasses import dataclass
from itertools import count as count_up
from math import isfinite

import numpy as np

from sam2_rt.cohort import Cohort, Member, Verdict, iou_score, object_score
from sam2_rt.config import TrackerConfig
from sam2_rt.errors import ConfigError, PromptError
from sam2_rt.held import HeldFrame, HeldFrames
from sam2_rt.postprocess import image_mask, tight_box
from sam2_rt.preprocess import network_image
from sam2_rt.presence import PresenceFilter
from sam2_rt.prompting import Prompter, candidates
from sam2_rt.runtime.base import Runner
from sam2_rt.runtime.manifest import Manifest
from sam2_rt.timing import Clock, StageTimer
from sam2_rt.types import (
    Array,
    Frame,
    Prompt,
    PromptResult,
    TrackedObject,
    TrackResult,
)


@dataclass(frozen=True, eq=False)
class PreparedFrame:
    """A frame on its way into the network; Tracker.prepare makes it.

    Attributes:
        frame: as the source gave it.
        image: (1, S, S, 3) uint8 network input, as Runner.upload gave it.
        seconds: what preparing took.
    """

    frame: Frame
    image: Array
    seconds: float


class Tracker:
    """Tracks prompted objects through a stream with bounded memory and bounded work per frame.

    Not thread safe: one thread owns it. Only `prepare` may be called from one other thread.

    Args:
        runner: executes the engine's graphs.
        config: see TrackerConfig.
        clock: seconds, for the per-stage times.

    Raises:
        ConfigError: the configuration asks for more than the engine was exported for.
    """

    def __init__(
        self,
        runner: Runner,
        config: TrackerConfig | None = None,
        *,
        clock: Clock = time.perf_counter,
    ) -> None:
        config = config or TrackerConfig()
        manifest = runner.manifest
        if config.max_objects > manifest.max_objects:
            raise ConfigError(
                f'max_objects: {config.max_objects} asked for, but engine {manifest.folder} was '
                f'exported for at most {manifest.max_objects}; lower it or export with a larger '
                '--max-objects'
            )
        self._runner = runner
        self._config = config
        self._clock = clock
        self._timer = StageTimer(clock)
        self._held = HeldFrames(
            manifest, config.held_frames, config.held_megabytes, config.max_objects
        )
        self._labels: dict[str, str] = {}  # by object_id, in the order of addition
        self._prompter = Prompter(runner)
        self._live = Cohort(runner, config.max_objects)
        self._late: Cohort | None = None  # objects behind the newest frame; made when first needed
        self._frame_index = -1
        self._refused_prompts = 0

    @property
    def manifest(self) -> Manifest:
        """Of the engine that runs."""
        return self._runner.manifest

    @property
    def frame_index(self) -> int:
        """Index of the newest frame, -1 before the first."""
        return self._frame_index

    @property
    def objects(self) -> tuple[str, ...]:
        """Ids in the order they were added, those still catching up included."""
        return tuple(self._labels)

    @property
    def memory_bytes(self) -> int:
        """Upper bound of what banks and held frames take; it does not depend on the stream."""
        late = self._late.bank.nbytes if self._late else 0
        return self._live.bank.nbytes + late + self._held.capacity * self._held.frame_bytes

    @property
    def non_finite_entries(self) -> int:
        """Memory entries refused so far because they were not finite."""
        late = self._late.refused_entries if self._late else 0
        return self._live.refused_entries + late + self._refused_prompts

    def warm_up(self) -> None:
        """Runs every graph once, so that the first frame is not the slowest."""
        self._runner.warm_up()

    def prepare(self, frame: Frame) -> PreparedFrame:
        """Makes a frame ready for `step`, and starts its upload where the engine is on a GPU.

        It depends on nothing that `step` changes: while one frame is tracked, another thread may
        prepare the next one (`lookahead.prepared_frames` does).

        Raises:
            BackendError: the device failed.
        """
        start = self._clock()
        image = self._runner.upload(network_image(frame, self.manifest.image_size))
        return PreparedFrame(frame, image, self._clock() - start)

    def step(self, frame: Frame | PreparedFrame) -> TrackResult:
        """Tracks all objects on the next frame.

        Args:
            frame: the frame, prepared or not.

        Returns:
            The objects that are caught up with this frame, in the order they were added. Their
            stage_seconds count preparing as 'preprocess', whenever that was.

        Raises:
            BackendError: the engine failed; what was remembered before is kept.
        """
        prepared = frame if isinstance(frame, PreparedFrame) else self.prepare(frame)
        self._timer.add('preprocess', prepared.seconds)
        frame, image = prepared.frame, prepared.image
        self._frame_index += 1
        size = (frame.height, frame.width)
        held = HeldFrame(self._frame_index, frame.stamp_ns, size, image)
        self._held.push(held)

        verdicts: dict[str, Verdict] = {}
        if self._live.members:
            features = self._features(held)
            with self._timer.stage('track'):
                verdicts = self._live.track(held, features, len(self._live.members))
        if self._late and self._late.members:
            with self._timer.stage('catch_up'):
                verdicts |= self._catch_up(self._late)
        with self._timer.stage('postprocess'):
            objects = tuple(
                self._describe(object_id, verdicts[object_id], size)
                for object_id in self._labels
                if object_id in verdicts
            )
        return TrackResult(held.frame_index, held.stamp_ns, size, objects, self._timer.take())

    def add_prompt(
        self,
        prompt: Prompt,
        object_id: str | None = None,
        *,
        label: str = '',
        stamp_ns: int | None = None,
    ) -> PromptResult:
        """Starts tracking an object, or corrects one.

        A new object is segmented from its prompt alone. A known one is corrected: the prompt is
        decoded with its memory and its previous mask on that frame; clicks add to earlier clicks
        on the same frame, a box or a mask starts over.

        Args:
            prompt: clicks, box or mask, in pixels of the frame it was made for.
            object_id: a known id corrects that object; a new one, or None (then it is numbered),
                starts an object.
            label: free text for a new object; '' keeps a known one's.
            stamp_ns: stamp of the frame it was made for: the nearest held frame is taken. None or
                0 is the newest frame.

        Raises:
            PromptError: no frame yet, a prompt outside its frame, too many objects or points, a
                frame that is no longer held, or an answer that is not finite. Nothing has changed
                then.
        """
        held = self._frame_for(stamp_ns)
        if object_id is None:
            object_id = next(name for name in map(str, count_up(1)) if name not in self._labels)
        if object_id not in self._labels and len(self._labels) >= self._config.max_objects:
            raise PromptError(
                f'object {object_id!r}: {len(self._labels)} objects are tracked and max_objects '
                f'is {self._config.max_objects}; remove one first or raise the limit'
            )
        source, row = self._memory_of(object_id)
        request = self._prompter.prepare(prompt, object_id, held)
        features = self._features(held)
        with self._timer.stage('prompt'):
            outputs = request.run(features, source.bank, row)
        if not isfinite(float(outputs['memory_norm'][0])):
            self._refused_prompts += 1
            raise PromptError(
                f'object {object_id!r}: the engine gave values that are not finite for this '
                'prompt; try another prompt, and check the engine with `sam2_rt engines`'
            )

        presence = PresenceFilter(self._config.presence)
        if row < len(source.members):
            presence = copy(source.members[row].presence)
        verdict = Verdict(
            low_res_masks=outputs['low_res_masks'][0],
            iou_score=iou_score(outputs, 0),
            object_score=object_score(outputs, 0),
            presence=presence.restart(object_score(outputs, 0), held.stamp_ns),
        )
        self._labels[object_id] = label or self._labels.get(object_id, '')
        self._prompter.accept(object_id, request)
        caught_up = held is self._held.newest
        cohort = self._live if caught_up else self._late_cohort()
        member = Member(object_id, presence, held.frame_index + 1)
        row = cohort.adopt(member, source.bank, row)
        cohort.bank.forget_from(row, held.frame_index)
        cohort.bank.write(row, held.frame_index, outputs, 0, conditioning=True)
        if caught_up and self._late:
            self._late.remove(object_id)
        held.low_res_masks[object_id] = verdict.low_res_masks
        return PromptResult(
            held.frame_index,
            held.stamp_ns,
            self._describe(object_id, verdict, held.size),
            candidates(outputs, held.size),
            caught_up,
        )

    def remove_object(self, object_id: str) -> None:
        """Forgets an object; the others are not touched.

        Raises:
            PromptError: the id is not known.
        """
        if object_id not in self._labels:
            known = ', '.join(self._labels) or 'none'
            raise PromptError(f'object {object_id!r} is not tracked; tracked objects: {known}')
        del self._labels[object_id]
        self._prompter.forget(object_id)
        self._live.remove(object_id)
        if self._late:
            self._late.remove(object_id)
        for held in self._held:
            held.low_res_masks.pop(object_id, None)

    def reset(self) -> None:
        """Forgets all objects and frames."""
        for object_id in self.objects:
            self.remove_object(object_id)
        self._held.clear()
        self._frame_index = -1

    # -- prompts ---------------------------------------------------------------------------------

    def _frame_for(self, stamp_ns: int | None) -> HeldFrame:
        if not len(self._held):
            raise PromptError('prompt: no frame has been processed yet; give a frame first')
        if not stamp_ns:
            return self._held.newest
        found = self._held.find(stamp_ns)
        if found is not None:
            return found
        if self._config.late_prompts_use_newest:
            return self._held.newest
        age = (self._held.newest.stamp_ns - stamp_ns) / 1e9
        raise PromptError(
            f'prompt: its frame is {age:.2f} s older than the newest one and no longer held '
            f'({len(self._held)} frames are); raise held_frames, prompt sooner, or allow it on '
            'the newest frame with late_prompts_use_newest'
        )

    def _memory_of(self, object_id: str) -> tuple[Cohort, int]:
        """The cohort and row that know most about an object; an empty spare row for a new one.

        While a correction is being carried forward, the corrected memory is the one that counts.
        """
        late = self._late.row(object_id) if self._late else None
        if self._late and late is not None:
            return self._late, late
        row = self._live.row(object_id)
        return self._live, self._live.spare_row() if row is None else row

    def _late_cohort(self) -> Cohort:
        if self._late is None:
            self._late = Cohort(self._runner, self._config.max_objects)
        return self._late

    # -- frames ----------------------------------------------------------------------------------

    def _features(self, held: HeldFrame) -> dict[str, Array]:
        """A frame's encode outputs, made when first needed: an idle tracker encodes nothing."""
        if held.features is None:
            with self._timer.stage('encode'):
                held.features = self._runner.run('encode', {'image': held.image})
        return held.features

    def _catch_up(self, late: Cohort) -> dict[str, Verdict]:
        """Carries late objects forward by a few held frames; returns those that arrived at now.

        Objects prompted together (a detector's boxes) stand in consecutive rows and move as one.
        Those in front go first until they arrive: whoever waits may lose its oldest frames, but
        the queue always moves.
        """
        arrived: dict[str, Verdict] = {}
        for _ in range(self._config.catch_up_frames):
            if not late.members:
                break
            at = late.members[0].next_frame
            count = late.leading(at)
            held = self._held.at(at)
            verdicts = late.track(held, self._features(held), count)
            if held is self._held.newest:
                arrived |= verdicts
                for row, member in reversed(list(enumerate(late.members[:count]))):
                    self._live.adopt(member, late.bank, row)
                    late.remove(member.object_id)
        return arrived

    def _describe(self, object_id: str, verdict: Verdict, size: tuple[int, int]) -> TrackedObject:
        hidden = not verdict.presence.visible
        mask = np.zeros(size, bool) if hidden else image_mask(verdict.low_res_masks, size)
        return TrackedObject(
            object_id=object_id,
            label=self._labels[object_id],
            mask=mask,
            box=None if hidden else tight_box(mask),
            iou_score=verdict.iou_score,
            object_score=verdict.object_score,
            presence=verdict.presence,
            low_res_masks=verdict.low_res_masks,
        )
