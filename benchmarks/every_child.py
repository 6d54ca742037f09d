"""Is every child a network? Draws children by the thousand, builds them, and counts what is wrong with any of them.

    python benchmarks/every_child.py [--count 100000] [--seed 0] [--out validity] [--networks resnet20 ...]
        [--ways program ...]

From each network in turn a hundred children: grafts, random regions replaced through random wirings by random segments
of the bank and by random regions of other networks, swaps, trimmed channels (``tests/children.py``). Of every child is
checked that the edit applies, that types, digest, costs and inherited weights are what a fresh look gives, and that the
replacement runs in torch, forward and backward, in the declared shapes, with the counted parameters and FLOPs; of one
in ten that the whole child does, and that it is the same after it was written and read; of one in fifty replacements,
and of one whole child in seven hundred, that onnxruntime computes the same (``tests/validity.py``). The networks are
those of the golden files, the zoo (a quarter as wide, for small images) and two members of each family.

A batch of children depends on the seed, its number and the networks alone. Each is a line of OUT/batches.jsonl; started
again, the benchmark goes on after the last one. Each failure is a line of OUT/failures.jsonl, and says its edit.
Prints Markdown tables of all batches in OUT; ends with exit code 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from children import WAYS, draws
from contracts import GOLDEN_NAMES, golden, sane_model
from validity import KINDS, Failure, check_edit, check_onnx, check_run, check_text, is_affordable, side_by_side

from netgraft import zoo
from netgraft.convert.from_torch import from_module
from netgraft.errors import NetgraftError
from netgraft.ir import Edit, Graph, Model, parse, render
from netgraft.ir.text import edit_to_data
from netgraft.segments import default
from netgraft.spaces import families

BATCH, WHOLE, EXPORTED, EXPORTED_WHOLE = 100, 10, 50, 700
"""Children in a batch; one in how many is run whole; one replacement, and one whole child, in how many as ONNX."""
PATIENCE = 10
"""Draws for each child of a batch after which a network is taken to have no more."""
SIZES = (32, 64, 96, 128, 224)
"""Heights and widths of images: the smallest that a network of the zoo takes."""


def names() -> tuple[str, ...]:
    """The networks that children are drawn from."""
    members = (f"{family}-{number}" for family in families.FAMILIES for number in (1, 2))
    return (*GOLDEN_NAMES, *zoo.names(), *members)


@cache
def parent(name: str, out: Path) -> Model:
    """The network of that name with weights under which all of it matters; read once, then kept as text in ``out``."""
    path = out / "networks" / f"{name}.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(read(name)), encoding="utf-8")
    return sane_model(parse(path.read_text(encoding="utf-8")), name=name)


def read(name: str) -> Graph:
    """The graph of a golden file, of a family's member or of a network of the zoo."""
    if name in GOLDEN_NAMES:
        return golden(name)
    family, _, number = name.rpartition("-")
    if family in families.FAMILIES:
        return [graph for _, graph in families.sample(family, int(number), seed=0)][-1]
    module = zoo.build(name, width=0.25)
    for size in SIZES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return from_module(module, torch.zeros(2, zoo.entry(name).input_shape[0], size, size)).graph
        except NetgraftError as error:
            reason = error
    raise reason


@dataclass
class Batch:
    """What one batch found out; ``checked`` counts children, by what was done with them, or draws without a child."""

    network: str
    number: int
    seconds: float = 0.0
    digests: list[str] = field(default_factory=list)
    ways: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, edit: Edit | None, found: Sequence[Failure], what: str) -> None:
        """Counts one child (or the parent, without an edit) of which ``what`` was checked, and what was found."""
        self.checked[what] += 1
        place = {"network": self.network, "batch": self.number, "what": what, "edit": edit and edit_to_data(edit)}
        self.failures += [{**place, "kind": f.kind, "message": f.message} for f in found]


