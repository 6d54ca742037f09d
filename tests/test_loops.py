"""Loop nests: random compositions against an interpreter of the loops, and what each form is."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contracts import check_edit, child_of, outputs, random_inputs, sane_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nests import interpret, size
from validity import check_onnx, check_run

from netgraft.errors import GraphError
from netgraft.ir import Batch, Builder, Edit, Graph, Model, TensorType
from netgraft.loops import (
    FORMS,
    Activate,
    Factor,
    Fuse,
    Group,
    Interchange,
    Nest,
    Program,
    Rewrite,
    Shrink,
    Split,
    Step,
    Unroll,
    edit_of,
    nest_of,
    parts,
    rewritten,
    work,
)

MOST = 15_000
"""Iterations that the interpreter is asked to go through."""


def one_layer(inputs: int, sizes: tuple[int, ...], **attrs: Any) -> Graph:
    b = Builder()
    x = b.input("x", TensorType((Batch(), inputs, *sizes)))
    return b.build(b.add(f"conv{len(sizes)}d", x, id="layer", **attrs))


def dense(inputs: int = 16, outputs: int = 16, **attrs: Any) -> Graph:
    window = {"kernel": (3, 3), "padding": (1, 1)}
    return one_layer(inputs, (8, 8), out_channels=outputs, **{**window, **attrs})


@st.composite
def layers(draw: st.DrawFn) -> Graph:
    """Convolutions of every stride, dilation and padding, in groups or not, over one or two sides."""
    sides = draw(st.sampled_from((1, 2, 2, 2)))

    def window(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(sides))

    groups = draw(st.sampled_from((1, 1, 2)))
    kernel, dilation, padding, stride = window(1, 3), window(1, 2), window(0, 2), window(1, 2)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    sizes = tuple(draw(st.integers(max(1, r - 2 * p), 7)) for r, p in zip(reach, padding, strict=True))
    attrs = {"kernel": kernel, "dilation": dilation, "padding": padding, "stride": stride, "groups": groups}
    inputs, filters = (groups * draw(st.sampled_from((1, 2, 4, 6))) for _ in range(2))
    graph = one_layer(inputs, sizes, out_channels=filters, bias=draw(st.booleans()), **attrs)
    assume(size(nest_of(graph, graph["layer"])) <= MOST)
    return graph


@st.composite
def begun(draw: st.DrawFn, graph: Graph) -> Program:
    """The nest of a layer, or the same with loops that a group needs outermost: random steps seldom get there."""
    given = nest_of(graph, graph["layer"])
    filters, channels = given.loop("o").extent, given.loop("i").extent
    if filters % 2 or channels % 2 or draw(st.booleans()):
        return given
    ready = [Split("o", filters // 2), Split("i", channels // 2), Interchange(("o.0", "i.0"))]
    return rewritten(given, [Step(step) for step in ready])[0]


@st.composite
def steps_of(draw: st.DrawFn, program: Program) -> Step:
    """A random rewrite of a random part of a program; it need not apply."""
    at: tuple[int, ...] = ()
    here = program
    while inner := parts(here):
        number = draw(st.integers(0, len(inner) - 1))
        at, here = (*at, number), inner[number]
    assert isinstance(here, Nest)
    names = st.sampled_from([loop.name for loop in here.loops])
    outer = here.loops[0].extent
    kinds: list[st.SearchStrategy[Rewrite]] = [
        st.builds(Split, names, st.integers(1, 4)),
        st.builds(Split, st.sampled_from(["o", "i", "y0"]), st.integers(1, 3)),
        st.builds(Interchange, st.tuples(names)),
        st.just(Interchange(("o.0", "i.0"))),
        st.builds(Fuse, names, names),
        st.builds(Unroll, names, st.tuples(st.integers(1, 4))),
        st.builds(Shrink, st.integers(0, 1), st.integers(1, max(1, outer - 1))),
        st.just(Group()),
        st.builds(Factor, st.integers(1, 4), st.sampled_from([(), (0,), (0, 1)])),
    ]
    if split := [Fuse(a.name, b.name) for a, b in pairwise(here.loops) if a.name.endswith(".0")]:
        kinds.append(st.sampled_from(split))
    return Step(draw(st.one_of(kinds)), at)


def run(graph: Graph, program: Program) -> tuple[Model, Edit, list[torch.Tensor]]:
    """A layer and the edit that puts a program in its place, with what the program gives by the interpreter."""
    model = sane_model(graph)
    edit = edit_of(graph, graph["layer"], program, "by hand")
    weights = {key: np.asarray(tensor) for key, tensor in model.weights.items()}
    (x,) = random_inputs(graph)
    wanted = torch.from_numpy(np.stack([interpret(program, one.numpy().astype(float), weights) for one in x])).float()
    return model, edit, [wanted]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_random_compositions_compute_what_their_loops_say(data: st.DataObject) -> None:
    graph = data.draw(layers())
    program = data.draw(begun(graph))
    preserved = True
    for _ in range(data.draw(st.integers(1, 7))):
        try:
            program, kept = rewritten(program, [data.draw(steps_of(program))])
            preserved = preserved and kept
        except GraphError:
            continue
    model = sane_model(graph)
    try:
        edit_of(graph, graph["layer"], program, "by hand")
    except GraphError:
        assume(False)
    model, edit, (wanted,) = run(graph, program)
    assert not wanted.isnan().any(), "an output that nothing computes"
    x = random_inputs(graph)
    (got,) = outputs(child_of(model, edit), x)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    if preserved:
        torch.testing.assert_close(got, outputs(model, x)[0], rtol=1e-4, atol=1e-4)


def test_what_is_drawn_above_is_not_all_alike() -> None:
    """Of random steps, each kind applies somewhere, and most programs can be written as operations."""
    applied: set[type] = set()
    written = 0

    @settings(max_examples=40, deadline=None, database=None, derandomize=True)
    @given(data=st.data())
    def look(data: st.DataObject) -> None:
        nonlocal written
        graph = data.draw(layers())
        program = data.draw(begun(graph))
        for _ in range(6):
            step = data.draw(steps_of(program))
            try:
                program, _ = rewritten(program, [step])
                applied.add(type(step.rewrite))
            except GraphError:
                continue
        try:
            edit_of(graph, graph["layer"], program, "by hand")
            written += 1
        except GraphError:
            return

    look()
    assert applied == {Split, Interchange, Fuse, Unroll, Shrink, Group, Factor}
    assert written > 25


CASES = [(name, parameter) for name, form in FORMS.items() for parameter in form.parameters]


@pytest.mark.parametrize(("name", "parameter"), CASES, ids=str)
@pytest.mark.parametrize("attrs", [{}, {"stride": (2, 1), "bias": False}], ids=["plain", "strided"])
def test_every_form_keeps_its_promises(name: str, parameter: Any, attrs: dict[str, Any]) -> None:
    graph = dense(32, 32, **attrs)
    nest = nest_of(graph, graph["layer"])
    program, exact = rewritten(nest, FORMS[name].compose(nest, parameter))
    model = sane_model(graph)
    edit = edit_of(graph, graph["layer"], program, f"program.{name}", exact=exact)
    x = random_inputs(graph)
    check_edit(edit, model, x, outputs(model, x))
    assert check_run(edit.replacement) == []
    assert check_onnx(edit.replacement) == []
    assert exact == (name == "strips")
    assert work(program) < nest.work or name == "strips"


def form(graph: Graph, name: str, parameter: Any) -> tuple[Model, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer's child in a form; its kernel, its input and the child's output."""
    nest = nest_of(graph, graph["layer"])
    program, _ = rewritten(nest, FORMS[name].compose(nest, parameter))
    model = sane_model(graph)
    child = child_of(model, edit_of(graph, graph["layer"], program, name))
    x = random_inputs(graph)
    return child, torch.from_numpy(np.asarray(model.weights["layer.weight"])), x[0], outputs(child, x)[0]


