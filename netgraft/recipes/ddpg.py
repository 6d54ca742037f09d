"""An actor and a critic (Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR 2016), as AMC
uses them: a reward at the end of an episode, which all of its steps are given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

State = npt.NDArray[np.float32]

HIDDEN: Final = 300
BATCH: Final = 64
NOISE: Final = 0.5
"""Deviation of the noise when exploring begins to calm down."""
CALMER: Final = 0.97
"""What it is of itself an episode later."""
ACTING: Final = 1e-3
JUDGING: Final = 1e-3
"""The rates of learning of the actor and the critic."""
FOLLOW: Final = 0.01
"""How far the slow copies of both networks follow in a step."""
MOVING: Final = 0.5
"""Weight of the latest batch in the moving average of rewards."""


@dataclass(frozen=True)
class Step:
    """What was seen, done (0 to 1), and seen then; ``last`` for the end of an episode, whose ``after`` is not used."""

    state: State
    action: float
    after: State
    last: bool


class Agent:
    """Learns from episodes to choose numbers between 0 and 1. What it does follows from the seed and what it was told.

    The first ``warmup`` episodes are uniformly random; then actions are drawn from a normal distribution around the
    actor's, cut off at 0 and 1, whose deviation shrinks by 3 % an episode. The critic is trained on rewards less their
    moving average, without a discount, once for each step of an episode.

    Deviations from AMC's published code: it shrinks the deviation by 5 %, and its actor learns at a tenth of the rate
    here. With these an agent of a few hundred episodes settles before it has learned (``docs/results.md``).
    """

    def __init__(self, features: int, memory: int, warmup: int, seed: int) -> None:
        self.episodes = 0
        self.warmup = warmup
        self.rng = np.random.default_rng(seed)
        self.memory: deque[tuple[Step, float]] = deque(maxlen=memory)
        self.average: float | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor, self.critic = _Actor(features), _Critic(features)
        self.slow_actor, self.slow_critic = deepcopy(self.actor), deepcopy(self.critic)
        self.actor_steps = torch.optim.Adam(self.actor.parameters(), lr=ACTING, fused=True)
        self.critic_steps = torch.optim.Adam(self.critic.parameters(), lr=JUDGING, fused=True)

    def act(self, state: State, episode: int) -> float:
        """What to do in the ``episode``-th episode, counted from 0."""
        if episode < self.warmup:
            return float(self.rng.random())
        with torch.no_grad():
            middle = float(self.actor(torch.from_numpy(state)[None]))
        deviation = NOISE * CALMER ** (episode - self.warmup)
        while True:
            drawn = self.rng.normal(middle, deviation)
            if 0 <= drawn <= 1:
                return float(drawn)

    def learn(self, episode: Sequence[Step], reward: float) -> None:
        """Remembers an episode and, after the warm-up, trains for each of its steps."""
        self.memory.extend((step, reward) for step in episode)
        self.episodes += 1
        if self.episodes > self.warmup:
            for _ in range(len(episode)):
                self._train()

    def _train(self) -> None:
        chosen = [self.memory[i] for i in self.rng.integers(len(self.memory), size=BATCH)]
        states = torch.from_numpy(np.stack([step.state for step, _ in chosen]))
        after = torch.from_numpy(np.stack([step.after for step, _ in chosen]))
        actions = torch.tensor([[step.action] for step, _ in chosen], dtype=torch.float32)
        goes_on = torch.tensor([[not step.last] for step, _ in chosen], dtype=torch.float32)
        rewards = torch.tensor([[reward] for _, reward in chosen], dtype=torch.float32)
        mean = float(rewards.mean())
        self.average = mean if self.average is None else MOVING * mean + (1 - MOVING) * self.average
        with torch.no_grad():
            wanted = rewards - self.average + goes_on * self.slow_critic(after, self.slow_actor(after))
        _step(self.critic_steps, nn.functional.mse_loss(self.critic(states, actions), wanted))
        _step(self.actor_steps, -self.critic(states, self.actor(states)).mean())
        with torch.no_grad():
            for slow, fast in ((self.slow_actor, self.actor), (self.slow_critic, self.critic)):
                for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
                    old.lerp_(new, FOLLOW)


class _Actor(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)),
            nn.Sigmoid(),
        )

    def forward(self, states: Tensor) -> Tensor:
        actions: Tensor = self.layers(states)
        return actions


class _Critic(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.states, self.actions = nn.Linear(features, HIDDEN), nn.Linear(1, HIDDEN)
        self.layers = nn.Sequential(nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        values: Tensor = self.layers(self.states(states) + self.actions(actions))
        return values


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    optimiser.zero_grad()
    loss.backward(inputs=trained)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimiser.step()
