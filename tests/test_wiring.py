"""Wiring: all ways that types allow, each once, and what a wired segment computes."""

from __future__ import annotations

from itertools import islice, permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgraft.ir import Batch, Signature, TensorType, parse
from netgraft.mutations.wiring import Wiring, alike, shuffled, wirings

A, B = (TensorType((Batch(), channels, 4, 4)) for channels in (8, 16))
V = TensorType((Batch(), 8))


def ways(segment: tuple[str, str], region: tuple[str, str], seed: int = 0) -> set[Wiring]:
    """The wirings between signatures of A, B and V, written like ``("AA", "B")``."""
    found = list(wirings(named(segment), named(region), np.random.default_rng(seed)))
    assert len(set(found)) == len(found)
    return set(found)


def named(ends: tuple[str, str]) -> Signature:
    inputs, outputs = (tuple({"A": A, "B": B, "V": V}[name] for name in end) for end in ends)
    return Signature(inputs, outputs)


@pytest.mark.parametrize(
    ("segment", "region", "count"),
    [
        (("A", "A"), ("B", "B"), 1),
        (("AA", "A"), ("AB", "A"), 2),  # either way round
        (("AA", "A"), ("A", "A"), 1),  # one value feeds both
        (("AAA", "A"), ("AA", "A"), 6),  # which of them reads the same as another
        (("A", "A"), ("AA", "A"), 0),  # a value would be read by nobody
        (("AV", "A"), ("VA", "A"), 1),  # ranks decide
        (("V", "A"), ("A", "A"), 0),
        (("A", "AA"), ("A", "AB"), 2),
        (("A", "A"), ("A", "AA"), 1),  # read in both places
        (("A", "A"), ("A", "AB"), 0),  # one value cannot have two types
        (("A", "AA"), ("A", "AAA"), 6),
        (("A", "AA"), ("A", "A"), 0),  # an output would be read by nobody
        (("AA", "AA"), ("AA", "AA"), 4),
    ],
)
def test_every_way_is_found(segment: tuple[str, str], region: tuple[str, str], count: int) -> None:
    assert len(ways(segment, region)) == count


@given(*[st.text("ABV", max_size=3)] * 4)
def test_ways_are_those_that_use_everything(own_in: str, own_out: str, entering: str, leaving: str) -> None:
    segment, region = named((own_in, own_out)), named((entering, leaving))
    expected = set()
    for into in product(range(len(entering)), repeat=len(own_in)):
        for out in product(range(len(own_out)), repeat=len(leaving)):
            pairs = [(own, region.inputs[i]) for own, i in zip(segment.inputs, into, strict=True)]
            pairs += [(segment.outputs[i], type) for i, type in zip(out, region.outputs, strict=True)]
            read = {(i, type) for i, type in zip(out, region.outputs, strict=True)}
            if (
                all(alike(own, type) for own, type in pairs)
                and set(into) == set(range(len(entering)))
                and len(read) == len({i for i, _ in read}) == len(own_out)
            ):
                expected.add(Wiring(into, out))
    assert ways((own_in, own_out), (entering, leaving)) == expected


def test_seeds_give_other_orders_of_the_same() -> None:
    orders = {
        tuple(wirings(named(("AAA", "A")), named(("AA", "A")), np.random.default_rng(seed)))
        for seed in (0, 0, 1, 2, 3, 4)
    }
    assert 1 < len(orders) < 6
    assert len({frozenset(order) for order in orders}) == 1


def test_many_ways_are_found_as_well_as_few() -> None:
    assert len(ways(("A" * 5, "A"), ("A" * 5, "A"))) == 120
    # Of 10^19 assignments one in 10^8 leaves nothing out: looking through them would take for ever.
    both = named(("A" * 10, "A" * 10))
    found = list(islice(wirings(both, both, np.random.default_rng(0)), 500))
    assert len(set(found)) == 500
    assert all(sorted(way.inputs) == sorted(way.outputs) == list(range(10)) for way in found)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 12, 97])
def test_shuffled_numbers_come_once_each(count: int) -> None:
    for seed in range(5):
        assert sorted(shuffled(count, np.random.default_rng(seed))) == list(range(count))


DIFFERENCE = """graph(x: f32[N,8,4,4], y: f32[N,8,4,4]) {
  d = sub(x, y)
  r = relu(d)
  return d, r
}"""


@pytest.mark.parametrize("into", list(permutations(range(2))))
@pytest.mark.parametrize("out", list(permutations(range(2))))
def test_wires_go_where_the_wiring_says(into: tuple[int, int], out: tuple[int, int]) -> None:
    wired = Wiring(into, out).around(parse(DIFFERENCE), named(("AA", "AA")))
    assert wired.signature == named(("AA", "AA"))
    names = [given.id for given in wired.inputs]
    assert [names.index(value.node) for value in wired["d"].inputs] == list(into)
    assert [value.node for value in wired.outputs] == [("d", "r")[i] for i in out]


def test_one_value_may_feed_several_inputs_and_one_output_several_places() -> None:
    wiring, region = Wiring((0, 0), (1, 0, 1)), named(("A", "AAA"))
    wired = wiring.around(parse(DIFFERENCE), region)
    assert wired.signature == region
    assert len(set(wired["d"].inputs)) == 1
    assert [value.node for value in wired.outputs] == ["r", "d", "r"]


def test_what_to_fit_has_the_types_of_what_is_read() -> None:
    assert Wiring((1, 0, 1), (0, 1, 0)).inside(named(("AB", "BAB"))) == named(("BAB", "BA"))
