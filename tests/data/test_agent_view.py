"""MiniGrid from its agent's own eyes.

Run: pytest tests/data/test_agent_view.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from recorded_data import ENVIRONMENT, played, small_recording

from data_pipelines.shards.reader import ShardReader
from data_pipelines.sources import minigrid
from data_pipelines.sources.episode import decode_episode
from data_pipelines.sources.families import branch_frames, open_world
from data_pipelines.sources.recording import record_dataset
from unimodel.config_data import RecordingConfig

DOORS, MEMORY = "BabyAI-UnlockLocal-v0", "MiniGrid-MemoryS13-v0"


@pytest.mark.parametrize("environment", [ENVIRONMENT, DOORS, MEMORY, "BabyAI-OpenRedDoor-v0"])
@pytest.mark.parametrize("cells", [5, 7])
def test_frames_are_minigrids_own_pictures_of_what_the_agent_sees(environment: str, cells: int) -> None:
    level = minigrid.open_simulator(environment, 3, 8 * cells, cells)
    for action in (2, 1, 2, 3, 5, 0, 2, 4, 2, 2, 3, 0):
        frame = level.look().frame
        assert frame.shape == (8 * cells, 8 * cells, 3)
        assert np.array_equal(frame, level.env.get_frame(agent_pov=True, tile_size=8))
        level.step(action % level.num_actions)


def test_recorded_views_branch_and_tell_the_pose(tmp_path: Path) -> None:
    record_dataset(tmp_path, small_recording(view_cells=5, image_size=40), processes=1)
    reader = ShardReader(tmp_path / "train")
    for number in range(4):
        episode = decode_episode(*reader.read(number))
        assert episode.view_cells == 5 and episode.frames.shape[1:] == (40, 40, 3)
        world = open_world(ENVIRONMENT, episode.seed, 40, 5)
        for step, action in enumerate(episode.actions):
            done = episode.actions[:step].tolist()
            branches = branch_frames(ENVIRONMENT, episode.seed, done, 40, view_cells=5)
            assert np.array_equal(branches[action], episode.frames[step + 1])
            before = world.snapshot()
            world.step(0)
            world.restore(before)
            assert np.array_equal(world.step(action).frame, episode.frames[step + 1])
            assert world.moment.pose == tuple(episode.poses[step + 1]) and episode.poses.dtype == np.int64


def test_captions_name_what_is_in_sight_and_where() -> None:
    level = minigrid.open_simulator("BabyAI-GoToLocal-v0", 4, 56, 7)
    seen = set()
    for action in (0, 2, 0, 2, 0, 2, 1, 1, 2, 2, 1, 2):
        level.step(action)
        cells, _ = level.env.gen_obs_grid()
        things = [cell for cell in cells.grid if cell is not None and cell.type not in minigrid.UNNAMED]
        caption = level.look().caption
        seen.add(caption)
        assert len(things) == (0 if caption == "nothing in sight" else len(caption.split("; ")))
        for part in caption.split("; ") * bool(things):
            colour, kind, *place = part.split()
            numbers = dict(zip(place[1::2], map(int, place[::2]), strict=True))
            x, y = 3 + numbers.get("right", 0) - numbers.get("left", 0), 6 - numbers.get("ahead", 0)
            thing = cells.get(x, y)
            assert thing is not None and (thing.color, thing.type) == (colour, kind)
    assert len(seen) > 4


def test_events_are_about_what_the_agent_sees() -> None:
    for episode in played("BabyAI-GoToLocal-v0", *range(12), image_size=56, event_fraction=1.0, view_cells=7):
        for step, _ in episode.events:
            untold = branch_frames(episode.environment, episode.seed, episode.actions[:step].tolist(), 56, view_cells=7)
            turned = episode.actions[step] in (0, 1)  # away from it, perhaps
            same = np.array_equal(untold[episode.actions[step]], episode.frames[step + 1])
            assert turned or not same, "it shows"


@pytest.mark.parametrize(
    ("environment", "image_size", "view_cells", "said"),
    [
        (ENVIRONMENT, 64, 7, "shows 7x7 cells and 64 pixels.*multiple of 7, e.g. 63 or 70"),
        ("ALE/Breakout-v5", 64, 7, "Breakout-v5 has no view of 7 cells"),
        ("CartPole-v1", 63, 7, "CartPole-v1 has no view of 7 cells"),
    ],
)
def test_views_that_do_not_fit_are_refused(environment: str, image_size: int, view_cells: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_world(environment, 0, image_size, view_cells)


def test_a_view_is_an_odd_number_of_cells() -> None:
    with pytest.raises(ValueError, match="4 must be odd"):
        RecordingConfig(view_cells=4)
