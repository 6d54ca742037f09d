"""Proxies made of the loss's gradients by weights: gradient norm, SNIP, ZiCo."""

from __future__ import annotations

import math

import torch

from .probe import Probe


def grad_norm(probe: Probe) -> float:
    """The sum over layers of the Euclidean norm of the loss's gradient by the weight.

    Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021, section 3.2.
    """
    return sum(float(gradient.double().norm()) for gradient in probe.whole.weights.values())


def snip(probe: Probe) -> float:
    """The sum over the weights of layers of ``|w dL/dw|``.

    Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019, section 4, summed over
    the network as by Abdelfattah et al., ICLR 2021, section 3.2.
    """
    weights = probe.model.weights
    return sum(
        float((torch.as_tensor(weights[key], dtype=torch.float64) * gradient.cpu()).abs().sum())
        for key, gradient in probe.whole.weights.items()
    )


def zico(probe: Probe) -> float:
    """The sum over layers of log(sum over weights of mean ``|g|`` / deviation of ``|g|``), over two batches.

    Li et al., "ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients", ICLR 2023, section 3.3. The two
    batches are the halves of the mini-batch (the paper: two of 128). Weights whose gradients are equal in both, and
    layers of which nothing is left, do not count.
    """
    first, second = probe.halves
    total = 0.0
    for key in first.weights:
        a, b = first.weights[key].double().abs(), second.weights[key].double().abs()
        mean, deviation = (a + b) / 2, (a - b).abs() / 2
        ratio = float((mean[deviation > 0] / deviation[deviation > 0]).sum())
        total += math.log(ratio) if ratio > 0 else 0.0
    return total
