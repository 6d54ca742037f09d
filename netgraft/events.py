"""What a run tells those who listen while it works, in the order in which it happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from netgraft.candidate import Trial


@dataclass(frozen=True)
class PretrainingBegun:
    """The original is trained before it is searched around, for so many ``epochs``."""

    epochs: float


@dataclass(frozen=True)
class DeviceChanged:
    """The run goes on on another device (``now``) than ``before``: trainings come out slightly different there."""

    before: str
    now: str


@dataclass(frozen=True)
class LimitScaled:
    """A limit on latency was given in a unit of time; the original takes ``original_ms`` on this machine, so it is kept
    to as ``share`` of the original's time.
    """

    limit: str
    original_ms: float
    share: float


@dataclass(frozen=True)
class StepDone:
    """A step of long work is done, the ``step``-th (from 1) of ``total``: of the original's or a finalist's training,
    or of looking at what was drawn at random.
    """

    step: int
    total: int


@dataclass(frozen=True)
class ProposingBegun:
    """A generation is being proposed."""

    generation: int


@dataclass(frozen=True)
class GenerationProposed:
    """A generation of ``count`` candidates is about to go up the rungs."""

    generation: int
    count: int


@dataclass(frozen=True)
class RungBegun:
    """``count`` candidates have come to the rung called ``rung``."""

    rung: str
    count: int


@dataclass(frozen=True)
class CandidateJudged:
    """A rung is done with the candidate of this ``number``."""

    number: int


@dataclass(frozen=True)
class TrialRecorded:
    """It is decided, and written down, what became of a candidate; the original comes first, resumed or not."""

    trial: Trial


@dataclass(frozen=True)
class FinalsBegun:
    """The original and ``count`` more are trained up to ``epochs`` since the run began."""

    count: int
    epochs: float


@dataclass(frozen=True)
class FinalBegun:
    """The network of ``trial`` is trained for ``epochs`` more."""

    trial: Trial
    epochs: float


@dataclass(frozen=True)
class FinalStopped:
    """The network of ``trial`` is not trained to the end; ``reason`` says why."""

    trial: Trial
    reason: str


@dataclass(frozen=True)
class MeasuringBegun:
    """``count`` networks are tested, once, and measured."""

    count: int


@dataclass(frozen=True)
class RunFinished:
    """The finalists are recorded."""


@dataclass(frozen=True)
class RunInterrupted:
    """Ctrl-C ended the run; what was recorded is kept."""


Event = (
    PretrainingBegun
    | DeviceChanged
    | LimitScaled
    | StepDone
    | ProposingBegun
    | GenerationProposed
    | RungBegun
    | CandidateJudged
    | TrialRecorded
    | FinalsBegun
    | FinalBegun
    | FinalStopped
    | MeasuringBegun
    | RunFinished
    | RunInterrupted
)

Listener = Callable[[Event], None]
"""What hears of events. It is called between two pieces of work; what it raises ends the run, as Ctrl-C does."""


def nobody(event: Event) -> None:
    """The listener where nobody listens."""
