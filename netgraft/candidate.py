"""What a search looks at: a candidate is a network with its parent and edits, a trial what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from netgraft.ir import Edit, Inheritance, Model


@dataclass(frozen=True)
class Candidate:
    """A network proposed by a search.

    ``number`` is its place in the sequence of proposals; 0 is the network the search began with. ``parent`` is the
    number it came from by ``edits``, applied in order. ``epochs`` counts the training that it and its ancestors
    received since the search began. ``scores`` holds what was known when it was proposed.
    """

    number: int
    model: Model
    parent: int | None = None
    edits: tuple[Edit, ...] = ()
    inheritance: Inheritance = field(default_factory=lambda: Inheritance(0, 0))
    epochs: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)


class TrialState(StrEnum):
    """What became of a candidate."""

    COMPLETE = "complete"
    """Went through every rung."""
    DROPPED = "dropped"
    """Others of its generation looked better on a cheap rung."""
    INFEASIBLE = "infeasible"
    """Broke a limit."""
    FAILED = "failed"
    """Could not be built, run or trained."""


@dataclass(frozen=True)
class Trial:
    """The result of one candidate; an infeasible candidate is a value, not an exception.

    ``scores`` holds what was measured by metric name, ``reason`` says why a trial is not complete, ``inherited`` is the
    share of its trainable weights that came from its parent (over several edits the product of their shares), ``model``
    names the artifact with its trained weights (complete trials only), ``seconds`` is the time it took, and
    ``training`` the part of that which went into fine-tuning.
    """

    number: int
    generation: int
    digest: str
    state: TrialState
    parent: int | None = None
    edits: tuple[Edit, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    inherited: float = 1.0
    epochs: float = 0.0
    model: str | None = None
    seconds: float = 0.0
    training: float = 0.0

    @property
    def origin(self) -> str:
        """How it came about, in a few words: the origins of its edits."""
        return " + ".join(edit.origin for edit in self.edits) or "the original"
