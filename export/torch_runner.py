"""The torch network behind the robot's Runner interface, so that one Tracker drives both."""

from __future__ import annotations

from dataclasses import replace

import torch

from export.model import SAM2
from export.stages import graph_specs
from sam2_rt.runtime.base import RunnerInfo
from sam2_rt.runtime.host import Execute, HostArrays, HostRunner
from sam2_rt.runtime.manifest import Manifest


class TorchRunner(HostRunner):
    """Runs the stages in PyTorch, float32: the reference an engine is measured against.

    Args:
        manifest: of the engine to stand in for; its precision does not matter here.
        network: of the manifest's image size and memory sizes.
    """

    def __init__(self, manifest: Manifest, network: SAM2) -> None:
        graphs = graph_specs(manifest.image_size, 'fp32', manifest.memory)
        super().__init__(replace(manifest, precision='fp32', graphs=graphs))
        self._network = network.eval()

    @property
    def info(self) -> RunnerInfo:
        return RunnerInfo('torch', 'CPU', 'fp32', torch.__version__)

    def _load(self, graph: str) -> Execute:
        spec = self.manifest.graphs[graph]
        stage = getattr(self._network, graph)

        def execute(inputs: HostArrays, outputs: HostArrays) -> None:
            with torch.inference_mode():
                results = stage(*(torch.from_numpy(inputs[x.name]) for x in spec.inputs))
            for tensor, result in zip(spec.outputs, results, strict=True):
                outputs[tensor.name][...] = result.numpy()

        return execute
