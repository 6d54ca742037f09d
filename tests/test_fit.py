"""Shape fitting: each op's rule, odd and tiny sizes, and that every fit has the signature asked for."""

from __future__ import annotations

import pytest
from contracts import GOLDEN_NAMES, golden
from hypothesis import assume, given
from hypothesis import strategies as st

from netgraft.fit import NoFit, fit
from netgraft.ir import Batch, Graph, Region, Signature, TensorType, parse
from netgraft.ir.text import parse_type


def signature(inputs: str, outputs: str) -> Signature:
    """``signature("f32[N,8,4,4]; f32[N,8,1,1]", "f32[N,8,4,4]")``."""
    return Signature(tuple(map(parse_type, inputs.split(";"))), tuple(map(parse_type, outputs.split(";"))))


def fitted(text: str, inputs: str, outputs: str, multiple: int = 1) -> Graph:
    wanted = signature(inputs, outputs)
    result = fit(parse(text), wanted, multiple=multiple)
    assert isinstance(result, Graph), result
    assert result.signature == wanted
    return result


def reason(text: str, inputs: str, outputs: str) -> str:
    result = fit(parse(text), signature(inputs, outputs))
    assert isinstance(result, NoFit), result
    return result.reason


CONV = "a = conv2d(x) {out_channels=16, kernel=(3, 3), padding=(1, 1)}"
SINGLE = f"graph(x: f32[N,16,32,32]) {{\n {CONV}\n return a\n}}"
PAIR = f"""graph(x: f32[N,16,32,32]) {{
  {CONV}
  b = conv2d(a) {{out_channels=32, kernel=(3, 3), padding=(1, 1)}}
  return b
}}"""
RESIDUAL = f"""graph(x: f32[N,16,32,32]) {{
  {CONV}
  n = batch_norm(a)
  r = relu(n)
  b = conv2d(r) {{out_channels=16, kernel=(3, 3), padding=(1, 1)}}
  s = add(x, b)
  return s
}}"""
INVERTED = """graph(x: f32[N,16,32,32]) {
  e = conv2d(x) {out_channels=96, kernel=(1, 1), bias=False}
  d = conv2d(e) {out_channels=96, kernel=(3, 3), padding=(1, 1), groups=96, bias=False}
  p = conv2d(d) {out_channels=24, kernel=(1, 1), bias=False}
  return p
}"""


def test_what_fits_already_stays_as_it_is() -> None:
    assert fit(parse(PAIR), parse(PAIR).signature) == parse(PAIR)


@pytest.mark.parametrize("channels", [1, 3, 64, 96, 100, 2048])
def test_any_number_of_channels(channels: int) -> None:
    fitted(PAIR, f"f32[N,{channels},32,32]", "f32[N,64,32,32]")
    fitted(PAIR, "f32[N,64,32,32]", f"f32[N,{channels},32,32]")
    fitted(RESIDUAL, f"f32[N,{channels},32,32]", f"f32[N,{channels},32,32]")


def test_hidden_widths_scale_with_the_input() -> None:
    assert fitted(INVERTED, "f32[N,32,8,8]", "f32[N,7,8,8]")["e"].attrs["out_channels"] == 192


def test_depthwise_follows() -> None:
    depthwise = fitted(INVERTED, "f32[N,12,8,8]", "f32[N,12,8,8]")["d"]
    assert (depthwise.attrs["out_channels"], depthwise.attrs["groups"]) == (72, 72)


def test_hidden_widths_are_multiples_and_the_ends_what_they_must_be() -> None:
    graph = fitted(INVERTED, "f32[N,17,8,8]", "f32[N,5,8,8]", multiple=8)
    assert graph["e"].attrs["out_channels"] == 104  # 6 x 17 = 102
    assert graph["p"].attrs["out_channels"] == 5


@pytest.mark.parametrize(("before", "after"), [(32, 16), (7, 4), (1, 1), (2, 1), (33, 17), (9, 3), (5, 5)])
def test_sizes_by_the_ops_own_rules(before: int, after: int) -> None:
    graph = fitted(PAIR, f"f32[N,16,{before},{before}]", f"f32[N,32,{after},{after}]")
    assert all(isinstance(s, int) and s <= 3 for node in graph for s in node.attrs["stride"])


def test_few_strides_change_and_the_first_does() -> None:
    graph = fitted(PAIR, "f32[N,16,32,32]", "f32[N,32,16,16]")
    assert (graph["a"].attrs["stride"], graph["b"].attrs["stride"]) == ((2, 2), (1, 1))


def test_a_segment_loses_its_stride() -> None:
    strided = PAIR.replace("padding=(1, 1)}", "padding=(1, 1), stride=(2, 2)}", 1)
    assert fitted(strided, "f32[N,16,14,14]", "f32[N,32,14,14]")["a"].attrs["stride"] == (1, 1)


def test_images_need_not_be_square() -> None:
    fitted(PAIR, "f32[N,16,32,20]", "f32[N,32,16,10]")


