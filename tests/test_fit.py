"""Shape fitting: each op's rule, odd and tiny sizes, and that every fit has the signature asked for."""

from __future__ import annotations

import pytest
import torch
from contracts import GOLDEN_NAMES, golden, sane_model
from hypothesis import assume, given
from hypothesis import strategies as st

from netgraft.convert.to_torch import to_module
from netgraft.fit import NoFit, fit
from netgraft.ir import Batch, Builder, Graph, Region, Signature, TensorType, parse
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


def test_hidden_widths_scale_with_the_ends() -> None:
    assert fitted(INVERTED, "f32[N,32,8,8]", "f32[N,48,8,8]")["e"].attrs["out_channels"] == 192
    # Twice as wide at one end, half as wide at the other.
    assert fitted(INVERTED, "f32[N,32,8,8]", "f32[N,12,8,8]")["e"].attrs["out_channels"] == 96


def test_an_image_as_it_is_seen_is_no_measure_of_width() -> None:
    stem = PAIR.replace("N,16,32,32", "N,3,32,32")
    assert fitted(stem, "f32[N,48,32,32]", "f32[N,48,32,32]")["a"].attrs["out_channels"] == 24
    assert fitted(PAIR, "f32[N,1,32,32]", "f32[N,3,32,32]")["a"].attrs["out_channels"] == 16


def test_depthwise_follows() -> None:
    depthwise = fitted(INVERTED, "f32[N,12,8,8]", "f32[N,12,8,8]")["d"]
    assert (depthwise.attrs["out_channels"], depthwise.attrs["groups"]) == (59, 59)  # 96 x sqrt(12/16 x 12/24)


def test_hidden_widths_are_multiples_and_the_ends_what_they_must_be() -> None:
    graph = fitted(INVERTED, "f32[N,17,8,8]", "f32[N,5,8,8]", multiple=8)
    assert graph["e"].attrs["out_channels"] == 48  # 96 x sqrt(17/16 x 5/24) = 45.2
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


def test_strides_are_oblong_where_images_or_kernels_are() -> None:
    pair = PAIR.replace("kernel=(3, 3), padding=(1, 1)", "kernel=(1, 3), padding=(0, 1)", 1)
    pair = pair.replace("kernel=(3, 3), padding=(1, 1)", "kernel=(3, 1), padding=(1, 0)", 1)
    graph = fitted(pair, "f32[N,16,16,16]", "f32[N,32,8,8]")
    assert (graph["a"].attrs["stride"], graph["b"].attrs["stride"]) == ((1, 2), (2, 1))
    assert fitted(PAIR, "f32[N,16,8,4]", "f32[N,32,4,4]")["a"].attrs["stride"] == (2, 1)


def test_a_stride_never_exceeds_the_kernel_unless_it_did() -> None:
    point = SINGLE.replace("kernel=(3, 3), padding=(1, 1)", "kernel=(1, 1)")
    assert "a (conv2d) can make images of 32x32, not of 16x16" in reason(point, "f32[N,16,32,32]", "f32[N,16,16,16]")
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


@pytest.mark.parametrize(
    ("own", "kernel", "padding"),
    [((4, 4), (3, 3), (1, 1)), ((2, 2), (3, 3), (1, 1)), ((6, 3), (5, 3), (2, 1)), ((3, 3), (3, 3), (1, 1))],
)
def test_a_transposed_convolution_without_its_stride_takes_an_odd_kernel(
    own: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int]
) -> None:
    text = f"""graph(x: f32[N,8,5,5]) {{
      u = conv_transpose2d(x) {{out_channels=4, kernel={own}, stride=(2, 2)}}
      return u
    }}"""
    attrs = fitted(text, "f32[N,8,5,5]", "f32[N,4,5,5]")["u"].attrs
    assert (attrs["stride"], attrs["kernel"], attrs["padding"]) == ((1, 1), kernel, padding)
    assert attrs["output_padding"] == (0, 0)
    if own[0] == own[1]:  # an even one stays where it gives the size
        assert fitted(text, "f32[N,8,5,5]", "f32[N,4,10,10]")["u"].attrs["kernel"] == own


