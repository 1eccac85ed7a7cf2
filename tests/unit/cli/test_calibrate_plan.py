"""The design of a calibration run, its prompts, and the workflows that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvfp4_studio.cli.servers.design import assign, balance
from nvfp4_studio.cli.servers.errors import RequestError
from nvfp4_studio.cli.servers.jobs import plan_jobs
from nvfp4_studio.cli.servers.prompts import GROUPS, Prompt, read_prompts
from nvfp4_studio.cli.servers.workflow import Graph, read_workflow

FACTORS = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(1, 7), min_size=1)


@settings(max_examples=60, deadline=None)
@given(FACTORS, st.integers(1, 60), st.integers(0, 5))
def test_every_level_is_as_frequent_as_the_others_in_every_first_part(
    levels: dict[str, int], rows: int, seed: int
) -> None:
    design = assign(levels, rows, seed)
    assert len(design) == rows and design == assign(levels, rows, seed)
    for part in (rows, rows // 2, rows // 3):
        for name, count in levels.items():
            fewest, most = balance(design[:part], levels)[name]
            assert most - fewest <= 1 and fewest >= part // count


@pytest.mark.parametrize(
    ("levels", "rows"),
    [({"a": 3, "b": 3}, 9), ({"a": 2, "b": 4}, 8), ({"a": 4, "b": 2}, 8), ({"a": 2, "b": 2, "c": 2}, 8)],
)
@pytest.mark.parametrize("seed", range(5))
def test_full_factorials_are_found(levels: dict[str, int], rows: int, seed: int) -> None:
    assert {
        extremes for extremes in balance(assign(levels, rows, seed), levels).values() if extremes[0] != extremes[1]
    } == set()


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_spread_where_no_exact_array_exists(seed: int) -> None:
    levels = {"group": 8, "size": 3, "steps": 3, "guidance": 2}
    found = balance(assign(levels, 100, seed), levels)
    for name, (fewest, most) in found.items():
        if " x " in name:
            first, second = (levels[part] for part in name.split(" x "))
            assert abs(fewest - 100 / first / second) <= 3 and abs(most - 100 / first / second) <= 3


def test_another_seed_gives_another_design() -> None:
    assert assign({"a": 3, "b": 3}, 30, 0) != assign({"a": 3, "b": 3}, 30, 1)


def test_jobs_use_the_groups_equally_and_no_prompt_twice() -> None:
    prompts = read_prompts("builtin")
    plan = plan_jobs(64, 0, prompts, seeds=True, sizes=[(64, 64), (96, 64)], steps=[2, 4])
    assert plan == plan_jobs(64, 0, prompts, seeds=True, sizes=[(64, 64), (96, 64)], steps=[2, 4])
    assert plan.balance["group"] == (8, 8) and plan.balance["group x size"] == (4, 4)
    assert len({job.levels["prompt"] for job in plan.jobs}) == len({job.levels["seed"] for job in plan.jobs}) == 64
    assert all(0 <= job.levels["seed"] < 1 << 48 for job in plan.jobs)
    assert plan.jobs[0].described()["size"] in ("64x64", "96x64")
    assert "size: 2 levels, 32 generations each" in plan.lines()


def test_few_prompts_meet_every_size_equally_often() -> None:
    plan = plan_jobs(12, 3, [Prompt("x", "own"), Prompt("y", "own")], seeds=False, sizes=[(64, 64), (96, 64)])
    assert plan.balance == {"prompt": (6, 6), "size": (6, 6), "prompt x size": (3, 3)}
    assert all(set(job.levels) == {"prompt", "size"} for job in plan.jobs)


def test_a_workflow_where_nothing_varies_but_the_seed() -> None:
    plan = plan_jobs(3, 0, [], seeds=True)
    assert [set(job.levels) for job in plan.jobs] == [{"seed"}] * 3 and plan.lines() == []


def test_the_built_in_set_is_large_and_without_repetition() -> None:
    prompts = read_prompts("builtin")
    assert len(prompts) >= 240 and len({prompt.text for prompt in prompts}) == len(prompts)
    assert [len(read_prompts(f"builtin:{group}")) for group in GROUPS] == [len(prompts) // len(GROUPS)] * len(GROUPS)
    assert all(10 < len(prompt.text) < 120 for prompt in prompts)
    chosen = read_prompts("builtin:text,food,text")
    assert [prompt.group for prompt in chosen] == ["text"] * 32 + ["food"] * 32


def test_a_file_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeff# mine\n\n  a fox \r\nein Bär, Ölgemälde\na fox\n#last\n".encode())
    assert read_prompts(str(path)) == [Prompt("a fox", "own"), Prompt("ein Bär, Ölgemälde", "own")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no prompt"),
        (b"# only\n", "holds no prompt"),
        (b"\xff\xfe\x00", "is no UTF-8 text"),
        (b"a\x1b[2Jb\n", "Line 1 of"),
        (b"ok\n" + b"x" * 4001, "Line 2 of"),
        (b"x\n" * (3 << 20), "more than the 4194304"),
    ],
)
def test_odd_files_of_prompts_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=said):
        read_prompts(str(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"nodes": [], "links": [], "version": 0.4}', r"workflow for the editor.*Export \(API\)"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "no workflow in API format"),
        ("{}", "no workflow in API format"),
        ('{"1": {"class_type": "X"}}', "no workflow in API format"),
        ('{"1": 5}', "no workflow in API format"),
    ],
)
def test_what_is_no_api_workflow_is_refused_with_the_way_out(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "workflow.json"
    path.write_text(content, "utf-8")
    with pytest.raises(RequestError, match=said):
        read_workflow(path)


def test_the_body_of_a_queued_prompt_is_a_workflow_too(tmp_path: Path) -> None:
    nodes: dict[str, Any] = {"1": {"class_type": "X", "inputs": {}}}
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps({"prompt": nodes, "client_id": "x"}), "utf-8")
    assert read_workflow(path) == nodes


def test_values_are_looked_for_through_links_and_circles_end() -> None:
    number = {"input": {"required": {"value": ["INT", {}]}}, "output": ["INT"]}
    two = {"input": {"required": {"a": ["INT", {}], "b": ["INT", {}]}}, "output": ["INT"]}
    nodes = {
        "1": {"class_type": "Number", "inputs": {"value": ["2", 0]}},
        "2": {"class_type": "Number", "inputs": {"value": ["1", 0]}},
        "3": {"class_type": "Number", "inputs": {"value": 5}},
        "4": {"class_type": "Number", "inputs": {"value": ["3", 0]}},
        "5": {"class_type": "Two", "inputs": {"a": 1, "b": ["3", 0]}},
        "6": {"class_type": "Number", "inputs": {"value": ["5", 0]}},
        "7": {"class_type": "Number", "inputs": {}},
    }
    graph = Graph(nodes, {"Number": number, "Two": two})
    found = {node: graph.value_place(node, "value") for node in ("1", "4", "6", "7")}
    assert found == {"1": None, "4": ("3", "value"), "6": None, "7": None}
