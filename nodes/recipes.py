"""Recipes by id: built-in ones by their name, those of the user as ``my/NAME`` from ``models/nvfp4_recipes``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..converters import PlanError, Recipe, available_recipes, load_recipe
from .errors import HostError
from .library import RECIPES

AUTO = "auto"
MINE = "my/"


def ids() -> list[str]:
    """Built-in ones, then those of the user."""
    return [*available_recipes(), *(MINE + name for name in RECIPES.names())]


def path_of(recipe: str) -> Path | None:
    """The file of a recipe of the user, None for a built-in one.

    Raises:
        HostError: there is no such file, or it is a link out of its folder.
    """
    return RECIPES.exchangeable(recipe[len(MINE) :]) if recipe.startswith(MINE) else None


def read(recipe: str) -> Recipe:
    """The recipe with this id; one of the user is called by its id in plan, report and header.

    Raises:
        HostError: there is none.
        PlanError: the user's file is no recipe.
    """
    path = path_of(recipe)
    if path is not None:
        try:
            return replace(load_recipe(str(path)), name=recipe)
        except PlanError as error:
            raise PlanError(str(error).replace(str(path), recipe)) from error
    if recipe not in available_recipes():
        raise HostError(f"There is no recipe {recipe!r}: choose one of the list.")
    return load_recipe(recipe)
