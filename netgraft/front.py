"""The result of a run: its finalists, the picks among them, and their export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from netgraft.convert.to_torch import to_module
from netgraft.errors import EmptyFrontError, OptionError
from netgraft.export import export
from netgraft.ir import Model
from netgraft.report import Row, Standing, Summary, standings, summarize
from netgraft.study import Study


@dataclass(frozen=True)
class Pick:
    """One network of a front: ``figures`` says what is known of it, ``model`` is its graph and weights, ``notes`` what
    was done to the data (the inputs it expects), ``program`` whether the original was one of torch.export's.
    """

    figures: Row | Standing
    model: Model
    notes: tuple[str, ...] = ()
    program: bool = False

    def to_torch(self) -> nn.Module:
        """The network as a torch module in eval mode."""
        return to_module(self.model).eval()

    def export(self, directory: str | Path) -> list[Path]:
        """Writes ``model.py``, ``weights.safetensors``, ``model.onnx``, ``model.pt2`` where the original was read from
        such a file, and ``netgraft.json`` (what it is, and the notes), and returns their paths.
        """
        return export(self.model, Path(directory), notes=self.notes, program=self.program)


@dataclass(frozen=True)
class Front:
    """What a run found, to pick from: its finalists, or, while there are none, what the search has so far."""

    study: Study

    @cached_property
    def summary(self) -> Summary:
        """All finalists with their figures, and which of them are the picks."""
        return summarize(self.study)

    def knee(self) -> Pick:
        """The best bargain between quality and time."""
        return self["knee"]

    def fastest(self) -> Pick:
        """The fastest of those not worse than the original by more than two standard errors of the difference, or else
        of all.

        OptionError where none was measured to be faster than the original.
        """
        return self["fastest"]

    def best(self) -> Pick:
        """The network of the best quality."""
        return self["best"]

    def __getitem__(self, pick: str) -> Pick:
        """``knee``, ``fastest``, ``best``, or the beginning of a digest; OptionError for anything else, EmptyFrontError
        where the run has trained nothing yet, or no finalist keeps the limits.
        """
        finished = {row.number: self.study.finalists[row.number].model for row in self.summary.rows}
        if finished:
            entries: Sequence[Row | Standing] = self.summary.rows
            picks = self.summary.picks
        else:
            entries, picks = standings(self.study)
        if not entries:
            raise EmptyFrontError(f"{self.study.path} has no trained network yet; continue the run with --resume")
        if not picks and pick in ("knee", "fastest", "best"):
            raise EmptyFrontError(f"{self.summary.headline}; pick a digest to have one all the same")
        found = [e for e in entries if e.number == picks.get(pick) or (pick and e.digest.startswith(pick))]
        if len(found) != 1:
            known = ", ".join([*picks, *(entry.digest for entry in entries)])
            raise OptionError(f"{_fault(pick, bool(found))}; choose one of: {known}")
        (entry,) = found
        model = entry.model if isinstance(entry, Standing) else finished[entry.number]
        notes = (*self.study.settings["task"]["notes"], *_class_order(self.study.settings["task"]["classes"]))
        program = str(self.study.settings["source"]).endswith(".pt2")
        return Pick(entry, self.study.load_model(model), notes, program)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.study.path


def _fault(pick: str, several: bool) -> str:
    if pick == "fastest":
        return "no network of this run was shown to be faster than the original, so none is 'fastest'"
    return f"{pick!r} is {'the beginning of several digests' if several else 'no pick of this run'}"


def _class_order(classes: Sequence[str]) -> tuple[str, ...]:
    return (f"The outputs are, in order: {', '.join(classes)}.",) if classes else ()
