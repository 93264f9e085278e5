"""The orchard's rules, checked from its states: whatever agents do, in whatever order they come and go.

Run: pytest tests/data/test_orchard.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.sources.orchard import Orchard
from data_pipelines.sources.orchard_picture import CELL_PIXELS, looks
from data_pipelines.sources.orchard_roles import ROLES, advise
from data_pipelines.sources.orchard_rules import (
    ABSENT,
    LIKED,
    MOST_AGENTS,
    RIPE,
    SIDE,
    STORED,
    STUNG,
    Action,
    Cell,
    Ground,
    Kind,
    State,
    Wasp,
    advance,
    begin,
    carried,
    likes,
    picks,
)

RIGHT = Cell(0, 1)
BORDER = frozenset(Cell(i, j) for i in range(SIDE) for j in range(SIDE) if not (0 < i < SIDE - 1 and 0 < j < SIDE - 1))
FAR = (Wasp(Cell(6, 3), RIGHT),)


def ground(*bushes: tuple[Cell, Kind], agents: int = 2) -> Ground:
    return Ground(BORDER, bushes, (Cell(1, 1), Cell(6, 6), Cell(1, 6), Cell(6, 1))[:agents])


def state(*cells: Cell | None, hands: Sequence[Kind | None] = (), wasps: tuple[Wasp, ...] = FAR, growth=()) -> State:
    return State(cells, tuple(hands) or (None,) * len(cells), tuple(growth), wasps)


@given(st.integers(0, 10_000), st.integers(2, MOST_AGENTS), st.data())
@settings(max_examples=40, deadline=None)
def test_rules_hold_whatever_agents_do(seed: int, agents: int, data: st.DataObject) -> None:
    here, now = begin(seed, agents)
    actions = st.lists(st.integers(ABSENT, len(Action) - 1), min_size=agents, max_size=agents)
    for taken in data.draw(st.lists(actions, min_size=1, max_size=25)):
        before, (now, rewards) = now, advance(here, now, taken)
        there = [cell for cell in now.cells if cell is not None]
        bodies = [*there, *(wasp.cell for wasp in now.wasps), *here.solid]
        assert len(bodies) == len(set(bodies)), "one body per cell"
        for agent, (was, cell) in enumerate(zip(before.cells, now.cells, strict=True)):
            assert taken[agent] != ABSENT or cell is None
            if was is None or cell is None:
                assert cell in (None, here.gates[agent]), "agents enter at their gates"
            else:
                assert abs(was.row - cell.row) + abs(was.column - cell.column) <= 1
        for was, stage in zip(before.growth, now.growth, strict=True):
            assert stage == min(RIPE, was + 1) or (was == RIPE and stage == 0), "it grows, or was picked"
        picked = sum(1 for was, stage in zip(before.growth, now.growth, strict=True) if (was, stage) == (RIPE, 0))
        parts = [_parts(reward) for reward in rewards]
        gone = sum(eaten + stored for eaten, stored, _ in parts)
        change = int(carried(now.hands).sum() - carried(before.hands).sum())
        lost = picked - gone - change
        assert 0 <= lost <= sum(stings for *_, stings in parts), "berries come from bushes and go by rule"


def _parts(reward: float) -> tuple[int, int, int]:
    """How often it ate, stored and was stung: of what one tick can give, the sum tells which."""
    for eaten in (0, 1):
        for stored in (0, 1):
            for stings in range(4):
                if eaten * LIKED + stored * STORED + stings * STUNG == reward and not (eaten and stings == 1):
                    return eaten, stored, stings
    return 1, 0, 1


def test_a_trade_moves_goods_and_makes_none() -> None:
    here = ground()
    both = state(Cell(3, 3), Cell(3, 4), hands=[Kind.RED, Kind.BLUE])
    for taken in ([Action.TRADE, Action.STAY], [Action.STAY, Action.TRADE], [Action.TRADE, Action.TRADE]):
        after, rewards = advance(here, both, taken)
        assert after.hands == (Kind.BLUE, Kind.RED), "changed hands once, also where both want it"
        assert rewards == (0.0, 0.0)
        later, rewards = advance(here, after, [Action.STAY, Action.STAY])
        assert later.hands == (None, None) and rewards == (LIKED, LIKED), "each eats what it likes in its next turn"
    gift, _ = advance(here, replace(both, hands=(Kind.RED, None)), [Action.TRADE, Action.STAY])
    assert gift.hands == (None, Kind.RED)
    for hands, taken in (((None, Kind.BLUE), [Action.TRADE, Action.STAY]), ((Kind.RED, None), [Action.STAY] * 2)):
        nothing, _ = advance(here, replace(both, hands=hands), taken)
        assert nothing.hands == hands, "who carries nothing takes nothing"
    apart, _ = advance(here, replace(both, cells=(Cell(3, 3), Cell(3, 5))), [Action.TRADE, Action.TRADE])
    assert apart.hands == both.hands


def test_agent_0_goes_first() -> None:
    """Two want one cell, and one follows into the cell that another leaves."""
    here = ground()
    after, _ = advance(here, state(Cell(3, 2), Cell(3, 4)), [Action.RIGHT, Action.LEFT])
    assert after.cells == (Cell(3, 3), Cell(3, 4))
    follows, _ = advance(here, state(Cell(3, 3), Cell(3, 2)), [Action.RIGHT, Action.RIGHT])
    assert follows.cells == (Cell(3, 4), Cell(3, 3))
    stuck, _ = advance(here, state(Cell(3, 2), Cell(3, 3)), [Action.RIGHT, Action.RIGHT])
    assert stuck.cells == (Cell(3, 2), Cell(3, 4)), "agent 1 was still there"


def test_berries_are_picked_by_their_own_and_ripen_by_the_tick() -> None:
    here = ground((Cell(3, 4), Kind.RED))
    now = state(Cell(3, 3), Cell(2, 4), growth=[RIPE])
    other, _ = advance(here, now, [Action.STAY, Action.DOWN])
    assert other.hands == (None, None) and other.growth == (RIPE,), "agent 1 picks blue ones"
    now, _ = advance(here, now, [Action.RIGHT, Action.STAY])
    assert now.hands == (Kind.RED, None) and now.cells[0] == Cell(3, 3)
    grown = [now.growth[0]]
    for _ in range(RIPE + 1):
        now, _ = advance(here, now, [Action.RIGHT, Action.STAY])
        grown.append(now.growth[0])
    assert grown == [*range(RIPE + 1), RIPE] and now.hands[0] == Kind.RED, "a full hand picks nothing"


def test_what_is_brought_home_counts() -> None:
    now, rewards = advance(
        ground(), state(Cell(1, 2), Cell(6, 6), hands=[Kind.RED, Kind.RED]), [Action.LEFT, Action.STAY]
    )
    assert now.hands == (None, None) and rewards == (STORED, LIKED)


def test_wasps_fly_turn_and_sting() -> None:
    here = ground()
    now = state(Cell(3, 3), None, hands=[Kind.RED, None], wasps=(Wasp(Cell(3, 5), Cell(0, -1)),))
    after, rewards = advance(here, now, [Action.STAY, ABSENT])
    assert after.wasps[0] == Wasp(Cell(3, 4), Cell(0, -1)) and rewards[0] == 0.0
    stung, rewards = advance(here, after, [Action.STAY, ABSENT])
    assert stung.wasps[0] == Wasp(Cell(3, 4), RIGHT) and rewards[0] == STUNG and stung.hands[0] is None
    touched, rewards = advance(here, stung, [Action.RIGHT, ABSENT])
    assert rewards[0] == STUNG and touched.cells[0] == Cell(3, 3), "who walks into one is stung as well"


def test_agents_leave_and_come_back_with_what_they_carry() -> None:
    here = ground()
    left, _ = advance(here, state(Cell(3, 3), Cell(1, 1), hands=[Kind.RED, None]), [ABSENT, Action.STAY])
    assert left.cells == (None, Cell(1, 1)) and left.hands[0] == Kind.RED
    waits, _ = advance(here, left, [Action.RIGHT, Action.STAY])
    assert waits.cells[0] is None, "somebody stands at its gate"
    waits, _ = advance(here, left, [Action.RIGHT, Action.DOWN])
    assert waits.cells[0] is None, "it comes first in a tick: the gate is free in the next"
    back, _ = advance(here, waits, [Action.RIGHT, Action.STAY])
    assert back.cells == (Cell(1, 1), Cell(2, 1)) and back.hands[0] == Kind.RED, "and does nothing else"


@pytest.mark.parametrize("agents", [2, 3, 4])
def test_a_picture_shows_the_whole_state(agents: int) -> None:
    """Every cell looks like exactly one thing: a frame can be read back."""
    sprites = looks(agents)
    assert len({sprite.tobytes() for sprite in sprites.values()}) == len(sprites)
    orchard = Orchard(agents)
    rng = np.random.default_rng(agents)
    for seed in range(5):
        orchard.reset(seed)
        for _ in range(20):
            orchard.step({name: int(rng.integers(6)) for name in orchard.agents if rng.random() < 0.9})
            picture = orchard.render().reshape(SIDE, CELL_PIXELS, SIDE, CELL_PIXELS, 3).swapaxes(1, 2)
            seen = {(i, j): _name(picture[i, j], sprites) for i in range(SIDE) for j in range(SIDE)}
            for agent, (cell, hand) in enumerate(zip(orchard.world.cells, orchard.world.hands, strict=True)):
                expected = f"agent {agent} with {'nothing' if hand is None else hand.name.lower()}"
                assert [where for where, name in seen.items() if name.startswith(f"agent {agent}")] == (
                    [] if cell is None else [cell]
                )
                assert cell is None or seen[cell] == expected
            for (cell, kind), stage in zip(orchard.ground.bushes, orchard.world.growth, strict=True):
                assert seen[cell] == f"{kind.name.lower()} bush {stage}"


def _name(pixels: np.ndarray, sprites: dict[str, np.ndarray]) -> str:
    (name,) = [name for name, sprite in sprites.items() if np.array_equal(sprite, pixels)]
    return name


def test_roles_do_what_they_are_called() -> None:
    """Over the same 40 orchards: traders eat, gatherers store, avoiders are stung least."""
    got = {role: np.zeros(3) for role in ROLES}
    for seed in range(40):
        here, first = begin(seed, 2)
        for role, sums in got.items():
            now = first
            for _ in range(40):
                now, rewards = advance(here, now, [advise(here, now, agent, role) for agent in range(2)])
                sums += np.sum([_parts(reward) for reward in rewards], axis=0)
    (eaten, _, _), (_, stored, _) = got["trader"], got["gatherer"]
    assert eaten > 200 and stored > 200, got
    assert got["gatherer"][0] == got["avoider"][:2].sum() == 0
    assert got["avoider"][2] < 0.5 * min(got["trader"][2], got["gatherer"][2])


def test_what_an_agent_picks_is_what_its_neighbour_likes() -> None:
    assert [picks(agent) for agent in range(4)] == [likes(agent + 1) for agent in range(4)]


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="2 to 4 agents, not 5"):
        Orchard(5)
    orchard = Orchard(2)
    before = orchard.snapshot()
    for wrong in ({"agent_0": 6}, {"agent_7": 0}):
        with pytest.raises(ValueError, match="cannot do"):
            orchard.step(wrong)
    assert orchard.snapshot() == before
