"""The result of a run: its finalists, the picks among them, and their export."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from netgraft.convert.to_torch import to_module
from netgraft.errors import EmptyFrontError, OptionError
from netgraft.export import export
from netgraft.ir import Model
from netgraft.report import Row, Summary, summarize
from netgraft.study import Study


@dataclass(frozen=True)
class Pick:
    """One network of a front: ``row`` holds its figures, ``model`` its graph and weights."""

    row: Row
    model: Model

    def to_torch(self) -> nn.Module:
        """The network as a torch module in eval mode."""
        return to_module(self.model).eval()

    def export(self, directory: str | Path) -> list[Path]:
        """Writes ``model.py``, ``weights.safetensors`` and ``model.onnx`` and returns their paths."""
        return export(self.model, Path(directory))


@dataclass(frozen=True)
class Front:
    """The finalists of a run, as a user picks from them."""

    study: Study

    @cached_property
    def summary(self) -> Summary:
        """All finalists with their figures, and which of them are the picks."""
        return summarize(self.study)

    def knee(self) -> Pick:
        """The best bargain between quality and time."""
        return self["knee"]

    def fastest(self) -> Pick:
        """The fastest network that keeps the original's quality."""
        return self["fastest"]

    def best(self) -> Pick:
        """The network of the best quality."""
        return self["best"]

    def __getitem__(self, pick: str) -> Pick:
        """``knee``, ``fastest``, ``best``, or the beginning of a digest; OptionError for anything else."""
        rows, picks = self.summary.rows, self.summary.picks
        if not rows:
            raise EmptyFrontError(f"{self.study.path} has no finished networks yet; continue the run with --resume")
        found = [row for row in rows if row.number == picks.get(pick) or row.digest.startswith(pick)]
        if len(found) != 1:
            known = ", ".join([*picks, *(row.digest for row in rows)])
            fault = "is the beginning of several digests" if found else "is no pick of this run"
            raise OptionError(f"{pick!r} {fault}; choose one of: {known}")
        (row,) = found
        return Pick(row, self.study.load_model(self.study.finalists[row.number].model))

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.study.path
