"""How agents of an orchard play by a script: what each role would do next.

gatherer  picks berries of its own kind and stores them at its gate
trader    picks berries of its own kind and brings them to a neighbour who likes them
avoider   goes where the wasps are far
"""

from __future__ import annotations

from collections.abc import Collection

from data_pipelines.sources.orchard_rules import MOVES, RIPE, Action, Cell, Ground, State, likes, picks

ROLES = ("gatherer", "trader", "avoider")


def advise(ground: Ground, state: State, agent: int, role: str) -> int:
    """The action of a role of ROLES; an absent agent enters."""
    here = state.cells[agent]
    if here is None:
        return Action.STAY
    match role:
        case "gatherer":
            goals = _pickings(ground, state, agent) if state.hands[agent] is None else {ground.gates[agent]}
            return _towards(ground, state, here, goals)
        case "trader":
            return _trade(ground, state, agent, here)
        case _:
            return _flee(ground, state, here)


def _trade(ground: Ground, state: State, agent: int, here: Cell) -> int:
    if state.hands[agent] != picks(agent):
        return _towards(ground, state, here, _pickings(ground, state, agent))
    cells = enumerate(state.cells)
    partners = {cell for other, cell in cells if cell is not None and likes(other) == picks(agent)}
    if any(here.beside(direction) in partners for direction in MOVES.values()):
        return Action.TRADE
    return _towards(ground, state, here, partners)


def _flee(ground: Ground, state: State, here: Cell) -> int:
    """To where the nearest wasp is farthest; stays where that is here."""

    def distance(cell: Cell) -> int:
        return min(abs(cell.row - wasp.cell.row) + abs(cell.column - wasp.cell.column) for wasp in state.wasps)

    free = {action: here.beside(way) for action, way in MOVES.items() if _is_free(ground, state, here.beside(way))}
    best = max(free, key=lambda action: distance(free[action]), default=Action.STAY)
    return best if best in free and distance(free[best]) > distance(here) else Action.STAY


def _pickings(ground: Ground, state: State, agent: int) -> set[Cell]:
    """Bushes of the agent's kind: the ripe ones, or all of them while none is."""
    own = [number for number, (_, kind) in enumerate(ground.bushes) if kind == picks(agent)]
    ripe = [number for number in own if state.growth[number] == RIPE]
    return {ground.bushes[number][0] for number in ripe or own}


def _towards(ground: Ground, state: State, here: Cell, goals: Collection[Cell]) -> int:
    """The first step of a shortest way to a goal, or into it where nobody can stand; stays where there is none."""
    first: dict[Cell, Action] = {here: Action.STAY}
    edge = [here]
    while edge:
        following = []
        for cell in edge:
            for action, direction in MOVES.items():
                ahead = cell.beside(direction)
                if ahead in first:
                    continue
                step = action if cell == here else first[cell]
                if ahead in goals:
                    return step
                if _is_free(ground, state, ahead):
                    first[ahead] = step
                    following.append(ahead)
        edge = following
    return Action.STAY


def _is_free(ground: Ground, state: State, cell: Cell) -> bool:
    return cell not in ground.solid and cell not in state.cells and all(wasp.cell != cell for wasp in state.wasps)
