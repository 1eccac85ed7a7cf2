"""`nvfp4-studio recipes`: the built-in recipes."""

from __future__ import annotations

import argparse
import json

from .text import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print names and titles as JSON")


def run(arguments: argparse.Namespace) -> int:
    from ..converters import available_recipes

    found = available_recipes()
    if arguments.json:
        print(json.dumps({name: recipe.title for name, recipe in found.items()}, indent=1))
    else:
        print(table(("recipe", "what it does"), [(name, recipe.title) for name, recipe in found.items()]))
    return 0