def run(name: str, number: int, seed: int, others: Sequence[Graph], out: Path, ways: Sequence[str] = WAYS) -> Batch:
    """One batch: children of the network ``name`` by some ``ways``, checked."""
    batch, model = Batch(name, number), parent(name, out)
    start = time.process_time()
    # A child is its parent but for one part, so the parent is run first.
    batch.add(None, check_run(model.graph), "parents")
    exported: list[Edit] = []
    source = draws(model, others, default(), np.random.default_rng((seed, number)), ways)
    for _ in range(PATIENCE * BATCH):
        try:
            draw = next(source, None)
        except Exception:
            batch.add(None, [Failure("draw", traceback.format_exc())], "draws")
            break
        if draw is None:  # no way has more to offer
            break
        batch.checked["draws"] += 1
        if draw.edit is None:
            continue
        edit, index = draw.edit, batch.checked["children"]
        child, found = check_edit(model, edit)
        batch.add(edit, found, "children")
        batch.ways[draw.way] += 1
        large = not is_affordable(edit.replacement)
        batch.add(edit, check_run(edit.replacement), "replacements as shapes" if large else "replacements")
        if child is not None:
            batch.digests.append(child.digest)
            if index % WHOLE == 0 and is_affordable(child):
                batch.add(edit, check_text(child) + check_run(child), "whole")
            if index == 0 and number % (EXPORTED_WHOLE // BATCH) == 0 and is_affordable(child):
                batch.add(edit, check_onnx(child), "whole as ONNX")
        if index % EXPORTED == 0 and not large:
            exported.append(edit)
        if index + 1 == BATCH:
            break
    if exported:
        found = check_onnx(side_by_side([edit.replacement for edit in exported]))
        for edit in exported:
            batch.add(edit, check_onnx(edit.replacement) if found else [], "replacements as ONNX")
    batch.seconds = time.process_time() - start
    return batch


def tables(batches: Sequence[dict[str, Any]]) -> str:
    """What all batches found, by network, by way and by check."""
    lines = ["| network | draws | children | distinct | failures | ms a child |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(batch["network"] for batch in batches):
        lines.append(_row(name, [batch for batch in batches if batch["network"] == name]))
    lines += [_row("all", batches), "", "| way | children |", "|---|---|"]
    ways = sum((Counter(batch["ways"]) for batch in batches), Counter[str]())
    lines += [f"| {way} | {ways[way]:,} |" for way in WAYS]
    checked = sum((Counter(batch["checked"]) for batch in batches), Counter[str]())
    failed = Counter((f["what"], f["kind"]) for batch in batches for f in batch["failures"])
    lines += ["", "| checked | how many | failures |", "|---|---|---|"]
    for what, number in checked.items():
        kinds = [f"{failed[what, kind]} {kind}" for kind in (*KINDS, "draw") if failed[what, kind]]
        lines.append(f"| {what} | {number:,} | {', '.join(kinds) or 0} |")
    return "\n".join(lines)


def _row(name: str, batches: Sequence[dict[str, Any]]) -> str:
    draws, children = (sum(batch["checked"].get(what, 0) for batch in batches) for what in ("draws", "children"))
    # One network's child is never another's: they differ outside the region.
    distinct = len({(batch["network"], digest) for batch in batches for digest in batch["digests"]})
    failures = sum(len(batch["failures"]) for batch in batches)
    milliseconds = 1e3 * sum(batch["seconds"] for batch in batches) / max(children, 1)
    return f"| {name} | {draws:,} | {children:,} | {distinct:,} | {failures:,} | {milliseconds:.1f} |"


def main() -> None:
    """Goes on until ``count`` children are checked, and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="children to check, those in OUT included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("validity"), help="folder to go on in")
    parser.add_argument("--networks", nargs="+", default=names(), choices=names(), metavar="NETWORK")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, metavar="WAY", help="how children come about")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    journal, listed = args.out / "batches.jsonl", args.out / "failures.jsonl"
    batches = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    done = sum(batch["checked"].get("children", 0) for batch in batches)
    for number in range(len(batches), args.count):
        if done >= args.count:
            break
        name = args.networks[number % len(args.networks)]
        others = [parent(other, args.out).graph for other in args.networks[: number + 1]]
        batch = vars(run(name, number, args.seed, others, args.out, args.ways))
        with listed.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(failure) + "\n" for failure in batch["failures"])
        batch["failures"] = [{key: f[key] for key in f if key != "edit"} for f in batch["failures"]]
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(batch) + "\n")
        batches.append(batch)
        done += batch["checked"].get("children", 0)
        print(f"{number} {name}: {done} children, {sum(len(b['failures']) for b in batches)} failures", file=sys.stderr)
    print(tables(batches))
    sys.exit(any(batch["failures"] for batch in batches))


if __name__ == "__main__":
    main()
