"""The comparison `nvfp4-studio bench` on the demo model in a real ComfyUI: once undisturbed, once killed and continued.

    python benchmarks/bench_demo.py [--count 20] [--out DIR]

Three models: the demo's FP8 file, converted with the default rounding, converted to the nearest values. ComfyUI is looked for
in COMFYUI_PATH, then in ~/comfy/ComfyUI. The second run is killed at a third of the way and interrupted at two thirds; both
results must be equal but for the times. The demo model knows digits and no words: two nodes of tests/server/packs stand for
text encoder and VAE. About five minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from nvfp4_studio.calibration import save
from nvfp4_studio.converters import Options, convert
from nvfp4_studio.converters.pipeline import no_progress
from nvfp4_studio.demo.run import SOURCE, generate
from nvfp4_studio.demo.runtime import load_model

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "tests" / "server" / "packs" / "digits.py"
ROUNDINGS = {"digits-nvfp4.safetensors": "auto", "digits-nvfp4-nearest.safetensors": "nearest"}
MODELS = ("digits-fp8.safetensors", *ROUNDINGS)
WORKFLOW: dict[str, Any] = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": MODELS[0], "weight_dtype": "default"}},
    "2": {"class_type": "DigitsTextEncode", "inputs": {"text": "7"}},
    "3": {"class_type": "DigitsTextEncode", "inputs": {"text": "0"}},
    "4": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "5": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 1, "steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
            "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0],
        },
    },
    "6": {"class_type": "DigitsDecode", "inputs": {"samples": ["5", 0]}},
    "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "bench"}},
}  # fmt: skip
TIMES = {"seconds", "cold_start_s", "load_s", "seconds_per_image", "speedup", "peak_bytes", "memory", "drift", "notes"}
START_SECONDS = 180


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=20, help="prompts (default 20)")
    parser.add_argument("--out", type=Path, help="keep the results here: whole/ and killed/")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        out = (chosen.out or work / "out").resolve()
        out.mkdir(parents=True, exist_ok=True)
        make_models(work / "base")
        (work / "api.json").write_text(json.dumps(WORKFLOW), "utf-8")
        (work / "prompts.txt").write_text(
            "\n".join(f"digit {n % 10}, hand {n // 10}" for n in range(chosen.count)), "utf-8"
        )
        with (work / "server.log").open("wb") as log:
            server, url = start(work / "base", log)
            try:
                command = [sys.executable, "-m", "nvfp4_studio.cli", "bench", "--server", url, "--workflow", "api.json"]
                command += ["--prompts", "prompts.txt", "-n", str(chosen.count), "--models", *MODELS, "--out"]
                subprocess.run([*command, out / "whole"], cwd=work, check=True)
                disturbed([*command, str(out / "killed")], work, out / "killed", chosen.count * len(MODELS))
            finally:
                server.terminate()
                server.wait()
        return told(out, chosen.count * len(MODELS))


def told(out: Path, total: int) -> int:
    """Compare both runs, say it in a line; the exit status."""
    folders = out / "whole", out / "killed"
    results = [json.loads((folder / "bench.json").read_text("utf-8")) for folder in folders]
    pictures = [
        {path.relative_to(folder): path.read_bytes() for path in folder.glob("pictures/*/*")} for folder in folders
    ]
    equal, same = without_times(results[0]) == without_times(results[1]), pictures[0] == pictures[1]
    made = sum(model["made"] for model in results[1]["models"])
    print(
        f"{made} of {total} generations made by the run that was killed and continued; equal to the undisturbed one but "
        f"for times: {equal}; {len(pictures[0])} pictures equal to the byte: {same}."
    )
    return 0 if equal and same and made == total else 1


def make_models(base: Path) -> None:
    """A base folder of ComfyUI with the three models and both packs."""
    models = base / "models" / "diffusion_models"
    for folder in (models, base / "custom_nodes", *(base / name for name in ("input", "output", "temp", "user"))):
        folder.mkdir(parents=True)
    os.symlink(ROOT, base / "custom_nodes" / "nvfp4-studio", target_is_directory=True)
    os.symlink(DIGITS, base / "custom_nodes" / DIGITS.name)
    shutil.copy(SOURCE, models / MODELS[0])
    _, calibration = generate(load_model(SOURCE), "calibrating", no_progress, calibrate=True)
    assert calibration is not None
    save(calibration, base / "calibration.safetensors")
    for name, rounding in ROUNDINGS.items():
        convert(SOURCE, models / name, Options(rounding=rounding), calibration=calibration, device="cpu")


def start(base: Path, log: Any) -> tuple[subprocess.Popen[bytes], str]:
    """A ComfyUI on this folder, answering."""
    comfyui = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
    inside = [comfyui / name / "bin" / "python" for name in (".venv", "venv")]
    python = os.environ.get("COMFYUI_PYTHON") or next((str(path) for path in inside if path.exists()), sys.executable)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--cpu", "--base-directory", str(base), "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
    flags += [
        "--disable-all-custom-nodes",
        "--whitelist-custom-nodes",
        "nvfp4-studio",
        DIGITS.name,
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        [python, "main.py", *flags], cwd=comfyui, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/queue", timeout=10).close()
        except OSError:
            time.sleep(0.5)
        else:
            return process, url
    process.kill()
    raise SystemExit(f"ComfyUI in {comfyui} did not start.")


def disturbed(command: list[str], work: Path, out: Path, total: int) -> None:
    """Run it, kill it at a third, interrupt it at two thirds, let it end."""
    for share, number in ((1 / 3, signal.SIGKILL), (2 / 3, signal.SIGINT), (1.0, None)):
        process = subprocess.Popen(command, cwd=work)
        while number is not None and process.poll() is None and done(out) < share * total:
            time.sleep(0.05)
        if number is not None:
            process.send_signal(number)
            print(f"{signal.Signals(number).name} after {done(out)} of {total} generations", flush=True)
        process.wait()


def done(out: Path) -> int:
    """Generations in the journal."""
    path = out / "journal.jsonl"
    return path.read_text("utf-8").count('"picture"') if path.exists() else 0


def without_times(value: Any) -> Any:
    """A result without what two runs may differ in."""
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
