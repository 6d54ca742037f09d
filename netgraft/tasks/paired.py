"""How far two networks differ that were judged on the same examples: known better than how good either is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from netgraft.tasks.judging import jackknife, standard_error
from netgraft.tasks.task import Quality


def paired_error(quality: Quality, values: Tensor, others: Tensor) -> float:
    """How far the difference in quality of two networks may lie from that on another sample of as many examples, of
    which ``values`` and ``others`` [N] or [N, ...] were measured (see
    :func:`~netgraft.tasks.judging.evaluate_each`).

    The standard error of the mean difference. For a proportion half a pair is added to each of the four ways in which
    two networks can be right or wrong (Agresti & Min, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 2005), so that it is never 0; the difference itself is left as it is. Where
    quality is no mean, the jackknife of the difference.
    """
    of, count = quality.of, len(values)
    if of is not None:
        return jackknife(torch.stack((values, others), 1), lambda means: of(means[:, 0]) - of(means[:, 1]))
    differences = values - others
    if quality.span is None:
        return standard_error(differences)
    squares = differences.square().sum().item() + quality.span**2
    return math.sqrt(squares - differences.sum().item() ** 2 / (count + 2)) / (count + 2)
