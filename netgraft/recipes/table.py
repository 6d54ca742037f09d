"""Collecting a latency table on a device: networks of a space are measured whole and kernel by kernel.

Kernels are timed where they run, inside of networks, because their time depends on what is in the caches, and are then
scaled so that they add up to what the network took in processor time beside a reference network that is the same in the
whole collection: so hours in which the machine is slower do no harm.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from netgraft import sources, zoo
from netgraft.convert.onnx import to_onnx
from netgraft.costs.analytic import latency_estimate
from netgraft.costs.measured import compare
from netgraft.costs.measured.flags import machine
from netgraft.costs.measured.jobs import Kernels
from netgraft.costs.measured.profile import SESSIONS, check_kernels, profiled
from netgraft.costs.measured.remote import ask_kernels
from netgraft.costs.tables.attribution import attribute
from netgraft.costs.tables.observed import Observed
from netgraft.errors import GraphError, MeasureError, NetgraftError, OptionError, SourceError
from netgraft.ir import Graph, Input, TensorType, untrained
from netgraft.mutations import Mutation, drafts
from netgraft.spaces.families import FAMILIES

from .optimize import default_mutations

REFERENCE = "zoo:resnet20"
"""What every network of a table is measured beside."""
LONGEST = 12.0
"""Milliseconds, by the estimate, that a network of a collection may take."""
SECONDS = 0.3
"""How long, about, each network is measured beside the reference (ten fresh sessions of everything at least)."""
AT_ONCE = 8
"""Networks that are measured beside the same runs of the reference."""
VARIANTS, CHILDREN, MEMBERS = 3, 4, 40
"""Of each network of the zoo: how many widths and image sizes, and how many children; how many members of a family."""
FEWEST = 16
"""Networks of which a table can be made."""
FORMAT = 2
"""Of a collection: another one where kernels get other names, so that none is gone on with under two of them."""


Item = TypeVar("Item")


@dataclass(frozen=True)
class Drawn:
    """A network of a space: its name, what it was drawn from, and its structure."""

    name: str
    origin: str
    graph: Graph


def drawn(space: str, seed: int = 0, variants: int = VARIANTS, children: int = CHILDREN) -> Iterator[Drawn]:
    """Networks of a space, drawn from ``seed``, none that is estimated to take longer than :data:`LONGEST`.

    ``zoo``: every network of the zoo in some widths and image sizes, and children of one to four random edits.
    The name of a family: members of it. Anything else is a SOURCE of :func:`netgraft.sources.graphs`.
    """
    if space == "zoo":
        for name in np.random.default_rng(seed).permutation(zoo.names()).tolist():
            yield from around(name, seed, variants, children)
    elif space in FAMILIES:
        for name, graph in sources.graphs(f"family:{space}?count={MEMBERS}&seed={seed}"):
            if latency_estimate(graph) <= LONGEST:
                yield Drawn(name, space, graph)
    else:
        for name, graph in sources.graphs(space):
            yield Drawn(name, space, graph)


def around(name: str, seed: int, variants: int = VARIANTS, children: int = CHILDREN) -> Iterator[Drawn]:
    """A network of the zoo in one width, for several image sizes, and children of these."""
    rng = np.random.default_rng([seed, *name.encode()])
    found: list[Drawn] = []
    for width in rng.permutation([1.0, 0.5, 0.25]):
        for size, graph in _sizes(name, float(width), rng):
            if len(found) < variants and latency_estimate(graph) <= LONGEST:
                found.append(Drawn(f"zoo:{name}?width={width:g}&size={size}", name, graph))
                yield found[-1]
        if found:
            break
    mutation = default_mutations()
    for number in range(children if found else 0):
        parent = found[number % len(found)]
        child = descendant(parent.graph, mutation, rng, 1 + int(rng.integers(4)))
        if child is not None and latency_estimate(child) <= LONGEST:
            yield Drawn(f"{parent.name}#{number}", name, child)


def _sizes(name: str, width: float, rng: np.random.Generator) -> Iterator[tuple[int, Graph]]:
    """A network of the zoo for square images of different sizes, in a random order; read by torch once."""
    channels, most, _ = zoo.entry(name).input_shape
    graph = sources.load(f"zoo:{name}?width={width:g}", input_shape=(channels, min(most, 128), min(most, 128))).graph
    for size in rng.permutation(range(16, min(most, 160) + 1, 16)).tolist():
        try:
            yield size, resized(graph, size)
        except GraphError:  # too small for it, or it works on one size only
            continue


def resized(graph: Graph, size: int) -> Graph:
    """The same nodes for square images of another size; GraphError where they do not fit these."""
    inputs = []
    for given in graph.inputs:
        batch, channels, *_ = given.type.shape
        inputs.append(Input(given.id, TensorType((batch, channels, size, size), given.type.dtype)))
    return Graph(tuple(inputs), graph.nodes, graph.outputs)


def descendant(graph: Graph, mutation: Mutation, rng: np.random.Generator, steps: int) -> Graph | None:
    """A child of so many random edits, or of fewer where there is nothing left to change; None for the same again."""
    child = graph
    for _ in range(steps):
        model = untrained(child)
        draft = next(drafts(mutation, model.graph, model.weights, rng), None)
        if draft is None:
            break
        child = draft.child
    return child if child.digest != graph.digest else None


@dataclass(frozen=True)
class Bench:
    """Where networks are measured: on this machine, or on the one that ``on`` names, as for ``netgraft measure --on``.

    ``machine`` is what the times depend on there.
    """

    on: str | None
    machine: Mapping[str, str]

    @classmethod
    def at(cls, on: str | None, reference: bytes) -> Bench:
        """MeasureError for another machine that does not answer, or that has kernels that nobody here knows."""
        return cls(on, machine() if on is None else ask_kernels(on, [reference], SECONDS)[1])

    def profiled(self, models: Sequence[bytes]) -> Kernels:
        """The kernels of networks, as they run there."""
        if self.on is None:
            return profiled(models, SESSIONS)
        return ask_kernels(self.on, models, SECONDS * len(models))[0]


def observe(networks: Sequence[Drawn], reference: bytes, bench: Bench) -> list[Observed]:
    """Measure networks whole, beside the reference, and kernel by kernel; those that cannot be run are left out."""
    written: list[tuple[Drawn, bytes]] = []
    for one in networks:
        with suppress(NetgraftError):  # a child that cannot be written tells nothing
            written.append((one, to_onnx(untrained(one.graph, one.name))))
    parts = bench.profiled([model for _, model in written]) if written else []
    runnable = [(*one, found) for one, found in zip(written, parts, strict=True) if found is not None]
    if not runnable:
        return []
    ratios = compare([model for _, model, _ in runnable], reference, seconds=SECONDS * len(runnable), on=bench.on)
    shared = [attribute(one.graph, found) for one, _, found in runnable]
    return [
        Observed(
            name=one.name,
            origin=one.origin,
            digest=one.graph.digest,
            ratio=ratio.ratio,
            reference_ms=ratio.baseline_ms,
            null=ratio.null,
            kernels=found.rows,
            strange=sum(part.microseconds for part in found.strange),
        )
        for (one, *_), found, ratio in zip(runnable, shared, ratios, strict=True)
    ]


def collect(
    spaces: Sequence[str],
    journal: Path,
    seed: int = 0,
    on_network: Callable[[Observed, int], None] = lambda *_: None,
    on: str | None = None,
) -> tuple[list[Observed], Mapping[str, str]]:
    """Observe every network of the spaces, and keep each in ``journal`` (JSON lines) as soon as it is measured; and say
    what machine measured them: this one, or ``on`` another.

    What the journal holds already is not measured again. OptionError for spaces that do not exist or have fewer than
    :data:`FEWEST` networks, before anything is measured or written, and for a journal of other spaces, another seed,
    another machine or another onnxruntime; MeasureError on a processor whose kernels are others than those that
    :mod:`~netgraft.costs.tables.kernels` knows.
    """
    if on is None:
        check_kernels()  # before anything is loaded
    networks = _distinct(spaces, seed)
    reference = to_onnx(sources.load(REFERENCE))
    bench = Bench.at(on, reference)
    asked = {"netgraft": FORMAT, "spaces": list(spaces), "seed": seed, "reference": REFERENCE, **bench.machine}
    known = _begun(journal, asked)
    with journal.open("a", encoding="utf-8") as file:
        done = {observed.digest for observed in known}
        for group in batched((one for one in networks if one.graph.digest not in done), AT_ONCE):
            for observed in observe(group, reference, bench):
                known.append(observed)
                file.write(json.dumps(asdict(observed)) + "\n")
                file.flush()
                on_network(observed, len(known))
    return known, bench.machine


def _distinct(spaces: Sequence[str], seed: int) -> Iterator[Drawn]:
    """The networks of the spaces, each once. OptionError, now and not when they are drawn, for a space that does not
    exist, and where all of them have too few networks for a table.
    """
    seen: set[str] = set()
    every = [_unseen(space, seed, seen) for space in spaces]
    first: list[Drawn] = []
    try:
        for networks in every:
            first += islice(networks, max(1, FEWEST - len(first)))
    except SourceError as error:
        raise OptionError(f"--spaces: {error}; or it is a space: zoo, {', '.join(FAMILIES)}") from None
    if len(first) < FEWEST:
        raise OptionError(f"--spaces {','.join(spaces)}: too few networks for a table: {len(first)}; it takes {FEWEST}")
    return chain(first, *every)


def _unseen(space: str, seed: int, seen: set[str]) -> Iterator[Drawn]:
    for found in drawn(space, seed):
        if found.graph.digest not in seen:
            seen.add(found.graph.digest)
            yield found


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of so many items, the last one of those that are left."""
    waiting = iter(items)
    while group := list(islice(waiting, size)):
        yield group