def test_an_odd_window_of_a_transposed_convolution_is_no_smaller_than_the_stride() -> None:
    """An odd window of 3 would leave gaps between strides of 4."""
    text = """graph(x: f32[N,8,5,5]) {
      u = conv_transpose2d(x) {out_channels=4, kernel=(4, 4), stride=(4, 4)}
      return u
    }"""
    for size in (5, 10, 19, 20, 21):
        attrs = fitted(text, "f32[N,8,5,5]", f"f32[N,4,{size},{size}]")["u"].attrs
        assert attrs["stride"][0] <= attrs["kernel"][0]


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
    assert "they must be equal" in reason(RESIDUAL, "f32[N,16,32,32]", "f32[N,16,16,16]")
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


def test_frozen_nodes_and_constants_fit_where_their_types_do() -> None:
    text = """graph(x: f32[N,8,4,4]) {
      c = conv2d(x) {out_channels=8, kernel=(1, 1)}
      f = frozen(c) {target="aten.roll.default", args=(("input", 0),), types=(f32[N,8,4,4],)}
      k = constant() {type=f32[8,1,1]}
      s = add(f, k)
      return s
    }"""
    assert "the output s: a width of 8 cannot be 9" in reason(text, "f32[N,9,4,4]", "f32[N,9,4,4]")
    assert "c (conv2d) can make images of" in reason(text, "f32[N,8,8,8]", "f32[N,8,8,8]")
    bare = text.replace("f = frozen(c)", "f = frozen(x)")
    assert "f (frozen) stays as it is" in reason(bare, "f32[N,9,4,4]", "f32[N,8,4,4]")
    fitted(text, "f32[N,9,4,4]", "f32[N,8,4,4]")


def test_a_dilated_convolution_is_padded_by_its_reach() -> None:
    text = """graph(x: f32[N,4,9,9]) {
      c = conv2d(x) {out_channels=4, kernel=(3, 3), dilation=(4, 4)}
      return c
    }"""
    assert fitted(text, "f32[N,4,7,7]", "f32[N,4,7,7]")["c"].attrs["padding"] == (4, 4)


def test_a_strided_depthwise_convolution_keeps_its_stride_and_halves() -> None:
    strided = INVERTED.replace("padding=(1, 1), groups", "stride=(2, 2), padding=(1, 1), groups")
    for before, after in [(32, 16), (7, 4), (1, 1)]:
        graph = fitted(strided, f"f32[N,8,{before},{before}]", f"f32[N,8,{after},{after}]")
        assert graph["d"].attrs["stride"] == (2, 2)
    assert fitted(strided, "f32[N,8,7,7]", "f32[N,8,7,7]")["d"].attrs["stride"] == (1, 1)


@pytest.mark.parametrize("size", [2, 4])
def test_a_patch_convolution_without_its_stride_takes_an_odd_kernel(size: int) -> None:
    text = f"""graph(x: f32[N,3,32,32]) {{
      c = conv2d(x) {{out_channels=8, kernel=({size}, {size}), stride=({size}, {size})}}
      return c
    }}"""
    node = fitted(text, "f32[N,8,14,14]", "f32[N,8,14,14]")["c"]
    assert (node.attrs["kernel"], node.attrs["stride"], node.attrs["padding"]) == ((3, 3), (1, 1), (1, 1))


def test_padding_goes_where_the_image_must_shrink_by_its_border() -> None:
    assert fitted(SINGLE, "f32[N,16,7,7]", "f32[N,16,3,3]")["a"].attrs["stride"] == (2, 2)
    assert fitted(SINGLE, "f32[N,16,35,35]", "f32[N,16,33,33]")["a"].attrs["padding"] == (0, 0)


POOL = "graph(x: f32[N,16,32,32]) {{\n p = max_pool2d(x) {{{}}}\n return p\n}}"


