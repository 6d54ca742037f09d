"""AMC (He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018): an agent learns
how wide each part of a network is to stay, within a budget.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, isfinite
from typing import Final, Unpack

import numpy as np

from netgraft.candidate import Candidate, Trial, TrialState
from netgraft.channels import ChannelGroup
from netgraft.convert.to_torch import to_module
from netgraft.costs.analytic import flops_by_node, latency_estimate
from netgraft.errors import OptionError, SourceError
from netgraft.front import Front
from netgraft.ir import Edit, Graph, Inheritance, Model, apply
from netgraft.metrics import Goal
from netgraft.mutations.fixed import fixed_by
from netgraft.mutations.importance import Scores, importance_named
from netgraft.mutations.trim import trim_several, trimmable
from netgraft.search import Budget, Outlook, Result, Rung, search
from netgraft.search.strategy import Spread
from netgraft.spaces import Space
from netgraft.tasks import Task, evaluate

from .clock import Clock
from .ddpg import Agent, State, Step
from .evaluation import Count, counted, counter, timed
from .finals import Entrants, finalists_of
from .greedy import NOTHING, Resource, check_limit, in_time
from .refit import Moments
from .run import Begun, Plan, Run, RunOptions, conduct

AT_ONCE: Final = 4
"""Episodes that are played before the agent learns from them."""
WARMUP: Final = 100
"""Episodes of chance at the beginning; a quarter of all if there are few."""
REMEMBERED: Final = 100
"""Episodes that the agent's memory holds."""


def amc(
    model: Model,
    task: Task,
    *,
    limit: str = "flops<=0.5x",
    episodes: int = 400,
    least: float = 0.2,
    importance: str = "reads",
    multiple: int = 8,
    images: int = 1000,
    **asked: Unpack[RunOptions],
) -> Front:
    """Trims ``model`` to ``limit`` as an agent learns to in ``episodes``, without any training of networks in them.

    In an episode the agent goes through the network and says for each group of coupled channels which share of them
    stays: at least the share ``least``, rounded up to a multiple of ``multiple``, and no more than lets the network
    keep the limit if all that comes after shrinks to the least. The channels stay that matter most by ``importance`` (a
    name of :data:`~netgraft.mutations.importance.IMPORTANCES`; the paper's is what the readers take, L1), and the
    layers that read them are refitted by least squares on ``images`` training images. The reward is the quality on the
    validation images then. The best network is trained longer at the end.

    What the agent sees of a group: its place, the kind, outputs, inputs, height, width, stride and kernel of the first
    layer that reads it, the FLOPs of the layers that make or read it, what is saved so far, what is left to decide, and
    what it did last (the paper's equation 1). The agent is DDPG with the paper's sizes (:mod:`.ddpg`).

    Deviations: decisions are one for each group, in the graph's order, where AMC's are one for a layer's inputs and
    residual layers share one; every convolution that is not grouped is refitted, not only 1x1 and linear layers; the
    reward is a share of the original's quality, and on the validation split; 4 episodes are played at once; fewer
    episodes than the 400 here (the published script plays 800) have a shorter warm-up. A latency is estimated (by
    counting or by a ``table``) and measured for the best of each 4 only.

    Other arguments: :class:`netgraft.recipes.Run`; ``tune_epochs`` of the plan means nothing here.
    """
    if episodes < 1 or multiple < 1 or images < 1 or not 0 < least <= 1:
        raise OptionError("episodes, multiple and images must be 1 or more, and least between 0 and 1")
    run = Run(**asked)
    chosen = (run.plan or Plan(finalists=1)).for_task(task)
    fixed = fixed_by(model.graph, run.freeze, run.only)
    latency = run.table.latency if run.table else latency_estimate
    wanted = check_limit(limit, counted(model.graph, latency))
    metric, resource = wanted.metric, counter(wanted.metric, latency)
    groups = trimmable(model.graph, fixed)
    if not groups:
        raise SourceError(f"{model.name} has no channels that amc could trim ('netgraft inspect --channels' shows why)")
    ranked = importance_named(importance)

    def through(model: Model, bound: float) -> Walk:
        scores = [ranked(model.graph, group, model.weights) for group in groups]
        return Walk.through(model.graph, groups, scores, resource, bound, least, multiple)

    if not in_time(wanted):
        through(model, wanted.bound)  # whether it can be reached, before any work is done
    quality = Goal("quality", task.quality.higher_is_better)

    def play(begun: Begun) -> Entrants:
        study, (bound,), original = begun.study, begun.bounds, begun.original
        walk = through(original, bound.bound)
        clock = None
        if metric == "latency" and begun.plan.measure == "search":
            clock = Clock(original, study.trials[0].scores["latency"], begun.conditions)
        moments = Moments.of(original, begun.task, images=images, seed=run.seed)
        search(
            Space(original, NOTHING, begun.score),
            Learning(walk, moments, quality, episodes, run.seed),
            [
                Rung("count", Count(begun.latency)),
                Rung("reward", Reward(begun.task), keep=1, choose=Spread([quality])),
                Rung("best", Keeping(clock)),
            ],
            budget=Budget(generations=1),
            study=study,
            engine=run.engine,
            seed=run.seed,
            population=AT_ONCE,
            on_event=run.on_event,
        )
        assert begun.plan.final_epochs is not None, "decided by for_task"
        best = finalists_of(study, [quality], Outlook(quality, 0.0), begun.plan.finalists, begun.bounds)
        return Entrants([trial.number for trial in best], begun.plan.final_epochs, len(best))

    options = {"episodes": episodes, "least": least, "importance": importance, "multiple": multiple, "images": images}
    return conduct(
        *(model, task, play, run),
        method={"mutation": "amc", "options": options, "fixed": sorted(fixed)},
        goals=["quality", metric],
        limits=[limit],
        budget=f"{episodes} episodes",
        plan=chosen,
    )


