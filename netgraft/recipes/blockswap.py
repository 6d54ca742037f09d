"""BlockSwap: residual blocks with cheaper substitutes, drawn at random within a budget of parameters and ranked by
their Fisher potential.

Turner, Crowley, O'Boyle, Storkey and Gray, "BlockSwap: Fisher-guided Block Substitution for Network Compression on a
Budget", ICLR 2020::

    found = largest_potential(model, task, parameters=400_000)
    found[0].choices  # ("DConvG2", "A4B2", "Conv", ...): one for each block
    front = blockswap(model, task, limit="parameters<=400k", out="runs/blockswap")  # the same, fine-tuned

The substitutes are compositions of the same rewrites as all other forms (:mod:`netgraft.loops`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Unpack

import numpy as np

from netgraft.costs.analytic import latency_estimate, parameters_change
from netgraft.costs.analytic import parameters as count_parameters
from netgraft.errors import GraphError, OptionError, SourceError
from netgraft.events import StepDone
from netgraft.front import Front
from netgraft.ir import Edit, Graph, Model, Node, Region
from netgraft.ir.ops import ACTIVATIONS
from netgraft.loops import Activate, Factor, Interchange, Nest, Split, Step, edit_of, nest_of, rewritten
from netgraft.metrics import parse_limit
from netgraft.mutations.fixed import fixed_by
from netgraft.proxies import of_task
from netgraft.tasks import Task

from .evaluation import counted
from .proposals import Potential, Probed, Proposal, child_of, trained
from .run import Begun, Run, RunOptions

SUBSTITUTES: Final = (
    "Conv",
    *("DConv", "DConvG2", "DConvG4", "DConvG8", "DConvG16", "DConvA2", "DConvA4", "DConvA8", "DConvA16"),
    *("ConvB2", "ConvB4", "A2B2", "A4B2", "A8B2", "A16B2", "G2B2", "G4B2", "G8B2", "G16B2", "G2B4", "G4B4", "G8B4"),
)
"""The authors' names. ``Conv`` leaves a block as it is; ``DConv...`` puts a convolution in groups and a 1x1 convolution
in place of each of its convolutions; ``...B2`` and ``...B4`` put one bottleneck in place of all that lies between the
first and the last of them. ``A8`` means eight groups, ``G8`` groups of eight channels, neither for groups of one.
"""

TOLERANCE: Final = 0.025
"""How far, as a share, the parameters may be from the budget: the paper's."""
_DRAWS: Final = 100_000
_ROUNDS: Final = 100


@dataclass(frozen=True)
class Block:
    """A residual block: its convolutions with a window, in order, and all nodes from the first to the last of them."""

    convolutions: tuple[str, ...]
    inside: frozenset[str]


def blocks(graph: Graph) -> tuple[Block, ...]:
    """The residual blocks: what leads to a sum, back to where the shortcut branches off."""
    found = []
    for node in graph:
        if node.op != "add":
            continue
        for value in node.inputs:
            chain: list[Node] = []
            while value.node in graph and _is_plain(graph[value.node]) and len(graph.users[value]) == 1:
                chain.insert(0, graph[value.node])
                value = chain[0].inputs[0]
            spatial = [i for i, one in enumerate(chain) if one.op == "conv2d" and max(one.attrs["kernel"]) > 1]
            if spatial and all(chain[i].attrs["groups"] == 1 for i in spatial):
                inside = chain[spatial[0] : spatial[-1] + 1]
                found.append(Block(tuple(chain[i].id for i in spatial), frozenset(one.id for one in inside)))
    return tuple(found)