@pytest.mark.parametrize(
    ("pool", "before", "after"),
    [
        ("kernel=(3, 3), stride=(2, 2), ceil_mode=True", 8, 4),
        ("kernel=(3, 3), stride=(2, 2), ceil_mode=True", 7, 3),
        ("kernel=(3, 3), stride=(2, 2), ceil_mode=True", 7, 4),
        ("kernel=(3, 3), stride=(2, 2), padding=(1, 1)", 7, 3),
        ("kernel=(2, 2), stride=(2, 2)", 7, 4),
        ("kernel=(2, 2), stride=(2, 2)", 7, 3),
        ("kernel=(2, 2), stride=(2, 2)", 1, 1),
        ("kernel=(7, 7), stride=(1, 1)", 2, 2),
        ("kernel=(13, 13), stride=(4, 4)", 5, 2),
        ("kernel=(3, 3), stride=(2, 2), padding=(1, 1), ceil_mode=True", 8, 4),
    ],
)
def test_pooling_with_any_padding(pool: str, before: int, after: int) -> None:
    fitted(POOL.format(pool), f"f32[N,5,{before},{before}]", f"f32[N,5,{after},{after}]")


def test_asymmetric_padding_stays() -> None:
    text = """graph(x: f32[N,3,32,32]) {
      p = pad(x) {pads=(0, 1, 0, 1)}
      c = conv2d(p) {out_channels=8, kernel=(3, 3), stride=(2, 2)}
      return c
    }"""
    for before, after in [(32, 16), (14, 7), (2, 1)]:
        graph = fitted(text, f"f32[N,5,{before},{before}]", f"f32[N,6,{after},{after}]")
        assert graph["c"].attrs["padding"] == (0, 0)


def test_padded_channels_make_up_the_width() -> None:
    text = """graph(x: f32[N,16,32,32]) {
      a = slice(x) {dim=2, start=0, stop=32, step=2}
      b = slice(a) {dim=3, start=0, stop=32, step=2}
      p = pad(b) {pads=(0, 0, 0, 0, 8, 8)}
      return p
    }"""
    graph = fitted(text, "f32[N,32,9,9]", "f32[N,64,5,5]")
    assert graph["p"].attrs["pads"] == (0, 0, 0, 0, 16, 16)
    assert graph["a"].attrs["stop"] == 9


def test_strides_go_and_factors_grow_where_the_region_enlarges() -> None:
    hourglass = """graph(x: f32[N,8,16,16]) {
      d = conv2d(x) {out_channels=16, kernel=(3, 3), stride=(2, 2), padding=(1, 1)}
      u = interpolate(d) {scale=(2.0, 2.0)}
      return u
    }"""
    assert fitted(hourglass, "f32[N,8,8,8]", "f32[N,4,16,16]")["d"].attrs["stride"] == (1, 1)
    shuffle = """graph(x: f32[N,8,4,4]) {
      c = conv2d(x) {out_channels=32, kernel=(3, 3), padding=(1, 1)}
      p = pixel_shuffle(c) {factor=2}
      return p
    }"""
    graph = fitted(shuffle, "f32[N,8,5,5]", "f32[N,3,20,20]")
    assert (graph["p"].attrs["factor"], graph["c"].attrs["out_channels"]) == (4, 48)
    up = "graph(x: f32[N,8,4,4]) {\n u = interpolate(x) {scale=(2.0, 2.0)}\n return u\n}"
    assert fitted(up, "f32[N,8,5,5]", "f32[N,8,20,20]")["u"].attrs["scale"] == (4.0, 4.0)


def test_nothing_becomes_another_operation_to_enlarge() -> None:
    text = reason(PAIR, "f32[N,16,8,8]", "f32[N,16,16,16]")
    assert "16x16 for the output b" in text
    assert "nothing in the segment enlarges images" in text


def test_what_is_enlarged_meets_odd_maps_again() -> None:
    for up in [
        "interpolate(d) {scale=(2.0, 2.0)}",
        "conv_transpose2d(d) {out_channels=8, kernel=(2, 2), stride=(2, 2)}",
    ]:
        skip = f"""graph(x: f32[N,8,16,16]) {{
          d = max_pool2d(x) {{kernel=(2, 2), stride=(2, 2)}}
          u = {up}
          j = concat(x, u)
          c = conv2d(j) {{out_channels=8, kernel=(3, 3), padding=(1, 1)}}
          return c
        }}"""
        fitted(skip, "f32[N,8,45,60]", "f32[N,8,45,60]")
        fitted(skip, "f32[N,8,7,7]", "f32[N,8,7,7]")


