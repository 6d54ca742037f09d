"""The page of ``benchmarks/coverage.py``: its rows as docs/coverage.md shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

COLUMNS = (
    *("import", "ops", "known", "FLOPs known", "eval", "train", "batch", "size", "source", "ONNX"),
    *("regions", "child"),
)
PROMISED = ("import", "eval", "train", "batch", "size", "source", "ONNX", "child")
"""The columns that can fail."""


def failures(done: dict[str, Any]) -> dict[str, str]:
    """The cells that failed, with the reasons."""
    said = {column: done[column] for column in PROMISED if isinstance(done.get(column), str)}
    return {column: text for column, text in said.items() if text not in ("ok", "-") and not text.startswith("f64")}


def page(what: str, rows: Sequence[dict[str, Any]], missing: int = 0) -> str:
    """The whole Markdown file; ``what`` describes the benchmark, ``missing`` networks were not come to."""
    shown = [done for done in rows if "skipped" not in done]
    skipped = [done for done in rows if "skipped" in done]
    imported = [done for done in shown if done["import"] == "ok"]
    lines = ["# Which PyTorch networks come in, and come out the same", ""]
    lines += [*what.splitlines()[2:], "", *summary(shown, imported), ""]
    lines += [f"{missing} more networks of the list were not come to.", ""] if missing else []
    lines += ["| network | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
    for done in shown:
        lines.append(f"| {done['name']} | " + " | ".join(cell(done, column) for column in COLUMNS) + " |")
    reasons = [(done["name"], column, why) for done in shown for column, why in failures(done).items()]
    lines += ["", "## Failing cells", ""] if reasons else []
    lines += [f"- {name}, {column}: {_plain(why)}" for name, column, why in reasons]
    frozen: Counter[str] = Counter()
    for done in imported:
        frozen.update(done["why"].keys())
    lines += ["", "## What is frozen, and in how many networks", ""] if frozen else []
    lines += [f"- {_plain(why)}: {count}" for why, count in frozen.most_common()]
    lines += ["", "## What netgraft warned of", ""] if any(done["warnings"] for done in imported) else []
    lines += [f"- {done['name']}: {_plain(text)}" for done in imported for text in done["warnings"]]
    lines += ["", "## Not run", ""] if skipped else []
    lines += [f"- {done['name']}: {_plain(done['skipped'])}" for done in skipped]
    return "\n".join(lines) + "\n"


def summary(shown: Sequence[dict[str, Any]], imported: Sequence[dict[str, Any]]) -> Iterator[str]:
    """How many networks pass each column."""
    yield f"**{len(imported)} of {len(shown)} networks are read.** Of these:"
    yield ""
    for column in PROMISED[1:]:
        asked = [done for done in imported if done.get(column) != "-"]
        passed = sum(column not in failures(done) for done in asked)
        yield f"- {column}: {passed} of {len(asked)}"
    shares = [done["FLOPs known"] for done in imported if isinstance(done.get("FLOPs known"), float)]
    if shares:
        enough = sum(share >= 0.95 for share in shares)
        yield f"- at least 95 % of the FLOPs known: {enough} of {len(shares)}; the mean share is {_mean(shares):.2%}"
        yield f"- the mean share of known operations is {_mean([done['known'] for done in imported]):.2%}"
    times = sorted(done["times"] for done in imported if done["times"])
    if times:
        yield f"- time to read, in times of torch.export's: median {times[len(times) // 2]:.2f}, most {times[-1]:.2f}"


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def cell(done: dict[str, Any], column: str) -> str:
    """One cell as text."""
    value = done.get(column)
    if value is None:
        return ""
    if column == "import":
        return f"{done['seconds']:.1f} s, {done['times'] or '?'}x" if value == "ok" else "**no**"
    if column in ("known", "FLOPs known") and isinstance(value, float | int):
        return f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:.0e}" if value else "0"
    return "**no**" if column in failures(done) else str(value)


def _plain(text: str) -> str:
    return text.partition("\n")[0].replace("|", "\\|").replace("<", "\\<")