def substituted(graph: Graph, block: Block, name: str) -> tuple[Edit, ...] | None:
    """The edits that give a block one of the :data:`SUBSTITUTES`; None where its sizes do not allow it.

    OptionError for an unknown name.
    """
    if name not in SUBSTITUTES:
        raise OptionError(f"BlockSwap has no substitute {name!r}; it has {', '.join(SUBSTITUTES)}")
    if name == "Conv":
        return ()
    try:
        if "B" not in name:
            return tuple(_edit(graph, id, name) for id in block.convolutions)
        edit = replace(_edit(graph, block.convolutions[0], name), region=Region(block.inside))
        whole = edit.region.signature(graph) == edit.replacement.signature
        return (edit,) if whole and edit.region.is_convex(graph) else None
    except GraphError:
        return None


def blockswap(
    model: Model,
    task: Task,
    *,
    limit: str = "parameters<=0.4x",
    candidates: int = 1000,
    keep: int = 1,
    batch: int = 128,
    **asked: Unpack[RunOptions],
) -> Front:
    """The networks of :func:`largest_potential` with about as many parameters as ``limit`` allows, fine-tuned with the
    original as teacher, measured and compared with it. Other arguments: :class:`netgraft.recipes.Run`.
    """
    wanted = parse_limit(limit, counted(model.graph))
    if wanted.metric != "parameters" or not wanted.upper:
        raise OptionError(f"blockswap takes a limit such as parameters<=0.4x or parameters<=200k, not {limit!r}")
    if candidates < 1 or keep < 1 or batch < 2:
        raise OptionError("blockswap needs at least one candidate, one network to keep and a batch of two")
    run = Run(**asked)
    fixed = fixed_by(model.graph, run.freeze, run.only)
    _options(model, fixed)  # what cannot work is better said now

    def find(begun: Begun, probed: Probed) -> Sequence[Proposal]:
        return largest_potential(
            *(begun.original, begun.task, wanted.bound / (1 + TOLERANCE)),  # none of them breaks the limit
            candidates=candidates,
            keep=keep,
            batch=batch,
            seed=run.seed,
            fixed=fixed,
            known=probed,
            on_probe=lambda probed, best: run.on_event(StepDone(probed, candidates)),
        )

    return trained(
        *(model, task, run, find),
        name="blockswap",
        options={"candidates": candidates, "keep": keep, "batch": batch},
        limits=[limit],
        fixed=fixed,
    )


def largest_potential(
    model: Model,
    task: Task,
    parameters: float,
    *,
    candidates: int = 1000,
    tolerance: float = TOLERANCE,
    keep: int = 5,
    batch: int = 128,
    seed: int = 0,
    fixed: frozenset[str] = frozenset(),
    known: MutableMapping[str, float] | None = None,
    on_probe: Callable[[int, float], None] = lambda probed, best: None,
) -> list[Proposal]:
    """The ``keep`` networks with the largest Fisher potential among ``candidates`` random ones whose number of
    parameters is within ``tolerance`` (a share) of ``parameters``, from the largest.

    The potential is summed over the outputs of the last convolutions of all residual blocks, before the shortcut is
    added, on one mini-batch of ``batch`` training images, with networks as initialised. Weights are inherited (the
    paper trains from new ones); training, in the paper with attention transfer from the original, is the caller's.
    ``on_probe`` hears how many networks were probed, and the largest potential so far; ``known`` is as in
    :class:`~netgraft.recipes.proposals.Potential`. Blocks with a node of ``fixed`` stay.

    Deviations: layers that candidates have in common are initialised alike; the authors' code scores all blocks of a
    stage as the kind that its first one is, here each is scored as what it is. SourceError where there is no residual
    block with dense convolutions, OptionError where no candidate keeps the budget.
    """
    found, options = _options(model, fixed)
    change = [[sum(parameters_change(model.graph, e) for e in edits) for _, edits in some] for some in options]
    rng = np.random.default_rng(seed)
    genotypes = _within(count_parameters(model.graph), change, parameters, tolerance, candidates, rng)
    potential = Potential(
        model,
        tuple(one.convolutions[-1] for one in found),
        of_task(task, batch, seed),
        seed,
        {} if known is None else known,
    )
    whole = latency_estimate(model.graph)
    scored: list[tuple[float, tuple[str, ...], tuple[Edit, ...]]] = []
    for genotype in genotypes:
        chosen = [some[i] for some, i in zip(options, genotype, strict=True)]
        edits = tuple(edit for _, more in chosen for edit in more)
        scored.append((potential.of(edits), tuple(name for name, _ in chosen), edits))
        on_probe(len(scored), max(scored, key=lambda one: one[0])[0])
    best = sorted(scored, key=lambda one: -one[0])[:keep]
    proposals = []
    for fisher, names, edits in best:
        child, inherited = child_of(model, edits, seed)
        proposals.append(Proposal(child, edits, names, fisher, latency_estimate(child.graph) / whole, inherited))
    return proposals


