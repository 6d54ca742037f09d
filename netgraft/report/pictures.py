"""What the finalists make of a few examples of the test split, as images that lie within the page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from netgraft.errors import StudyError
from netgraft.study import Study

from .summary import Summary


@dataclass(frozen=True)
class Shown:
    """An image as a data URI: an input, a target, or a network's output with its ``quality`` on that example."""

    label: str
    uri: str
    quality: float | None = None


def pictures(study: Study, summary: Summary) -> list[list[Shown]]:
    """For each example a row: what goes in, what is to come out, and what comes out of the original and of each
    finalist. Empty where the run kept none; an example of which a file is missing, or no picture, is left out.
    """
    rows = []
    for example in (study.note("pictures") or {"examples": []})["examples"]:
        with suppress(StudyError):
            rows.append(_row(study, summary, example))
    return rows


def _row(study: Study, summary: Summary, example: Mapping[str, Any]) -> list[Shown]:
    outputs = {one["number"]: one for one in example["outputs"]}
    row = [Shown(name, _uri(study, example[name])) for name in ("input", "target")]
    for network in summary.rows:
        if network.number in outputs:
            label = " ".join([network.label, *summary.names(network)[:1]])
            one = outputs[network.number]
            row.append(Shown(label, _uri(study, one["picture"]), one["quality"]))
    return row


def _uri(study: Study, name: str) -> str:
    return f"data:image/png;base64,{b64encode(study.load_picture(name)).decode()}"
