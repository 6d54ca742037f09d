"""The page: everything a study knows about its finalists, in one HTML file that needs nothing else."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from netgraft.candidate import Trial
from netgraft.errors import OptionError, StudyError
from netgraft.ir import Graph
from netgraft.metrics import UNITS, parse_limit
from netgraft.study import Study

from . import words
from .charts import curves_chart, finalists_chart, trials_chart
from .drawing import Comparison, compare
from .kinds import kinds
from .pictures import pictures
from .summary import Row, Summary, estimated_time, lineage, summarize


@dataclass(frozen=True)
class Story:
    """A finalist with the way that led to it and what it changed."""

    row: Row
    names: tuple[str, ...]
    steps: tuple[Trial, ...]
    comparison: Comparison


def write(study: Study, path: Path | None = None) -> Path:
    """Writes the report of a run, finished or not, and returns its path (``report.html`` in the run folder).

    The file is there whole or not at all. StudyError where the run is damaged or the file cannot be written.
    """
    target = path or study.path / "report.html"
    text = render(study)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    except OSError as error:
        raise StudyError(f"cannot write the report {target}: {error.strerror}") from None
    return target


def render(study: Study) -> str:
    """The report of a run as HTML."""
    summary = summarize(study)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            summary=summary,
            settings=study.settings,
            conditions=_conditions(study),
            teacher=study.settings.get("recipe", {}).get("teacher", False),
            trials=sorted(study.trials.values(), key=lambda trial: trial.number),
            states=Counter(str(trial.state) for trial in study.trials.values() if trial.number),
            seconds=study.seconds,
            finalists=finalists_chart(summary) if summary.rows else None,
            curves=curves_chart(study, summary),
            pictures=pictures(study, summary),
            search=trials_chart(study, summary.quality),
            kinds=kinds(study),
            stories=_stories(study, summary),
            time=partial(estimated_time, study),
            latency=study.note("latency"),
            shortly=any("time" in trial.scores for trial in study.trials.values()),
            run=shlex.quote(str(study.path)),
        )
    )


def _conditions(study: Study) -> str:
    """How the run measured latency: as its limits say, or else by default."""
    engine, threads, batch = "onnxruntime", 1, 1
    for text in study.settings.get("limits", ()):
        with suppress(OptionError):  # a run.json may hold anything
            limit = parse_limit(text, dict.fromkeys(UNITS, 1.0))
            if limit.engine:
                engine, threads, batch = limit.engine, limit.threads, limit.batch
    place = study.settings.get("on")
    where = f"the machine behind {place}" if place else "the processor of the machine of the run"
    return f"in {engine} on {where}, at batch {batch} on {'one thread' if threads == 1 else f'{threads} threads'}"


def _stories(study: Study, summary: Summary) -> list[Story]:
    stories = []
    for row in sorted(summary.rows, key=lambda row: row != summary.pick):
        if row.is_original:
            continue
        steps = lineage(study, row.number)
        before, after = _graph(study, steps[0].model), _graph(study, study.finalists[row.number].model)
        stories.append(Story(row, summary.names(row), steps, compare(before, after)))
    return stories


def _graph(study: Study, model: str | None) -> Graph:
    if model is None:
        raise StudyError(f"{study.path} is damaged: its original has no model")
    return study.load_model(model).graph


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("netgraft.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "quality": words.quality,
        "error": words.error,
        "difference": words.difference,
        "ratio": words.ratio,
        "factors": words.factors,
        "number": words.count,
        "milliseconds": words.milliseconds,
        "share": words.share,
    }
    return environment
