"""What the pack adds to ComfyUI's start: milliseconds from its first import to its registered nodes and routes.

    python benchmarks/startup.py [--runs 7] [--target 100]

Each run is a new process in ComfyUI's own interpreter that first imports ComfyUI with its server and nodes, as a start
without the pack does, and then loads the pack as ComfyUI's loader does: entry point, folders and routes, list of nodes,
their schemas. Counted are wall time and the process's CPU time, which other programs disturb less; the table shows the
median and the range. Looked for are COMFYUI_PATH, then ~/comfy/ComfyUI, and its interpreter in COMFYUI_PYTHON, then in the
environment inside it. Ends with 1 when the median CPU time is above the target.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PACK = Path(__file__).resolve().parents[1]
MARK = "STARTUP "
CHILD = """
import asyncio, importlib.util, json, sys, time
comfyui, pack, base = sys.argv[1:4]
sys.path.insert(0, comfyui)
sys.argv = ["main.py", "--cpu", "--base-directory", base]
import comfy.options
comfy.options.enable_args_parsing()
import comfy.quant_ops, comfy_api.latest, execution, folder_paths, nodes, server

async def load():
    instance = server.PromptServer(asyncio.get_running_loop())
    for key in ("checkpoints", "diffusion_models"):
        folder_paths.add_model_folder_path(key, f"{folder_paths.get_output_directory()}/{key}")
    before, wall, cpu = set(sys.modules), time.perf_counter(), time.process_time()
    spec = importlib.util.spec_from_file_location("pack", f"{pack}/__init__.py", submodule_search_locations=[pack])
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
    extension = await module.comfy_entrypoint()
    await extension.on_load()
    schemas = [node.GET_SCHEMA() for node in await extension.get_node_list()]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    added = [name for name in sys.modules if name not in before]
    print("STARTUP " + json.dumps({"wall": wall, "cpu": cpu, "modules": len(added), "nodes": len(schemas)}))

asyncio.run(load())
"""


def run_once(comfyui: Path, python: str, base: str) -> dict[str, float]:
    """Seconds and counts of one start."""
    done = subprocess.run(
        [python, "-c", CHILD, str(comfyui), str(PACK), base],
        capture_output=True,
        text=True,
        cwd=comfyui,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        sys.exit(f"ComfyUI in {comfyui} does not start: {done.stderr.strip()[-2000:]}")
    found: dict[str, float] = json.loads(lines[-1][len(MARK) :])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="new processes, default %(default)s")
    parser.add_argument("--target", type=float, default=100, help="milliseconds of CPU time, default %(default)s")
    arguments = parser.parse_args()
    comfyui = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
    inside = [comfyui / folder / "bin" / "python" for folder in (".venv", "venv")]
    python = os.environ.get("COMFYUI_PYTHON") or next((str(path) for path in inside if path.exists()), sys.executable)
    with tempfile.TemporaryDirectory() as base:
        run_once(comfyui, python, base)  # compiles the pack, which happens once
        runs = [run_once(comfyui, python, base) for _ in range(arguments.runs)]
    print(f"{runs[0]['nodes']:.0f} nodes, {runs[0]['modules']:.0f} modules imported, {len(runs)} starts")
    for kind in ("cpu", "wall"):
        times = sorted(1000 * run[kind] for run in runs)
        print(f"{kind:4}  median {statistics.median(times):6.1f} ms, {times[0]:.1f} to {times[-1]:.1f}")
    return int(1000 * statistics.median(run["cpu"] for run in runs) > arguments.target)


if __name__ == "__main__":
    sys.exit(main())
