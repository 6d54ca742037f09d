"""Labelled networks: what a predictor learns from.

A folder of them holds any number of ``*.jsonl`` files (or ``*.jsonl.gz``), one JSON object a line:

.. code-block:: text

    {"group": "cifar10-short-v1", "score": 71.24, "graph": "graph(x: f32[N,3,32,32]) {..."}
    {"group": "cifar10-short-v1", "score": 71.24, "source": "family:hiaml?seed=3"}

``graph`` is the text of :func:`netgraft.ir.render`, ``source`` a string ``zoo:NAME`` or ``family:NAME`` that names one
network. ``group`` names labels that can be compared with each other: one data set, one training schedule, one quality
(higher is better). Optional are ``cost`` (seconds) and ``origin`` (free text); other keys are ignored.

AutoGO's and GENNAPE's labelled caches (``.pkl``, ``.json``) are read where they lie, each as a group of its own, and so
is the folder of a finished study: every network that was fine-tuned is labelled with its quality. Its group is that of
all runs of one folder name, data and original network; children trained for different numbers of epochs share it.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import IO, Any

from netgraft import sources
from netgraft.candidate import TrialState
from netgraft.convert.autogo import autogo_entries
from netgraft.errors import DataError, NetgraftError, StudyError
from netgraft.ir import Graph, parse, render
from netgraft.study import Study

SUFFIXES = (".jsonl", ".jsonl.gz")
"""Of files of labels; ``.pkl`` and ``.json`` are AutoGO's and GENNAPE's."""

_LONGEST = 2**26
"""Bytes that a line may have."""


@dataclass(frozen=True)
class Label:
    """A trained network and how good it became, higher is better; comparable with others of its ``group`` alone."""

    group: str
    score: float
    graph: Graph
    cost: float | None = None
    origin: str = ""


def read_labels(path: Path) -> Iterator[Label]:
    """The labels of a folder, of a single file, or of a study, in the order of the files' names.

    DataError, naming file and line, for what is no label; for a folder without any. StudyError for a run.json that
    does not say what its labels mean.
    """
    if (path / "run.json").is_file():
        yield from _of_study(path)
        return
    if not path.exists():
        raise DataError(f"{path} does not exist; labels are a folder of {', '.join(SUFFIXES)} files, or a run folder")
    files = sorted(p for p in path.iterdir() if _is_labels(p)) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} holds no labels: no {', '.join(SUFFIXES)}, .pkl or .json file, and no run.json")
    for file in files:
        yield from _of_lines(file) if file.name.endswith(SUFFIXES) else _of_cache(file)


def write_labels(file: IO[str], labels: Iterator[Label]) -> None:
    """Writes labels as lines, with their graphs as text."""
    for label in labels:
        entry: dict[str, Any] = {"group": label.group, "score": label.score, "graph": render(label.graph)}
        entry |= {} if label.cost is None else {"cost": label.cost}
        entry |= {"origin": label.origin} if label.origin else {}
        file.write(json.dumps(entry) + "\n")


def _is_labels(path: Path) -> bool:
    return path.is_file() and path.name.endswith((*SUFFIXES, ".pkl", ".json"))


def _of_lines(path: Path) -> Iterator[Label]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            while line := file.readline(_LONGEST + 1):
                number += 1
                if len(line) > _LONGEST:
                    raise DataError(f"it has more than {_LONGEST // 2**20} MB")
                if line.strip():
                    yield _label(json.loads(line))
    except DataError as error:
        raise DataError(f"{path}, line {number}: {error}") from None
    except (NetgraftError, ValueError, RecursionError) as error:  # of json too, and of bytes that are no text
        raise DataError(f"{path}, line {number}: {error or 'nested too deeply'}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _label(entry: Any) -> Label:
    if not isinstance(entry, dict):
        raise DataError("a label is a JSON object with group, score and graph (or source)")
    group, score, cost = entry.get("group"), _number(entry, "score"), entry.get("cost")
    if not isinstance(group, str) or not group:
        raise DataError("'group' must name the labels that this one can be compared with")
    if score is None:
        raise DataError("'score' is missing")
    return Label(
        group, score, _graph(entry), None if cost is None else _number(entry, "cost"), str(entry.get("origin", ""))
    )


def _number(entry: Mapping[str, Any], key: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise DataError(f"{key!r} must be a finite number, not {str(value)[:40]!r}")
    return float(value)


def _graph(entry: Mapping[str, Any]) -> Graph:
    text, source = entry.get("graph"), entry.get("source")
    if (text is None) == (source is None):
        raise DataError("a label needs either 'graph' or 'source'")
    if text is not None:
        if not isinstance(text, str):
            raise DataError("'graph' must be the text of a graph")
        return parse(text)
    # A file of labels is data: a source that runs somebody's code, or reads other files, is not taken from it.
    if not isinstance(source, str) or not source.startswith(("zoo:", "family:")):
        raise DataError(f"'source' must be a string zoo:NAME or family:NAME, not {str(source)[:80]!r}")
    found = sources.graphs(source)
    graph = next(found)[1]
    if next(found, None) is not None:
        raise DataError(f"{source!r} names several networks, where one has the score")
    return graph


def _of_cache(path: Path) -> Iterator[Label]:
    try:
        for entry in autogo_entries(path):
            if entry.label is not None:
                yield Label(path.stem, entry.label, entry.graph, origin=entry.name)
    except NetgraftError as error:
        raise DataError(str(error)) from None


def _of_study(path: Path) -> Iterator[Label]:
    study = Study.read(path)
    try:
        sign = 1.0 if study.settings["task"]["quality"]["higher_is_better"] else -1.0
    except (LookupError, TypeError):
        raise StudyError(f"{path / 'run.json'} does not say what quality is") from None
    group = _group_of(study)
    for trial in study.trials.values():
        if trial.state is TrialState.COMPLETE and trial.model and isfinite(trial.scores.get("quality", float("nan"))):
            graph = study.load_model(trial.model).graph
            yield Label(group, sign * trial.scores["quality"], graph, trial.seconds, trial.origin)


def _group_of(study: Study) -> str:
    """Names the labels of a run: runs in folders of one name are apart if their data or their original is."""
    try:
        origin = f"{study.settings['examples']} {study.settings['network']}"
    except LookupError:
        raise StudyError(f"{study.path / 'run.json'} does not say on what data which network was trained") from None
    return f"{study.path.resolve().name} {blake2b(origin.encode(), digest_size=4).hexdigest()}"
