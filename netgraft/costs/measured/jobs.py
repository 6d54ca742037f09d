"""Measurements asked for and answered through a folder: JSON and model files, nothing that is run.

.. code-block:: text

    models/SHA256.onnx        what is to be measured, by the digest of its content; of what was, baselines stay
    new/ID.json               jobs that wait
    claimed/ID.N.WORKER.json  a job at work, for the Nth time; its age is the worker's heartbeat
    done/ID.json              answers: figures, or an error

A file appears by a rename, complete or not at all. A job is claimed by renaming it, which only one worker can.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from netgraft.errors import MeasureError

from .intervals import Latency, Ratio
from .networks import Variant, as_onnx
from .profile import Part

FORMAT = 2
TASKS = ("latency", "kernels")
ID = r"[0-9a-f]{16}"
MODEL = r"[0-9a-f]{64}\.(?:onnx|tflite)"
STALE = 60.0
"""Seconds without a heartbeat after which a worker is taken to be dead."""
ATTEMPTS = 3
"""How often a job may end its worker before it gets an error instead."""
LARGEST_JOB = 1 << 20  # bytes
LARGEST_ANSWER = 1 << 26
MOST = {"batch": 65536, "threads": 1024, "seconds": 3600.0, "seed": 2**63}

Figures = TypeVar("Figures", Latency, Ratio)


@dataclass(frozen=True)
class Subject:
    """One network of a job: the name of its file, and how it is to be run."""

    file: str
    engine: str
    precision: str


@dataclass(frozen=True)
class Job:
    """What is to be found out about networks.

    ``latency``: what :func:`~.sampling.compare` finds, or :func:`~.sampling.measure` where there is no baseline.
    ``kernels``: what :func:`~.profile.profiled` finds, in onnxruntime, and on which machine.
    """

    task: str
    models: tuple[Subject, ...]
    baseline: Subject | None
    batch: int
    threads: int
    seconds: float
    seed: int

    def written(self) -> str:
        """The job as JSON."""
        return json.dumps({"netgraft": FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def read(cls, path: Path) -> Job:
        """A job from somebody else's file; MeasureError says what is wrong with it."""
        data = _object(path)
        known = {field.name for field in fields(cls)} | {"netgraft"}
        if set(data) != known or data["netgraft"] != FORMAT:
            raise MeasureError(f"{path.name} is no job of format {FORMAT}: it needs {', '.join(sorted(known))}")
        models = data["models"]
        if not isinstance(models, list) or not models:
            raise MeasureError(f"{path.name}: models must be a list of at least one")
        numbers = {name: _number(data[name], name, most, path) for name, most in MOST.items()}
        whole = {name: int(value) for name, value in numbers.items() if name != "seconds"}
        for name in ("batch", "threads", "seed"):
            if whole[name] != numbers[name] or whole[name] < (name != "seed"):
                raise MeasureError(f"{path.name}: {name} must be a whole number of at least {int(name != 'seed')}")
        baseline = None if data["baseline"] is None else _subject(data["baseline"], path)
        if data["task"] not in TASKS:
            raise MeasureError(f"{path.name}: task must be one of {', '.join(TASKS)}")
        if data["task"] == "latency" and baseline is None and len(models) != 1:
            raise MeasureError(f"{path.name}: without a baseline there can be one model only")
        return cls(
            task=data["task"],
            models=tuple(_subject(model, path) for model in models),
            baseline=baseline,
            seconds=numbers["seconds"],
            **whole,
        )


