"""NetAdapt (Yang et al., ECCV 2018): a network adapted to a device in small steps, by what it needs there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from netgraft.channels import ChannelGroup
from netgraft.errors import OptionError
from netgraft.front import Front
from netgraft.ir import Edit, Model
from netgraft.mutations.importance import importance_named
from netgraft.mutations.trim import trim_to_latency
from netgraft.tasks import Task

from .greedy import Resource, greedily
from .run import Run, RunOptions

STEP = 0.025
"""The first step, as a share of what the original needs, where more is not needed to reach the limit."""
DECAY = 0.96
"""What each step is of the one before it."""


def netadapt(
    model: Model,
    task: Task,
    *,
    limit: str = "latency<=0.7x",
    iterations: int = 30,
    step: float | None = None,
    importance: str = "l2",
    multiple: int = 8,
    **asked: Unpack[RunOptions],
) -> Front:
    """Trims ``model`` step by step until it keeps ``limit``: algorithm 1 of the paper.

    In each of about ``iterations`` every group of coupled channels makes a proposal: the most filters, by
    multiples of ``multiple``, with which the network needs a step less. Those of the largest ``importance`` (a name of
    :data:`~netgraft.mutations.importance.IMPORTANCES`; the paper's is the L2 norm) stay. All proposals are fine-tuned
    for the plan's ``tune_epochs``, and the one that loses the least quality for what it saves goes on. The ``step``
    begins with 2.5 % of what the original needs, or with what it takes to reach the limit, and shrinks by 4 % each
    time.

    The limit is on ``latency``, ``flops``, ``parameters`` or ``memory``. Latency is estimated (by a ``table``, or by
    counting) and, unless the plan says ``measure="end"``, each proposal is measured shortly before it is fine-tuned,
    too, and counts with what was measured.

    Deviations: coupled channels are found in the graph, so any network will do; a short fine-tuning sees what the plan
    says (about 16,000 examples, and the paper 500 iterations), with the original as teacher, after batch-norm
    statistics are re-estimated; the last step goes no further than to the limit; the choice is the published code's
    (least loss for what is saved), where the paper takes the highest accuracy.

    Other arguments: :class:`netgraft.recipes.Run`.
    """
    if iterations < 1 or multiple < 1 or (step is not None and not 0 < step < 1):
        raise OptionError("iterations and multiple must be 1 or more, and step between 0 and 1")
    ranked = importance_named(importance)

    def reduce(model: Model, groups: Sequence[ChannelGroup], target: float, resource: Resource) -> Iterator[Edit]:
        for group in groups:
            scores = ranked(model.graph, group, model.weights)
            edit = trim_to_latency(model.graph, group, scores, target, resource, multiple, "netadapt")
            if edit is not None:
                yield edit

    return greedily(
        *(model, task, Run(**asked)),
        name="netadapt",
        options={"iterations": iterations, "step": step, "importance": importance, "multiple": multiple},
        limit=limit,
        steps=lambda share: steps(share, iterations, step),
        reduce=reduce,
        choose=least_loss,
    )


def steps(share: float, iterations: int, first: float | None) -> list[float]:
    """What each iteration saves, as a share of what the original needs, to come down to ``share``."""
    if first is None:
        # Half a step for what widths in multiples leave over.
        first = max(STEP, (1 - share) * (1 - DECAY) / (1 - DECAY ** max(1.0, iterations - 0.5)))
    return [first * DECAY**i for i in range(iterations)]


def least_loss(prices: Sequence[tuple[float, float]]) -> int:
    """The least loss of quality for what it saves; of what saves something, if there is such a thing."""
    saving = [i for i, (_, saved) in enumerate(prices) if saved > 0] or range(len(prices))
    return min(saving, key=lambda i: (prices[i][0] + 1e-6) / (max(0.0, prices[i][1]) + 1e-5))
