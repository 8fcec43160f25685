"""SAM 2 and SAM 2.1 in PyTorch, written to be exported.

The module tree carries the official parameter names, so an official checkpoint's state dict
loads strictly, without a key map. `build(variant, image_size)` makes a network; `SAM2` has one
method per stage.
"""

from export.model.outputs import PromptOutput, TrackOutput
from export.model.sam2 import SAM2
from export.model.variants import IMAGE_SIZES, VARIANTS, ModelConfig, build

__all__ = [
    'IMAGE_SIZES',
    'SAM2',
    'VARIANTS',
    'ModelConfig',
    'PromptOutput',
    'TrackOutput',
    'build',
]
