"""Recipes: run configs of known systems and of worlds that were trained here, each with a word about itself on top."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "configs" / "recipes"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A config file and what it says of itself: `title` in a sentence, `about` in all lines of its head."""

    name: str
    path: Path
    title: str
    about: str


def list_recipes(folder: Path = FOLDER) -> list[Recipe]:
    """All recipes by name.

    Raises FileNotFoundError where they are not: an installed package has none.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise FileNotFoundError(f"{folder} has no recipes: they come with the source tree (git clone), not the package")
    return [_read(path) for path in paths]


def find_recipe(name: str, folder: Path = FOLDER) -> Recipe:
    """Raises ValueError for a name that there is not."""
    recipes = {recipe.name: recipe for recipe in list_recipes(folder)}
    if name not in recipes:
        raise ValueError(f"there is no recipe '{name}': {', '.join(recipes)}")
    return recipes[name]


def _read(path: Path) -> Recipe:
    head: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").removeprefix(" "))
    about = "\n".join(head)
    title = " ".join(about.split("\n\n")[0].split()).split(". ")[0].removesuffix(".")
    return Recipe(path.stem, path, title, about)
