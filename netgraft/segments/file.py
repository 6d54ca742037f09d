"""Banks as files: gzipped JSON, column by column.

A stranger's file is data and nothing else: it is unpacked and read within bounds, every value is checked before it is
used, and a segment's graph once more when it is parsed. ``zcat FILE | python -m json.tool`` shows what is in one.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from netgraft.errors import GraphError, SourceError
from netgraft.ir import OPS, Signature
from netgraft.ir.text import parse_type

from .bank import NUMBERS, Bank, Columns, Numbers
from .bpe import LONGEST, Vocabulary

_T = TypeVar("_T")

FORMAT = "netgraft segment bank"
VERSION = 2
_LARGEST = 256 << 20
"""Bytes of JSON: some 400,000 segments."""
_MOST_VALUES = 1 << 23
"""Values in it: a segment has some 14. An empty list takes twenty times its own bytes once it is read."""
_BEFORE_VALUES = b",", b"[", b"{"
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_LONGEST_TEXT = 1 << 16
_MOST_PARAMETERS = _MOST_ELEMENTS = 1 << 32


def save(bank: Bank, path: Path) -> None:
    """Writes the bank; the same bank gives the same bytes. SourceError where it is too large to be read again."""
    columns = bank.columns
    data: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "tokens": bank.vocabulary.tokens,
        "merges": bank.vocabulary.merges,
        "signatures": [[[str(t) for t in end] for end in (s.inputs, s.outputs)] for s in columns.signatures],
        "opsets": [sorted(ops) for ops in columns.opsets],
        "provenances": columns.provenances,
        "digest": columns.digests,
        "graph": columns.texts,
    }
    data |= {name: column.tolist() for name, column in columns.numbers.items()}
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":")).encode()
    if len(text) > _LARGEST:
        raise SourceError(
            f"the bank of {len(bank)} segments takes {len(text) >> 20} MB, more than the {_LARGEST >> 20} MB that "
            "can be read again; keep only segments that occur more often"
        )
    if _values(text) > _MOST_VALUES:
        raise SourceError(
            f"the bank of {len(bank)} segments holds more values than can be read again; keep only segments that occur "
            "more often"
        )
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(gzip.compress(text, 9, mtime=0))
        partial.replace(path)
    except OSError as error:
        raise SourceError(f"cannot write the segment bank {path}: {error.strerror}") from None


def load(path: Path) -> Bank:
    """The bank in a file that :func:`save` wrote; SourceError says what is wrong with any other.

    Nothing in it is run or evaluated. Segments' graphs are read when they are first used: see :attr:`Segment.graph`.
    """
    try:
        if not path.is_file():
            raise SourceError(f"there is no segment bank {path}; 'netgraft bank mine' writes one")
        if path.stat().st_size > _LARGEST:
            raise SourceError(f"{path} has {path.stat().st_size >> 20} MB, too many for a segment bank")
        packed = path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read the segment bank {path}: {error.strerror}") from None
    return _read(packed, str(path))


@cache
def default() -> Bank:
    """The bank that comes with netgraft: of the zoo, and what is frequent in the families that AutoGO mined.

    ``make bank`` mines it anew and compares it byte by byte.
    """
    file = resources.files("netgraft.segments") / "default.bank"
    return _read(file.read_bytes(), "netgraft's own bank")


def _read(packed: bytes, name: str) -> Bank:
    try:
        data = json.loads(_unpack(packed))
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise _Damaged("this is no segment bank; 'netgraft bank mine' writes one")
        if data.get("version") != VERSION:
            raise _Damaged(
                f"this is a segment bank of version {str(data.get('version'))[:20]}, and this netgraft reads version "
                f"{VERSION}; mine it again with 'netgraft bank mine'"
            )
        return Bank(_columns(data), _vocabulary(data), name)
    except _Damaged as error:
        raise SourceError(f"{name}: {error}") from None
    except (ValueError, RecursionError, OverflowError, MemoryError):  # no JSON, or numbers beyond all sense
        raise SourceError(f"{name}: the segment bank is damaged; copy or mine it again") from None


class _Damaged(Exception):
    """What is wrong with a file, without its name."""


def _unpack(packed: bytes) -> bytes:
    if not packed.startswith(b"\x1f\x8b"):
        raise _Damaged("this is no segment bank; 'netgraft bank mine' writes one")
    stream = zlib.decompressobj(wbits=31)
    try:
        text = stream.decompress(packed, _LARGEST)
    except zlib.error:
        raise _Damaged("the segment bank is damaged; copy or mine it again") from None
    if stream.unconsumed_tail:
        raise _Damaged(f"the file unpacks to more than {_LARGEST >> 20} MB, too many for a segment bank")
    if not stream.eof:
        raise _Damaged("the segment bank is cut short; copy it again")
    if stream.unused_data:
        raise _Damaged("something follows the end of the segment bank; copy it again")
    if _values(text) > _MOST_VALUES:
        raise _Damaged("the file holds more values than a segment bank can")
    return text


def _values(text: bytes) -> int:
    """How many values JSON holds, or somewhat more, without reading it."""
    count = sum(map(text.count, _BEFORE_VALUES))
    if count > _MOST_VALUES:  # strings hold many
        count = sum(map(_STRING.sub(b"", text).count, _BEFORE_VALUES))
    return count


def _vocabulary(data: dict[str, Any]) -> Vocabulary:
    tokens = _strings(data, "tokens")
    lengths = [1] * len(tokens)
    merges = []
    for merge in _list(data, "merges"):
        if not isinstance(merge, list) or [type(entry) for entry in merge] != [int, int]:
            raise _Damaged("a merge of its vocabulary is no pair of numbers")
        if not 0 <= min(merge) <= max(merge) < len(lengths) or lengths[merge[0]] + lengths[merge[1]] > LONGEST:
            raise _Damaged(f"the vocabulary cannot merge {merge}")
        lengths.append(lengths[merge[0]] + lengths[merge[1]])
        merges.append((merge[0], merge[1]))
    if len(set(tokens)) < len(tokens) or len(set(merges)) < len(merges):
        raise _Damaged("its vocabulary holds an entry twice")
    return Vocabulary(tokens, tuple(merges))


def _columns(data: dict[str, Any]) -> Columns:
    read_type = cache(parse_type)

    def signature(value: Any) -> Signature:
        inputs, outputs = value
        types = Signature(tuple(map(read_type, inputs)), tuple(map(read_type, outputs)))
        if any(t.numel() >= _MOST_ELEMENTS for t in (*types.inputs, *types.outputs)):
            raise ValueError("a tensor beyond all sense")
        return types

    def opset(value: Any) -> frozenset[str]:
        ops = frozenset(value)
        if not ops <= OPS.keys():
            raise ValueError(f"{sorted(ops - OPS.keys())[0]!r} is no operation")
        return ops

    def provenance(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not set(map(type, value)) <= {str}:
            raise ValueError("no list of names")
        return tuple(value)

    signatures = _shared(data, "signatures", signature)
    opsets = _shared(data, "opsets", opset)
    provenances = _shared(data, "provenances", provenance)
    digests, texts = _strings(data, "digest"), _strings(data, "graph")
    count = len(digests)
    if not all(map(re.compile("[0-9a-f]{16}").fullmatch, digests)) or len(set(digests)) < count:
        raise _Damaged("its digests are not those of distinct segments")
    if len(texts) != count or max(map(len, texts), default=0) > _LONGEST_TEXT:
        raise _Damaged("its graphs are not those of its segments")
    above = {
        "signature": len(signatures),
        "ops": len(opsets),
        "provenance": len(provenances),
        "nodes": LONGEST + 1,
        "parameters": _MOST_PARAMETERS,
    }
    numbers = {
        name: _numbers(data, name, count, int(name in ("nodes", "frequency")), above.get(name, 1 << 62))
        for name in NUMBERS
    }
    return Columns(list(digests), list(texts), numbers, signatures, opsets, provenances)


def _list(data: dict[str, Any], name: str) -> list[Any]:
    found = data.get(name)
    if not isinstance(found, list):
        raise _Damaged(f"it has no list of {name}")
    return found


def _strings(data: dict[str, Any], name: str) -> tuple[str, ...]:
    found = _list(data, name)
    if not set(map(type, found)) <= {str}:
        raise _Damaged(f"its list of {name} holds something else than strings")
    return tuple(found)


def _numbers(data: dict[str, Any], name: str, count: int, least: int, above: int) -> Numbers:
    found = _list(data, name)
    if len(found) != count or not set(map(type, found)) <= {int}:
        raise _Damaged(f"its list of {name} is not one whole number for each of its {count} segments")
    column = np.array(found, dtype=np.int64)
    if count and not least <= column.min() <= column.max() < above:
        raise _Damaged(
            f"the {name} of segment {int(np.argmax((column < least) | (column >= above))) + 1} is out of bounds"
        )
    return column


def _shared(data: dict[str, Any], name: str, read: Callable[[Any], _T]) -> tuple[_T, ...]:
    values: Sequence[Any] = _list(data, name)
    found = []
    for i, value in enumerate(values):
        try:
            found.append(read(value))
        except (GraphError, ValueError, TypeError, AttributeError) as error:
            raise _Damaged(f"entry {i + 1} of its {name} cannot be read ({str(error)[:200]})") from None
    return tuple(found)
