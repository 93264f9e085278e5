"""Playing an episode again up to the state from which every action is then tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def replay(environment: str, seed: int, actions: Sequence[int], num_actions: int, step: Callable[[int], bool]) -> None:
    """Takes `actions` one by one; `step` tells whether the episode is over.

    Raises ValueError when an action does not exist or the episode is over before or with the last of `actions`.
    """
    for number, action in enumerate(actions):
        if not 0 <= action < num_actions:
            raise ValueError(f"{environment}: action {action} at step {number} is outside 0..{num_actions - 1}")
        if step(int(action)):
            raise ValueError(f"{environment}, seed {seed}: the episode ends at step {number}, nothing to branch from")