def test_a_stride_never_exceeds_the_kernel_unless_it_did() -> None:
    point = SINGLE.replace("kernel=(3, 3), padding=(1, 1)", "kernel=(1, 1)")
    assert "image size" in reason(point, "f32[N,16,32,32]", "f32[N,16,16,16]")
    fitted(point.replace("(1, 1)}", "(1, 1), stride=(2, 2)}"), "f32[N,16,8,8]", "f32[N,9,4,4]")


def test_an_even_pooling_window_becomes_an_odd_one_where_the_size_stays() -> None:
    pool = "graph(x: f32[N,16,32,32]) {\n p = max_pool2d(x) {kernel=(2, 2), stride=(2, 2)}\n return p\n}"
    node = fitted(pool, "f32[N,5,9,9]", "f32[N,5,9,9]")["p"]
    assert (node.attrs["kernel"], node.attrs["stride"], node.attrs["padding"]) == ((3, 3), (1, 1), (1, 1))


def test_unpadded_convolutions_are_padded_where_the_size_must_stay() -> None:
    valid = "graph(x: f32[N,1,9,9]) {\n c = conv2d(x) {out_channels=2, kernel=(5, 3)}\n return c\n}"
    assert fitted(valid, "f32[N,1,9,9]", "f32[N,2,9,9]")["c"].attrs["padding"] == (2, 1)


@pytest.mark.parametrize(("kernel", "padding", "extra"), [(2, 0, 0), (3, 1, 1), (4, 1, 0)])
def test_a_transposed_convolution_doubles(kernel: int, padding: int, extra: int) -> None:
    text = f"""graph(x: f32[N,8,5,5]) {{
      u = conv_transpose2d(x) {{out_channels=4, kernel=({kernel}, {kernel}), padding=({padding}, {padding})}}
      return u
    }}"""
    node = fitted(text, "f32[N,16,7,7]", "f32[N,3,14,14]")["u"]
    assert (node.attrs["stride"], node.attrs["output_padding"]) == ((2, 2), (extra, extra))


def test_an_interpolation_takes_the_size_of_what_it_joins() -> None:
    decoder = """graph(x: f32[N,32,8,8], skip: f32[N,16,16,16]) {
      u = interpolate(x) {size=(16, 16)}
      j = concat(u, skip)
      c = conv2d(j) {out_channels=16, kernel=(3, 3), padding=(1, 1)}
      return c
    }"""
    graph = fitted(decoder, "f32[N,5,4,4];f32[N,6,7,7]", "f32[N,11,7,7]")
    assert graph["u"].attrs["size"] == (7, 7)


def test_a_sum_equates_its_branches() -> None:
    assert "image size" in reason(RESIDUAL, "f32[N,16,32,32]", "f32[N,16,16,16]")
    assert "16 cannot be 17" in reason(RESIDUAL, "f32[N,16,32,32]", "f32[N,17,32,32]")


def test_a_gate_is_stretched() -> None:
    gate = """graph(x: f32[N,16,32,32]) {
      m = mean(x) {dims=(2, 3), keepdim=True}
      d = conv2d(m) {out_channels=4, kernel=(1, 1)}
      u = conv2d(d) {out_channels=16, kernel=(1, 1)}
      g = sigmoid(u)
      y = mul(x, g)
      return y
    }"""
    graph = fitted(gate, "f32[N,40,7,7]", "f32[N,40,7,7]")
    assert [graph[id].attrs["out_channels"] for id in "du"] == [10, 40]


def test_concatenated_branches_add_up() -> None:
    fire = """graph(x: f32[N,16,8,8]) {
      a = conv2d(x) {out_channels=16, kernel=(1, 1)}
      b = conv2d(x) {out_channels=48, kernel=(3, 3), padding=(1, 1)}
      j = concat(a, b)
      return j
    }"""
    graph = fitted(fire, "f32[N,16,8,8]", "f32[N,65,8,8]")
    assert graph["a"].attrs["out_channels"] + graph["b"].attrs["out_channels"] == 65
    dense = """graph(x: f32[N,16,8,8]) {
      a = conv2d(x) {out_channels=12, kernel=(3, 3), padding=(1, 1)}
      j = concat(x, a)
      return j
    }"""
    assert fitted(dense, "f32[N,32,8,8]", "f32[N,41,8,8]")["a"].attrs["out_channels"] == 9
    reason(dense, "f32[N,32,8,8]", "f32[N,32,8,8]")


SHUFFLE = """graph(x: f32[N,8,4,4]) {
  s = split(x) {sizes=(4, 4)}
  c = conv2d(s:1) {out_channels=4, kernel=(1, 1)}
  j = concat(s, c)
  r = reshape(j) {shape=(N, 2, 4, 4, 4)}
  p = permute(r) {dims=(0, 2, 1, 3, 4)}
  f = reshape(p) {shape=(N, 8, 4, 4)}
  return f
}"""


