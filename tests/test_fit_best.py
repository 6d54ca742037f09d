"""The quick ways of fitting give what the slow ones would: integer programs for widths, every choice for sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from itertools import product as combinations

import pytest
from contracts import GOLDEN_NAMES, golden
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import graphs

from netgraft.errors import GraphError
from netgraft.fit import choice, fit, widths
from netgraft.fit.choice import Pulls, Wish, choose, cost, favourite, shared, solved, targets
from netgraft.fit.dims import Equations, Linear, Sum
from netgraft.fit.outcome import Misfit
from netgraft.fit.resizing import Attrs, departures, image
from netgraft.fit.sizes import fit_sizes
from netgraft.ir import Graph, Input, Node, Region, Signature, TensorType, parse


def total(pulls: Pulls, values: Mapping[int, int]) -> float:
    return sum(cost(pull, values[unknown]) for unknown, pull in pulls.items())


def by_program(equations: Equations, wishes: Iterable[Wish], scale: float, multiple: int) -> tuple[Pulls, float | None]:
    """What pulls at the unknowns, and the least cost by one integer program over all; None where there is none."""
    sums = equations.sums()
    pulls = targets(equations, sums, wishes, scale, multiple)
    try:
        return pulls, total(pulls, solved(pulls, sums, equations.names)) if pulls else 0.0
    except Misfit:
        return pulls, None


@st.composite
def systems(draw: st.DrawFn) -> tuple[Equations, list[Wish]]:
    """A few unknown widths with wishes, tied by equalities, multiples, totals and differences."""
    equations = Equations()
    wishes = []
    for name in "abcdef"[: draw(st.integers(2, 6))]:
        own, factor = draw(st.integers(1, 60)), draw(st.sampled_from([1, 1, 1, 2, 3]))
        unknown = equations.new(name, own)
        wishes.append(Wish(unknown, factor, own * factor, draw(st.integers(1, 9))))
    numbers = st.integers(0, len(equations.own) - 1)
    for _ in range(draw(st.integers(0, 3))):
        parts = draw(st.lists(numbers, min_size=1, max_size=4, unique=True))
        form = Linear(tuple((u, draw(st.sampled_from([1, 1, 1, 2, -1]))) for u in parts))
        other = draw(st.one_of(st.integers(1, 90), st.builds(lambda u: Linear(((u, 1),)), numbers)))
        try:
            equations.equate(form, other, "here")
        except Misfit:
            assume(False)
    return equations, wishes


@given(systems(), st.floats(0.1, 5), st.sampled_from([1, 1, 8]))
@settings(max_examples=100)
def test_chosen_widths_cost_what_the_program_s_do(
    system: tuple[Equations, list[Wish]], scale: float, multiple: int
) -> None:
    equations, wishes = system
    again = deepcopy(equations)
    try:
        chosen = choose(equations, wishes, scale, multiple)
    except Misfit:
        chosen = None
    try:
        pulls, least = by_program(again, wishes, scale, multiple)
    except Misfit:
        assert chosen is None
        return
    assert (chosen is None) == (least is None)
    if chosen is not None and least is not None:
        for s in equations.sums():
            assert sum(factor * chosen[unknown] for unknown, factor in s.terms) == s.total
        assert min(chosen.values(), default=1) >= 1
        assert total(pulls, chosen) == pytest.approx(least, abs=1e-5)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=2, max_size=5), st.integers(1, 120))
@settings(max_examples=60)
def test_shares_of_a_total_cost_what_the_program_s_do(parts: list[tuple[int, int]], given_total: int) -> None:
    equations = Equations()
    unknowns = [equations.new(f"n{i}", own) for i, (own, _) in enumerate(parts)]
    wishes = [Wish(u, 1, own, weight) for u, (own, weight) in zip(unknowns, parts, strict=True)]
    whole = Sum(tuple((u, 1) for u in unknowns), given_total, "here")
    pulls = targets(equations, [whole], wishes, 1.0, 1)
    shares = shared(pulls, whole)
    if given_total < len(parts):
        assert shares is None
    else:
        assert shares is not None
        assert sum(shares.values()) == given_total
        assert total(pulls, shares) == pytest.approx(total(pulls, solved(pulls, [whole], equations.names)), abs=1e-5)


SEGMENTS = [
    Region.of(names[i : i + n]).extract(graph)
    for graph in map(golden, GOLDEN_NAMES)
    for names in [[node.id for node in graph]]
    for n in (4, 9)
    for i in range(0, len(names) - n, 4)
]


@given(st.one_of(st.sampled_from(SEGMENTS), graphs()), st.data())
@settings(max_examples=120)
def test_segments_are_fitted_as_by_the_program(segment: Graph, data: st.DataObject) -> None:
    """In random segments as they are fitted: the costs agree, and whether there is a fit."""
    wanted = Signature(
        *(tuple(map(_wider(data), types)) for types in (segment.signature.inputs, segment.signature.outputs))
    )
    multiple = data.draw(st.sampled_from([1, 8]))
    compared: list[tuple[float, float]] = []

    def both(equations: Equations, wishes: Iterable[Wish], scale: float, multiple: int) -> dict[int, int]:
        wishes = list(wishes)
        chosen = choose(equations, wishes, scale, multiple)
        pulls, least = by_program(equations, wishes, scale, multiple)
        assert least is not None
        compared.append((total(pulls, chosen), least))
        return chosen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(widths, "choose", both)
        result = fit(segment, wanted, multiple=multiple)
    if isinstance(result, Graph):
        assert all(mine == pytest.approx(least, abs=1e-5) for mine, least in compared)
        assert result.signature == wanted


def _wider(data: st.DataObject):  # type: ignore[no-untyped-def]
    def wider(type: TensorType) -> TensorType:
        axis = 1 if type.rank in (2, 4) else -1
        dims = list(type.shape)
        dims[axis] = max(
            1, int(str(dims[axis])) * data.draw(st.sampled_from([1, 2, 3])) + data.draw(st.sampled_from([0, 0, 1]))
        )
        return type.with_shape(tuple(dims))

    return wider


def test_no_program_is_solved_where_none_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> dict[int, int]:
        raise AssertionError("an integer program was solved")

    monkeypatch.setattr(choice, "solved", refuse)
    text = """graph(x: f32[N,16,8,8]) {
      a = conv2d(x) {out_channels=16, kernel=(1, 1)}
      b = conv2d(x) {out_channels=48, kernel=(3, 3), padding=(1, 1), groups=4}
      s = add(x, a)
      j = concat(s, b)
      c = conv2d(j) {out_channels=64, kernel=(3, 3), padding=(1, 1), stride=(2, 2)}
      d = conv2d(j) {out_channels=32, kernel=(3, 3), padding=(1, 1), stride=(2, 2)}
      k = concat(c, d)
      return k
    }"""
    for inputs, outputs in [("f32[N,24,7,7]", "f32[N,97,4,4]"), ("f32[N,4,1,1]", "f32[N,33,1,1]")]:
        segment, (before, after) = parse(text), map(_parsed, (inputs, outputs))
        assert isinstance(fit(segment, Signature((before,), (after,)), multiple=8), Graph)


def _parsed(text: str) -> TensorType:
    return parse(f"graph(x: {text}) {{\n return x\n}}").inputs[0].type


def test_favourites_are_narrow_among_equals() -> None:
    pulls = [choice.Pull(1, 4.0, 1.0), choice.Pull(1, 8.0, 1.0)]
    assert favourite(pulls) == 4
    assert favourite([choice.Pull(2, 5.0, 1.0)]) == 2


WINDOW = st.builds(
    lambda op, k, s, p: (
        f"conv2d({{}}) {{{{out_channels=4, kernel=({k}, {k}), stride=({s}, {s}), padding=({p}, {p})}}}}"
        if op == "conv2d"
        else f"max_pool2d({{}}) {{{{kernel=({k}, {k}), stride=({s}, {s}), ceil_mode=True}}}}"
    ),
    st.sampled_from(["conv2d", "conv2d", "max_pool2d"]),
    st.integers(1, 4),
    st.sampled_from([1, 1, 2]),
    st.integers(0, 1),
)
BRANCHES = """graph(x: f32[N,4,16,16]) {{
  a = {}
  b = conv2d(a) {{out_channels=4, kernel=(3, 3), padding=(1, 1), stride=({s}, {s})}}
  c = max_pool2d(a) {{kernel=(3, 3), padding=(1, 1), stride=({s}, {s})}}
  s = {join}(b, c)
  return s
}}"""


@given(
    st.one_of(
        st.builds(
            lambda w: (
                "graph(x: f32[N,4,16,16]) {\n a = " + w[0].format("x") + "\n b = " + w[1].format("a") + "\n return b\n}"
            ),
            st.tuples(WINDOW, WINDOW),
        ),
        st.builds(
            lambda w, s, join: BRANCHES.format(w.format("x"), s=s, join=join),
            WINDOW,
            st.sampled_from([1, 2]),
            st.sampled_from(["add", "concat"]),
        ),
    ),
    st.integers(1, 12),
    st.integers(1, 12),
)
@settings(max_examples=60)
def test_no_choice_of_strides_is_more_faithful(text: str, before: int, after: int) -> None:
    segment = parse(text)
    (own,), (out,) = segment.signature.inputs, segment.signature.outputs
    wanted = Signature(
        (own.with_shape((*own.shape[:2], before, before)),), (out.with_shape((*out.shape[:2], after, after)),)
    )
    least = min((price for price, _ in every_choice(segment, wanted)), default=None)
    try:
        chosen = fit_sizes(segment, wanted)
    except Misfit:
        assert least is None
        return
    assert least is not None
    assert price_of(segment, chosen) == pytest.approx(least)


def options(node: Node, segment: Graph) -> list[tuple[float, Attrs]]:
    before, after = image(segment.types[node.inputs[0]]), image(segment.types[node.value()])
    if node.op not in ("conv2d", "max_pool2d") or before is None or after is None:
        return [(0.0, node.attrs)]
    return [(0.0, node.attrs), *departures(node, before, after, before, ())]


def price_of(segment: Graph, chosen: Mapping[str, Attrs]) -> float:
    return sum(
        min(price for price, attrs in options(node, segment) if attrs == chosen[node.id]) * (1 + 0.01 * position)
        for position, node in enumerate(segment)
        if node.id in chosen
    )


def every_choice(segment: Graph, wanted: Signature) -> Iterator[tuple[float, Graph]]:
    """Every graph that the options make of the segment and that has the signature, with its price."""
    inputs = tuple(Input(i.id, t) for i, t in zip(segment.inputs, wanted.inputs, strict=True))
    for taken in combinations(*(options(node, segment) for node in segment)):
        nodes = tuple(
            Node(node.id, node.op, node.inputs, attrs, node.weights)
            for node, (_, attrs) in zip(segment, taken, strict=True)
        )
        try:
            graph = Graph(inputs, nodes, segment.outputs)
        except GraphError:
            continue
        if graph.signature == wanted:
            yield sum(price * (1 + 0.01 * position) for position, (price, _) in enumerate(taken)), graph
