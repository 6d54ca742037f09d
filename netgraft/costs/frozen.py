"""What frozen operations cost: nothing can be counted from the graph, so they are run."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from netgraft.convert.onnx import example_inputs, is_runnable
from netgraft.convert.to_torch import to_module
from netgraft.ir import Model

from .analytic import flops


def frozen_flops(model: Model) -> int:
    """FLOPs of all frozen operations at batch 1 together, as ``torch.utils.flop_counter`` counts them: 0 for those of a
    kind that it does not know.

    It counts the whole network, from which those of all other operations are taken. 0 too for a network that torch
    cannot run, because it holds operations of ONNX's that nobody here knows.
    """
    if not is_runnable(model):
        return 0
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        to_module(model).eval()(*example_inputs(model.graph, batch=1))
    total: int = counter.get_total_flops()
    return max(0, total - flops(model.graph))
