"""Worlds of several agents: does the model know whose action does what, and what they do to each other?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.stream.randomness import keyed_generator
from unimodel.evaluation.held_out import HeldOut
from unimodel.evaluation.intervals import over_episodes
from unimodel.evaluation.likelihood import draw_frames, frame_nats
from unimodel.evaluation.table import Estimate, Row
from unimodel.tokenizers.action import by_agent
from unimodel.training.loaded_run import LoadedRun

PERMUTATIONS = 9_999


def evaluate_society(loaded: LoadedRun, held_out: HeldOut) -> tuple[list[Row], list[Row]]:
    """Nats per frame, from the frames and masks that the action information of all agents together is measured on:

        action information, agent k   NLL(frame | a_k of another episode) - NLL(frame | actions): 0 for a model that
                                      ignores agent k
        social information            mean over k of NLL(frame | a_k, others' actions of another episode) - NLL(frame |
                                      actions): what it tells about a frame, beside one's own action, that others act
        effect of acting together     what exchanging all costs, less what exchanging each alone does: not 0 where what
                                      agents do to each other is more, or less, than the sum of what each does

    The first two for the table, the last for the details, with the p-values of each agent's and of social information:
    signs of the differences per episode are drawn anew, as they could be for a model to which one action is as good as
    another. None for worlds of one agent.
    """
    asked = draw_frames(loaded, held_out)
    agents = range(by_agent(asked[0].episode.actions).shape[1]) if asked else range(0)
    if len(agents) < 2:
        return [], []
    alone = [(agent,) for agent in agents]
    others = [tuple(other for other in agents if other != agent) for agent in agents]
    exchanged = list(dict.fromkeys([(), *alone, *others, tuple(agents)]))
    nats = dict(zip(exchanged, frame_nats(loaded, asked, exchanged), strict=True))
    cost = {who: some - nats[()] for who, some in nats.items()}
    return society_rows([cost[who] for who in alone], [cost[who] for who in others], cost[tuple(agents)], loaded.stage)


def society_rows(
    alone: Sequence[np.ndarray], others: Sequence[np.ndarray], together: np.ndarray, stage: str
) -> tuple[list[Row], list[Row]]:
    """Rows of what it costs [episodes], in nats, to exchange each agent's action, all but each, and all of them."""
    rows, details = [], []
    named = [
        (f"action information per frame, agent {agent}", cost, "agent ignored") for agent, cost in enumerate(alone)
    ]
    named.append(("social information per frame", np.mean(others, axis=0), "other agents ignored"))
    for name, cost, ignored in named:
        rows.append(_row(name, over_episodes(np.mean, cost), 0.0, ignored, len(cost), stage))
        p = Row(f"{name}, p-value", stage, sign_flip_p(cost), None, "", len(cost), higher_is_better=False)
        details.append(p)
    joint = over_episodes(np.mean, together - np.sum(alone, axis=0))
    details.append(_row("effect of acting together per frame", joint, None, "0: each by itself", len(together), stage))
    return rows, details


def sign_flip_p(differences: np.ndarray) -> float:
    """One-sided p-value of a mean above 0 under signs that could as well be the other way round (Fisher 1935)."""
    signs = keyed_generator("sign flips").choice([-1.0, 1.0], size=(PERMUTATIONS, len(differences)))
    as_large = (signs @ differences >= differences.sum() - 1e-12).sum()
    return float((1 + as_large) / (1 + PERMUTATIONS))


def _row(name: str, figure: Estimate, baseline: float | None, beside: str, samples: int, stage: str) -> Row:
    return Row(name, stage, figure.value, baseline, beside, samples, "nats", interval=figure.interval)
