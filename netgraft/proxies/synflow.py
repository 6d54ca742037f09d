"""SynFlow: how much signal gets through, along all paths together."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, log1p

import numpy as np
import torch
from torch import Tensor

from netgraft.convert.to_torch import to_module
from netgraft.errors import MeasureError

from .probe import FAULTS, Probe, gradients_of, reason, without

_LEFT_OUT = frozenset({"batch_norm", "group_norm", "layer_norm", "dropout", "dropout2d", "drop_path"})


def synflow(probe: Probe) -> float:
    """log(1 + sum of w dR/dw over the weights of layers): R is the sum of all outputs for an input of ones, with every
    weight replaced by its magnitude. No data takes part.

    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", NeurIPS 2020,
    section 4; as a score of networks Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021, section
    3.2, where batch norms are left out as here. Deviations: the logarithm, which keeps the order (products over layers
    overflow else), so that a network without a path scores 0; layer and group norms are left out too; integer inputs
    are zeros.
    """
    graph = without(probe.model.graph, _LEFT_OUT)
    magnitudes = {
        key: np.abs(w) if np.issubdtype(w.dtype, np.floating) else w for key, w in probe.model.weights.items()
    }
    keys = {node.weights["weight"] for node in probe.layers}
    try:
        module = (
            to_module(replace(probe.model, graph=graph, weights=magnitudes))
            .double()
            .eval()
            .to(probe.batch.inputs[0].device)
        )
        inputs = [
            torch.ones_like(x[: len(x) // len(probe.batch)], dtype=torch.float64)
            if x.is_floating_point()
            else torch.zeros_like(x[: len(x) // len(probe.batch)])
            for x in probe.batch.inputs
        ]
        weights = [parameter for key, parameter in module.named_parameters() if key in keys]
        with torch.enable_grad():
            found = module(*inputs)
            outputs = (found,) if isinstance(found, Tensor) else found
            flow = torch.stack([output.double().sum() for output in outputs]).sum()
            gradients = gradients_of(flow, weights)
    except FAULTS as error:
        raise MeasureError(f"{probe.model.name} has no synaptic flow: {reason(error)}") from None
    total = sum(float((w.detach() * g).sum()) for w, g in zip(weights, gradients, strict=True))
    if not isfinite(total):
        raise MeasureError(
            f"{probe.model.name} has no synaptic flow: its numbers become too large without normalisation"
        )
    return log1p(total)
