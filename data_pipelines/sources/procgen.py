"""Procgen's games (Cobbe et al. 2020, arXiv 1912.01588) as gymnasium environments:
`data_pipelines.sources.procgen:CoinRun-v0`, or another of GAMES.

Their package was made for an older numpy and gym, which it works without: docs/data.md says how to install it.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from data_pipelines.extras import MissingExtraError

GAMES = (
    *("BigFish", "BossFight", "CaveFlyer", "Chaser", "Climber", "CoinRun", "Dodgeball", "FruitBot", "Heist", "Jumper"),
    *("Leaper", "Maze", "Miner", "Ninja", "Plunder", "StarPilot"),
)


class Procgen(gymnasium.Env[np.ndarray, np.int64]):
    """One level of one game, made from the seed; 15 actions, of which many do the same.

    A game that is over shows its last picture again: the simulator has begun the next one by then.
    """

    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def __init__(self, game: str) -> None:
        self.mission = f"play {game.lower()}"
        self._game, self._levels = game.lower(), _library().ProcgenGym3Env
        self._level: Any = self._open(0)
        self._picture = np.zeros((64, 64, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(self._level.ac_space.eltype.n)

    def get_action_meanings(self) -> list[str]:
        """The keys of each action."""
        return ["_".join(keys).lower() or "noop" for keys in self._level.get_combos()]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A level; the same one for the same seed."""
        super().reset(seed=seed)
        self._level.close()
        self._level = self._open(int(self.np_random.integers(2**31 - 1)))
        self._picture = self._look()
        return self._picture, {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Time that is over and a level that is won or lost look the same from here: both end the game."""
        self._level.act(np.array([action], dtype=np.int32))
        reward, _, first = self._level.observe()
        if not first[0]:
            self._picture = self._look()
        return self._picture, float(reward[0]), bool(first[0]), False, {}

    def snapshot(self) -> list[bytes]:
        """The whole game, to come back to."""
        return self._level.callmethod("get_state")

    def restore(self, state: list[bytes]) -> None:
        """Exactly back, as often as wanted."""
        self._level.callmethod("set_state", state)
        self._picture = self._look()

    def close(self) -> None:
        self._level.close()

    def _open(self, level: int) -> Any:
        return self._levels(num=1, env_name=self._game, start_level=level, num_levels=1, rand_seed=0, num_threads=0)

    def _look(self) -> np.ndarray:
        return self._level.observe()[1]["rgb"][0].copy()


def _library() -> Any:
    try:
        import procgen  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            f"Procgen's games need their package ({error}): pip install --no-deps procgen-mirror gym3 gym==0.26.2 && "
            "pip install cffi imageio"
        ) from None
    return procgen


for _game in GAMES:
    gymnasium.register(f"{_game}-v0", f"{__name__}:Procgen", kwargs={"game": _game})
