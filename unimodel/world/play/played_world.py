"""A world as it is dreamed, by one checkpoint or by two side by side, with the real environment beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from data_pipelines.sources.episode import Episode
from unimodel.world.play.difference import differs_visibly, encode_png, psnr
from unimodel.world.play.dream import Dream
from unimodel.world.play.history import History, Moment
from unimodel.world.play.model_thread import Dreamed
from unimodel.world.play.playground import Playground
from unimodel.world.play.twin import Reality, Twin
from unimodel.world.state import WorldState

MOST_COMING = 4
"""Events before one action."""
INFERRED_ACTIONS = "The actions of this dream were inferred from pictures: the real environment does not know them."
NO_ENVIRONMENT = "These episodes were recorded elsewhere: no environment can be played beside the dream."


@dataclass(slots=True)
class _Slot:
    """A dream's place on the model's thread; opened when a step is due, since looking around needs none."""

    dream: int
    number: int | None = None


class PlayedWorld:
    """`begin` makes one. One call at a time."""

    def __init__(self, ground: Playground, number: int, episode: Episode, dreams: Sequence[int]) -> None:
        self._ground = ground
        self.episode = number
        self._episode = episode
        self._slots = [_Slot(dream) for dream in dreams]
        self._twin: Twin | None = None
        self._no_twin: str | None = None
        self.mission = episode.mission
        """From the next step on."""
        self.coming: tuple[str, ...] = ()
        """Events that are said to happen before the next action."""
        self.possible: tuple[str, ...] = ()
        """Some that can, in the real environment."""
        self.history: History

    @staticmethod
    async def begin(ground: Playground, number: int, dreams: Sequence[int], *, beside_reality: bool) -> PlayedWorld:
        """The first frame of an episode, as each of `dreams` reads it.

        Raises ValueError when there is no episode of this number.
        """
        episode = await asyncio.to_thread(ground.starts.read, number)
        world = PlayedWorld(ground, number, episode, dreams)
        if beside_reality and episode.environment and ground.environment is None:
            world._no_twin = INFERRED_ACTIONS
        elif beside_reality and episode.environment:
            world._twin = Twin(episode.environment, episode.seed, episode.frames.shape[1], episode.view_cells)
        elif beside_reality:
            world._no_twin = NO_ENVIRONMENT
        shown = [await ground.model.call(lambda dream=dream: world._first(dream)) for dream in dreams]
        start = world._moment(None, shown, await world._real([]))
        limits = ground.settings.limits
        world.history = History(start, limits.max_moments, limits.max_branches)
        return world

    async def advance(self, action: int, passes: int) -> float:
        """One step of everything; the seconds it took the model. Raises HistoryFull, and what the model raises: nothing
        has moved then."""
        self.history.require_room()
        model = self._ground.model
        try:
            slots = [await self._open(slot) for slot in self._slots]
            steps = [model.step(slot.dream, n, action, passes) for slot, n in zip(self._slots, slots, strict=True)]
            real, dreamed = await asyncio.gather(
                self._real([*self.history.deeds(), *self.coming, action]), asyncio.gather(*steps)
            )
        except BaseException:
            self.leave()
            raise
        self.history.add(self._moment(action, dreamed, real))
        self.coming = ()
        return dreamed[0].seconds

    async def tell(self, text: str) -> None:
        """Says something to it: what happens next, or what its mission is, as its dreams understand it.

        Raises ValueError for a text that a dream could not read, and for too many at once.
        """
        if len(self.coming) >= MOST_COMING:
            raise ValueError(f"{MOST_COMING} things are about to happen already: take a step first")
        model = self._ground.model
        for slot in self._slots:
            await model.call(lambda dream=slot.dream: model.dreams[dream].check_text(text))
        if self._ground.hears_events:
            self.coming += (text,)
        else:
            self.mission = text
        self.leave()

    def leave(self) -> None:
        """Gives the slots back: the next step goes on from wherever one is then."""
        for slot in self._slots:
            if slot.number is not None:
                self._ground.model.close(slot.dream, slot.number)
                slot.number = None

    def arrive(self) -> None:
        """After going to another moment: the world knows what it had been told there."""
        self.leave()
        self.mission, self.coming = self.history.here().mission, ()

    async def close(self) -> None:
        """Ends it."""
        self.leave()
        if self._twin is not None:
            await asyncio.get_running_loop().run_in_executor(self._ground.reality, self._twin.close)

    async def _open(self, slot: _Slot) -> int:
        if slot.number is None:
            slot.number = await self._ground.model.open(slot.dream, lambda dream: self._past(slot, dream))
        return slot.number

    def _past(self, slot: _Slot, dream: Dream) -> WorldState:
        """All so far, and what is coming, as a dream reads it."""
        now = len(self.history.actions())
        events = [*self.history.events(), *((now, text) for text in self.coming)]
        told = [(step, dream.read(text)) for step, text in events]
        return self.history.past(self._slots.index(slot), dream.read(self.mission), told)

    def _first(self, dream: int) -> Dreamed:
        model = self._ground.model.dreams[dream]
        codes = model.start(self._episode.frames[0])
        return Dreamed(codes, model.pictures(codes[None])[0], 0.0)

    async def _real(self, deeds: list[int | str]) -> Reality | None:
        """What is really to be seen after `deeds`; an environment that fails is not asked again."""
        if self._twin is None:
            return None
        try:
            real = await asyncio.get_running_loop().run_in_executor(self._ground.reality, self._twin.at, deeds)
        except Exception as error:  # an environment is code of others: whatever it raises, the dream goes on
            self._twin, self._no_twin, self.possible = None, f"The real environment cannot be played: {error}", ()
            return None
        self.possible = real.possible if self._ground.hears_events else ()
        return real

    def _moment(self, action: int | None, dreamed: Sequence[Dreamed], real: Reality | None) -> Moment:
        pictures = [encode_png(dream.picture) for dream in dreamed]
        if len(dreamed) == 1:
            pictures.append(encode_png(real.picture) if real is not None else b"")
        picture = dreamed[0].picture
        comparable = real is not None and real.picture.shape == picture.shape
        return Moment(
            action=action,
            codes=tuple(dream.codes for dream in dreamed),
            pictures=tuple(pictures),
            mission=self.mission,
            psnr=psnr(picture, real.picture) if real is not None and comparable else None,
            differs=real is not None and comparable and differs_visibly(picture, real.picture),
            real_note=self._no_twin if real is None else _note(real),
            events=self.coming,
        )


def _note(real: Reality) -> str | None:
    if real.over_at is not None:
        return f"The real episode was over after {real.over_at} steps, with a reward of {real.reward:.3g}."
    return f"It did not happen in the real environment: {real.refused}." if real.refused is not None else None
