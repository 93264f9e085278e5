"""What a server of one shared world has: the world of the disk, and the thread on which its model lives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unimodel.training.loaded_run import LoadedRun
from unimodel.world.play.bots import Bot, bots_of
from unimodel.world.play.controls import Controls
from unimodel.world.play.dream import Dream
from unimodel.world.play.model_thread import ModelThread
from unimodel.world.play.pace import Pace
from unimodel.world.play.settings import PlaySettings
from unimodel.world.sessions.from_run import revive_world
from unimodel.world.sessions.living import Act, LivingWorld

NOTES = 12
"""Of what happened: the last ones are shown."""


@dataclass(frozen=True)
class SharedGround:
    """`world` and `dream` belong to the model's thread; what else they say is asked on it as well."""

    name: str
    world: LivingWorld
    dream: Dream
    settings: PlaySettings
    controls: Controls
    pace: Pace
    bots: Mapping[str, Bot] = field(default_factory=dict)
    """Who is an agent on the server itself, by name."""
    model: ModelThread = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", ModelThread([self.dream]))
        self.model.start()

    @property
    def num_agents(self) -> int:
        """How many act in every tick."""
        return self.world.past.birth.num_agents

    def step(self, acts: Sequence[Act], passes: int) -> np.ndarray:
        """On the model's thread: a tick, and its picture uint8 [height, width, 3]."""
        taken = [self._by_bot(seat, act) for seat, act in enumerate(acts)]
        return self.dream.pictures(self.world.step(taken, passes)[None])[0]

    def _by_bot(self, seat: int, act: Act) -> Act:
        bot = self.bots.get(act.agent)
        return act if bot is None else Act(act.agent, bot.act(self.world, seat))

    def picture(self) -> np.ndarray:
        """On the model's thread: what is to be seen."""
        return self.dream.pictures(self.world.frame()[None])[0]

    def tell(self, agent: str, text: str) -> None:
        """On the model's thread. Raises ValueError for a text that the model could not read, OSError."""
        self.dream.check_text(text)
        self.world.tell(agent, text, self.dream.read(text), is_event=self.dream.hears_events)

    def close(self) -> None:
        """Ends the thread, and lets go of the world."""
        self.model.stop()
        self.world.close()


def open_shared_ground(
    loaded: LoadedRun, name: str, settings: PlaySettings, *, adopt: bool = False, bots: Sequence[str] = ()
) -> SharedGround:
    """The world `name` of a run, to be played by all who come, and by `bots`. Raises what LivingWorld does, and
    ValueError for bots that cannot be."""
    world = revive_world(loaded, name, "play", adopt=adopt, compiled_for=int(settings.compiled))
    patch = loaded.bundle.image.config.patch_pixels
    birth = world.past.birth
    try:
        players = bots_of(loaded, bots, birth.num_agents)
    except ValueError:
        world.close()
        raise
    rows, columns = birth.shape
    dream = Dream(loaded, (rows * patch, columns * patch), num_agents=birth.num_agents)
    pace = Pace(settings.passes, 1 / settings.fps)
    return SharedGround(name, world, dream, settings, Controls.of(birth.actions), pace, players)