class Folder:
    """A folder of jobs; it is made where it is missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            for part in ("models", "new", "claimed", "done"):
                (path / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MeasureError(f"{path} cannot be a folder of measuring jobs: {error.strerror}") from None

    def now(self) -> float:
        """The time by the clock of the file system, which all who share it see alike."""
        probe = self.path / f".clock-{secrets.token_hex(4)}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def put_model(self, variant: Variant, batch: int) -> Subject:
        """Write what the worker has to run: quantised already, so that it needs nothing but the engine."""
        model, precision = variant.model, variant.precision
        if isinstance(model, Path) and model.suffix == ".tflite":
            content = _bytes(model)
        else:
            source = as_onnx(model)
            if precision == "int8":
                from .quantize import quantized

                source, precision = quantized(source, variant.calibration, batch), "fp32"
            content = source if isinstance(source, bytes) else _bytes(source)
        suffix = ".tflite" if isinstance(model, Path) and model.suffix == ".tflite" else ".onnx"
        name = hashlib.sha256(content).hexdigest() + suffix
        if not (self.path / "models" / name).is_file():
            self.write("models", name, content)
        return Subject(name, variant.engine, precision)

    def submit(self, name: str, job: Job) -> None:
        """Let a job wait for a worker."""
        self.write("new", f"{name}.json", job.written().encode())

    def write(self, part: str, name: str, content: bytes) -> None:
        """A file that appears complete or not at all."""
        partial = self.path / f".{name}-{secrets.token_hex(4)}"
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path / part / name)
        finally:
            partial.unlink(missing_ok=True)

    def answer(self, name: str, content: dict[str, Any]) -> None:
        """Write what came of a job."""
        self.write("done", f"{name}.json", json.dumps({"netgraft": FORMAT, **content}).encode())

    def state(self, name: str) -> str:
        """``done``, ``claimed`` by a worker that is alive, ``waiting``, or ``lost``: no longer to be seen."""
        if (self.path / "done" / f"{name}.json").is_file():
            return "done"
        for claim in (self.path / "claimed").glob(f"{name}.*.json"):
            with suppress(FileNotFoundError):
                return "claimed" if self.now() - claim.stat().st_mtime < STALE else "waiting"
        if (self.path / "new" / f"{name}.json").is_file():
            return "waiting"
        # It may have moved on since we looked at where it would be next.
        moved = (self.path / "done" / f"{name}.json").is_file() or any((self.path / "claimed").glob(f"{name}.*.json"))
        return "waiting" if moved else "lost"

    def forget(self, name: str, job: Job) -> None:
        """Take back a job, or clear away its answer, and with either its networks: a search asks about hundreds, and
        devices are small. Its baseline stays, as the next job mostly has the same, and so does what other jobs name.
        """
        for path in (self.path / "new" / f"{name}.json", self.path / "done" / f"{name}.json"):
            path.unlink(missing_ok=True)
        needed = {job.baseline.file} if job.baseline else set()
        for path in [*(self.path / "new").glob("*.json"), *(self.path / "claimed").glob("*.json")]:
            if not path.name.startswith(f"{name}."):
                with suppress(OSError):  # it moved on; should its worker miss a file, its asker sends it again
                    needed.update(re.findall(MODEL, path.read_bytes()[:LARGEST_JOB].decode(errors="replace")))
        for file in {model.file for model in job.models} - needed:
            (self.path / "models" / file).unlink(missing_ok=True)

    def claim(self, worker: str) -> Path | None:
        """Take a job that waits, or that of a dead worker: the file it is in now, or None where there is nothing to do.

        A job that was done already, or that ended its worker too often, is cleared away on the way.
        """
        waiting = [path for path in (self.path / "new").glob("*.json") if path.is_file()]
        for path in sorted(waiting, key=_age):
            if re.fullmatch(ID, path.stem) and (found := self._taken(path, path.stem, 1, worker)):
                return found
        for path in sorted((self.path / "claimed").glob("*.*.*.json")):
            match = re.fullmatch(rf"({ID})\.(\d{{1,3}})\.[\w-]+\.json", path.name)
            if match is None or self.now() - _age(path) < STALE:
                continue
            name, attempt = match[1], int(match[2]) + 1
            if (self.path / "done" / f"{name}.json").is_file():
                path.unlink(missing_ok=True)
            elif (found := self._taken(path, name, attempt, worker)) and attempt > ATTEMPTS:
                self.answer(name, {"error": f"the job ended its worker {ATTEMPTS} times"})
                found.unlink(missing_ok=True)
            elif found:
                return found
        return None

    def _taken(self, path: Path, name: str, attempt: int, worker: str) -> Path | None:
        mine = self.path / "claimed" / f"{name}.{attempt}.{worker}.json"
        try:
            os.utime(path)  # its age is a heartbeat from now on
            path.rename(mine)
        except FileNotFoundError:  # another worker was faster
            return None
        return mine

    def variant(self, subject: Subject) -> Variant:
        """A network of a job; MeasureError for a file that is missing or damaged."""
        path = self.path / "models" / subject.file
        content = _bytes(path)
        if hashlib.sha256(content).hexdigest() != path.stem:
            path.unlink(missing_ok=True)  # so that it is sent again
            raise MeasureError(f"the model file {subject.file} is missing: what was there was damaged")
        return Variant(path, subject.engine, subject.precision)


def read_answer(path: Path, kind: type[Figures], count: int, who: str) -> list[Figures]:
    """The figures of an answer; MeasureError for the worker's error, and for what is no answer."""
    found = _answered(path, count, who)["found"]
    names = {field.name for field in fields(kind)}
    for one in found:
        if not isinstance(one, dict) or set(one) != names or not all(_is_figure(k, v) for k, v in one.items()):
            raise MeasureError(f"{path} is no answer: a measurement has {', '.join(sorted(names))}")
    return [kind(**one) for one in found]


