"""The official predictor on the same GPU: eager, and compiled as its `vos_optimized` does."""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

from sam2_rt.runtime.check import CheckClip
from tests.gpu.checks import there_and_back
from tests.gpu.timing import percentiles

FRAMES, FILLING = 60, 20  # the memory is full, and compiled code is compiled, after the latter


def milliseconds(
    variant: str, image_size: int, clip: CheckClip, device: str = 'cuda', frames: int = FRAMES
) -> dict[str, Any]:
    """Time per tracked frame of one object in bf16, wall clock with a wait after each.

    Args:
        variant: one that the official package has too.
        image_size: S.
        clip: frames and prompt.
        device: 'cuda', or 'cpu' to try this code out.
        frames: tracked frames; the first FILLING do not count.

    Returns:
        Percentiles for 'eager' and 'compiled', or the reason why there are none.
    """
    try:
        import torch

        from export.model import VARIANTS
        from tests.parity.official import CONFIG_20, CONFIG_21, normalise, overrides, video_module
    except ImportError as error:
        return {'left_out': f'{error}; pip install torch, and sam2==1.1.0 without its needs'}
    if variant not in VARIANTS or variant == 'micro':
        return {'left_out': f'there is no official {variant}'}
    if device == 'cuda' and not torch.cuda.is_available():
        return {'left_out': 'this torch sees no GPU'}
    from sam2.build_sam import build_sam2_video_predictor

    stream = list(there_and_back(clip, frames + 1))
    images = torch.stack(
        [
            normalise(frame.image[..., :: -1 if frame.colour_order == 'bgr' else 1], image_size)
            for frame in stream
        ]
    ).to(device)
    config = VARIANTS[variant]
    found: dict[str, Any] = {}
    for name, optimized in (('eager', False), ('compiled', True)):
        try:
            predictor = build_sam2_video_predictor(
                CONFIG_21 if config.pointer_time else CONFIG_20,
                device=device,
                hydra_overrides_extra=overrides(config, image_size),
                vos_optimized=optimized,
            )
            predictor.fill_hole_area = 0
            with (
                torch.inference_mode(),
                torch.autocast(device, torch.bfloat16),
                mock.patch.object(
                    video_module,
                    'load_video_frames',
                    return_value=(images, *clip.frames[0].image.shape[:2]),
                ),
                mock.patch.object(video_module, 'tqdm', lambda iterable, **_: iterable),
            ):
                state = predictor.init_state('frames given as arrays')
                predictor.add_new_points_or_box(state, 0, 1, box=clip.prompt.box)
                values, last = [], time.perf_counter()
                for _ in predictor.propagate_in_video(state):
                    if device == 'cuda':
                        torch.cuda.synchronize()
                    now = time.perf_counter()
                    values.append((now - last) * 1e3)
                    last = now
            found[name] = percentiles(values[min(FILLING, frames // 2) :])
        except Exception as error:  # a failed comparison must not lose the other figures
            found[name] = {'failed': f'{type(error).__name__}: {error}'[:300]}
    return {'torch': torch.__version__, **found}
