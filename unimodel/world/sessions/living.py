"""A world of the disk, brought to life: each tick is in its log before anybody sees it.

Opening goes back to a moment whose memory is kept and lives through what the log knows to have come after it, frame for
frame and forward for forward, so what comes next is what would have come had nothing been closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.sources.episode import UNKNOWN_ACTION
from unimodel.memory.state import State, num_bytes
from unimodel.memory.writer_lock import WriterLock
from unimodel.world.sessions.log import LOCK_FILE, LOG_FILE, Deed, Entry, WorldLog, read_log
from unimodel.world.sessions.past import NOBODY, LivedBy, Past, action_of, frame_bytes, ids_of
from unimodel.world.sessions.snapshots import Snapshots
from unimodel.world.state import WorldState
from unimodel.world.worlds import Worlds


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody does in a tick; nobody is "". Of several agents, one that does not act has UNKNOWN_ACTION."""

    agent: str
    action: int


def acts_of(agent: str, actions: Sequence[int]) -> list[Act]:
    """Of a tick in which one who is there alone acts for all agents."""
    return [Act(NOBODY if action == UNKNOWN_ACTION else agent, action) for action in actions]


class LivingWorld:
    """The world in `folder`, lived in `worlds`, which hold no other, by the model `lived_by`. `purpose` says in the log
    what for. With `adopt`, a world of another checkpoint goes on in this one, which reads its past anew.

    Raises FileNotFoundError when there is no world, RunError when another process lives it, ValueError when its log is
    damaged or it is of another checkpoint.
    """

    def __init__(
        self, folder: Path, worlds: Worlds, lived_by: LivedBy, purpose: str = "open", *, adopt: bool = False
    ) -> None:
        if not (folder / LOG_FILE).exists():
            raise FileNotFoundError(f"{folder} holds no world: it has no {LOG_FILE}")
        self._lock = WriterLock(folder / LOCK_FILE)
        try:
            entries = read_log(folder).require_whole(folder / LOG_FILE)
            self.folder, self.past, self._worlds = folder, Past.of(entries), worlds
            self.is_adopted = self.past.lived_by != lived_by
            if self.is_adopted:
                _require_adoption(folder, self.past.lived_by, lived_by, adopt)
            self._log = WorldLog(folder, entries[-1])
        except BaseException:
            self._lock.release()
            raise
        self._slot: int | None = None
        self.replayed_ticks = 0
        """Lived through again when it was opened last."""
        self.has_kept_memory = False
        """With the last tick: a segment ended."""
        try:
            self._snapshots = Snapshots(folder, self._log)
            if self.is_adopted:
                self._note(*self._log.forget_snapshots(Deed("adopt", self.tick, value={"lived_by": asdict(lived_by)})))
            self._snapshots.prune()
            self._note(*self._log.append([Deed("open", self.tick, value={"for": purpose})]))
            self._alive()
        except BaseException:
            self.close()
            raise

    @property
    def tick(self) -> int:
        return self.past.tick

    @property
    def memory_bytes(self) -> int:
        """Of what the model remembers beyond its window."""
        memory = self._worlds.memory(self._alive())
        return num_bytes(memory) if memory is not None else 0

    def frame(self) -> np.ndarray:
        """int64 codes [rows, columns] of what is to be seen."""
        return self.past.frame(self.past.at(self.tick))

    def state(self) -> WorldState:
        """All that the model reads of the time until now."""
        return self._worlds.state(self._alive())

    def step(self, acts: Sequence[Act], passes: int) -> np.ndarray:
        """One tick: int64 codes [rows, columns] of the next frame after so many refinement passes. `acts` is one, or
        that of each of several agents, agent 0 first.

        Raises ValueError for acts that the world cannot take, OSError when the disk is full or fails or the world was
        deleted: the tick has not happened then.
        """
        self._require_possible(acts)
        slot, tick = self._alive(), self.tick + 1
        actions = [act.action for act in acts]
        try:
            (codes,) = self._worlds.step([slot], [actions[0] if len(actions) == 1 else actions], passes)
            deeds = [Deed("act", tick, act.agent, act.action) for act in acts]
            self._note(
                *self._log.append([*deeds, Deed("tick", tick, "", None, {"passes": passes}, frame_bytes(codes))])
            )
        except BaseException:
            self._sleep()  # it has lived what nobody knows of
            raise
        self._keep_memory()
        return codes

    def tell(self, agent: str, text: str, ids: np.ndarray, *, is_event: bool) -> None:
        """What happens with the next tick, or the mission from then on: a text and its ids. Raises OSError."""
        slot = self._alive()
        deed = Deed("event" if is_event else "mission", self.tick + 1, agent, None, {"text": text, "ids": ids.tolist()})
        self._note(*self._log.append([deed]))
        self._hear(slot, deed)

    def join(self, agent: str) -> None:
        """Somebody comes, and looks on while all of several agents are taken. Raises ValueError for a name that is here
        already, OSError."""
        self._require_new(agent)
        self._note(*self._log.append([Deed("join", self.tick, agent, value=self._seat(self.past.free_seat(agent)))]))

    def leave(self, agent: str) -> None:
        """Somebody goes; whoever has looked on for longest is their agent from now on. Nothing for one that is not
        there. Raises OSError."""
        if agent not in self.past.here:
            return
        deeds, waiting = [Deed("leave", self.tick, agent)], self.past.waiting()
        if agent in self.past.seats and waiting is not None:
            deeds.append(Deed("seat", self.tick, waiting, value=self._seat(self.past.seats[agent])))
        self._note(*self._log.append(deeds))

    def rename(self, agent: str, name: str) -> None:
        """Somebody goes on under another name, as the agent that they are. Raises ValueError for a name that is here
        already, OSError."""
        self._require_new(name)
        value = self._seat(self.past.seats.get(agent))
        self._note(*self._log.append([Deed("leave", self.tick, agent), Deed("join", self.tick, name, value=value)]))

    def close(self) -> None:
        """Lets go of it."""
        self._sleep()
        self._log.close()
        self._lock.release()

    def _require_possible(self, acts: Sequence[Act]) -> None:
        agents = self.past.birth.num_agents
        if len(acts) != agents:
            what = "one action" if agents == 1 else f"an action of each of {agents} agents"
            raise ValueError(f"this world takes {what} a tick, not {len(acts)}")
        for act in acts:
            if act.action < (0 if agents == 1 else UNKNOWN_ACTION):
                raise ValueError(f"action {act.action} of {act.agent} is none of this world")

    def _require_new(self, agent: str) -> None:
        if not agent or agent in self.past.here:
            raise ValueError(f"'{agent}' is here already: choose another name")

    def _seat(self, seat: int | None) -> dict[str, Any]:
        """What a log says of it; nothing in a world of one agent, or of one who looks on."""
        return {} if seat is None or self.past.birth.num_agents == 1 else {"seat": seat}

    def _note(self, *entries: Entry) -> None:
        for entry in entries:
            self.past.add(entry)

    def _alive(self) -> int:
        """The slot of the world, which goes on from where its log ends."""
        if self._slot is not None:
            return self._slot
        begin, memory = self._begin()
        slot = self._worlds.open(self.past.state(begin), self.past.birth.seed, memory)
        try:
            for tick in self.past.ticks[begin:]:
                for deed in tick.told:
                    self._hear(slot, deed)
                self._worlds.relive(slot, action_of(tick), self.past.frame(tick))
            for deed in self.past.coming:
                self._hear(slot, deed)
        except BaseException:
            self._worlds.close(slot)
            raise
        self._slot, self.replayed_ticks = slot, self.tick - begin
        return slot

    def _begin(self) -> tuple[int, State | None]:
        """The tick from which it is lived again, and what was remembered there."""
        nothing = self._worlds.no_memory()
        if nothing is None:  # all that a window knows is in the log
            return max(0, self._worlds.full_at(self.tick + 1) - 1), None
        return self._snapshots.newest(self.past, nothing) or (0, None)

    def _keep_memory(self) -> None:
        """At the end of a segment: there opening it again reads what living on would."""
        assert self._slot is not None
        self.has_kept_memory = False
        memory = self._worlds.memory(self._slot)
        if memory is not None and self._worlds.full_at(self.tick + 1) == self.tick + 1:
            self._snapshots.save(self.tick, self.past.at(self.tick), memory)
            self.has_kept_memory = True

    def _hear(self, slot: int, deed: Deed) -> None:
        if deed.kind == "event":
            self._worlds.make_happen(slot, ids_of(deed))
        else:
            self._worlds.tell(slot, ids_of(deed))

    def _sleep(self) -> None:
        if self._slot is not None:
            self._worlds.close(self._slot)
            self._slot = None


def _require_adoption(folder: Path, before: LivedBy, now: LivedBy, adopt: bool) -> None:
    if before.tokenizers != now.tokenizers:
        raise ValueError(
            f"{folder} is written in the tokens of other tokenizers than this run's: its past cannot be read. "
            "Bring back the run that it was made in"
        )
    if not adopt:
        raise ValueError(
            f"{folder} is lived by {before}, and this is {now}. Say --adopt to go on in this one, which reads the "
            "world's past anew and may remember it differently; or bring back that checkpoint (--stage chooses a stage)"
        )
