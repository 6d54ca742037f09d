"""Labels of entries, and what is known of the atoms they are made of: equal, never dropped, or a product of others.

A dimension of a tensor is labelled by an array of atoms of shape (entries, columns): an entry is there as long as all
the atoms of its row are. Two entries with the same row come and go together. ``None`` stands for a dimension of which
nothing is ever dropped, and atom 0 for a place in a label where there is nothing to drop.

What takes a dimension apart (a reshape of channels into heads, the groups of a convolution) says that an atom is there
as long as one atom of each part is; :meth:`Atoms.units` puts the parts in its place, so that a label in its final form
holds *units*: atoms that can be dropped, each on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Label = Ints | None

_FREE: Final = 2**31
"""The reason of an atom that has none to stay."""
_DEEPEST: Final = 32
"""How often parts may be products of parts."""


class Atoms:
    """A union-find over atoms, whole arrays at a time."""

    def __init__(self) -> None:
        self._root: Ints = np.zeros(1024, np.int64)
        self._reason: Ints = np.full(1024, _FREE, np.int64)
        self._count = 1  # of atom 0
        self._starts: list[int] = [0]
        self._definitions: list[tuple[Ints, Ints]] = []
        self._reasons: dict[str, int] = {}

    def fresh(self, size: int) -> Ints:
        """The label of new entries."""
        start, self._count = self._count, self._count + size
        self._starts.append(start)
        while self._count > len(self._root):
            more = len(self._root)
            self._root = np.concatenate([self._root, np.zeros(more, np.int64)])
            self._reason = np.concatenate([self._reason, np.full(more, _FREE, np.int64)])
        new = np.arange(start, self._count)
        self._root[start : self._count] = new
        return new[:, None]

    def pin(self, label: Label, why: str) -> None:
        """Nothing of a dimension is dropped, because of ``why``."""
        if label is not None:
            code = self._reasons.setdefault(why, len(self._reasons))
            atoms = label[label > 0]
            self._reason[atoms] = np.minimum(self._reason[atoms], code)

    def same(self, one: Label, other: Label, why: str) -> Label:
        """The label of two dimensions whose entries come and go together; ``why`` is what makes them, for people."""
        if one is other:
            return one
        if one is None or other is None:
            self.pin(one, why)
            self.pin(other, why)
            return None
        if one.shape == other.shape:
            self._unify(one.ravel(), other.ravel(), why)
            return one
        if one.shape[1] > other.shape[1]:
            one, other = other, one
        if one.shape[1] == 1:
            self._definitions.append((one[:, 0], other))
            return other
        self.pin(one, why)
        self.pin(other, why)
        return None

    def split(self, label: Label, sizes: Sequence[int]) -> list[Label]:
        """The labels of the dimensions of ``sizes`` that one dimension is taken apart into, the first one outermost.

        What is left of the whole is a product of what is left of the parts, so atoms that differ along several parts
        become products of new ones.
        """
        wide = [axis for axis, size in enumerate(sizes) if size > 1]
        if label is None or len(wide) < 2:
            return [label if axis in wide else None for axis in range(len(sizes))]
        columns: list[list[Ints]] = [[] for _ in sizes]
        for column in self._root[label].T:
            cube = column.reshape(sizes)
            along = next((axis for axis in wide if (cube == _first(cube, axis)).all()), None)
            if along is not None:
                columns[along].append(_first(cube, along).ravel())
                continue
            parts = []
            for axis in wide:
                others = tuple(other for other in range(len(sizes)) if other != axis)
                # An entry that stays takes the whole row and column that it is in with it.
                part = np.where((cube == 0).any(axis=others), 0, self.fresh(sizes[axis])[:, 0])
                columns[axis].append(part)
                shape = [-1 if other == axis else 1 for other in range(len(sizes))]
                parts.append(np.broadcast_to(part.reshape(shape), sizes).ravel())
            self._definitions.append((column, np.stack(parts, axis=1)))
        return [_tidy(np.stack(part, axis=1)) if part else None for part in columns]

    def units(self) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """For every atom the units that it stands for, as rows with zeros behind them; and which atoms are units."""
        self._settle()
        count = self._count
        root, reason = self._root[:count], self._reasons_of_roots()
        standing = np.where(reason < _FREE, 0, root)[:, None]
        defined = np.zeros(count, bool)
        if self._definitions:
            table, known = self._products()
            defined[known] = True
            defined &= reason == _FREE
            for _ in range(_DEEPEST):
                still = defined[standing]
                if not still.any():
                    break
                rows = np.where(still[:, :, None], table[standing], 0)
                rows[:, :, 0] = np.where(still, rows[:, :, 0], standing)
                standing = _without_repeats(np.where(reason[rows] < _FREE, 0, root[rows]).reshape(count, -1))
            else:
                self.pin(standing[defined[standing]], "channels taken apart in circles")
                return self.units()
        free = (root == np.arange(count)) & (reason == _FREE) & ~defined
        return standing, free

    def families(self, units: npt.NDArray[np.bool_]) -> Ints:
        """For every atom the family of its unit, by number: those made at once, and those equal to one of them."""
        starts, root = np.array(self._starts), self._root[: self._count]
        made = np.searchsorted(starts, np.arange(self._count), side="right") - 1
        family = np.arange(len(starts))
        here = np.flatnonzero(units[root])
        while True:
            a, b = family[made[here]], family[made[root[here]]]
            differ = a != b
            if not differ.any():
                return family[made[root]]
            np.minimum.at(family, np.maximum(a, b)[differ], np.minimum(a, b)[differ])
            while ((shorter := family[family]) != family).any():
                family = shorter

    def why(self, label: Label) -> str:
        """Why some entry of a dimension stays, or nothing where none has to."""
        if label is None:
            return ""
        code = int(self._reasons_of_roots()[label[label > 0]].min(initial=_FREE))
        return next((why for why, number in self._reasons.items() if number == code), "")

    def _reasons_of_roots(self) -> Ints:
        """For every atom the code of the first reason why its class stays."""
        root = self._root[: self._count]
        first = np.full(self._count, _FREE, np.int64)
        np.minimum.at(first, root, self._reason[: self._count])
        first = first[root]
        first[0] = _FREE - 1
        return first

    def _settle(self) -> None:
        """Draws the conclusions from products: two of one atom have equal parts, and what stays has parts that do."""
        changed = bool(self._definitions)
        while changed:
            before, reasons = self._root[: self._count].copy(), self._reason[: self._count].copy()
            reason = self._reasons_of_roots()
            for whole, parts in self._definitions:
                staying = reason[whole]
                for column in parts.T:
                    np.minimum.at(self._reason, column, staying)
                    # An atom that is a product with itself stays no longer than the other parts do.
                    itself = (self._root[parts] == self._root[whole][:, None]).any(axis=1) & (whole > 0) & (column > 0)
                    self._unify(column[itself], whole[itself], "channels that are a part of themselves")
            self._match()
            changed = bool(
                (before != self._root[: self._count]).any() or (reasons != self._reason[: self._count]).any()
            )

    def _match(self) -> None:
        """Parts of the same atom, side by side, are equal."""
        by_width: dict[int, list[tuple[Ints, Ints]]] = {}
        for whole, parts in self._definitions:
            by_width.setdefault(parts.shape[1], []).append((whole, parts))
        seen: set[int] = set()
        for found in by_width.values():
            wholes = self._root[np.concatenate([whole for whole, _ in found])]
            parts = np.concatenate([part for _, part in found])
            order = np.argsort(wholes, kind="stable")
            wholes, parts = wholes[order], parts[order]
            again = np.flatnonzero(wholes[1:] == wholes[:-1])
            self._unify(parts[again].ravel(), parts[again + 1].ravel(), "two ways of taking channels apart")
            # Taken apart in two and in three: no rule says which parts are which.
            clash = np.isin(wholes, list(seen))
            self.pin(parts[clash], "two ways of taking channels apart")
            self.pin(wholes[clash], "two ways of taking channels apart")
            seen.update(wholes.tolist())

    def _products(self) -> tuple[Ints, Ints]:
        """A table of the parts of each root that has some, and these roots."""
        width = max(parts.shape[1] for _, parts in self._definitions)
        table = np.zeros((self._count, width), np.int64)
        known = []
        for whole, parts in self._definitions:
            roots = self._root[whole]
            product = np.zeros((len(roots), width), np.int64)
            product[:, : parts.shape[1]] = self._root[parts]
            real = ~(product == roots[:, None]).any(axis=1)  # a product with itself has been dealt with
            table[roots[real]] = product[real]
            known.append(roots[real])
        return table, np.unique(np.concatenate(known))

    def _unify(self, one: Ints, other: Ints, why: str) -> None:
        kept = (one == 0) | (other == 0)
        if kept.any():
            self.pin(one[kept], why)
            self.pin(other[kept], why)
            one, other = one[~kept], other[~kept]
        root = self._root[: self._count]
        while True:
            a, b = root[one], root[other]
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
            while ((shorter := root[root]) != root).any():
                root[:] = shorter


def merge(labels: Sequence[Label], sizes: Sequence[int]) -> Label:
    """The label of the one dimension that several of ``sizes`` become, the first one outermost."""
    known = [label for label in labels if label is not None]
    if len(known) == 1 and len(known[0]) == prod(sizes):
        return known[0]
    columns = []
    for axis, label in enumerate(labels):
        if label is not None:
            columns.append(np.tile(np.repeat(label, prod(sizes[axis + 1 :]), axis=0), (prod(sizes[:axis]), 1)))
    return np.concatenate(columns, axis=1) if columns else None


def join(labels: Sequence[Label], sizes: Sequence[int]) -> Label:
    """The label of dimensions of ``sizes`` put one behind the other."""
    if all(label is None for label in labels):
        return None
    width = max(label.shape[1] for label in labels if label is not None)
    whole = np.zeros((sum(sizes), width), np.int64)
    start = 0
    for label, size in zip(labels, sizes, strict=True):
        if label is not None:
            whole[start : start + size, : label.shape[1]] = label
        start += size
    return whole


def part(label: Label, start: int, stop: int) -> Label:
    """The label of the entries from ``start`` to before ``stop``; a single one is never dropped by itself."""
    return None if label is None else _tidy(label[start:stop])


def _tidy(label: Ints) -> Label:
    used = label.any(axis=0)
    return label if used.all() else label[:, used] if used.any() else None


def _first(cube: Ints, axis: int) -> Ints:
    """What stands at the beginning of all other axes."""
    return cube[tuple(slice(None) if other == axis else slice(0, 1) for other in range(cube.ndim))]


def _without_repeats(rows: Ints) -> Ints:
    """Rows of units with each of them once, in order, and zeros behind; no wider than needed."""
    rows = -np.sort(-rows, axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = 0
    rows = -np.sort(-rows, axis=1)
    return rows[:, : max(1, int((rows > 0).sum(axis=1).max(initial=1)))]
