"""Tiny worlds on disk, in models of random weights, and processes that live them until they are killed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from toy_memories import EACH, NAMES, SIDE, STEPS, remembering
from toy_sequences import BUILDER, PAD_ID, VOCABULARY, tiny_backbone, toy_episode

from unimodel.backbone.model import Backbone
from unimodel.run_folder import RunFolder
from unimodel.sampling.fill import FillSettings
from unimodel.world.sessions.catalogue import make_world, world_folder
from unimodel.world.sessions.living import Act, LivingWorld
from unimodel.world.sessions.past import Birth, LivedBy
from unimodel.world.worlds import Worlds

MODEL = LivedBy("a" * 64, "memory", 100, "t" * 64)
OTHER = LivedBy("b" * 64, "memory", 200, "t" * 64)
SEED, PASSES, WINDOW = 9, 2, 5
SETTINGS = FillSettings(temperature=0.1)
"""Frames are drawn, so that a seed matters."""
MECHANISMS: dict[str, Sequence[Mapping[str, object]] | None] = {"none": None, **dict(zip(NAMES, EACH, strict=True))}
"""Of every kind of model: without memory, with one mechanism, with several."""


def backbone_of(mechanisms: Sequence[Mapping[str, object]] | None, seed: int = 0) -> Backbone:
    return tiny_backbone(seed) if mechanisms is None else remembering(mechanisms)


def worlds_in(backbone: Backbone) -> Worlds:
    return Worlds(backbone, BUILDER, PAD_ID, WINDOW if backbone.memory is None else STEPS + 1, SETTINGS)


def toy_world(run: Path, name: str = "garden", agents: tuple[str, ...] = ()) -> Path:
    """The folder of a new world, of one agent or of several with names, of a run that has nothing else."""
    run.mkdir(exist_ok=True)
    RunFolder(run).config_file.touch()
    episode = toy_episode(5, 1, SIDE)
    names = tuple("abcde"[: VOCABULARY.action_size])
    birth = Birth((SIDE, SIDE), "go on", tuple(episode.mission.tolist()), names, 0, "test", "toy", SEED, agents)
    return make_world(RunFolder(run), name, birth, episode.frames[0], MODEL)


def opened(run: Path, backbone: Backbone, name: str = "garden", **options: bool) -> LivingWorld:
    return LivingWorld(world_folder(RunFolder(run), name), worlds_in(backbone), MODEL, "test", **options)


def action_at(tick: int) -> int:
    """What is done in a tick: whoever knows the tick knows it."""
    return int(np.random.default_rng(tick).integers(VOCABULARY.action_size))


def live(world: LivingWorld, ticks: int) -> list[np.ndarray]:
    """The frames of so many more ticks."""
    return [world.step([Act("bot", action_at(world.tick + 1))], PASSES) for _ in range(ticks)]


def uninterrupted(backbone: Backbone, ticks: int) -> np.ndarray:
    """[ticks + 1, rows, columns] the frames of a world that was never on a disk."""
    from unimodel.world.state import WorldState

    episode = toy_episode(5, 1, SIDE)
    worlds = worlds_in(backbone)
    slot = worlds.open(WorldState(episode.mission, episode.frames[:1], episode.actions[:0]), SEED)
    for tick in range(1, ticks + 1):
        worlds.step([slot], [action_at(tick)], PASSES)
    return worlds.state(slot).frames


def frames_of(world: LivingWorld) -> np.ndarray:
    """[ticks + 1, rows, columns] all that holds."""
    return world.past.state(world.tick).frames


def live_for_ever(run: Path, backbone: Backbone, output: int) -> None:
    """Ticks as fast as it can; a line `begun N` before and `shown N` after each, and `open N` when it is open."""
    world = opened(run, backbone)
    os.write(output, b"open %d\n" % world.tick)
    while True:
        os.write(output, b"begun %d\n" % (world.tick + 1))
        live(world, 1)
        os.write(output, b"shown %d\n" % world.tick)
