"""NVFP4Calibrate in the workflow: the nodes that are there, or new ones directly behind the model.

It belongs directly behind the loader. Its wrapper goes along with the model through LoRAs, samplers' settings
and other patches, so what is measured is the patched model as it really runs; and with one node at the root
every branch, with and without LoRA, counts for the one checkpoint that will be converted. Where two models are
merged, it goes behind the merging node: only the wrapper of the first of them would survive the merge.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import RequestError
from .workflow import Graph, NodeInfo, Prompt

CALIBRATE = "NVFP4Calibrate"
RESTART = "restart"


@dataclass(frozen=True)
class Calibrated:
    """A workflow that calibrates: its calibrate nodes, and for each one what it stands behind, in words."""

    prompt: Prompt
    nodes: tuple[str, ...]
    behind: tuple[str, ...]
    inserted: bool

    def for_job(self, names: Sequence[str], detail: str | None, influence: bool = False) -> Prompt:
        """A copy whose calibrate nodes write calibrations of these names, each begun anew.

        ``detail`` None and ``influence`` False leave what the workflow's own nodes say.
        """
        prompt = copy.deepcopy(self.prompt)
        for node, name in zip(self.nodes, names, strict=True):
            inputs = prompt[node]["inputs"]
            inputs.update(name=name, mode=RESTART)
            if detail:
                inputs["detail"] = detail
            if influence:
                inputs["influence"] = True
        return prompt


def with_calibration(graph: Graph, chosen: Sequence[str] = ()) -> Calibrated:
    """Use the workflow's own calibrate nodes, else insert one behind each model that is sampled.

    chosen: node ids, of the model or of the calibrate node behind it, to calibrate only these.
    """
    present = [node for node in graph.ids() if graph.class_of(node) == CALIBRATE]
    sources: list[tuple[str | None, tuple[str, int]]] = []  # (calibrate node, output that it measures)
    for node in present:
        link = graph.link(node, "model")
        if link is None:
            raise RequestError(f"{graph.title(node)} of the workflow has no model: connect it, or remove it.")
        sources.append((node, link))
    if not present:
        sources = [(None, link) for link in sampled_models(graph)]
    if not sources:
        raise RequestError("No model of this workflow is sampled: it needs a loader and a sampler.")
    for node in chosen:
        if all(node not in (calibrate, link[0]) for calibrate, link in sources):
            known = ", ".join(graph.title(link[0]) for _, link in sources)
            raise RequestError(f"--model-node {node}: the models sampled in this workflow are {known}.")
    nodes, titles = [], []
    for present_node, link in sources:
        if chosen and not {present_node, link[0]} & set(chosen):
            if present_node is not None:
                _bypass(graph, present_node, link)
            continue
        nodes.append(present_node or _insert(graph, *link))
        titles.append(graph.title(link[0]))
    return Calibrated(graph.prompt, tuple(nodes), tuple(titles), inserted=not present)


def sampled_models(graph: Graph) -> list[tuple[str, int]]:
    """(node, output) where each model that some node samples with comes from, in the order of the ids."""
    found: dict[tuple[str, int], None] = {}
    for node in graph.ids():
        kinds = graph.output_types(node)
        if not kinds or "MODEL" in kinds or set(kinds) == {"SIGMAS"}:
            continue  # savers, patches and schedulers take a model too, and run none
        for name in graph.linked(node, "MODEL"):
            link = graph.link(node, name)
            if link is not None:
                found[_origin(graph, link)] = None
    return list(found)


def _origin(graph: Graph, link: tuple[str, int]) -> tuple[str, int]:
    """Up through everything that takes exactly one model."""
    visited = set()
    while link not in visited:
        visited.add(link)
        inputs = graph.linked(link[0], "MODEL")
        above = graph.link(link[0], inputs[0]) if len(inputs) == 1 else None
        if above is None:
            break
        link = above
    return link


def _insert(graph: Graph, root: str, output: int) -> str:
    node = _free_id(graph.prompt)
    _rewire(graph, (root, output), [node, 0])
    graph.prompt[node] = {
        "class_type": CALIBRATE,
        "inputs": {**_defaults(graph.classes[CALIBRATE]), "model": [root, output]},
    }
    return node


def _bypass(graph: Graph, node: str, link: tuple[str, int]) -> None:
    _rewire(graph, (node, 0), list(link))
    del graph.prompt[node]


def _rewire(graph: Graph, old: tuple[str, int], new: list[Any]) -> None:
    """Feed every input that had the old output from the new one."""
    users = [(node, name) for node in graph.ids() for name, *link in graph.links(node) if tuple(link) == old]
    for node, name in users:
        graph.inputs(node)[name] = new


def _free_id(prompt: Prompt) -> str:
    """A number above all others, so that no node of a subgraph ("12:3") is meant by it."""
    numbers = [int(part) for node in prompt for part in node.split(":") if part.isdecimal()]
    return str(max(numbers, default=0) + 1)


def _defaults(info: NodeInfo) -> dict[str, Any]:
    """The values that the class declares for its required inputs; a list of choices begins with its default."""
    found = {}
    for name, spec in info.get("input", {}).get("required", {}).items():
        options: Mapping[str, Any] = spec[1] if len(spec) > 1 else {}
        choices = spec[0] if isinstance(spec[0], list) else options.get("options", ())
        if "default" in options:
            found[name] = options["default"]
        elif choices:
            found[name] = choices[0]
    return found
