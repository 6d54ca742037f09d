"""Program transformation: many convolutions of a network in other forms, drawn at random, kept where they are legal.

Turner, Crowley and O'Boyle, "Neural Architecture Search as Program Transformation Exploration", ASPLOS 2021::

    found = fastest_legal(model, task, candidates=1000, keep=5)
    found[0].time.speedup
    front = program(model, task, out="runs/program")  # the same, fine-tuned: what ``netgraft run program`` does
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import replace
from typing import Unpack

import numpy as np

from netgraft.costs.analytic import latency_estimate
from netgraft.errors import OptionError, SourceError
from netgraft.events import StepDone
from netgraft.front import Front
from netgraft.ir import Edit, Graph, Model
from netgraft.mutations import Mutation
from netgraft.mutations.fixed import fixed_by
from netgraft.mutations.program import Program
from netgraft.mutations.sparing import sparing
from netgraft.proxies import of_task
from netgraft.tasks import Task

from .clock import HERE, Conditions
from .proposals import Potential, Probed, Proposal, child_graph, child_of, trained
from .run import Begun, Run, RunOptions


def program(
    model: Model,
    task: Task,
    *,
    candidates: int = 1000,
    keep: int = 5,
    batch: int = 128,
    **asked: Unpack[RunOptions],
) -> Front:
    """The fastest legal networks of :func:`fastest_legal`, fine-tuned with the original as teacher, measured and
    compared with it. Other arguments: :class:`netgraft.recipes.Run`.

    Deviation: all networks that are kept are trained, where the paper trains the fastest.
    """
    run = Run(**asked)
    fixed = fixed_by(model.graph, run.freeze, run.only)
    mutation = sparing(Program(), fixed)
    drawn(model, 1, seed=run.seed, mutation=mutation)  # what cannot work is better said now
    if candidates < 1 or keep < 1 or batch < 2:
        raise OptionError("program needs at least one candidate, one network to keep and a batch of two")

    def find(begun: Begun, probed: Probed) -> Sequence[Proposal]:
        return fastest_legal(
            *(begun.original, begun.task),
            candidates=candidates,
            keep=keep,
            batch=batch,
            seed=run.seed,
            mutation=mutation,
            latency=begun.latency,
            conditions=begun.conditions,
            known=probed,
            on_probe=lambda probed, legal: run.on_event(StepDone(probed, candidates)),
        )

    return trained(
        *(model, task, run, find),
        name="program",
        options={"candidates": candidates, "keep": keep, "batch": batch},
        limits=[],
        fixed=fixed,
    )


def fastest_legal(
    model: Model,
    task: Task,
    *,
    candidates: int = 1000,
    keep: int = 5,
    batch: int = 128,
    seed: int = 0,
    mutation: Mutation | None = None,
    latency: Callable[[Graph], float] = latency_estimate,
    conditions: Conditions = HERE,
    seconds: float = 3.0,
    known: MutableMapping[str, float] | None = None,
    on_probe: Callable[[int, int], None] = lambda probed, legal: None,
) -> list[Proposal]:
    """The ``keep`` fastest legal networks among random ``candidates``, from the fastest; fewer where fewer are legal.

    A candidate gives a random share of the convolutions a random form each. It is legal if its Fisher potential, summed
    over all convolutions or what stands in their place, is not below the original's, with both as initialised, on one
    mini-batch of ``batch`` training images. Weights are inherited; training them is the caller's.

    ``mutation`` says which forms there are (None: all that save work); each network kept is measured under
    ``conditions`` for about ``seconds``; ``on_probe`` hears how many networks were probed and how many of them were
    legal; ``known`` is as in :class:`~netgraft.recipes.proposals.Potential`.

    Deviations: candidates are probed from the one with the least estimated ``latency`` on, until ``keep`` are legal,
    which finds those that probing all of them would; only these are measured (the paper tunes each candidate's schedule
    with TVM); forms are drawn for each layer, not for each kind of layer.

    SourceError where nothing can be transformed, OptionError for numbers below one.
    """
    if candidates < 1 or keep < 1:
        raise OptionError("program needs at least one candidate, and one network to keep")
    places, found = drawn(model, candidates, seed=seed, mutation=mutation)
    estimated = [(latency(child_graph(model.graph, edits)), number) for number, edits in enumerate(found)]
    whole = latency(model.graph)
    potential = Potential(model, places, of_task(task, batch, seed), seed, {} if known is None else known)
    legal: list[Proposal] = []
    for probed, (estimate, number) in enumerate(sorted(estimated), 1):
        edits, fisher = found[number], potential.of(found[number])
        if fisher >= 1:
            choices = tuple(f"{min(edit.region.nodes)}: {edit.origin}" for edit in edits)
            child, inherited = child_of(model, edits, seed)
            legal.append(Proposal(child, edits, choices, fisher, estimate / whole, inherited))
        on_probe(probed, len(legal))
        if len(legal) == keep:
            break
    if not legal:
        return []
    times = conditions.compare([one.model for one in legal], model, seconds * len(legal))
    timed = [replace(one, time=time) for one, time in zip(legal, times, strict=True)]
    return [one for _, one in sorted(zip(times, timed, strict=True), key=lambda pair: pair[0].ratio)]


def drawn(
    model: Model, count: int, *, seed: int = 0, mutation: Mutation | None = None
) -> tuple[tuple[str, ...], list[tuple[Edit, ...]]]:
    """The convolutions that a form would make cheaper, and random candidates, at most ``count`` of them: a form for a
    random share of these places each, none twice. SourceError where there is no such place.
    """
    rng = np.random.default_rng(seed)
    forms: defaultdict[str, list[Edit]] = defaultdict(list)
    for edit in sparing(mutation or Program()).edits(model.graph, model.weights, rng):
        forms[min(edit.region.nodes)].append(edit)
    places = tuple([node.id for node in model.graph if node.id in forms])
    if not places:
        raise SourceError(f"{model.name} has no convolution that any form would make cheaper")
    found: dict[str, tuple[Edit, ...]] = {}
    for _ in range(count):
        share = int(rng.integers(1, len(places) + 1))
        chosen = [forms[places[i]] for i in sorted(rng.permutation(len(places))[:share])]
        edits = tuple([some[int(rng.integers(len(some)))] for some in chosen])
        found[child_graph(model.graph, edits).digest] = edits
    return places, list(found.values())
