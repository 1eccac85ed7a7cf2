"""What the page offers to choose from, and plans saved as recipes of the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...calibration import DEFAULT_DETAIL, DETAILS, POLICIES
from ...calibration.errors import StudioError
from ...converters import LAYOUTS, PRE_QUANT_CHOICES, ROUNDINGS, TEXT_ENCODER_CHOICES, available_recipes
from ...converters.kernels import available_tables
from ...converters.recipe import POLICIES as FORMAT_POLICIES
from ...converters.recipe import with_pins
from ...converters.recipe_file import save_recipe
from .. import host, recipes
from ..guard import Refused
from ..library import RECIPES
from .asked import DEFAULTS, asked
from .deciding import decide
from .fields import name_in
from .headers import opened
from .told import by_id


def listed(_: Mapping[str, Any]) -> dict[str, Any]:
    """Recipes, and every other choice of a calibration or a plan, with a sentence for each where there is one."""
    built_in = [{"id": name, "title": recipe.title, "mine": False} for name, recipe in available_recipes().items()]
    return {
        "recipes": [*built_in, *(_mine(name) for name, _ in RECIPES.stored())],
        "policies": list(FORMAT_POLICIES),
        "roundings": dict(ROUNDINGS),
        "input_scales": dict(POLICIES),
        "layouts": list(LAYOUTS),
        "text_encoders": dict(TEXT_ENCODER_CHOICES),
        "pre_quants": dict(PRE_QUANT_CHOICES),
        "details": list(DETAILS),
        "defaults": {
            "input_scale": DEFAULTS.input_scale,
            "rounding": DEFAULTS.rounding,
            "layout": DEFAULTS.layout,
            "text_encoder": DEFAULTS.text_encoder,
            "pre_quant": DEFAULTS.pre_quant,
            "detail": DEFAULT_DETAIL,
        },
        "kernels": {name: table.gpu for name, table in available_tables().items()},
    }


def _mine(name: str) -> dict[str, Any]:
    """One of the user's; ``problem`` says why it cannot be used."""
    recipe, title, pinned, problem = recipes.MINE + name, name, 0, None
    try:
        found = recipes.read(recipe)
        title, pinned = found.title, len(found.layers)
    except StudioError as error:
        problem = str(error)
    return {"id": recipe, "title": title, "mine": True, "pinned": pinned, "problem": problem}


def saved(body: Mapping[str, Any]) -> dict[str, Any]:
    """``{"name", "plan", "overwrite"}`` -> ``{"id"}``: what the plan's recipe and pins are, under a name of one's own."""
    name, plan = name_in(body, "name"), body.get("plan")
    if not isinstance(plan, dict):
        raise Refused(400, '"plan" must have the fields of a plan.')
    wanted = asked(plan)
    path = RECIPES.writable(name)
    if path.exists() and body.get("overwrite") is not True:
        raise Refused(400, f"There is a recipe {name!r} already: choose another name, or overwrite it.")
    with opened(wanted.source) as source:
        recipe = decide(wanted, source).recipe
    count = len(recipe.layers)
    title = recipe.title
    if wanted.budget is None:
        title = f"{title.partition(' · ')[0]} · {count} layer{'' if count == 1 else 's'} pinned"
    with by_id({path: name}):
        save_recipe(path, with_pins(recipe, {}, name=name, title=title))
    host.refresh_lists()
    return {"id": recipes.MINE + RECIPES.name_of(path)}


def deleted(body: Mapping[str, Any]) -> dict[str, Any]:
    """``{"id": "my/NAME"}`` -> ``{"deleted": "my/NAME"}``; built-in recipes stay."""
    recipe = name_in(body, "id")
    path = recipes.path_of(recipe)
    if path is None:
        raise Refused(400, f"{recipe!r} is no recipe of your own: only those can be deleted.")
    path.unlink(missing_ok=True)
    host.refresh_lists()
    return {"deleted": recipe}
