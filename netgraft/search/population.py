"""A population on the Pareto front, as AutoGO's search keeps one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from netgraft.candidate import Candidate, Trial, TrialState
from netgraft.metrics import Goal
from netgraft.spaces import Space

from .outlook import Outlook
from .pareto import front

AFRESH = 0.25
"""How often a child is made from the original once there are networks within the limits that it is beyond itself."""


@dataclass(frozen=True)
class Population:
    """Children of the networks on the Pareto front of the complete trials (Salameh et al., NeurIPS 2023, section 4).

    A parent's chance falls with the quality that it is expected to have lost in the end (``outlook``): by half for
    every ``tolerance`` (in the quality's unit), because a child of a ruined network is hardly ever good. Deviation from
    AutoGO, which draws uniformly over a grid.
    """

    goals: Sequence[Goal]
    outlook: Outlook
    tolerance: float

    def propose(
        self,
        space: Space,
        trials: Sequence[Trial],
        candidate_of: Callable[[Trial], Candidate],
        first: int,
        n: int,
        rng: np.random.Generator,
    ) -> list[Candidate]:
        """Up to ``n`` new candidates, numbered from ``first``, none of a digest that ``trials`` holds already; gives up
        after ``n`` draws in vain.

        ``candidate_of`` gives a complete trial's network with its trained weights. A function of the trials and ``rng``
        alone, so that resuming is replaying.
        """
        complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        parents, chances = self._parents(space, complete)
        candidates: dict[int, Candidate] = {}
        seen = {trial.digest for trial in trials}
        children: list[Candidate] = []
        misses = 0
        while len(children) < n and misses < n:
            trial = parents[int(rng.choice(len(parents), p=chances))]
            if trial.number not in candidates:
                candidates[trial.number] = candidate_of(trial)
            child = space.child(candidates[trial.number], first + len(children), rng)
            if child is None or child.model.graph.digest in seen:
                misses += 1
                continue
            seen.add(child.model.graph.digest)
            children.append(child)
        return children

    def _parents(self, space: Space, complete: Sequence[Trial]) -> tuple[list[Trial], npt.NDArray[np.float64]]:
        """The front of the trials within the limits, with their chances; and the original, where it is beyond them."""
        original = next(trial for trial in complete if trial.number == 0)
        within = [t for t in complete if not any(limit.violation(t.scores) for limit in space.limits)]
        if not within:
            return [original], np.ones(1)
        until = self.outlook.until(complete)
        expected = [self.outlook.scores(trial, original, until) for trial in within]
        best = front([[goal.cost(scores) for goal in self.goals] for scores in expected])
        parents = [within[i] for i in best]
        lost = np.array([self.outlook.quality.cost(expected[i]) for i in best])
        chances: npt.NDArray[np.float64] = np.exp2(-(lost - lost.min()) / self.tolerance)
        chances /= chances.sum()
        if original not in within:
            parents, chances = [*parents, original], np.append((1 - AFRESH) * chances, AFRESH)
        return parents, chances
