"""The parts of a play server that need no model: clock, keys, pace, history, what waits to be sent, what differs.

Run: pytest tests/world/test_play_parts.py
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from unimodel.world.play.clock import REPEAT_AFTER_SECONDS, Clock, Due
from unimodel.world.play.controls import Controls
from unimodel.world.play.difference import decode_png, differs_visibly, encode_png, psnr
from unimodel.world.play.history import History, HistoryFull, Moment
from unimodel.world.play.outbox import MOST_MESSAGES, Outbox
from unimodel.world.play.pace import ENOUGH_STEPS, Meter, Pace
from unimodel.world.play.protocol import Frame, Measured, Notice, parse
from unimodel.world.play.token_bucket import TokenBucket

MINIGRID = ("left", "right", "forward", "pickup", "drop", "toggle", "done")
ATARI = ("noop", "fire", "up", "right", "left", "down", "upright", "upleft", "downright", "downleft", "upfire")
PERIOD = 0.1


# --- controls -------------------------------------------------------------------------------------------------------


def test_usual_names_get_usual_keys() -> None:
    controls = Controls.of(MINIGRID)
    assert controls.keys == ("ArrowLeft", "ArrowRight", "ArrowUp", "KeyP", "KeyD", "Space", "Enter")
    assert controls.idle == MINIGRID.index("done")


def test_names_that_say_nothing_get_digits() -> None:
    controls = Controls.of([f"action_{i}" for i in range(3)])
    assert controls.keys == ("Digit0", "Digit1", "Digit2") and controls.idle is None


def test_no_key_is_given_twice() -> None:
    names = [f"place {what}" for what in ("stone", "table", "furnace", "plant")] + ["do", "use", "pickup", "drop", "d"]
    keys = Controls.of(names).keys
    assert None not in keys and len(set(keys)) == len(keys)


def test_keys_together_are_a_chord_and_the_newest_counts_where_there_is_none() -> None:
    controls = Controls.of(ATARI)
    up, right, left, fire = (ATARI.index(name) for name in ("up", "right", "left", "fire"))
    assert controls.chosen([up, right]) == controls.chosen([right, up]) == ATARI.index("upright")
    assert controls.chosen([left, right]) == right and controls.chosen([right, left]) == left
    assert controls.chosen([right, fire]) == fire  # this game has no rightfire
    assert controls.chosen([]) is None
    assert controls.keys[ATARI.index("upright")] is None and controls.is_chord(ATARI.index("upright"))


# --- clock ----------------------------------------------------------------------------------------------------------


def _clock() -> Clock:
    return Clock(Controls.of(MINIGRID), PERIOD)


def _taken(clock: Clock, now: float, *, ticking: bool) -> int | None:
    due = clock.take(now, ticking=ticking)
    return due.action if isinstance(due, Due) else None


def test_a_ticking_clock_takes_what_is_held_and_nothing_is_idle() -> None:
    clock = _clock()
    assert _taken(clock, 0.0, ticking=True) == 6
    assert _taken(clock, 0.05, ticking=True) is None
    clock.press(2, 0.05)
    assert [_taken(clock, now, ticking=True) for now in (0.1, 0.2)] == [2, 2]
    clock.release(2)
    assert _taken(clock, 0.31, ticking=True) == 6


def test_a_tap_between_two_ticks_counts_once() -> None:
    clock = _clock()
    clock.take(0.0, ticking=True)
    clock.press(0, 0.02)
    clock.release(0)
    assert [_taken(clock, now, ticking=True) for now in (0.1, 0.2)] == [0, 6]


def test_of_keys_pressed_during_a_step_the_newest_wins_and_none_is_queued() -> None:
    clock = _clock()
    for action in (0, 1, 2):
        clock.press(action, 0.01)
        clock.release(action)
    assert _taken(clock, 0.02, ticking=False) == 2
    assert clock.take(0.03, ticking=False) is None


def test_missed_ticks_are_not_made_up_for() -> None:
    clock = _clock()
    clock.take(0.0, ticking=True)
    assert _taken(clock, 5.0, ticking=True) == 6
    wait = clock.take(5.01, ticking=True)
    assert isinstance(wait, float) and wait == pytest.approx(0.09)


def test_standing_time_moves_by_a_press_and_a_held_key_repeats_after_a_while() -> None:
    clock = _clock()
    assert clock.take(0.0, ticking=False) is None
    clock.press(2, 0.0)
    assert _taken(clock, 0.0, ticking=False) == 2
    wait = clock.take(0.1, ticking=False)
    assert wait == pytest.approx(REPEAT_AFTER_SECONDS - 0.1)
    assert _taken(clock, 0.45, ticking=False) == 2
    assert _taken(clock, 0.5, ticking=False) is None
    clock.release_all()
    assert clock.take(9.0, ticking=False) is None


def test_a_step_that_is_asked_for_takes_what_is_held_or_does_nothing() -> None:
    clock = _clock()
    clock.ask_step()
    assert _taken(clock, 0.0, ticking=False) == 6 and clock.take(0.0, ticking=False) is None


def test_a_world_in_which_every_action_does_something_waits_for_a_key() -> None:
    clock = Clock(Controls.of(["push_left", "push_right"]), PERIOD)
    assert clock.take(0.0, ticking=True) is None
    clock.press(1, 0.0)
    assert _taken(clock, 0.0, ticking=True) == 1


# --- pace and measure -----------------------------------------------------------------------------------------------


def test_passes_fall_until_the_step_fits_and_rise_when_there_is_room() -> None:
    pace = Pace(4, budget_seconds=0.1)
    seen = []
    for seconds_per_pass in (0.06, 0.06, 0.06, 0.01, 0.01, 0.01):
        for _ in range(2 * ENOUGH_STEPS):
            pace.note(pace.passes, seconds_per_pass * pace.passes)
        seen.append(pace.passes)
    assert seen[:3] == [1, 1, 1] and seen[-1] == 4


def test_passes_that_were_tried_in_vain_are_tried_later_and_later() -> None:
    pace, changes, before = Pace(2, budget_seconds=0.1), [], 2
    for step in range(2000):
        pace.note(pace.passes, 0.11 if pace.passes == 2 else 0.03)  # two passes cost more than twice one
        if pace.passes != before:
            changes.append(step)
            before = pace.passes
    rises = changes[1::2]
    waits = [later - earlier for earlier, later in zip(rises, rises[1:], strict=False)]
    assert waits == sorted(waits) and waits[-1] > 10 * ENOUGH_STEPS


def test_a_step_of_another_number_of_passes_tells_nothing() -> None:
    pace = Pace(4, budget_seconds=0.1)
    for _ in range(5 * ENOUGH_STEPS):
        pace.note(1, 9.0)
    assert pace.passes == 4


def test_a_key_waits_until_its_picture_or_a_later_one_is_drawn() -> None:
    meter = Meter()
    meter.show(1, now=0.0, pressed_at=None)
    meter.show(2, now=0.1, pressed_at=0.05)
    meter.show(3, now=0.2, pressed_at=0.15)
    assert meter.per_second() == 10.0 and meter.wait_milliseconds(0.5) is None
    meter.acknowledge(3, now=0.25)
    assert meter.wait_milliseconds(0.5) == pytest.approx(100) and meter.wait_milliseconds(0.95) == pytest.approx(200)
    meter.acknowledge(3, now=9.0)
    assert meter.wait_milliseconds(0.95) == pytest.approx(200)


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket.full(rate=10, burst=3, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(0.1) and not bucket.take(0.1)


# --- history --------------------------------------------------------------------------------------------------------


def _moment(action: int | None, *, differs: bool = False, events: tuple[str, ...] = ()) -> Moment:
    return Moment(action, (np.full((1, 1), action or 0),), (b"", b""), "go", 30.0, differs, events=events)


def _history(*actions: int, moments: int = 100, branches: int = 5) -> History:
    history = History(_moment(None), moments, branches)
    for action in actions:
        history.add(_moment(action))
    return history


def test_acting_in_the_past_begins_a_branch_and_keeps_the_future() -> None:
    history = _history(1, 2, 3)
    history.rewind(1)
    assert history.actions() == [1]
    assert history.add(_moment(5)) and not history.add(_moment(6))
    assert (history.branch, history.actions()) == (1, [1, 5, 6])
    history.switch(0)
    assert history.actions() == [1, 2, 3]


def test_a_branch_may_begin_in_what_it_shares_with_its_parent() -> None:
    history = _history(1, 2, 3)
    history.rewind(2)
    history.add(_moment(7))
    history.rewind(1)
    history.add(_moment(8))
    assert [(line.parent, line.fork, line.tip) for line in history.lines] == [(None, -1, 3), (0, 2, 3), (0, 1, 2)]
    assert history.actions() == [1, 8] and history.here().action == 8
    history.switch(1)
    assert history.actions() == [1, 2, 7]


def test_the_past_that_a_model_reads_is_the_way_here() -> None:
    history = _history(1, 2)
    history.rewind(1)
    history.add(_moment(4))
    past = history.past(0, np.array([9]), [(1, np.array([5]))])
    assert past.frames[:, 0, 0].tolist() == [0, 1, 4] and past.actions.tolist() == [1, 4]
    assert past.mission.tolist() == [9]
    assert [(step, ids.tolist()) for step, ids in past.events] == [(1, [5])]


def test_events_stand_before_the_action_that_they_came_with() -> None:
    history = _history(1)
    history.add(_moment(2, events=("it rains", "it snows")))
    assert history.events() == [(1, "it rains"), (1, "it snows")]
    assert history.deeds() == [1, "it rains", "it snows", 2]
    history.rewind(1)
    assert history.events() == [] and history.deeds() == [1]


def test_the_first_visible_difference_is_that_of_the_way_here() -> None:
    history = _history(1)
    history.add(_moment(2, differs=True))
    assert history.differs_at() == 2
    history.rewind(1)
    history.add(_moment(3))
    assert history.differs_at() is None


def test_a_full_history_says_so_and_stays_as_it_is() -> None:
    history = _history(1, 2, moments=3)
    with pytest.raises(HistoryFull, match="3 frames"):
        history.add(_moment(3))
    assert history.actions() == [1, 2]
    branched = _history(1, branches=1)
    branched.rewind(0)
    with pytest.raises(HistoryFull, match="1 branches"):
        branched.add(_moment(2))
    assert branched.actions() == [] and len(branched.lines) == 1


@pytest.mark.parametrize("step", [-1, 4])
def test_there_is_no_way_beyond_the_ends(step: int) -> None:
    with pytest.raises(ValueError, match="0 to 3"):
        _history(1, 2, 3).rewind(step)


# --- pictures and messages ------------------------------------------------------------------------------------------


def test_an_agent_on_the_wrong_cell_is_seen_and_a_blurred_picture_is_not() -> None:
    rng = np.random.default_rng(0)
    real = np.zeros((64, 64, 3), dtype=np.uint8)
    real[8:16, 8:16] = (255, 0, 0)
    moved = np.roll(real, 8, axis=1)
    blurred = np.clip(real.astype(int) + rng.integers(-9, 10, real.shape), 0, 255).astype(np.uint8)
    assert differs_visibly(moved, real) and not differs_visibly(blurred, real) and not differs_visibly(real, real)
    assert psnr(real, real) > psnr(blurred, real) > psnr(moved, real)


def test_pictures_cross_unchanged() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    assert np.array_equal(decode_png(encode_png(picture)), picture)


def _frame(number: int) -> Frame:
    measured = Measured(fps=None, passes=4, p50_ms=None, p95_ms=None, dropped=0)
    return Frame(
        id=number,
        branch=0,
        step=number,
        action=None,
        pictures=(),
        psnr=None,
        differs=False,
        differs_at=None,
        real_note=None,
        possible=(),
        measured=measured,
    )


def test_a_slow_client_gets_the_newest_frame_and_all_that_was_told() -> None:
    async def story() -> tuple[list[int], list[bool]]:
        outbox, sent = Outbox(frames_in_flight=2), []
        dropped = [outbox.put(_frame(1))]
        sent.append(await outbox.next())
        dropped.append(outbox.put(_frame(2)))
        sent.append(await outbox.next())
        dropped += [outbox.put(_frame(3)), outbox.put(_frame(4))]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(outbox.next(), 0.01)
        outbox.put(Notice(level="info", code="x", text="y"))
        sent.append(await outbox.next())
        outbox.acknowledge(1)
        sent.append(await outbox.next())
        assert outbox.unanswered_since() is not None
        outbox.acknowledge(4)
        assert outbox.unanswered_since() is None
        return [message.id if isinstance(message, Frame) else -1 for message in sent], dropped

    assert asyncio.run(story()) == ([1, 2, -1, 4], [False, False, False, True])


def test_notices_for_a_client_that_does_not_listen_do_not_pile_up() -> None:
    async def story() -> str:
        outbox = Outbox(frames_in_flight=1)
        for number in range(10 * MOST_MESSAGES):
            outbox.put(Notice(level="info", code=str(number), text=""))
        message = await outbox.next()
        assert isinstance(message, Notice)
        return message.code

    assert asyncio.run(story()) == str(9 * MOST_MESSAGES)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "Invalid JSON"),
        ("[" * 2000, "Invalid JSON"),
        ("null", "should be an object"),
        ('{"type": "key"}', "key.action: Field required"),
        ('{"type": "key", "action": "1", "down": true}', "key.action: Input should be a valid integer"),
        ('{"type": "key", "action": 1.5, "down": true}', "valid integer"),
        ('{"type": "key", "action": -1, "down": true}', "greater than or equal to 0"),
        ('{"type": "key", "action": 1, "down": true, "more": 1}', "key.more: Extra inputs"),
        ('{"type": "text", "text": ""}', "at least 1 character"),
        ('{"type": "text", "text": "' + "x" * 500 + '"}', "at most 400 characters"),
        ('{"type": "launch"}', "expected tags"),
    ],
)
def test_a_malformed_message_is_refused_with_its_reason(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse(text)