def test_a_channel_shuffle_follows() -> None:
    graph = fitted(SHUFFLE, "f32[N,20,7,7]", "f32[N,20,7,7]")
    assert graph["s"].attrs["sizes"] == (10, 10)
    assert graph["r"].attrs["shape"] == (Batch(), 2, 10, 7, 7)
    reason(SHUFFLE, "f32[N,21,7,7]", "f32[N,21,7,7]")


def test_slices_pixel_shuffles_and_groups_follow() -> None:
    text = """graph(x: f32[N,8,4,4]) {
      s = slice(x) {dim=1, start=2, stop=8}
      g = conv2d(s) {out_channels=16, kernel=(3, 3), padding=(1, 1), groups=2}
      n = group_norm(g) {groups=4}
      p = pixel_shuffle(n) {factor=2}
      return p
    }"""
    graph = fitted(text, "f32[N,16,4,4]", "f32[N,3,8,8]")
    assert (graph["s"].attrs["start"], graph["s"].attrs["stop"]) == (4, 16)
    assert (graph["g"].attrs["groups"], graph["g"].attrs["out_channels"]) == (2, 12)


def test_flatten_multiplies() -> None:
    text = """graph(x: f32[N,8,4,4]) {
      f = flatten(x)
      l = linear(f) {out_features=10}
      return l
    }"""
    graph = fitted(text, "f32[N,5,3,3]", "f32[N,7]")
    assert graph.weight_types["l.weight"].shape == (7, 45)


def test_sequences_fit() -> None:
    text = """graph(x: f32[N,16,24]) {
      n = layer_norm(x) {shape=(24,)}
      u = linear(n) {out_features=96}
      a = gelu(u)
      d = linear(a) {out_features=24}
      s = add(x, d)
      return s
    }"""
    graph = fitted(text, "f32[N,50,36]", "f32[N,50,36]")
    assert graph["n"].attrs["shape"] == (36,)
    assert graph["u"].attrs["out_features"] == 144


def test_attention_heads_grow() -> None:
    graph = golden("tokens")
    names = [node.id for node in graph]
    region = Region.of(names[names.index("norm1") : names.index("merged") + 1])
    segment = region.extract(graph)
    wanted = signature("f32[N,16,36]", "f32[N,16,36]")
    result = fit(segment, wanted)
    assert isinstance(result, Graph), result
    assert result["q"].attrs["shape"] == (Batch(), 16, 3, 12)


def test_other_ends_do_not_fit() -> None:
    assert "inputs" in reason(PAIR, "f32[N,16,8,8];f32[N,16,8,8]", "f32[N,16,8,8]")
    assert "rank" in reason(PAIR, "f32[N,16,8,8]", "f32[N,16]")
    assert "element type" in reason(PAIR, "f64[N,16,8,8]", "f64[N,16,8,8]")


def test_frozen_nodes_do_not_fit_elsewhere() -> None:
    text = """graph(x: f32[N,8,4,4]) {
      f = frozen(x) {target="aten.roll.default", args=(("input", 0),), types=(f32[N,8,4,4],)}
      return f
    }"""
    assert "frozen" in reason(text, "f32[N,9,4,4]", "f32[N,9,4,4]")


PIECES = [
    Region.of(names[i : i + n]).extract(graph)
    for graph in map(golden, GOLDEN_NAMES)
    for names in [[node.id for node in graph]]
    for n in (2, 5)
    for i in range(0, len(names) - n, 3)
]
IMAGES = st.builds(lambda c, h, w: TensorType((Batch(), c, h, w)), *[st.integers(1, 40)] * 3)


@given(st.sampled_from(PIECES), st.data())
def test_the_outcome_is_a_fit_or_a_reason(segment: Graph, data: st.DataObject) -> None:
    ends = [
        data.draw(IMAGES) if own.rank == 4 else own.with_shape((*own.shape[:-1], data.draw(st.integers(1, 40))))
        for own in (*segment.signature.inputs, *segment.signature.outputs)
    ]
    wanted = Signature(tuple(ends[: len(segment.inputs)]), tuple(ends[len(segment.inputs) :]))
    result = fit(segment, wanted)
    assert result.reason if isinstance(result, NoFit) else result.signature == wanted


@given(st.sampled_from([p for p in PIECES if all(t.rank == 4 for t in p.types.values())]), st.integers(1, 5))
def test_a_uniformly_wider_segment_always_fits(segment: Graph, times: int) -> None:
    assume(all(node.op != "permute" for node in segment))
    widened = _widened(segment, times)
    result = fit(segment, widened)
    assert isinstance(result, Graph), (result, str(widened))


def _widened(segment: Graph, times: int) -> Signature:
    def wide(t: TensorType) -> TensorType:
        dims = list(t.shape)
        axis = 1 if t.rank in (2, 4) else -1
        dims[axis] = int(str(dims[axis])) * times
        return t.with_shape(tuple(dims))

    return Signature(tuple(map(wide, segment.signature.inputs)), tuple(map(wide, segment.signature.outputs)))
