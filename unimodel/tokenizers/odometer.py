"""Tells from two frames in a row and the action between them how the agent has moved: as a person does who is not told.

A live world has no pose. What it has is what was seen and what was done, and from these the moves of the recorded
episodes can be told apart: a step from a step that a wall has stopped. Moves in a row give a pose (dead reckoning), by
which a memory is looked up (`unimodel/memory/by_pose.py`). It reads tokens: a world that is made of them has no others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import NonNegativeInt, PositiveInt
from safetensors.torch import load_file, save
from torch import Tensor, nn

from data_pipelines.settings import Settings
from unimodel.run_folder import write_atomically

WEIGHTS_FILE = "odometer.safetensors"
CONFIG_FILE = "odometer.json"
CODE_DIMS, ACTION_DIMS, WIDTH = 8, 16, 256


class OdometerShape(Settings):
    """The pictures that it reads, and where in the run's vocabulary their codes and the actions are."""

    num_codes: PositiveInt
    """Of a picture."""
    first_image_id: NonNegativeInt
    num_image_ids: PositiveInt
    first_action_id: NonNegativeInt
    num_action_ids: NonNegativeInt
    num_moves: PositiveInt


class Odometer(nn.Module):
    """ids of frames and actions -> one of `moves` [moves, 3] (forward, left, turn in radians)."""

    moves: Tensor

    def __init__(self, shape: OdometerShape) -> None:
        super().__init__()
        self.shape = shape
        self.code = nn.Embedding(shape.num_image_ids + 1, CODE_DIMS)
        self.action = nn.Embedding(shape.num_action_ids + 1, ACTION_DIMS)
        inputs = shape.num_codes * (2 * CODE_DIMS + 1) + ACTION_DIMS
        self.head = nn.Sequential(nn.Linear(inputs, WIDTH), nn.GELU(), nn.Linear(WIDTH, shape.num_moves))
        self.register_buffer("moves", torch.zeros(shape.num_moves, 3))

    def forward(self, before: Tensor, actions: Tensor, after: Tensor) -> Tensor:
        """[..., moves] logits, of ids int64 [..., codes], [...] and [..., codes]. An id that is no code of a picture,
        or no action, is one that nobody knows.

        Beside the codes it is told which of them have stayed: that a wall was in the way shows in nothing else, and
        hardly any two codes would be seen often enough to learn it from them.
        """
        size = self.shape
        codes = [_rows(ids, size.first_image_id, size.num_image_ids) for ids in (before, after)]
        same = (codes[0] == codes[1]) & (codes[0] < size.num_image_ids)
        action = self.action(_rows(actions, size.first_action_id, size.num_action_ids))
        seen = [self.code(rows).flatten(-2) for rows in codes]
        return self.head(torch.cat([*seen, same.to(action.dtype), action], dim=-1))

    @torch.no_grad()
    def foretold(self, before: Tensor, actions: Tensor, after: Tensor) -> Tensor:
        """float32 [..., 3] the likeliest move."""
        return self.moves[self(before, actions, after).argmax(dim=-1)]

    def frozen(self) -> Odometer:
        """A copy to stand inside another model. Its weights are no parameters: nothing trains, shards, averages or
        stores them with that model's, and they stay as exact as they are, whatever that is cast to."""
        return _Frozen(self)

    def save(self, folder: Path) -> None:
        """Writes weights (safetensors) and shape (JSON) into `folder`; what is there is whole, old or new."""
        weights = {name: value.contiguous() for name, value in self.state_dict().items()}
        write_atomically(folder / WEIGHTS_FILE, save(weights))
        write_atomically(folder / CONFIG_FILE, self.shape.model_dump_json(indent=2).encode())

    @staticmethod
    def load(folder: Path) -> Odometer:
        """Loads what `save` wrote, in evaluation mode."""
        shape = OdometerShape.model_validate_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        odometer = Odometer(shape)
        odometer.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return odometer.eval()


class _Frozen(Odometer):
    def __init__(self, trained: Odometer) -> None:
        super().__init__(trained.shape)
        self.load_state_dict(trained.state_dict())
        for module in self.modules():
            for name, weight in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                delattr(module, name)
                module.register_buffer(name, weight.detach().clone(), persistent=False)
        self.eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Odometer:
        """To other devices, never to another precision."""
        return super()._apply(lambda weight: weight.to(fn(weight).device), recurse)


def _rows(ids: Tensor, first: int, size: int) -> Tensor:
    """Rows of a table of so many ids; the one after them is of all others."""
    rows = ids - first
    return torch.where((rows >= 0) & (rows < size), rows, size)
