"""The memory of a run: a folder with an append-only journal and models by digest.

.. code-block:: text

    runs/first/
      run.json        what was asked for: source, data, goals, limits, seed, versions (written once)
      journal.jsonl   one JSON object a line: trials, finalists, notes, in the order in which they happened
      models/SHA.safetensors   weights with their graph in the file's metadata, named by content
      pictures/SHA.png         what finalists make of a few examples, where there is something to see
      report.html

A line is written only when everything it speaks of is on disk, so that a run killed at any moment resumes with every
finished trial. A damaged last line (a write cut short) is dropped; damage elsewhere is an error that names the line.
Every trained child keeps its model, about four bytes a parameter (1 MB for a ResNet-20): any of them can be a parent,
and resuming needs it. Once the finalists are recorded only theirs and trial 0's are read.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.numpy

from netgraft.candidate import Trial, TrialState
from netgraft.errors import GraphError, StudyError
from netgraft.ir import Model, parse, render
from netgraft.ir.text import edit_from_data, edit_to_data


@dataclass(frozen=True)
class Finalist:
    """A network at the end of a run: trained longer, judged once on the test split, measured.

    ``number`` is its trial (0: the original, trained equally long). ``validation`` and ``test`` are in the task's unit
    with their standard errors; the ``paired`` ones are those of its difference from the original, which was judged on
    the same examples (None: its own, and in studies from before they were kept). ``time`` is the measured latency
    relative to the original's (below 1 is faster) with its 99 % interval; the original's own entry is the A/A null.
    ``latency_ms`` is its measured time. FLOPs, parameters and memory (bytes) are counted. ``epochs`` is all the
    training since the run began, ``model`` the artifact. ``breaks`` names the limits that it turned out to break when
    it was measured.
    """

    number: int
    digest: str
    validation: float
    validation_error: float
    test: float
    test_error: float
    time: float
    time_low: float
    time_high: float
    latency_ms: float
    flops: int
    parameters: int
    memory: int
    epochs: float
    model: str
    breaks: str = ""
    validation_paired_error: float | None = None
    test_paired_error: float | None = None


@dataclass
class Study:
    """An open run folder; a context manager that holds its lock. Use :meth:`create`, :meth:`open` or :meth:`read`."""

    path: Path
    settings: Mapping[str, Any]
    trials: dict[int, Trial] = field(default_factory=dict)
    finalists: dict[int, Finalist] = field(default_factory=dict)
    notes: list[Mapping[str, Any]] = field(default_factory=list)
    _journal: BinaryIO | None = None

    @classmethod
    def create(cls, path: str | Path, settings: Mapping[str, Any]) -> Study:
        """A new run in an empty or new folder; StudyError if it holds a run already."""
        path = Path(path)
        try:
            (path / "models").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"cannot make the run folder {path}: {error.strerror}") from None
        journal = _locked(path)
        try:
            check_unused(path)
        except StudyError:
            journal.close()
            raise
        _write(path / "run.json", json.dumps(settings, indent=2).encode())
        return cls(path, settings, _journal=journal)

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """An existing run, to go on with; StudyError where it is missing, damaged or in use."""
        path = Path(path)
        if not (path / "run.json").is_file():
            raise StudyError(f"{path} is no run folder: it has no run.json")
        journal = _locked(path)  # before reading: nobody may write in between
        try:
            study = cls.read(path)
        except StudyError:
            journal.close()
            raise
        journal.truncate(_intact(path / "journal.jsonl"))
        journal.seek(0, os.SEEK_END)
        study._journal = journal
        return study

    @classmethod
    def read(cls, path: str | Path) -> Study:
        """An existing run, to look at; StudyError where it is missing or damaged."""
        path = Path(path)
        if not (path / "run.json").is_file():
            raise StudyError(f"{path} is no run folder: it has no run.json")
        try:
            settings = json.loads((path / "run.json").read_text())
        except ValueError as error:
            raise StudyError(f"{path / 'run.json'} is damaged: {error}") from None
        study = cls(path, settings)
        journal = path / "journal.jsonl"
        for number, line in enumerate(_lines(journal), 1):
            try:
                data = json.loads(line)
                study._take(data.pop("kind"), data)
            except (ValueError, LookupError, TypeError, AttributeError, GraphError) as error:
                raise StudyError(f"{journal}, line {number} is damaged: {error}") from None
        return study

    def __enter__(self) -> Study:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the folder."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def add_trial(self, trial: Trial) -> None:
        """Records a trial."""
        data = {field.name: getattr(trial, field.name) for field in fields(trial)}
        data |= {"edits": [edit_to_data(e) for e in trial.edits], "scores": dict(trial.scores)}
        self._append("trial", data)
        self.trials[trial.number] = trial

    def add_finalists(self, finalists: Sequence[Finalist]) -> None:
        """Records the finalists of a run, all or none."""
        self._append("finalists", {"finalists": [asdict(finalist) for finalist in finalists]})
        self.finalists.update((finalist.number, finalist) for finalist in finalists)

    def add_note(self, note: str, **data: Any) -> None:
        """Records something else worth keeping (``note`` is its kind)."""
        entry = {"note": note, **data}
        self._append("note", entry)
        self.notes.append(entry)

    def note(self, kind: str) -> Mapping[str, Any] | None:
        """The latest note of a kind."""
        return next((n for n in reversed(self.notes) if n["note"] == kind), None)

    def save_model(self, model: Model) -> str:
        """Stores a model and returns the name of its artifact; the same model is stored once."""
        # One key: safetensors writes several in no fixed order, and the file is named by its content.
        metadata = {"netgraft": json.dumps({"graph": render(model.graph), "name": model.name})}
        # safetensors writes an array's memory as it lies: a transposed one would come back scrambled.
        weights = {key: np.asarray(model.weights[key], order="C") for key in sorted(model.graph.weight_types)}
        data = safetensors.numpy.save(weights, metadata)
        name = sha256(data).hexdigest()[:24]
        target = self.path / "models" / f"{name}.safetensors"
        if not target.exists():
            _write(target, data)
        return name

    def load_model(self, name: str) -> Model:
        """The model of an artifact; StudyError where it is missing or damaged."""
        path = self.path / "models" / f"{name}.safetensors"
        try:
            with safetensors.safe_open(path, "numpy") as file:
                metadata = file.metadata()
                weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
        except (OSError, safetensors.SafetensorError) as error:
            raise StudyError(f"cannot read the model {path}: {error}") from None
        if not metadata or "netgraft" not in metadata:
            raise StudyError(f"{path} holds weights without a graph; it was not written by netgraft")
        described = json.loads(metadata["netgraft"])
        return Model(parse(described["graph"]), weights, described["name"])

    def save_picture(self, png: bytes) -> str:
        """Stores a picture, a PNG file, and returns its name."""
        name = sha256(png).hexdigest()[:24]
        target = self.path / "pictures" / f"{name}.png"
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            _write(target, png)
        return name

    def load_picture(self, name: str) -> bytes:
        """The PNG file of that name; StudyError where it is missing or no picture."""
        path = self.path / "pictures" / f"{Path(str(name)).name}.png"
        try:
            png = path.read_bytes()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StudyError(f"cannot read the picture {path}: {reason}") from None
        if not png.startswith(b"\x89PNG"):
            raise StudyError(f"{path} is damaged: it is no PNG file")
        return png

    @property
    def seconds(self) -> float:
        """Time that the recorded trials took."""
        return sum(trial.seconds for trial in self.trials.values())

    def _append(self, kind: str, data: Mapping[str, Any]) -> None:
        if self._journal is None:
            raise StudyError(f"{self.path} was opened for reading only")
        self._journal.write(json.dumps({"kind": kind, **data}, sort_keys=True).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def _take(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "trial":
            edits = tuple(edit_from_data(e) for e in data.pop("edits"))
            trial = Trial(**data | {"state": TrialState(data["state"]), "edits": edits})
            self.trials[trial.number] = trial
        elif kind == "finalists":
            self.finalists.update((f["number"], Finalist(**f)) for f in data["finalists"])
        elif kind == "note":
            self.notes.append(data)
        else:
            raise LookupError(f"unknown kind {kind!r}")


def check_unused(path: Path) -> None:
    """StudyError where the folder holds a run: a new one needs another."""
    if (path / "run.json").exists():
        raise StudyError(f"{path} holds a run already; continue it with --resume, or choose another folder")


def _locked(path: Path) -> BinaryIO:
    """The folder's journal, held by this process alone until it is closed."""
    try:
        journal = (path / "journal.jsonl").open("ab")
    except OSError as error:
        raise StudyError(f"cannot write to the run folder {path}: {error.strerror}") from None
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        journal.close()
        raise StudyError(f"another process is working on {path}; wait for it or choose another folder") from None
    return journal


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes()[: _intact(path)].splitlines() if path.exists() else []


def _intact(path: Path) -> int:
    """Bytes up to the end of the last complete line."""
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0


def _write(path: Path, data: bytes) -> None:
    """Writes a file so that it is there whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
