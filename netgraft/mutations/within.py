"""Mutations kept to a list of operations: the user's own, or what an engine runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from netgraft.errors import OptionError
from netgraft.ir import OPS, Edit, Graph, Weights

from .mutation import Mutation

ENGINES: Final[Mapping[str, frozenset[str]]] = {
    "onnxruntime": frozenset(OPS.keys() - {"frozen"}),
    "openvino": frozenset(OPS.keys() - {"frozen"}),
}
"""What each engine runs, and computes as torch does: tried for each operation with onnxruntime 1.31 and OpenVINO 2026.4
on a processor (``tests/test_onnx.py``, ``tests/test_within.py``). Of frozen operations nobody knows.
"""


def operations(text: str) -> frozenset[str]:
    """What ``--ops`` lists: operations, and names of :data:`ENGINES` for all that these run, with commas between.

    OptionError for a name that is neither.
    """
    found: set[str] = set()
    for name in (part.strip() for part in text.split(",")):
        if name not in OPS and name not in ENGINES:
            raise OptionError(
                f"--ops: there is no operation {name!r} to allow, and no engine of that name; engines are "
                f"{', '.join(ENGINES)}, operations {', '.join(sorted(OPS))}"
            )
        found |= ENGINES.get(name, {name})
    return frozenset(found)


@dataclass(frozen=True)
class Within:
    """Those edits of ``mutation`` that bring in no operation beside the ``allowed`` and those they replace."""

    mutation: Mutation
    allowed: frozenset[str]

    @property
    def name(self) -> str:
        """That of the mutation."""
        return self.mutation.name

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """See :class:`~netgraft.mutations.Mutation`."""
        for edit in self.mutation.edits(graph, weights, rng):
            if {node.op for node in edit.replacement} <= self.allowed | {graph[id].op for id in edit.region.nodes}:
                yield edit
