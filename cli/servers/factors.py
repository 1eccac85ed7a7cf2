"""What may vary in a workflow: where prompt, seed, size, steps and guidance are written down.

Found by what a class declares (type and name of its inputs, types of its outputs) and by how the nodes are
linked, starting from those that sample. What is not found stays as it is, and the reason is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .workflow import Graph, Place, Prompt

PROMPT, SEED, SIZE, STEPS, GUIDANCE = "prompt", "seed", "size", "steps", "guidance"
FACTORS = (PROMPT, SEED, SIZE, STEPS, GUIDANCE)

TEXTS = ("text", "prompt", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "llama", "qwen25_7b", "user_prompt")
"""Names that text encoders of ComfyUI and of common packs give to the prompt."""

SEEDS = ("seed", "noise_seed")
SPLITS = {"KSamplerAdvanced": ("start_at_step", "end_at_step"), "SplitSigmas": ("step",)}
"""Step numbers that split a sampling in two and have to keep their share of all steps."""

ABSENT = {
    PROMPT: "no prompt text leads to a sampler's positive conditioning",
    SEED: "no sampler or noise node has a seed of its own",
    SIZE: "no empty latent with width and height was found",
    STEPS: "no sampler or scheduler has a number of steps of its own",
    GUIDANCE: "neither a guidance nor a cfg value was found",
}


@dataclass(frozen=True)
class Found:
    """The places of each factor; a size's places are pairs (width, height). absent: factor -> reason."""

    places: Mapping[str, tuple[Place, ...]]
    sizes: tuple[tuple[Place, Place], ...]
    absent: Mapping[str, str]

    def describe(self, graph: Graph) -> dict[str, list[str]]:
        """Factor -> "KSampler (node 5) seed" and the like, for people."""
        found = {name: [f"{graph.title(node)} {key}" for node, key in places] for name, places in self.places.items()}
        found[SIZE] = [f"{graph.title(wide[0])} {wide[1]}, {high[1]}" for wide, high in self.sizes]
        return {name: found[name] for name in FACTORS if found.get(name)}


def find_factors(graph: Graph) -> Found:
    """Look for every factor."""
    places = {
        PROMPT: _texts(graph),
        SEED: _values(graph, SEEDS, "INT", lambda node: _samples(graph, node) or _gives(graph, node, "NOISE")),
        STEPS: _values(graph, ("steps",), "INT", lambda node: _samples(graph, node) or _gives(graph, node, "SIGMAS")),
        GUIDANCE: _values(graph, ("guidance",), "FLOAT", lambda node: _gives(graph, node, "CONDITIONING"))
        or _values(graph, ("cfg",), "FLOAT", lambda node: _samples(graph, node) or _gives(graph, node, "GUIDER")),
    }
    sizes = _sizes(graph)
    absent = {name: ABSENT[name] for name in FACTORS if not (sizes if name == SIZE else places[name])}
    return Found(places, sizes, absent)


def apply(prompt: Prompt, found: Found, job: Mapping[str, Any]) -> None:
    """Write a job's levels into the workflow, in place. Factors that the job does not name stay as they are."""
    if STEPS in job:
        _keep_splits(prompt, found, job[STEPS])
    for factor, places in found.places.items():
        if factor in job:
            for node, name in places:
                prompt[node]["inputs"][name] = job[factor]
    if SIZE in job:
        width, height = job[SIZE]
        for wide, high in found.sizes:
            prompt[wide[0]]["inputs"][wide[1]] = width
            prompt[high[0]]["inputs"][high[1]] = height


def _keep_splits(prompt: Prompt, found: Found, steps: int) -> None:
    """Scale start_at_step, end_at_step and the like, so that each part keeps its share of the schedule.

    Needs one old number of steps: 0 and a number at or beyond the old end (10000 means "to the end") stay.
    """
    olds = {prompt[node]["inputs"][name] for node, name in found.places[STEPS]}
    old = next(iter(olds)) if len(olds) == 1 else 0
    if not isinstance(old, int) or old <= 0:
        return
    for node in prompt.values():
        for name in SPLITS.get(node["class_type"], ()):
            value = node["inputs"].get(name)
            if isinstance(value, int) and 0 < value < old:
                node["inputs"][name] = max(1, round(value * steps / old))


def _values(graph: Graph, names: tuple[str, ...], kind: str, chosen: Callable[[str], bool]) -> tuple[Place, ...]:
    places = [
        graph.value_place(node, name)
        for node in graph.ids()
        for name in names
        if graph.input_type(node, name) == kind and chosen(node)
    ]
    return _distinct(places)


def _sizes(graph: Graph) -> tuple[tuple[Place, Place], ...]:
    """Width and height of the empty latents, and with them those of schedulers and model nodes that follow the size."""

    def pairs(kinds: set[str]) -> list[tuple[Place, Place]]:
        found = []
        for node in graph.ids():
            if not kinds & set(graph.output_types(node)) or graph.linked(node, "LATENT"):
                continue  # what changes a latent has a size of its own
            wide, high = graph.value_place(node, "width"), graph.value_place(node, "height")
            numbers = {graph.input_type(node, name) for name in ("width", "height")} == {"INT"}
            if numbers and wide is not None and high is not None:
                found.append((wide, high))
        return found

    latents = pairs({"LATENT"})
    return tuple(dict.fromkeys(latents + pairs({"SIGMAS", "MODEL"}))) if latents else ()


def _samples(graph: Graph, node: str) -> bool:
    """Whether the node samples by itself: a model or a guider goes in, a latent or a picture comes out."""
    kinds = {graph.link_type(node, name) for name, _, _ in graph.links(node)}
    return bool(kinds & {"MODEL", "GUIDER"}) and bool({"LATENT", "IMAGE"} & set(graph.output_types(node)))


def _gives(graph: Graph, node: str, kind: str) -> bool:
    return kind in graph.output_types(node)


def _texts(graph: Graph) -> tuple[Place, ...]:
    """Texts that lead to the positive conditioning of a node that takes a model, not through `negative`."""
    places: list[Place | None] = []
    visited: set[tuple[str, int]] = set()
    open_links = []
    for node in graph.ids():
        if graph.linked(node, "MODEL") and not _gives(graph, node, "MODEL"):
            inputs = graph.linked(node, "CONDITIONING")
            wanted = [name for name in inputs if name == "positive"] or [n for n in inputs if "neg" not in n]
            open_links += [graph.link(node, name) for name in wanted]
    while open_links:
        link = open_links.pop(0)
        if link is None or link in visited:
            continue
        visited.add(link)
        node, output = link
        inputs = graph.linked(node, "CONDITIONING")
        if {"positive", "negative"} <= set(inputs):
            names = graph.classes[graph.class_of(node)].get("output_name", ())
            side = "negative" if output < len(names) and names[output] == "negative" else "positive"
            inputs = [side]
        open_links += [graph.link(node, name) for name in inputs]
        places += [graph.value_place(node, name) for name in TEXTS if graph.input_type(node, name) == "STRING"]
    return _distinct(places)


def _distinct(places: list[Place | None]) -> tuple[Place, ...]:
    return tuple(dict.fromkeys(place for place in places if place is not None))
