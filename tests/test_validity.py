"""Random children of every kind are networks; and what is wrong with one that is not is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice

import numpy as np
import pytest
import validity
from children import WAYS, draws, random_region
from contracts import GOLDEN_NAMES, golden, sane_model
from validity import KINDS, Failure, check_edit, check_onnx, check_run, check_text, is_affordable, side_by_side

from netgraft.costs import analytic
from netgraft.ir import Batch, Builder, Edit, Graph, Keep, Model, Region, TensorType, Value, apply, parse
from netgraft.segments import default

DRAWS = 400
"""For each of the golden graphs; ``benchmarks/every_child.py`` is the same for more networks and many more draws."""


@cache
def parent(name: str) -> Model:
    return sane_model(golden(name), name=name)


def children_of(name: str, count: int) -> Iterator[tuple[str, Edit]]:
    """The children among ``count`` draws, and how each came about."""
    others = [parent(other).graph for other in GOLDEN_NAMES]
    for draw in islice(draws(parent(name), others, default(), np.random.default_rng(0)), count):
        if draw.edit is not None:
            yield draw.way, draw.edit


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_random_children_are_networks(name: str) -> None:
    assert check_run(parent(name).graph) == []
    ways: Counter[str] = Counter()
    for way, edit in children_of(name, DRAWS):
        child, found = check_edit(parent(name), edit)
        found += check_run(edit.replacement)
        if child is not None and is_affordable(child) and ways.total() % 20 == 0:
            found += check_text(child) + check_run(child)
        assert not found, f"{way}: {found}\n{edit}"
        ways[way] += 1
    assert ways.total() > DRAWS / 3
    assert set(ways) == set(WAYS)


def test_a_sample_of_them_computes_the_same_in_onnxruntime() -> None:
    some = [[edit for _, edit in children_of(name, 12)] for name in GOLDEN_NAMES]
    graphs = [edit.replacement for edits in some for edit in edits if is_affordable(edit.replacement)]
    wholes = [apply(parent(name).graph, edits[0]) for name, edits in zip(GOLDEN_NAMES, some, strict=True)]
    assert len(graphs) > 16
    assert check_onnx(side_by_side([*graphs[::4], *wholes[:2]])) == []


def test_random_regions_leave_standard_deviations_whole() -> None:
    graph = layers(
        "  d = pow(c) {exponent=2}\n  e = mean(d) {dims=(2, 3), keepdim=True}\n  f = sqrt(e)\n  g = add(c, f)\n", "g"
    )
    rng = np.random.default_rng(0)
    found = {len(random_region(graph, rng).nodes & {"d", "e", "f"}) for _ in range(100)}
    assert found == {0, 3}


# A child with one thing wrong is told from a sound one, for every kind of thing.


def image(channels: int = 4) -> TensorType:
    return TensorType((Batch(), channels, 6, 6))


def layers(text: str = "", returned: str = "c") -> Graph:
    """A convolution ``a``, a normalisation ``b`` and a convolution ``c``; ``text`` holds further nodes."""
    return parse(
        "graph(x: f32[N,4,6,6]) {\n"
        "  a = conv2d(x) {out_channels=6, kernel=(3, 3), padding=(1, 1), bias=False}\n"
        "  b = batch_norm(a)\n"
        "  c = conv2d(b) {out_channels=4, kernel=(1, 1)}\n"
        f"{text}  return {returned}\n}}"
    )


def silu() -> Graph:
    b = Builder()
    return b.build(b.add("silu", b.input("in0", image())))


def kinds(found: list[Failure]) -> set[str]:
    return {failure.kind for failure in found}


def sound() -> tuple[Model, Edit]:
    return sane_model(layers("  d = relu(c)\n", "d")), Edit(Region.of(["d"]), silu())


def test_nothing_is_wrong_with_what_is_sound() -> None:
    model, edit = sound()
    child, found = check_edit(model, edit)
    assert child is not None
    assert [*found, *check_text(child), *check_run(child), *check_onnx(child)] == []


def test_a_stored_tensor_is_sound() -> None:
    """Torch's counter stumbles over views of a parameter, such as a class token's."""
    text = "  t = constant() {type=f32[1,4,1,1], trainable=True}\n  d = expand(t) {shape=(N, 4, 6, 6)}\n"
    assert check_run(layers(text + "  e = add(c, d)\n", "e")) == []


def test_every_kind_of_fault_is_planted_below() -> None:
    assert set(KINDS) == {"edit", "text", "digest", "weights", "builds", "shapes", "gradients", *COUNTS, "onnx"}


def test_an_edit_that_does_not_apply_is_found() -> None:
    child, found = check_edit(sound()[0], replace(sound()[1], region=Region.of(["a"])))
    assert (child, kinds(found)) == (None, {"edit"})


def test_a_child_with_loose_ends_is_found() -> None:
    b = Builder()
    x, y = b.input("in0", image()), b.input("in1", image())
    ignoring = b.build(b.add("relu", x))
    assert y.node == "in1"
    model = sane_model(layers("  d = relu(x)\n  e = add(d, c)\n", "e"))
    _, found = check_edit(model, Edit(Region.of(["e"]), ignoring))
    assert found == [Failure("edit", "nothing reads ['a', 'b', 'c'] any more")]


def test_a_text_that_says_less_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    render = validity.render
    monkeypatch.setattr(validity, "render", lambda graph: render(graph).replace("padding=(1, 1), ", ""))
    assert kinds(check_text(layers())) == {"text"}


def test_a_digest_or_a_type_that_was_not_brought_up_to_date_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = validity.apply

    def stale(graph: Graph, edit: Edit) -> Graph:
        child = apply(graph, edit)
        child.__dict__["digest"] = graph.digest
        child.__dict__["types"] = {**child.types, Value("c"): image(5)}
        return child

    monkeypatch.setattr(validity, "apply", stale)
    assert {"digest", "shapes"} <= kinds(check_edit(*sound())[1])


@pytest.mark.parametrize("kind", ["flops", "parameters"])
def test_a_cost_that_an_edit_is_said_to_add_and_does_not_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validity, f"{kind}_change", lambda graph, edit: 1)
    assert kinds(check_edit(*sound())[1]) == {kind}


def test_weights_from_nowhere_are_found() -> None:
    model, edit = sound()
    b = Builder()
    prelu = b.build(b.add("prelu", b.input("in0", image()), id="p"))
    lost = replace(edit, replacement=prelu, carry={"p.weight": Keep("gone.weight")})
    assert kinds(check_edit(model, lost)[1]) == {"weights"}


def frozen(target: str, *shape: int) -> str:
    args = '(("input", 0), (1,), (1,))'
    sizes = ",".join(map(str, shape))
    return f'  d = frozen(c) {{target="aten.{target}.default", args={args}, types=(f32[N,{sizes}],)}}\n'


def test_what_torch_does_not_build_is_found() -> None:
    assert check_run(layers(frozen("roll", 4, 6, 6), "d")) == []
    assert kinds(check_run(layers(frozen("rolled", 4, 6, 6), "d"))) == {"builds"}


def test_a_declared_shape_that_is_not_the_real_one_is_found() -> None:
    found = check_run(layers(frozen("roll", 4, 6, 5), "d"))
    assert kinds(found) == {"shapes"}
    assert "d is declared f32[N,4,6,5] and is torch.float32 (2, 4, 6, 6)" in found[0].message


def test_a_weight_that_nothing_depends_on_is_found() -> None:
    assert check_run(layers("  d = linear(x) {out_features=3}\n")) == [
        Failure("gradients", "no output depends on d.weight"),
        Failure("gradients", "no output depends on d.bias"),
    ]


def test_gradients_that_are_no_numbers_are_found() -> None:
    assert "gradients" in kinds(check_run(layers("  d = sqrt(c)\n", "d")))


COUNTS = {"flops": (analytic, "_taps", lambda node: 4), "parameters": (validity, "parameters", len)}


@pytest.mark.parametrize("kind", COUNTS)
def test_a_count_that_is_not_torchs_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*COUNTS[kind])
    assert kinds(check_run(layers())) == {kind}


@pytest.mark.parametrize("key", ["b.running_var", "c.bias"])
def test_an_onnx_file_of_slightly_other_weights_is_found(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    to_onnx = validity.to_onnx

    def worn(model: Model) -> bytes:
        noise = np.random.default_rng(0).normal(1, 0.01, model.weights[key].shape).astype(np.float32)
        return to_onnx(replace(model, weights={**model.weights, key: model.weights[key] * noise}))

    monkeypatch.setattr(validity, "to_onnx", worn)
    assert kinds(check_onnx(layers())) == {"onnx"}


@pytest.mark.parametrize("graph", [golden(name) for name in GOLDEN_NAMES], ids=GOLDEN_NAMES)
def test_what_is_too_large_runs_as_shapes_only(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validity, "MOST_FLOPS", 0)
    assert not is_affordable(graph)
    assert check_run(graph) == []
    monkeypatch.setattr(analytic, "_taps", lambda node: 4)
    assert kinds(check_run(Graph(graph.inputs, graph.nodes, graph.outputs))) == {"flops"}
