"""CompactNet ("CompactNet: Platform-Aware Automatic Optimization for Convolutional Neural Networks", 2019,
arXiv:1905.11669): a network trimmed for one platform, the most accurate of a few candidates at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Unpack

from netgraft.channels import ChannelGroup, channels
from netgraft.errors import OptionError
from netgraft.front import Front
from netgraft.ir import Edit, Graph, Model, apply
from netgraft.ir.ops import CONVOLUTIONS
from netgraft.mutations.importance import Importance, importance_named
from netgraft.mutations.trim import trim_several
from netgraft.tasks import Task

from .greedy import Reduce, Resource, greedily
from .run import Run, RunOptions

DECAY = 0.96


def compactnet(
    model: Model,
    task: Task,
    *,
    limit: str = "latency<=0.69x",
    iterations: int = 24,
    importance: str = "l2",
    **asked: Unpack[RunOptions],
) -> Front:
    """Trims ``model`` in about ``iterations`` steps to ``limit``.

    The candidates are the same in every iteration: the groups of coupled channels, each with the widths inside of the
    blocks that read it (:func:`candidates`). Each gives up as few filters as save the step, or all down to the smallest
    allowed width (:func:`floor`); a candidate that is there already is left out. All are fine-tuned for the plan's
    ``tune_epochs``, and the one of the highest quality goes on, whatever it saves. Steps shrink by 4 % each.

    Which filters stay: those of the largest L2 norm, the evident intention. The published code divides each slice of
    the filters by its norm and orders it by its own signed values, with the last slice's order for what follows;
    ``importance="last-slice"`` ranks as that order does, with filters whole.

    The paper's speed-up S over N iterations is here the limit that its steps add up to: S = 1.5, 2.0 and 2.5 with N =
    18, 24 and 30 are limits of 0.77x, 0.69x and 0.66x. Deviations: coupled channels are found in the graph, so any
    network will do; the run ends when the limit is kept, not after N iterations (a candidate at its smallest width may
    save less than a step), and the last step goes no further; short trainings are the plan's fine-tunings with the
    original as teacher (the paper: 30 epochs of RMSProp). Other arguments: :class:`netgraft.recipes.Run`.
    """
    if iterations < 1:
        raise OptionError("iterations must be 1 or more")
    reduce = reducing(model.graph, importance_named(importance))
    return greedily(
        *(model, task, Run(**asked)),
        name="compactnet",
        options={"iterations": iterations, "importance": importance},
        limit=limit,
        steps=lambda share: steps(share, iterations),
        reduce=reduce,
        choose=highest,
    )


def reducing(original: Graph, importance: Importance) -> Reduce:
    """The proposals of an iteration; the smallest allowed widths follow from those of the ``original``."""
    floors = {group.makers: floor(group.channels) for group in channels(original).groups}

    def reduce(model: Model, groups: Sequence[ChannelGroup], target: float, resource: Resource) -> Iterator[Edit]:
        graph = model.graph
        scores = {group: importance(graph, group, model.weights) for group in groups}
        for leader, others in candidates(graph, groups):

            def to(width: int, at: ChannelGroup = leader, others: Sequence[ChannelGroup] = others) -> Edit | None:
                inside = [
                    (group, scores[group], max(1, round(group.channels * width / at.channels))) for group in others
                ]
                return trim_several(graph, [(at, scores[at], width), *inside], "compactnet")

            edit = _widest(to, floors[leader.makers], leader.channels, lambda e: resource(apply(graph, e)) <= target)
            if edit is not None:
                yield edit

    return reduce


def _widest(to: Callable[[int], Edit | None], least: int, whole: int, meets: Callable[[Edit], bool]) -> Edit | None:
    """Of the edits to widths below the ``whole`` one, the first that meets the target, found by halving; that to the
    ``least`` width where it does not; None where there is none.
    """
    best = to(least) if least < whole else None
    if best is not None and meets(best):
        while whole - least > 1:
            middle = (least + whole) // 2
            edit = to(middle)
            if edit is not None and meets(edit):
                least, best = middle, edit
            else:
                whole = middle
    return best


def candidates(graph: Graph, groups: Sequence[ChannelGroup]) -> list[tuple[ChannelGroup, list[ChannelGroup]]]:
    """What is trimmed together: a group, and those that follow it in proportion, because a depthwise convolution passes
    them on and they are expanded from it. The channels that are computed from the network's input stay as they are.
    """
    found: dict[ChannelGroup, list[ChannelGroup]] = {}
    following: list[tuple[ChannelGroup, ChannelGroup]] = []
    for group in groups:
        first = graph[group.makers[0]]
        source = next((other for other in groups if first.id in other.readers), None)
        if source is not None and _passed_on(graph, group):
            following.append((source, group))
        elif all(value.node in graph for value in first.inputs):
            found[group] = []
    for leader, group in following:
        if leader in found:
            found[leader].append(group)
    return list(found.items())


def _passed_on(graph: Graph, group: ChannelGroup) -> bool:
    """Whether a convolution passes the channels on, each alone or in groups."""
    users = {id for key, _ in group.axes for id, _ in graph.weight_users[key]} - {*group.makers, *group.readers}
    return any(graph[id].op in CONVOLUTIONS for id in users)


def floor(width: int) -> int:
    """The fewest of so many filters that stay: half of a few and an eighth and 4 of many, and at least 10."""
    return max(10, width // 2 if width <= 32 else width // 8 + 4)


def steps(share: float, iterations: int) -> list[float]:
    """What each iteration saves, as a share of what the original needs, to come down to ``share`` with the last."""
    decays = [DECAY**i for i in range(1, iterations + 1)]
    return [(1 - share) * decay / sum(decays) for decay in decays]


def highest(prices: Sequence[tuple[float, float]]) -> int:
    """The highest quality."""
    return min(range(len(prices)), key=lambda i: prices[i][0])