def test_a_join_with_one_foot_outside_and_values_read_twice() -> None:
    text = """graph(x: f32[N,8,16,16], y: f32[N,16,8,8]) {
      a = conv2d(x) {out_channels=16, kernel=(3, 3), stride=(2, 2), padding=(1, 1)}
      s = add(a, y)
      r = relu(s)
      b = conv2d(r) {out_channels=32, kernel=(1, 1)}
      j = concat(b, r)
      return s, j, r
    }"""
    graph = fitted(text, "f32[N,3,7,7];f32[N,20,7,7]", "f32[N,20,7,7];f32[N,30,7,7];f32[N,20,7,7]")
    assert graph["a"].attrs["stride"] == (1, 1)
    assert [graph[id].attrs["out_channels"] for id in "ab"] == [20, 10]
    wrong = reason(text, "f32[N,3,7,7];f32[N,20,4,4]", "f32[N,20,7,7];f32[N,30,7,7];f32[N,20,7,7]")
    assert wrong == "s (add) would join images of 7x7 (the output s) with 4x4 (the input y)"


def test_channels_behind_the_image_follow() -> None:
    text = """graph(x: f32[N,8,16,16]) {
      d = conv2d(x) {out_channels=8, kernel=(7, 7), padding=(3, 3), groups=8}
      p = permute(d) {dims=(0, 2, 3, 1)}
      n = layer_norm(p) {shape=(8,)}
      u = linear(n) {out_features=32}
      g = gelu(u)
      l = linear(g) {out_features=8}
      q = permute(l) {dims=(0, 3, 1, 2)}
      e = conv2d(q) {out_channels=8, kernel=(1, 1)}
      return e
    }"""
    graph = fitted(text, "f32[N,6,7,7]", "f32[N,12,4,4]")
    assert graph["u"].attrs["out_features"] == 34  # 32 x sqrt(6/8 x 12/8)
    assert graph["d"].attrs["stride"] == (2, 2)
    tail = """graph(x: f32[N,16,12,32]) {
      l = linear(x) {out_features=8}
      q = permute(l) {dims=(0, 3, 1, 2)}
      e = conv2d(q) {out_channels=8, kernel=(3, 3), padding=(1, 1)}
      return e
    }"""
    assert fitted(tail, "f32[N,9,7,24]", "f32[N,5,5,4]")["e"].attrs["stride"] == (2, 2)


def test_half_a_channel_shuffle_keeps_its_image() -> None:
    text = """graph(x: f32[N,8,2,7,7]) {
      f = flatten(x) {end=2}
      c = conv2d(f) {out_channels=16, kernel=(3, 3), padding=(1, 1)}
      return c
    }"""
    assert fitted(text, "f32[N,6,2,9,9]", "f32[N,5,5,5]")["c"].attrs["stride"] == (2, 2)


def test_parts_of_a_total_keep_their_proportion() -> None:
    text = """graph(x: f32[N,16,8,8]) {
      a = conv2d(x) {out_channels=16, kernel=(1, 1)}
      b = conv2d(x) {out_channels=48, kernel=(3, 3), padding=(1, 1)}
      c = conv2d(x) {out_channels=64, kernel=(3, 3), padding=(1, 1)}
      j = concat(a, b, c)
      return j
    }"""

    def parts(total: int, multiple: int = 1) -> list[int]:
        graph = fitted(text, "f32[N,16,8,8]", f"f32[N,{total},8,8]", multiple)
        return [graph[id].attrs["out_channels"] for id in "abc"]

    assert parts(256) == [32, 96, 128]
    assert parts(64) == [8, 24, 32]
    assert parts(320, multiple=16) == [48, 128, 144]
    assert sum(parts(129)) == 129
    assert parts(3) == [1, 1, 1]
    assert "no whole widths a + b + c = 2" in reason(text, "f32[N,16,8,8]", "f32[N,2,8,8]")


def test_nodes_that_share_a_weight_stay_alike() -> None:
    text = """graph(x: f32[N,8,8,8]) {
      a = conv2d(x) {out_channels=8, kernel=(3, 3), padding=(1, 1)}
      b = conv2d(a) {out_channels=8, kernel=(3, 3), padding=(1, 1)} <weight=a.weight, bias=a.bias>
      return b
    }"""
    graph = fitted(text, "f32[N,12,4,4]", "f32[N,12,4,4]")
    assert graph["a"].attrs["out_channels"] == 12
    assert "a width of 12 cannot be 13" in reason(text, "f32[N,12,4,4]", "f32[N,13,4,4]")