def test_a_group_is_the_dense_layer_with_zeros_off_the_diagonal() -> None:
    child, kernel, x, got = form(dense(bias=False), "group", 4)
    mask = torch.block_diag(*[torch.ones(4, 4)] * 4)[:, :, None, None]
    torch.testing.assert_close(got, F.conv2d(x, kernel * mask, padding=1))
    assert child.graph["layer"].attrs["groups"] == 4


def test_depthwise_is_as_many_groups_as_channels() -> None:
    child, kernel, x, got = form(dense(bias=False), "depthwise", None)
    torch.testing.assert_close(got, F.conv2d(x, kernel * torch.eye(16)[:, :, None, None], padding=1))
    assert child.graph["layer"].attrs["groups"] == 16


def test_an_input_bottleneck_is_the_dense_layer_with_zeros_for_the_other_channels() -> None:
    _, kernel, x, got = form(dense(bias=False), "input_bottleneck", 4)
    kernel[:, 4:] = 0
    torch.testing.assert_close(got, F.conv2d(x, kernel, padding=1))


def test_an_output_bottleneck_repeats_what_it_computes() -> None:
    _, kernel, x, got = form(dense(bias=False), "output_bottleneck", 2)
    whole = F.conv2d(x, kernel, padding=1)
    torch.testing.assert_close(got, torch.cat([whole[:, :8], whole[:, :8]], dim=1))


