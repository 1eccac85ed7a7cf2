"""The workflow with one model after the other in its loader.

The loader is found by its links and by the server's own list of files: the node that a sampled model comes from, and
the choice of it that lists every model asked for. Pictures are shown and not saved, so that nothing stays in the
server's output folder.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..servers.errors import RequestError
from ..servers.factors import PROMPT, SEED, Found, apply, find_factors
from ..servers.insertion import sampled_models
from ..servers.workflow import Graph, Place, Prompt
from .schedule import Shot

SAVE, PREVIEW = "SaveImage", "PreviewImage"
SHOWN = 8
FOLDERS = {"unet_name": "diffusion_models", "ckpt_name": "checkpoints"}
"""ComfyUI's folder of what a loader's widget lists, where a file's header can be asked for."""


@dataclass(frozen=True)
class Loading:
    """A workflow whose models can be exchanged.

    places: node and widget of each loader. titles: the same in words. varied: places of prompt and seed in words.
    fresh: nodes whose result is new in every generation, so that none of them may come from the server's cache.
    """

    prompt: Prompt
    places: tuple[Place, ...]
    titles: tuple[str, ...]
    found: Found
    varied: Mapping[str, list[str]]
    fresh: frozenset[str]

    @property
    def loaders(self) -> frozenset[str]:
        return frozenset(node for node, _ in self.places)

    def prompt_for(self, files: Sequence[str], shot: Shot) -> Prompt:
        """The workflow with these files in its loaders, and the picture's prompt and seed."""
        prompt = copy.deepcopy(self.prompt)
        for (node, name), file in zip(self.places, files, strict=True):
            prompt[node]["inputs"][name] = file
        levels = {PROMPT: shot.text, SEED: shot.seed}
        apply(prompt, self.found, {name: value for name, value in levels.items() if value is not None})
        return prompt


def prepare_loading(
    graph: Graph, models: Sequence[str], chosen: Sequence[str] = ()
) -> tuple[Loading, list[tuple[str, ...]]]:
    """Find the loaders; the workflow, and for each model its file in every loader, as the server spells it.

    chosen: node ids of loaders, to exchange the model of only these. A workflow with two loaders takes two files for a
    model, set apart by a comma, in the order of the loaders' numbers.
    """
    roots = list(dict.fromkeys(node for node, _ in sampled_models(graph)))
    if not roots:
        raise RequestError("No model of this workflow is sampled: it needs a loader and a sampler.")
    unknown = next((node for node in chosen if node not in roots), None)
    if unknown is not None:
        raise RequestError(
            f"--model-node {unknown}: the models sampled in this workflow come from {', '.join(map(graph.title, roots))}."
        )
    roots = list(chosen) or roots
    files = [_files_of(model, len(roots)) for model in models]
    for model, given in zip(models, files, strict=True):
        if len(given) != len(roots):
            where = ", ".join(map(graph.title, roots))
            raise RequestError(
                f"--models {model}: the workflow has {len(roots)} loaders ({where}); give one file for each, set apart by "
                "commas, or choose one loader with --model-node."
            )
    found = [_place(graph, root, [given[index] for given in files]) for index, root in enumerate(roots)]
    spelled = [tuple(names[index] for _, names in found) for index in range(len(models))]
    factors = find_factors(graph)
    fresh = _fresh(graph, factors)
    for node in graph.prompt.values():
        if node["class_type"] == SAVE:
            node["class_type"] = PREVIEW
            node["inputs"] = {name: value for name, value in node["inputs"].items() if name == "images"}
    places = tuple(place for place, _ in found)
    titles = tuple(f"{graph.title(node)} {name}" for node, name in places)
    varied = {name: where for name, where in factors.describe(graph).items() if name in (PROMPT, SEED)}
    return Loading(graph.prompt, places, titles, factors, varied, fresh), spelled


def _fresh(graph: Graph, found: Found) -> frozenset[str]:
    """All that a seed flows into, or a prompt where no seed leads to an output: it is new in every generation."""
    for factor in (SEED, PROMPT):
        below = _below(graph, [node for node, _ in found.places[factor]])
        if any(graph.classes[graph.class_of(node)].get("output_node") for node in below):
            return below
    raise RequestError(
        "No seed and no prompt of this workflow leads to one of its outputs, so every picture would be the same: connect a "
        "sampler with a seed of its own to a node that saves or shows pictures."
    )


def _files_of(model: str, loaders: int) -> list[str]:
    return [model] if loaders == 1 else [name.strip() for name in model.split(",")]


def _place(graph: Graph, root: str, wanted: Sequence[str]) -> tuple[Place, list[str]]:
    """The widget of this node that lists all wanted files, and their names as it lists them."""
    lists = {name: _choices(graph, root, name) for name in graph.inputs(root)}
    lists = {name: listed for name, listed in lists.items() if listed}
    for name, listed in lists.items():
        place = graph.value_place(root, name)
        spelled = {_plain(file): file for file in listed}
        if place is not None and all(_plain(file) in spelled for file in wanted):
            return place, [spelled[_plain(file)] for file in wanted]
    best = max(lists, key=lambda name: sum(_plain(file) in map(_plain, lists[name]) for file in wanted), default="")
    listed = lists.get(best, [])
    missing = next((file for file in wanted if _plain(file) not in map(_plain, listed)), wanted[0])
    shown = ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
    raise RequestError(
        f"{graph.title(root)} does not list the model {missing}: put it into the server's folder of models, and press R "
        f"in ComfyUI (it lists {shown or 'no files'})."
    )


def _choices(graph: Graph, node: str, name: str) -> list[str]:
    spec = graph.spec(node, name)
    if not isinstance(spec, list) or not spec:
        return []
    listed = spec[0] if isinstance(spec[0], list) else spec[1].get("options", ()) if len(spec) > 1 else ()
    return [choice for choice in listed if isinstance(choice, str)]


def _plain(file: str) -> str:
    """Windows servers list sub\\name, others sub/name."""
    return file.replace("\\", "/")


def _below(graph: Graph, nodes: Sequence[str]) -> frozenset[str]:
    """These nodes and all that something of theirs flows into."""
    users: dict[str, list[str]] = {}
    for node in graph.ids():
        for _, feeding, _ in graph.links(node):
            users.setdefault(feeding, []).append(node)
    found: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += users.get(node, ())
    return frozenset(found)
