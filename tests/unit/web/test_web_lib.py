"""The browser helpers that need no browser: execution ids and the token's way into one prompt."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

WEB = Path(__file__).resolve().parents[3] / "web"

GRAPH = """
const inner = { nodes: [{ id: 5 }] };
const middle = { nodes: [{ id: 4 }, { id: 2, subgraph: inner }] };
const root = { nodes: [{ id: 5 }, { id: 1, subgraph: middle }], subgraphs: new Map([["uuid", inner]]) };
for (const graph of [root, middle, inner]) for (const node of graph.nodes) node.graph = graph;
"""


def evaluate(tmp_path: Path, module: str, script: str) -> Any:
    """Import a helper as the browser does and return what the script leaves in ``result``."""
    node = shutil.which("node")
    if not node:
        pytest.skip("no node: install Node.js to test the browser helpers")
    shutil.copy(WEB / "lib" / f"{module}.js", tmp_path / f"{module}.mjs")
    main = tmp_path / "main.mjs"
    main.write_text(f'import * as lib from "./{module}.mjs";\n{script}\nconsole.log(JSON.stringify(result));', "utf-8")
    done = subprocess.run([node, str(main)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_execution_ids_go_through_subgraphs_both_ways(tmp_path: Path) -> None:
    script = """
    const ids = [root.nodes[0], middle.nodes[0], inner.nodes[0]].map((node) => lib.executionIdOf(root, node));
    const back = ids.map((id) => lib.nodeByExecutionId(root, id));
    const found = back[0] === root.nodes[0] && back[1] === middle.nodes[0] && back[2] === inner.nodes[0];
    const missing = ["9", "1:9", "5:5", "1:2:5:1"].map((id) => lib.nodeByExecutionId(root, id) === undefined);
    const result = { ids, found, missing };
    """
    assert evaluate(tmp_path, "graph", GRAPH + script) == {
        "ids": ["5", "1:4", "1:2:5"],
        "found": True,
        "missing": [True] * 4,
    }


def test_locators_name_root_nodes_and_nodes_of_a_subgraph(tmp_path: Path) -> None:
    script = """
    const result = [
      lib.nodeByLocator(root, "5") === root.nodes[0],
      lib.nodeByLocator(root, "uuid:5") === inner.nodes[0],
      lib.nodeByLocator(root, "other:5") === undefined,
    ];
    """
    assert evaluate(tmp_path, "graph", GRAPH + script) == [True, True, True]


def test_a_ticket_goes_into_the_next_partial_execution_only(tmp_path: Path) -> None:
    script = """
    const ticket = lib.makeTicket(() => {});
    const queue = (isPartialExecution) => {
      ticket.beforeQueued({ isPartialExecution });
      return ticket.serializeValue() ?? null;
    };
    const before = queue(true);
    ticket.put("t");
    const saved = ticket.serializeValue() ?? null;
    const result = [before, saved, queue(false), queue(true), queue(true), ticket.serialize, ticket.options.serialize ?? null];
    """
    assert evaluate(tmp_path, "ticket", script) == [None, None, None, "t", None, False, None]


def test_a_ticket_tells_of_its_token_only_when_the_server_took_the_prompt(tmp_path: Path) -> None:
    script = """
    const result = [];
    const ticket = lib.makeTicket((token) => result.push(token));
    const queue = (isPartialExecution, refused) => {
      ticket.beforeQueued({ isPartialExecution });
      ticket.serializeValue();
      if (!refused) ticket.afterQueued({ isPartialExecution });
    };
    ticket.put("refused");
    queue(true, true);
    queue(false);
    ticket.put("taken");
    queue(false);
    queue(true);
    queue(true);
    """
    assert evaluate(tmp_path, "ticket", script) == ["taken"]