def collection(journal: Path) -> list[Observed]:
    """What was observed so far, from the file that :func:`collect` keeps; MeasureError for another file."""
    try:
        text = journal.read_text(encoding="utf-8")
        _, *lines = text[: text.rfind("\n") + 1].splitlines()
        return [Observed.read(json.loads(line)) for line in lines]
    except OSError as error:
        raise MeasureError(f"{journal} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise MeasureError(f"{journal} is no collection of 'netgraft table build', or it is damaged") from None


def _begun(journal: Path, asked: Mapping[str, Any]) -> list[Observed]:
    """A new collection, or the one to go on with; one that holds no measurement is begun anew."""
    header = json.dumps(asked)
    if not journal.exists() or not journal.stat().st_size:
        _written(journal, header + "\n")
    try:
        text = journal.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        first, _, rows = whole.partition("\n")
        begun = json.loads(first)
    except ValueError:
        raise MeasureError(f"{journal} is no collection of 'netgraft table build', or it is damaged") from None
    if begun != asked:
        if rows or not isinstance(begun, dict) or "netgraft" not in begun:
            raise OptionError(
                f"{journal} was begun with other spaces, another seed, another version, or on another machine "
                f"({first}), now it is {header}; name another --out"
            )
        whole = header + "\n"
    if whole != text:  # cut off while it was written, or begun anew
        _written(journal, whole)
    return collection(journal)


def _written(path: Path, text: str) -> None:
    """Write a file wholly or not at all, whatever interrupts it."""
    part = path.with_name(path.name + ".new")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
