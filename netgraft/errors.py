"""Every error netgraft raises on purpose.

.. code-block:: text

    NetgraftError              one clear message; the command line prints it and exits with 2
    ├── SourceError            a network that cannot be found, read or traced
    ├── DataError              data that cannot be read, or does not fit the network
    ├── OptionError            a goal, limit, budget or flag that makes no sense
    ├── GraphError             a graph, region or edit that breaks the rules of the IR
    │   └── ShapeError         an operation that cannot take the shapes it is given
    ├── ConversionError        a graph that cannot be written as torch, source or ONNX
    ├── MeasureError           a measurement that could not be made
    │   └── MachineError       another machine that does not measure: no network is at fault
    ├── StudyError             a run folder that is missing, damaged or of another run
    └── EmptyFrontError        a search that ended without a single feasible network

A message names the file, node, shape or option it is about and says what would work.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """What to say of a name that does not exist: the nearest one that does, and all of them."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    return f"{what} {name!r}{f'; did you mean {near[0]!r}?' if near else '.'} Known: {', '.join(names)}."


class NetgraftError(Exception):
    """Base of every error a user can cause; its text is meant to be read by that user."""


class SourceError(NetgraftError):
    """A network that cannot be found, read or traced."""


class DataError(NetgraftError):
    """Data that cannot be read, or that does not fit the network."""


class OptionError(NetgraftError):
    """A goal, limit, budget or flag that makes no sense."""


class GraphError(NetgraftError):
    """A graph, region or edit that breaks the rules of the IR."""


class ShapeError(GraphError):
    """An operation that cannot take the shapes it is given."""


class ConversionError(NetgraftError):
    """A graph that cannot be written as torch, source or ONNX."""


class MeasureError(NetgraftError):
    """A measurement that could not be made."""


class MachineError(MeasureError):
    """Another machine that does not measure; no network is at fault."""


class StudyError(NetgraftError):
    """A run folder that is missing, damaged or belongs to another run."""


class EmptyFrontError(NetgraftError):
    """A search that ended without a single feasible network."""