def test_a_spatial_bottleneck_repeats_every_second_place() -> None:
    _, kernel, x, got = form(dense(bias=False), "spatial_bottleneck", 2)
    whole = F.conv2d(x, kernel, padding=1)
    torch.testing.assert_close(got, whole[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_split_group_has_groups_of_its_own_in_each_part() -> None:
    child, kernel, x, got = form(dense(bias=False), "split_group", (1, 4))
    first = F.conv2d(x, kernel[:8], padding=1)
    mask = torch.block_diag(*[torch.ones(2, 4)] * 4)[:, :, None, None]
    torch.testing.assert_close(got, torch.cat([first, F.conv2d(x, kernel[8:] * mask, padding=1)], dim=1))
    assert [node.attrs["groups"] for node in child.graph if node.op == "conv2d"] == [1, 4]


def test_unroll_group_reads_the_last_channels_in_groups() -> None:
    _, kernel, x, got = form(dense(24, 24, bias=False), "unroll_group", (8, 2))
    dense_part = F.conv2d(x, kernel[:8], padding=1)
    mask = torch.block_diag(torch.ones(8, 8), torch.ones(8, 8))[:, :, None, None]
    rest = F.conv2d(x[:, 8:], kernel[8:, 8:] * mask, padding=1)
    torch.testing.assert_close(got, torch.cat([dense_part, rest], dim=1))


@pytest.mark.parametrize(("name", "share"), [("low_rank", 0.5), ("spatial_low_rank", 0.5)])
def test_low_rank_is_the_nearest_kernel_of_its_rank(name: str, share: float) -> None:
    _, kernel, x, got = form(dense(bias=False), name, share)
    # Rows: what the second layer sees of the kernel; columns: what the first does.
    matrix = kernel.reshape(16, -1) if name == "low_rank" else kernel.permute(0, 3, 1, 2).reshape(16 * 3, -1)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    near = (u[:, :8] * s[:8]) @ v[:8]
    near = near.reshape(kernel.shape) if name == "low_rank" else near.reshape(16, 3, 16, 3).permute(0, 2, 3, 1)
    torch.testing.assert_close(got, F.conv2d(x, near, padding=1), rtol=1e-4, atol=1e-4)


def test_separable_is_the_nearest_window_for_each_channel() -> None:
    child, kernel, x, got = form(dense(bias=False), "separable", None)
    u, s, v = torch.linalg.svd(kernel.transpose(0, 1).reshape(16, 16, 9), full_matrices=False)
    near = torch.einsum("io,it->oit", u[:, :, 0] * s[:, :1], v[:, 0]).reshape(kernel.shape)
    torch.testing.assert_close(got, F.conv2d(x, near, padding=1), rtol=1e-4, atol=1e-4)
    assert [node.attrs["groups"] for node in child.graph] == [16, 1]


def test_a_factorisation_of_full_rank_preserves() -> None:
    graph = dense(4, 6, stride=(2, 2))
    program, exact = rewritten(nest_of(graph, graph["layer"]), [Step(Factor(6, (0, 1)))])
    model, edit, _ = run(graph, program)
    x = random_inputs(graph)
    assert exact
    torch.testing.assert_close(outputs(child_of(model, edit), x), outputs(model, x), rtol=1e-4, atol=1e-4)


def test_an_activation_stands_between_the_two() -> None:
    graph = dense()
    program, exact = rewritten(nest_of(graph, graph["layer"]), [Step(Factor(8, (0, 1))), Step(Activate())])
    edit = edit_of(graph, graph["layer"], program, "by hand")
    assert [node.op for node in edit.replacement] == ["conv2d", "batch_norm", "relu", "conv2d"]
    assert not exact


def test_channels_far_apart_are_shuffled() -> None:
    """Groups of every fourth channel, as in ShuffleNet: an operation that nobody wrote down."""
    graph = dense()
    steps = [Split("o", 4), Split("i", 4), Interchange(("o.1", "i.1")), Group()]
    program, _ = rewritten(nest_of(graph, graph["layer"]), [Step(step) for step in steps])
    model, edit, wanted = run(graph, program)
    torch.testing.assert_close(outputs(child_of(model, edit), random_inputs(graph)), wanted, rtol=1e-4, atol=1e-4)
    shuffle = ["reshape", "permute", "reshape"]
    assert [node.op for node in edit.replacement] == [*shuffle, "conv2d", *shuffle]


REFUSED: list[tuple[list[Rewrite], str]] = [
    ([Interchange(("z",))], "no loop 'z'"),
    ([Split("o", 5)], "16 iterations cannot be cut into runs of 5"),
    ([Fuse("o", "i")], "no loop that was split"),
    ([Unroll("o", (0,))], "no cuts"),
    ([Shrink(0, 16)], "no part of 16"),
    ([Shrink(8, 16)], "from their end"),
    ([Shrink(0, 8), Split("o", 4)], "has been shrunk"),
    ([Group(), Group()], "as many filters as input channels"),
    ([Factor(17, (0, 1))], "a rank of 16"),
    ([Factor(4, (2,))], "2 sides"),
    ([Interchange(("i",)), Shrink(0, 8), Factor(4, ())], "whole, dense"),
    ([Activate()], "between two layers"),
    ([Factor(8, ()), Split("o", 2)], "only a nest has loops"),
]


@pytest.mark.parametrize(("rewrites", "message"), REFUSED)
def test_what_does_not_apply_says_why(rewrites: list[Rewrite], message: str) -> None:
    graph = dense()
    with pytest.raises(GraphError, match=message):
        rewritten(nest_of(graph, graph["layer"]), [Step(rewrite) for rewrite in rewrites])


def test_only_convolutions_have_loops() -> None:
    b = Builder()
    graph = b.build(b.add("relu", b.input("x", TensorType((Batch(), 4, 6, 6))), id="layer"))
    with pytest.raises(GraphError, match="relu is no convolution"):
        nest_of(graph, graph["layer"])


def test_uneven_places_are_no_convolution() -> None:
    graph = dense()
    steps = [Split("y0", 4), Interchange(("y0.1",)), Shrink(0, 3)]
    program, _ = rewritten(nest_of(graph, graph["layer"]), [Step(step) for step in steps])
    with pytest.raises(GraphError, match="uneven distances"):
        edit_of(graph, graph["layer"], program, "by hand")
