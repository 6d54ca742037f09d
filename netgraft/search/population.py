"""A population on the Pareto front, as AutoGO's search keeps one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from netgraft.candidate import Candidate, Trial, TrialState
from netgraft.metrics import Goal
from netgraft.spaces import Space

from .pareto import front


@dataclass(frozen=True)
class Population:
    """Children of the networks on the Pareto front of the complete trials (Salameh et al., NeurIPS 2023, section 4).

    A parent's chance falls with the quality it lost: by half for every ``tolerance`` (in the quality's unit), because a
    child of a ruined network is hardly ever good. Deviation from AutoGO, which draws uniformly over a grid.
    """

    goals: Sequence[Goal]
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
        """Up to ``n`` new candidates, numbered from ``first``, none of a digest that ``trials`` holds already.

        ``candidate_of`` gives a complete trial's network with its trained weights. A function of the trials and ``rng``
        alone, so that resuming is replaying.
        """
        complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        on_front = [complete[i] for i in front([[goal.cost(t.scores) for goal in self.goals] for t in complete])]
        chances = self._chances(on_front)
        seen = {trial.digest for trial in trials}
        parents: dict[int, Candidate] = {}
        children: list[Candidate] = []
        for _ in range(4 * n):
            if len(children) == n:
                break
            trial = on_front[int(rng.choice(len(on_front), p=chances))]
            if trial.number not in parents:
                parents[trial.number] = candidate_of(trial)
            child = space.child(parents[trial.number], first + len(children), rng)
            if child is not None and child.model.graph.digest not in seen:
                seen.add(child.model.graph.digest)
                children.append(child)
        return children

    def _chances(self, parents: Sequence[Trial]) -> npt.NDArray[np.float64]:
        quality = next((goal for goal in self.goals if goal.metric == "quality"), Goal("quality", True))
        lost = np.array([_cost(quality, trial.scores) for trial in parents])
        chances: npt.NDArray[np.float64] = np.exp2(-(lost - lost.min()) / self.tolerance)
        chances /= chances.sum()
        return chances


def _cost(goal: Goal, scores: Mapping[str, float]) -> float:
    return goal.cost(scores) if goal.metric in scores else 0.0
