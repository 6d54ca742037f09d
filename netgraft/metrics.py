"""Goals and limits on metrics: what candidates are judged by, and how a user writes it down.

Goals are metric names (``quality``, ``latency``). Limits are written ``METRIC<=NUMBER`` with an ``x`` for "times the
original's" or a unit: ``flops<=0.9x``, ``parameters<=200k``, ``latency<=5ms``, ``memory<=2MB``, ``quality>=0.99x``.
A limit on latency may name the engine that it is measured in: ``latency<=5ms@openvino``, ``latency<=0.6x@onnxruntime``,
and how many threads it has and how many inputs at once: ``latency<=5ms@openvino?threads=4&batch=8`` (1 of both by
default).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, isinf
from typing import Final

from netgraft.errors import OptionError, unknown


@dataclass(frozen=True)
class Goal:
    """A metric to improve."""

    metric: str
    higher_is_better: bool = False

    def cost(self, scores: Mapping[str, float]) -> float:
        """The score as something to minimise."""
        return -scores[self.metric] if self.higher_is_better else scores[self.metric]


@dataclass(frozen=True)
class Limit:
    """A bound on a metric, in the metric's own unit; ``engine`` is empty where the limit names none. Latency is that of
    ``batch`` inputs on ``threads`` threads.
    """

    metric: str
    bound: float
    upper: bool
    text: str
    engine: str = ""
    threads: int = 1
    batch: int = 1

    @property
    def is_relative(self) -> bool:
        """Whether it was given in multiples of the original's score."""
        return self.text.partition("@")[0].rstrip().endswith("x")

    def violation(self, scores: Mapping[str, float]) -> float:
        """By how much of the bound the score breaks the limit; 0 where it is kept, infinite for no number."""
        excess = scores[self.metric] - self.bound if self.upper else self.bound - scores[self.metric]
        return max(0.0, excess) / (abs(self.bound) or 1.0) if isfinite(excess) else inf


UNITS: Final[Mapping[str, Mapping[str, float]]] = {
    "quality": {"": 1, "%": 1, "dB": 1},
    "latency": {"ms": 1, "us": 1e-3, "s": 1e3},
    "flops": {"": 1, "k": 1e3, "M": 1e6, "G": 1e9},
    "parameters": {"": 1, "k": 1e3, "M": 1e6, "G": 1e9},
    "memory": {"": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9},
}
"""The metrics that goals and limits can name, with the units they can be given in."""

_LIMIT = re.compile(r"\s*([a-z_]+)\s*(<=|>=)\s*([-+.\deE]+)\s*([^\s@]*)\s*(?:@\s*([\w.-]*)(?:\?(\S*))?\s*)?")


def _known(name: str, what: str) -> str:
    if name in UNITS:
        return name
    raise OptionError(unknown(f"unknown {what}", name, UNITS))


def parse_goals(texts: Sequence[str], *, quality_is_higher_better: bool = True) -> tuple[Goal, ...]:
    """The goals in order, without repeats; OptionError for an unknown one."""
    if not texts:
        raise OptionError(f"at least one goal is needed; known: {', '.join(UNITS)}")
    names = dict.fromkeys(_known(text.strip(), "goal") for text in texts)
    return tuple(Goal(name, quality_is_higher_better if name == "quality" else False) for name in names)


def parse_limit(text: str, original: Mapping[str, float]) -> Limit:
    """A limit as a user writes it; ``original`` holds the scores of the network to start from, for ``x``.

    OptionError where it cannot be read, names an unknown metric or unit, or leaves nothing possible.
    """
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise OptionError(f"cannot read the limit {text!r}; write it like 'flops<=0.9x' or 'latency<=5ms'")
    name, sign, digits, unit, engine, how = match.groups()
    _known(name, "metric in a limit")
    try:
        number = float(digits)
    except ValueError:
        raise OptionError(f"cannot read the number {digits!r} in the limit {text!r}") from None
    if unit == "x":
        bound = number * original[name]
    elif unit in UNITS[name]:
        bound = number * UNITS[name][unit]
    else:
        units = ", ".join(filter(None, UNITS[name]))
        raise OptionError(f"the limit {text!r} has the unit {unit!r}; {name} takes x (times the original's), {units}")
    if engine is not None and (name != "latency" or not engine):
        raise OptionError(
            f"the limit {text!r} names no engine that {name} is measured in; only latency is, as in "
            "'latency<=5ms@onnxruntime'"
        )
    if isinf(bound):
        raise OptionError(f"the limit {text!r} limits nothing: {digits} is too large; write it like 'latency<=5ms'")
    if sign == "<=" and bound <= 0 and name != "quality":
        raise OptionError(f"the limit {text!r} is impossible: no network has a {name} of {bound:g} or less")
    counts: dict[str, int] = {}
    for part in filter(None, (how or "").split("&")):
        key, _, count = part.partition("=")
        if key not in ("threads", "batch") or key in counts or not count.isdecimal() or int(count) < 1:
            raise OptionError(
                f"cannot read {part!r} in the limit {text!r}; an engine takes threads and batch, each once, as in "
                "'latency<=5ms@onnxruntime?threads=4&batch=8'"
            )
        counts[key] = int(count)
    return Limit(name, bound, sign == "<=", text.strip(), engine or "", **counts)