Kernels = list[tuple[Part, ...] | None]
"""The kernels of each network, None for one that cannot be run."""


def read_kernels(path: Path, count: int, who: str) -> tuple[Kernels, dict[str, str]]:
    """The same for kernels: those of each network, and what machine they ran on."""
    data = _answered(path, count, who)
    machine = data.get("machine")
    try:
        if not isinstance(machine, dict) or not all(isinstance(text, str) for text in machine.values()):
            raise TypeError("it does not say what machine it is from")
        return [None if one is None else tuple(_part(part) for part in one) for one in data["found"]], machine
    except (TypeError, ValueError, KeyError) as error:
        raise MeasureError(f"{path} is no answer about kernels: {error}") from None


def _part(data: Any) -> Part:
    part = Part(
        str(data["name"]),
        str(data["operation"]),
        tuple(map(str, data["inputs"])),
        tuple(map(str, data["outputs"])),
        float(data["microseconds"]),
    )
    if not (math.isfinite(part.microseconds) and part.microseconds >= 0):
        raise ValueError(f"a kernel takes {part.microseconds} microseconds")
    return part


def _answered(path: Path, count: int, who: str) -> dict[str, Any]:
    """An answer with as many findings as networks were asked about."""
    data = _object(path, LARGEST_ANSWER)
    if isinstance(data.get("error"), str):
        raise MeasureError(f"{who} says: {data['error']}")
    found = data.get("found")
    if not isinstance(found, list) or len(found) != count:
        raise MeasureError(f"{path} is no answer of {count} measurements")
    return data


def new_id() -> str:
    """A name for a job that no other one has."""
    return secrets.token_hex(8)


def _is_figure(name: str, value: Any) -> bool:
    if name == "clock":
        return value in ("thread", "process", "wall")
    if name == "noisy":
        return isinstance(value, bool)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _object(path: Path, most: int = LARGEST_JOB) -> dict[str, Any]:
    try:
        if path.stat().st_size > most:
            raise MeasureError(f"{path.name} is larger than {most} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise MeasureError(f"{path.name} cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise MeasureError(f"{path.name} holds no JSON object")
    return data


def _subject(data: Any, path: Path) -> Subject:
    names = {field.name for field in fields(Subject)}
    if not isinstance(data, dict) or set(data) != names or not all(isinstance(v, str) for v in data.values()):
        raise MeasureError(f"{path.name}: a network is an object of the texts {', '.join(sorted(names))}")
    if not re.fullmatch(MODEL, data["file"]):
        raise MeasureError(f"{path.name}: {data['file'][:80]!r} is no name of a model file: SHA256.onnx or .tflite")
    return Subject(**data)


def _number(value: Any, name: str, most: float, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise MeasureError(f"{path.name}: {name} must be a number from 0 to {most:g}")
    return value


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise MeasureError(f"the model file {path.name} is missing") from None


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf  # somebody else has it by now