Option = tuple[str, tuple[Edit, ...]]


def _options(model: Model, fixed: frozenset[str]) -> tuple[tuple[Block, ...], list[list[Option]]]:
    """The residual blocks that hold nothing ``fixed``, and what each may become."""
    found = tuple(one for one in blocks(model.graph) if one.inside.isdisjoint(fixed))
    if not found:
        raise SourceError(f"{model.name} has no residual block with dense convolutions that BlockSwap could substitute")
    return found, [
        [(name, edits) for name in SUBSTITUTES if (edits := substituted(model.graph, one, name)) is not None]
        for one in found
    ]


def _within(
    whole: int,
    change: Sequence[Sequence[int]],
    parameters: float,
    tolerance: float,
    candidates: int,
    rng: np.random.Generator,
) -> list[tuple[int, ...]]:
    """Random choices, one for each block, with which the parameters are within the budget."""
    if parameters <= 0 or candidates < 1 or not 0 < tolerance < 1:
        raise OptionError("BlockSwap needs a budget and a number of candidates above 0, and a tolerance below 1")
    found: dict[tuple[int, ...], None] = {}
    for _ in range(_ROUNDS):
        drawn = np.stack([rng.integers(len(some), size=_DRAWS) for some in change], axis=1)
        sums = whole + sum(np.array(some)[column] for some, column in zip(change, drawn.T, strict=True))
        found |= dict.fromkeys(map(tuple, drawn[np.abs(sums - parameters) <= tolerance * parameters].tolist()))
        if len(found) >= candidates:
            return list(found)[:candidates]
    if not found:
        least, most = (whole + sum(best(some) for some in change) for best in (min, max))
        raise OptionError(
            f"no network with about {parameters:,.0f} parameters was drawn; there are some from {least:,} to {most:,}"
        )
    return list(found)


def _is_plain(node: Node) -> bool:
    return node.op in ("conv2d", "batch_norm", "dropout", "dropout2d", "identity") or node.op in ACTIVATIONS


def _edit(graph: Graph, id: str, name: str) -> Edit:
    node = graph[id]
    nest = nest_of(graph, node)
    program, _ = rewritten(nest, _steps(nest, name))
    return edit_of(graph, node, program, f"blockswap.{name}")


def _steps(nest: Nest, name: str) -> tuple[Step, ...]:
    parts = re.fullmatch(r"(?:Conv|DConv)?(?:([AG])(\d+))?(?:B(\d+))?", name)
    assert parts is not None, "a name of SUBSTITUTES"
    kind, number, factor = parts.groups()
    layer = nest.layer
    inside = layer.outputs // int(factor) if factor else layer.inputs
    groups = 1 if factor and not kind else inside if not kind else int(number) if kind == "A" else inside // int(number)
    if not groups or inside % groups:
        raise GraphError(f"{name}: {inside} channels cannot be split into {groups} groups")
    at = (1,) if factor else ()
    inner = (
        Split("i", inside // groups),
        Interchange(("i.0",)),
        Factor(inside // groups, tuple(layer.sides)),
        Activate(),
    )
    window = tuple(Step(rewrite, at) for rewrite in inner)
    return (Step(Factor(inside, ())), *window, Step(Activate())) if factor else window
