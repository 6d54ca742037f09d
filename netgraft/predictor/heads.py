"""What reads the encoder's features: an ensemble of small networks, whose disagreement says how sure it is.

Every head is trained without a part of the labels of its own (a fold), so each label has one head that never saw it.
From those answers come the figures of the model card and the calibration of the deviation: the variance of an estimate
is a constant plus a multiple of the ensemble's variance, chosen for the greatest likelihood of the labels left out
(Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep ensembles", NeurIPS 2017,
with one calibration for all heads in place of a second output).

Features are standardised, and errors counted, by the weights of the labels: a small group is seen beside a large one.
Scores are ranked within their group and the ranks read as quantiles of a normal distribution: a unit is one standard
deviation of a group's labels, whatever their own unit, and a handful of failed trainings does not squeeze the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import torch

from netgraft.errors import DataError

from .traits import Floats

HEADS = 8
_WIDTH = 64
_CLIP = 5.0
"""How far a feature may lie from what was seen, in its standard deviations: heads do not extrapolate beyond."""
_STEPS, _BATCH, _RATE, _DECAY = 2000, 256, 3e-3, 1e-3
_LEAST_STEPS = 600
_EVENED, _FEW = 10_000, 1500
"""So many networks make all axes of the features count for about as much, and with fewer than ``_FEW`` in a group the
features are read as they are; chosen on NAS-Bench-201's labels.
"""


@dataclass(frozen=True)
class Estimates:
    """One entry a network, in standard deviations of the labels; higher is better."""

    mean: Floats
    deviation: Floats


@dataclass(frozen=True, eq=False)
class Heads:
    """``centre`` and ``spread`` [features] standardise; ``first`` [features, heads x width] and so on are the layers of
    all heads; ``noise`` (2) holds the variance of an estimate at full agreement, and what the heads' variance counts.
    """

    centre: Floats
    spread: Floats
    first: npt.NDArray[np.float32]
    first_bias: npt.NDArray[np.float32]
    second: npt.NDArray[np.float32]
    second_bias: npt.NDArray[np.float32]
    last: npt.NDArray[np.float32]
    last_bias: npt.NDArray[np.float32]
    noise: Floats

    def estimate(self, features: Floats) -> Estimates:
        """Estimates for networks of these features [n, features]."""
        said = self.answers(features)
        return Estimates(said.mean(1), np.sqrt(self.noise[0] + self.noise[1] * said.var(1)))

    def gains(self, features: Floats, shares: Floats) -> Estimates:
        """How much better the networks from the second on are than the first, where the heads' say of each counts for
        a share [n]. What they get wrong of both networks alike is no error of that.
        """
        said = shares[:, None] * self.answers(features)
        gained = said[1:] - said[:1]
        return Estimates(gained.mean(1), np.sqrt(self.noise[1] * gained.var(1)))

    def answers(self, features: Floats) -> Floats:
        """What every head says [n, heads]."""
        x = standardised(features, self.centre, self.spread)
        heads, width = self.second_bias.shape
        hidden = _silu(x @ self.first + self.first_bias).reshape(len(x), heads, width).transpose(1, 0, 2)
        hidden = _silu(hidden @ self.second + self.second_bias[:, None])
        answers: Floats = (np.einsum("hnw,hw->nh", hidden, self.last) + self.last_bias).astype(np.float64)
        return answers


def standardised(features: Floats, centre: Floats, spread: Floats) -> npt.NDArray[np.float32]:
    """The features as the heads read them; what is unknown, or never differed, is 0."""
    x = np.clip(np.nan_to_num((features - centre) / spread, nan=0.0, posinf=_CLIP, neginf=-_CLIP), -_CLIP, _CLIP)
    return x.astype(np.float32)


def _silu(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    half = np.float32(0.5) * x
    activated: npt.NDArray[np.float32] = half + half * np.tanh(half)
    return activated


def normal_scores(groups: Sequence[str], scores: Floats) -> Floats:
    """Scores as quantiles of a normal distribution, by their ranks within their group (equal ones share theirs)."""
    names, found = np.array(groups), np.empty(len(scores))
    for name in np.unique(names):
        mine = names == name
        ordered = np.sort(scores[mine])
        ranks = np.searchsorted(ordered, scores[mine], "left") + np.searchsorted(ordered, scores[mine], "right")
        shares = (ranks / 2.0) / len(ordered)
        inverse = {share: NormalDist().inv_cdf(share) for share in np.unique(shares).tolist()}
        found[mine] = [inverse[share] for share in shares.tolist()]
    return found


@dataclass(frozen=True)
class Fitted:
    """Trained heads; what the head that never saw a label says of it (``left_out``), in the units of ``targets``; what
    every label weighed (1 on the mean), and its fold.
    """

    heads: Heads
    targets: Floats
    left_out: Floats
    deviation: Floats
    weight: Floats
    folds: npt.NDArray[np.int64]


def fit(
    features: Floats,
    groups: Sequence[str],
    scores: Floats,
    seed: int = 0,
    heads: int = HEADS,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Fitted:
    """Heads trained on labelled networks of these features; ``tell`` hears of every step done.

    Networks of equal features are in one fold. Groups weigh by the root of their size. The same seed gives the same
    heads on the same machine with the same number of threads. DataError where there is too little to learn from.
    """
    if len(scores) < 2 * heads:
        raise DataError(f"{len(scores)} labels are too few to train on: {2 * heads} are the least")
    targets = normal_scores(groups, scores)
    if np.ptp(targets) == 0:
        raise DataError("all labels of each group are equal: there is nothing to learn")
    rng = np.random.default_rng(seed)
    # NaN, where no path is left, equals nothing.
    _, like = np.unique(np.where(np.isnan(features), np.inf, features), axis=0, return_inverse=True)
    if like.max() == 0:
        raise DataError("all labels are of networks that look the same: there is nothing to learn")
    folds = rng.permutation(np.arange(like.max() + 1) % heads)[like.reshape(-1)]
    names, counts = np.unique(groups, return_counts=True)
    weight = np.array([counts[np.searchsorted(names, name)] ** -0.5 for name in groups])
    weight /= weight.mean()
    untuned = _train(features, targets, weight, int(counts.min()), folds, heads, rng, tell)
    answers = untuned.answers(features)
    left_out = answers[np.arange(len(folds)), folds]
    noise = _calibrated((targets - left_out) ** 2, answers.var(1))
    trained = replace(untuned, noise=noise)
    return Fitted(trained, targets, left_out, trained.estimate(features).deviation, weight, folds)


def moments(features: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each feature, of where it is known; 0 and 0 where it never is."""
    known = np.where(np.isnan(features), 0.0, weight[:, None])
    total = np.maximum(known.sum(0), 1e-30)
    centre = (known * np.nan_to_num(features)).sum(0) / total
    return centre, np.sqrt((known * np.nan_to_num(features - centre) ** 2).sum(0) / total)


