"""NVIDIA ModelOpt's FastNAS, for :mod:`rivals`.

FastNAS makes widths of layers elastic, asks a score how much each of them matters, and searches for the widths with the
best score within FLOPs. Needs ``pip install nvidia-modelopt==0.47.0 huggingface_hub "torchprofile<0.1"``.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from equal_latency import MULTIPLE, STEPS, measured, with_weights
from torch import Tensor, nn

from netgraft import tasks
from netgraft.convert.from_torch import from_module
from netgraft.ir import Model

BATCHES = 4
"""Of 128 training images, with which batch norms are calibrated after each choice, as its manual asks for."""
TOO_FEW = 1e-9
"""The latency of FLOPs that FastNAS cannot reach."""


@dataclass(frozen=True, eq=False)
class FastNAS:
    """Searches what ``build`` gives, with the weights of ``model``, by accuracy on the validation split; what it finds
    out about single layers is kept in ``file``. Widths are multiples of four, as elsewhere here: its own 32 leaves
    narrow networks nothing to choose.
    """

    build: Callable[[], nn.Module]
    model: Model
    task: tasks.Task
    file: Path

    def without(self, ratio: int) -> tuple[Model, float]:
        """The network with this share of the FLOPs less, in steps, and its measured latency."""
        import modelopt.torch.prune as mtp
        from modelopt.torch.prune.fastnas import FastNASConfig

        rules = FastNASConfig().model_dump(by_alias=True)
        for rule in (each for layer in rules.values() if isinstance(layer, dict) for each in layer.values()):
            rule.update({name: MULTIPLE for name in rule if name.endswith("_divisor")})
        (given,) = self.model.graph.inputs
        example = torch.zeros(given.type.concrete(2))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                found, _ = mtp.prune(
                    with_weights(self.build(), self.model),
                    mode=[("fastnas", rules)],
                    constraints={"flops": f"{100 * (1 - ratio / STEPS):.1f}%"},
                    dummy_input=example[:1],
                    config={
                        "score_func": lambda module: tasks.evaluate(module, self.task, "validation").quality,
                        "data_loader": self._batches(),
                        "collect_func": lambda inputs: inputs,
                        "checkpoint": str(self.file),
                        "verbose": False,
                    },
                )
        except ValueError as error:
            if "constraints" not in str(error):
                raise
            return self.model, TOO_FEW
        network = from_module(found, example, name=self.model.name)
        return network, measured(network, self.model)

    def _batches(self) -> list[Tensor]:
        task = self.task
        return [task.prepare(task.train.inputs[128 * i : 128 * (i + 1)]) for i in range(BATCHES)]
