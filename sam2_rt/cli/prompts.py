"""How prompts are typed: options are grouped in the order in which they are given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sam2_rt.errors import PromptError
from sam2_rt.types import BoxPrompt, MaskPrompt, PointPrompt, Prompt

HELP = """\
Prompts say which objects to track. Coordinates are pixels of the image, x then y.

  --point 400,300                     a click on the object
  --point 400,300 --background 90,80  a click on it, and one off it
  --box 100,80,300,260                a box around it: left, top, right, bottom
  --mask cup.png                      an image of the frame's size, not black where the object is

Prompts that follow each other belong together. --object starts another object, and names it; --at
says for which frame the prompts after it are, otherwise they are for frame 0, the first. To
correct an object later, name it again:

  --object mug --box 802,418,990,616 --object ball --point 400,462
  --object mug="blue mug" --point 877,510 --object mug --at 120 --background 700,400"""

Token = tuple[str, str]
"""Name of an option, and its value as typed."""


@dataclass(frozen=True, eq=False)
class PromptRequest:
    """A prompt as it was typed: for which object, and for which frame of the source."""

    object_id: str
    label: str
    frame: int
    prompt: Prompt


@dataclass
class _Group:
    """The options that make one prompt."""

    object_id: str
    frame: int
    box: list[float] | None = None
    mask: Path | None = None
    points: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def prompt(self) -> Prompt:
        if self.mask is not None:
            if self.box or self.points:
                raise PromptError(
                    f'object {self.object_id!r}: a mask is a complete prompt and cannot be '
                    'combined with points or a box on the same frame; correct it on a later one'
                )
            return read_mask(self.mask)
        if self.box is not None:
            return BoxPrompt(self.box, self.points, self.labels)
        return PointPrompt(self.points, self.labels)


class _Note(argparse.Action):
    """Appends (option, value) to one list, because the order of the options matters."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        name = self.option_strings[0].lstrip('-')
        namespace.prompts = [*namespace.prompts, (name, values)]


def add_options(parser: argparse.ArgumentParser, *, tracking: bool) -> None:
    """Adds the prompt options; those for several objects and frames only for tracking."""
    group = parser.add_argument_group('prompts')

    def option(name: str, metavar: str, text: str) -> None:
        group.add_argument(
            name, action=_Note, metavar=metavar, help=text, dest='prompts', default=[]
        )

    option('--point', 'X,Y', 'a click on the object')
    option('--background', 'X,Y', 'a click off the object')
    option('--box', 'X0,Y0,X1,Y1', 'a box around the object: left, top, right, bottom')
    if tracking:
        option('--mask', 'FILE', 'an image that is not black where the object is')
        option('--object', 'ID[=LABEL]', 'the prompts after this are for this object')
        option('--at', 'FRAME', 'the prompts after this are for this frame; the first is 0')


def parse_prompts(tokens: Sequence[Token]) -> list[PromptRequest]:
    """Groups options into prompts, in the order in which they were begun.

    Args:
        tokens: as typed.

    Raises:
        PromptError: a value cannot be read, or options contradict each other.
    """
    object_id, frame = '1', 0
    labels: dict[str, str] = {}
    named: list[str] = []
    groups: dict[tuple[str, int], _Group] = {}
    for name, value in tokens:
        if name == 'object':
            object_id, _, label = value.partition('=')
            if not object_id:
                raise PromptError(f'--object: expected ID or ID=LABEL, got {value!r}')
            labels[object_id] = label or labels.get(object_id, '')
            named.append(object_id)
            frame = 0
        elif name == 'at':
            frame = _frame(value)
        else:
            key = (object_id, frame)
            _add(groups.setdefault(key, _Group(object_id, frame)), name, value)
    for object_id in named:
        if not any(key[0] == object_id for key in groups):
            raise PromptError(
                f'object {object_id!r} has no prompt; put --point, --box or --mask behind '
                f'--object {object_id}'
            )
    return [
        PromptRequest(
            group.object_id, labels.get(group.object_id, ''), group.frame, group.prompt()
        )
        for group in groups.values()
    ]


def _add(group: _Group, name: str, value: str) -> None:
    if name in ('mask', 'box') and getattr(group, name) is not None:
        raise PromptError(
            f'object {group.object_id!r} has two of --{name} on frame {group.frame}; start '
            'another object with --object ID, or say --at FRAME'
        )
    if name == 'mask':
        group.mask = Path(value)
    elif name == 'box':
        group.box = _numbers(name, value, 'X0,Y0,X1,Y1')
    else:
        group.points.append(_numbers(name, value, 'X,Y'))
        group.labels.append(0 if name == 'background' else 1)


def _numbers(name: str, value: str, form: str) -> list[float]:
    try:
        numbers = [float(part) for part in value.split(',')]
    except ValueError:
        numbers = []
    if len(numbers) != form.count(',') + 1:
        raise PromptError(f'--{name}: expected {form} in pixels, got {value!r}')
    return numbers


def _frame(value: str) -> int:
    if not value.isdecimal():
        raise PromptError(f'--at: expected the number of a frame, 0 or more, got {value!r}')
    return int(value)


def read_mask(path: Path) -> MaskPrompt:
    """Reads a mask image: every pixel that is not black belongs to the object.

    Raises:
        PromptError: it does not exist, is no image, or is black.
    """
    if not path.is_file():
        raise PromptError(f'--mask: {path} does not exist; check the path')
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise PromptError(f'--mask: {path} cannot be read as an image; give a PNG')
    return MaskPrompt(np.asarray(image) > 0)