@dataclass(frozen=True)
class Walk:
    """What an agent walks through: the groups in the graph's order, each with the ``choices`` of its width and the
    ``scores`` of its channels; a network must not need more of the resource than ``bound``.
    """

    graph: Graph
    groups: Sequence[ChannelGroup]
    scores: Sequence[Scores]
    resource: Resource
    bound: float
    choices: Sequence[Sequence[int]]
    seen: State
    _known: dict[tuple[int, ...], float] = field(default_factory=dict)

    @classmethod
    def through(
        cls,
        graph: Graph,
        groups: Sequence[ChannelGroup],
        scores: Sequence[Scores],
        resource: Resource,
        bound: float,
        least: float,
        multiple: int,
    ) -> Walk:
        """OptionError where the limit is out of reach."""
        choices = [_choices(group.channels, least, multiple) for group in groups]
        walk = cls(graph, groups, scores, resource, bound, choices, _features(graph, groups))
        lowest = walk.needs([widths[0] for widths in choices])
        if lowest > bound:
            raise OptionError(
                f"the limit is out of reach: with the least of every group of channels there is still "
                f"{lowest / resource(graph):.2f}x of the original's; start again with a higher limit or a lower --least"
            )
        return walk

    def needs(self, widths: Sequence[int]) -> float:
        """The resource of the network with these widths."""
        key = tuple(widths)
        if key not in self._known:
            edit = self.edit(widths)
            self._known[key] = self.resource(apply(self.graph, edit) if edit else self.graph)
        return self._known[key]

    def edit(self, widths: Sequence[int]) -> Edit | None:
        """The edit that leaves these widths; None where nothing goes."""
        return trim_several(self.graph, zip(self.groups, self.scores, widths, strict=True), "amc")

    def episode(self, act: Callable[[State], float]) -> tuple[list[int], list[Step]]:
        """The widths that ``act`` chooses, as far as the bound allows, and the steps to them, with what it chose."""
        widths = [choices[0] for choices in self.choices]
        whole = self.resource(self.graph)
        states: list[State] = []
        actions, shares = [], [1.0]
        for at, (group, choices) in enumerate(zip(self.groups, self.choices, strict=True)):
            now = [*widths[:at], *(g.channels for g in self.groups[at:])]
            left = self.seen[at:, _FLOPS].sum() / self.seen[:, _FLOPS].sum()
            done = [1 - self.needs(now) / whole, left, shares[-1]]
            states.append(np.concatenate([_scaled(self.seen)[at], np.array(done, np.float32)]))
            actions.append(act(states[-1]))
            wanted = actions[-1] * group.channels
            likely = next((i for i, width in enumerate(choices) if width >= wanted), len(choices) - 1)

            def needed(width: int, at: int = at) -> float:
                return self.needs([*widths[:at], width, *widths[at + 1 :]])

            if needed(choices[likely]) > self.bound:
                likely = max(0, bisect_right(choices[:likely], self.bound, key=needed) - 1)
            widths[at] = choices[likely]
            shares.append(widths[at] / group.channels)
        after = [*states[1:], states[-1]]
        ends = [at == len(states) - 1 for at in range(len(states))]
        return widths, [Step(*step) for step in zip(states, actions, after, ends, strict=True)]


