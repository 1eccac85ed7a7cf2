"""A workflow in ComfyUI's API format, and the questions that are asked of it.

The format: node id -> {"class_type", "inputs"}; an input is a value, or a link [node id, output number]. Which
inputs and outputs a class has is told by the server (`/object_info`), so custom nodes are understood too.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import RequestError

MAX_FILE_BYTES = 32 << 20
MAX_NODES = 5000

NodeInfo = Mapping[str, Any]
Prompt = dict[str, dict[str, Any]]
Place = tuple[str, str]
"""Node id and the name of an input that holds a value."""


def read_workflow(path: str | Path) -> Prompt:
    """The nodes of an API-format file. Raises RequestError, with the way to such a file, for anything else."""
    try:
        size = Path(path).stat().st_size
        if size > MAX_FILE_BYTES:
            raise RequestError(f"{path} has {size} bytes, more than the {MAX_FILE_BYTES} of a workflow.")
        found = json.loads(Path(path).read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise RequestError(f"There is no workflow {path}.") from error
    except OSError as error:
        raise RequestError(f"The workflow {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is no JSON: save the workflow with Export (API) in ComfyUI.") from error
    if isinstance(found, dict) and isinstance(found.get("nodes"), list):
        raise RequestError(
            f"{path} is a workflow for the editor: open it in ComfyUI and save it with File, Export (API)."
        )
    if isinstance(found, dict) and isinstance(found.get("prompt"), dict):
        found = found["prompt"]  # the body of POST /prompt, as scripts keep it
    if not isinstance(found, dict) or not found or len(found) > MAX_NODES or not all(map(_is_node, found.values())):
        raise RequestError(f"{path} is no workflow in API format: save it with File, Export (API) in ComfyUI.")
    return found


def _is_node(node: object) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


class Graph:
    """A workflow together with what the server says of its classes."""

    def __init__(self, prompt: Prompt, classes: Mapping[str, NodeInfo]) -> None:
        self.prompt = copy.deepcopy(prompt)
        self.classes = classes

    def ids(self) -> list[str]:
        """All node ids, numbers in their order."""
        return sorted(self.prompt, key=_id_order)

    def class_of(self, node: str) -> str:
        return str(self.prompt[node]["class_type"])

    def inputs(self, node: str) -> dict[str, Any]:
        found: dict[str, Any] = self.prompt[node]["inputs"]
        return found

    def title(self, node: str) -> str:
        """ "KSampler (node 5)"."""
        return f"{self.class_of(node)} (node {node})"

    def output_types(self, node: str) -> list[str]:
        return [str(kind) for kind in self.classes[self.class_of(node)].get("output", ())]

    def input_type(self, node: str, name: str) -> str | None:
        """ "MODEL", "INT", "COMBO" ... as the class declares it; None for an input that it does not."""
        spec = self.spec(node, name)
        if spec is None:
            return None
        return str(spec[0]) if isinstance(spec[0], str) else "COMBO"

    def spec(self, node: str, name: str) -> Any:
        declared = self.classes[self.class_of(node)].get("input", {})
        for kind in ("required", "optional"):
            if name in declared.get(kind, {}):
                return declared[kind][name]
        return None

    def link(self, node: str, name: str) -> tuple[str, int] | None:
        """The node and output that feed this input, None when it holds a value."""
        value = self.inputs(node).get(name)
        if isinstance(value, list) and len(value) == 2 and str(value[0]) in self.prompt and isinstance(value[1], int):
            return str(value[0]), value[1]
        return None

    def links(self, node: str) -> Iterator[tuple[str, str, int]]:
        """(input, feeding node, its output) of every linked input."""
        for name in self.inputs(node):
            link = self.link(node, name)
            if link is not None:
                yield name, *link

    def link_type(self, node: str, name: str) -> str | None:
        """What flows into this input: the output's type, or the input's where the output may be anything."""
        link = self.link(node, name)
        if link is None:
            return None
        types = self.output_types(link[0])
        given = types[link[1]] if 0 <= link[1] < len(types) else "*"
        return given if given != "*" else self.input_type(node, name)

    def linked(self, node: str, kind: str) -> list[str]:
        """The inputs of this node into which something of this type flows."""
        return [name for name, _, _ in self.links(node) if self.link_type(node, name) == kind]

    def value_place(self, node: str, name: str) -> Place | None:
        """Where the value of this input is written down: here, or in the one value of a node that feeds it.

        A seed or a text often comes from a primitive node. A node with several values of its own, such as one that
        joins texts, is no place to write to.
        """
        visited = set()
        while (node, name) not in visited:
            visited.add((node, name))
            link = self.link(node, name)
            if link is None:
                return (node, name) if name in self.inputs(node) else None
            kind = self.input_type(node, name)
            node = link[0]
            values = [key for key in self.inputs(node) if self.input_type(node, key) == kind]
            if len(values) != 1:
                return None
            name = values[0]
        return None


def _id_order(node: str) -> tuple[int, int, str]:
    return (0, int(node), "") if node.isdecimal() and len(node) < 18 else (1, 0, node)