def test_asked_again_the_same_object_comes_back() -> None:
    for wanted in [signature("f32[N,5,8,8]", "f32[N,9,8,8]"), signature("f32[N,5,8,8]", "f32[N,9,99,99]")]:
        assert fit(parse(PAIR), wanted) is fit(parse(PAIR), wanted)
    other = fit(parse(PAIR.replace("a = ", "z = ").replace("(a)", "(z)")), signature("f32[N,5,8,8]", "f32[N,9,8,8]"))
    assert isinstance(other, Graph)
    assert "z" in other  # the ids are those of the segment given, though the digests are equal


@pytest.mark.parametrize(
    ("text", "inputs", "outputs", "words"),
    [
        (
            PAIR,
            "f32[N,16,32,32]",
            "f32[N,32,5,5]",
            "b (conv2d) can make images of 7x7 or 8x8 or 13x13 or 14x14, not of 5x5 for the output b",
        ),
        (SHUFFLE, "f32[N,21,7,7]", "f32[N,21,7,7]", "s (split) needs a multiple of 2, which 21 is not"),
        (
            "graph(x: f32[N,4,9,9]) {\n p = pad(x) {pads=(-3, -3)}\n return p\n}",
            "f32[N,4,9,6]",
            "f32[N,4,9,3]",
            "p (pad) cannot take images of 9x6",
        ),
    ],
)
def test_reasons_name_nodes_and_sizes(text: str, inputs: str, outputs: str, words: str) -> None:
    assert words in reason(text, inputs, outputs)


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


@pytest.mark.parametrize(
    ("text", "inputs", "outputs"),
    [
        (INVERTED, "f32[N,7,7,7]", "f32[N,5,4,4]"),
        (SHUFFLE, "f32[N,12,5,5]", "f32[N,12,5,5]"),
        (PAIR, "f32[N,1,1,1]", "f32[N,1,1,1]"),
        (PAIR, "f32[N,3,9,9]", "f32[N,5,7,7]"),
        (POOL.format("kernel=(13, 13), stride=(4, 4), ceil_mode=True"), "f32[N,2,5,5]", "f32[N,2,2,2]"),
        (POOL.format("kernel=(2, 2), stride=(2, 2)"), "f32[N,2,7,7]", "f32[N,2,7,7]"),
        (
            """graph(x: f32[N,8,16,16]) {
              c = conv2d(x) {out_channels=12, kernel=(3, 3), padding=(2, 2), dilation=(2, 2), groups=4}
              d = max_pool2d(c) {kernel=(2, 2), stride=(2, 2)}
              u = conv_transpose2d(d) {out_channels=8, kernel=(2, 2), stride=(2, 2)}
              j = concat(x, u)
              p = pixel_shuffle(j) {factor=2}
              return p
            }""",
            "f32[N,4,7,9]",
            "f32[N,3,14,18]",
        ),
    ],
)
def test_fits_run_forward_and_backward_in_torch(text: str, inputs: str, outputs: str) -> None:
    graph = fitted(text, inputs, outputs)
    module = to_module(sane_model(graph)).train()
    images = [torch.randn(given.type.concrete(2), requires_grad=True) for given in graph.inputs]
    out = module(*images)
    assert tuple(out.shape) == graph.signature.outputs[0].concrete(2)
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in [*images, *module.parameters()])


def test_an_odd_kernel_in_place_of_an_even_one_is_no_smaller_than_the_stride() -> None:
    b = Builder()
    x = b.input("x", TensorType((Batch(), 3, 32, 32)))
    patches = b.build(b.add("conv2d", x, out_channels=8, kernel=(4, 4), stride=(4, 4)))
    wanted = Signature((TensorType((Batch(), 3, 1, 8)),), (TensorType((Batch(), 8, 1, 2)),))
    fitted = fit(patches, wanted)
    if isinstance(fitted, Graph):
        attrs = fitted.nodes[0].attrs
        assert all(s <= k for s, k in zip(attrs["stride"], attrs["kernel"], strict=True)), attrs
    halved = Signature(wanted.inputs, (TensorType((Batch(), 8, 1, 4)),))
    made = fit(patches, halved)
    assert isinstance(made, Graph) and made.nodes[0].attrs["stride"][1] == 2