@dataclass
class Learning:
    """The strategy: episodes of an agent, which learns from what became of them.

    It plays on from where it was; begun anew with the trials of a run, it comes to the same place by playing all of
    them again. A network that was tried already is not tried twice.
    """

    walk: Walk
    moments: Moments
    quality: Goal
    episodes: int
    seed: int
    played: int = 0
    _waiting: list[tuple[list[int], list[Step], str]] = field(default_factory=list)
    _agent: Agent | None = None

    def propose(
        self,
        space: Space,
        trials: Sequence[Trial],
        candidate_of: Callable[[Trial], Candidate],
        first: int,
        n: int,
        rng: np.random.Generator,
    ) -> list[Candidate]:
        """See :class:`netgraft.search.Strategy`: the new networks of the next ``n`` episodes with some; none at the
        end.
        """
        known = {trial.digest: self._reward(trial, trials[0]) for trial in trials}
        while self.played < self.episodes or self._waiting:
            if not self._waiting:
                self._waiting = [self._episode(self.played + i) for i in range(min(n, self.episodes - self.played))]
                self.played += len(self._waiting)
            new = {digest: widths for widths, _, digest in self._waiting if digest not in known}
            if new:
                return [self._candidate(first + i, widths) for i, widths in enumerate(new.values())]
            for _, steps, digest in self._waiting:
                self.agent.learn(steps, known[digest])
            self._waiting = []
        return []

    @property
    def agent(self) -> Agent:
        """Who plays."""
        if self._agent is None:
            steps, features = len(self.walk.groups), self.walk.seen.shape[1] + 3
            warmup = min(WARMUP, self.episodes // 4)
            self._agent = Agent(features, REMEMBERED * steps, warmup, self.seed)
        return self._agent

    def _episode(self, number: int) -> tuple[list[int], list[Step], str]:
        widths, steps = self.walk.episode(lambda state: self.agent.act(state, number))
        edit = self.walk.edit(widths)
        return widths, steps, (apply(self.walk.graph, edit) if edit else self.walk.graph).digest

    def _candidate(self, number: int, widths: Sequence[int]) -> Candidate:
        edit = self.walk.edit(widths)
        assert edit is not None, "a network that is not the original"
        shares = " ".join(f"{w / g.channels:.2f}" for w, g in zip(widths, self.walk.groups, strict=True))
        edit = replace(edit, origin=f"amc, shares {shares}")
        model = self.moments.refit(edit)
        size = sum(model.weights[key].size for key in model.graph.trainable)
        return Candidate(number, model, 0, (edit,), Inheritance(size, size))

    def _reward(self, trial: Trial, original: Trial) -> float:
        if trial.state is TrialState.FAILED:
            return 0.0
        lost = self.quality.cost(trial.scores) - self.quality.cost(original.scores)
        return 1 - lost / max(abs(original.scores["quality"]), 1e-9)


@dataclass(frozen=True)
class Reward:
    """The rung that judges a network on the validation split: ``quality`` with its standard error."""

    task: Task

    def __call__(self, candidate: Candidate) -> Result:
        """Never raises for a candidate that cannot run: that is a failure with its reason."""
        return timed(self._judge, candidate)

    def _judge(self, candidate: Candidate) -> Result:
        score = evaluate(to_module(candidate.model), self.task, "validation")
        failure = "" if isfinite(score.quality) else "its quality is not a number"
        return Result(candidate, {"quality": score.quality, "quality_error": score.error}, failure)


@dataclass(frozen=True)
class Keeping:
    """The last rung, for what is kept: measured shortly where there is a ``clock``."""

    clock: Clock | None

    def __call__(self, candidate: Candidate) -> Result:
        """The candidate as it was."""
        return timed(lambda c: Result(c, self.clock.scores(c.model) if self.clock else {}), candidate)


_FLOPS: Final = 7
"""The column of a group's features with the FLOPs of its layers."""


def _features(graph: Graph, groups: Sequence[ChannelGroup]) -> State:
    """What is seen of each group that stays the same: a row for each."""
    flops = flops_by_node(graph)
    rows = []
    for at, group in enumerate(groups):
        first = graph[(group.readers or group.makers)[0]]
        size = [*graph.input_types(first)[0].concrete()[2:], 1, 1][:2]
        attrs = first.attrs
        width = attrs.get("out_channels", attrs.get("out_features", group.channels))
        stride, kernel = (attrs.get(name, (1,))[0] for name in ("stride", "kernel"))
        layers = sum(flops[id] for id in {*group.makers, *group.readers})
        rows.append([at, first.op == "linear", width, group.channels, *size, stride, layers, kernel])
    return np.array(rows, np.float32)


def _scaled(features: State) -> State:
    """Each column from 0 to 1."""
    low, high = features.min(axis=0), features.max(axis=0)
    scaled: State = (features - low) / np.where(high > low, high - low, 1)
    return scaled


def _choices(channels: int, least: float, multiple: int) -> list[int]:
    """The widths that a group may have, from small to large: multiples, and all of its channels."""
    step = multiple if channels >= 2 * multiple else 1
    return [*range(max(step, ceil(least * channels / step) * step), channels, step), channels]
