from __future__ import annotations

import numpy as np
import torch

from netgraft.convert.lowering import LOWERED
from netgraft.convert.to_torch import to_module, weights_of
from netgraft.ir import OPS, Batch, Builder, Model, TensorType


def test_every_op_is_in_the_table() -> None:
    assert OPS.keys() == LOWERED


def test_a_small_network() -> None:
    b = Builder()
    x = b.input("x", TensorType((Batch(), 3, 8, 8)))
    x = b.add("conv2d", x, out_channels=4, kernel=(3, 3), id="stem.conv")
    x = b.add("flatten", b.add("relu", b.add("batch_norm", x, id="stem.bn")))
    graph = b.build(b.add("linear", x, out_features=2, id="fc"))
    rng = np.random.default_rng(0)
    weights = {k: np.abs(rng.standard_normal(t.concrete())).astype("f4") for k, t in graph.weight_types.items()}
    weights["stem.bn.num_batches_tracked"] = np.array(0)
    module = to_module(Model(graph, weights))
    assert set(module.state_dict()) == set(weights)
    module(torch.rand(5, 3, 8, 8)).sum().backward()
    assert weights_of(module)["stem.bn.num_batches_tracked"] == 1