def _train(
    features: Floats,
    targets: Floats,
    weight: Floats,
    fewest: int,
    folds: npt.NDArray[np.int64],
    heads: int,
    rng: np.random.Generator,
    tell: Callable[[int, int], None],
) -> Heads:
    """Heads that know no noise yet."""
    centre, spread = moments(features, weight)
    spread[spread < 1e-6] = np.inf
    plain = standardised(features, centre, spread)
    evened = _evened(plain, weight, fewest)
    x = torch.from_numpy(plain @ evened)
    y = torch.from_numpy(targets.astype(np.float32))
    sizes = [(x.shape[1], _WIDTH), (_WIDTH, _WIDTH), (_WIDTH, 1)]
    matrices = [torch.from_numpy(rng.uniform(-1, 1, (heads, *size)) / size[0] ** 0.5).float() for size in sizes]
    biases = [torch.zeros(heads, 1, size[1]) for size in sizes]
    parameters = [tensor.requires_grad_() for tensor in (*matrices, *biases)]
    given = [np.flatnonzero(folds != head) for head in range(heads)]
    # A head that is not shown a network with most of the labels has few of its own.
    batch = min(_BATCH, max(8, len(y) // 4), *map(len, given))
    per_epoch = -(-len(y) // batch)
    steps = int(np.clip(60 * per_epoch, _LEAST_STEPS, _STEPS))
    optimizer = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    shares = torch.from_numpy(weight.astype(np.float32))
    orders = [rng.permutation(rows) for rows in given]
    at = [0] * heads
    for step in range(steps):
        for head in range(heads):
            if at[head] + batch > len(orders[head]):
                orders[head], at[head] = rng.permutation(given[head]), 0
        rows = torch.from_numpy(np.stack([order[a : a + batch] for order, a in zip(orders, at, strict=True)]))
        at = [a + batch for a in at]
        hidden = x[rows]
        for matrix, bias in zip(matrices[:2], biases[:2], strict=True):
            hidden = torch.nn.functional.silu(hidden @ matrix + bias)
        said = (hidden @ matrices[2] + biases[2]).squeeze(-1)
        errors = torch.nn.functional.smooth_l1_loss(said, y[rows], beta=0.3, reduction="none")
        loss = (errors * shares[rows]).mean() * heads
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        tell(step + 1, steps)
    first, second, last = (matrix.detach().numpy() for matrix in matrices)
    first_bias, second_bias, last_bias = (bias.detach().numpy() for bias in biases)
    return Heads(
        centre,
        spread,
        np.ascontiguousarray((evened @ first).transpose(1, 0, 2).reshape(x.shape[1], -1)),
        first_bias.reshape(-1),
        second,
        second_bias[:, 0],
        last[:, :, 0],
        last_bias[:, 0, 0],
        noise=np.zeros(2),
    )


def _evened(x: npt.NDArray[np.float32], weight: Floats, fewest: int) -> npt.NDArray[np.float32]:
    """A matrix that turns the features to their principal axes and, the more networks there are, lifts the axes in
    which these differ little. With few labels such axes are noise, which an optimiser that treats all axes alike would
    learn as fast as the others: the features are not turned then, nor where one of the groups has few (``fewest``).
    """
    if fewest < _FEW:
        return np.eye(x.shape[1], dtype=np.float32)
    variances, axes = np.linalg.eigh(x.T @ (x * weight[:, None]) / len(x))
    floor = (_EVENED / len(x)) ** 2
    lifted: npt.NDArray[np.float32] = (axes * np.sqrt((1 + floor) / (variances.clip(0) + floor))).astype(np.float32)
    return lifted


def _calibrated(errors: Floats, variances: Floats) -> Floats:
    """The constant and the multiple of the variance under which squared errors of a normal law are the likeliest.

    The multiple is never 0: gains would be taken for certain however much the heads disagree about them.
    """
    scale = max(float(errors.mean()), 1e-8)
    best, found = np.inf, np.array([scale, 1.0])
    for constant in scale * np.geomspace(0.02, 2.0, 25):
        for multiple in np.geomspace(0.1, 30.0, 25):
            variance = constant + multiple * variances
            cost = float((np.log(variance) + errors / variance).mean())
            if cost < best:
                best, found = cost, np.array([constant, multiple])
    return found


LAYERS = tuple(field.name for field in fields(Heads))
"""Names of the arrays that heads consist of."""
