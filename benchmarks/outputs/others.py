"""Other converters on the same layers: those that convert files, and NVIDIA Model Optimizer on modules."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peers import comfy_dit_quantizer, convert_to_quant
from peers.comparing import SCRIPTS
from peers.installing import NotInstalled, environment, install, version_of
from peers.peer import Command, Installed, Peer
from peers.running import Run, run
from peers.scripts.weight_error import File
from safetensors.torch import load_file, save_file

from nvfp4_studio.converters.formats import nvfp4
from nvfp4_studio.converters.rounding import candidates, nearest

from .layers import Errors, Layer, errors_of, sqnr_db, write_source

MODEL_OPTIMIZER = "nvidia-modelopt"
MODEL_OPTIMIZER_VERSION = "0.47.0"
MODEL_OPTIMIZER_PACKAGES = (f"{MODEL_OPTIMIZER}=={MODEL_OPTIMIZER_VERSION}", "requests", "huggingface_hub")
"""The last two are imported by it and not among what it requires."""
MODEL_OPTIMIZER_CONFIGS = {"NVFP4 default": "NVFP4_DEFAULT_CFG", "NVFP4 AWQ-lite": "NVFP4_AWQ_LITE_CFG"}


WAYS: tuple[tuple[Peer, Mapping[str, Command]], ...] = (
    (
        convert_to_quant.PEER,
        {
            "--simple": convert_to_quant.with_flags("--simple"),
            "learned": convert_to_quant.with_flags("--device", "cpu"),
        },
    ),
    (
        comfy_dit_quantizer.PEER,
        {f"-m {method}": comfy_dit_quantizer.with_method(method) for method in ("amax", "4/6")},
    ),
)


TENSOR_SCALES = (0.9, 0.95, 0.975, 1.0, 1.025, 1.05, 1.1)
"""What comfy-dit-quantizer's method mse tries, in units of amax / 2688."""


def _least_squares(layers: list[Layer]) -> dict[str, Any]:
    """comfy-dit-quantizer's method mse from its description: of seven tensor scales that of the least squared error.

    The program itself asks for Triton, which needs a GPU, in this method.
    """
    started, decoded = time.process_time(), {}
    for layer in layers:
        rows = layer.weight.float()
        base = nearest.tensor_scale(rows.abs().amax())
        tried = []
        for factor in TENSOR_SCALES:
            packed, scales = candidates.round_rows(rows, base * factor, nearest.CANDIDATES[0])
            tried.append(nvfp4.decode_rows(packed.flatten(1), scales, base * factor, rows.shape[1]))
        decoded[layer.key] = min(tried, key=lambda values: float((values - rows).square().sum())), None
    seconds = time.process_time() - started
    about = {
        "name": comfy_dit_quantizer.PEER.name,
        "version": comfy_dit_quantizer.PEER.commit[:7],
        "looks_at": "weights",
    }
    about["variant"] = "-m mse, re-derived"
    return about | errors_of(layers, decoded).to_json() | {"cpu_seconds": round(seconds, 3)}


class Others:
    """All that can be installed, each below ``envs``; what cannot is an entry with the reason."""

    def __init__(self, envs: Path, folder: Path, clones: Mapping[str, str], pins: dict[str, str], timeout: float):
        self._envs, self._folder, self._clones, self._pins, self._timeout = envs, folder, clones, pins, timeout

    def measure(self, layers: list[Layer]) -> list[dict[str, Any]]:
        """One entry for each way of each converter."""
        return [*self._converters(layers), _least_squares(layers), *self._model_optimizer(layers)]

    def _converters(self, layers: list[Layer]) -> list[dict[str, Any]]:
        source, entries = self._folder / "source.safetensors", []
        write_source(layers, source)
        for peer, variants in WAYS:
            about = {"name": peer.name, "version": peer.commit[:7], "looks_at": "weights"}
            try:
                installed = install(peer, self._envs, self._clones.get(peer.name), self._pins)
            except NotInstalled as reason:
                entries.append({**about, "variant": "", "skipped": str(reason)})
                continue
            for variant, command in variants.items():
                entries.append({**about, "variant": variant, **self._convert(peer, installed, command, source, layers)})
                print(entries[-1], flush=True)
        return entries

    def _convert(
        self, peer: Peer, installed: Installed, command: Command, source: Path, layers: list[Layer]
    ) -> dict[str, Any]:
        target = self._folder / "converted_nvfp4.safetensors"
        target.unlink(missing_ok=True)
        assert installed.clone is not None
        done = run(
            command(installed, source, target), installed.clone / peer.sources, 1, self._folder / "log", self._timeout
        )
        if done.status or not target.exists():
            return {"skipped": self._why(done)}
        file = File(str(target))
        decoded = {}
        for layer in layers:
            scale = f"{layer.key}.pre_quant_scale"
            values = file.decode(layer.key, layer.weight.shape)
            decoded[layer.key] = values, file.get(scale) if scale in file.names else None
        return errors_of(layers, decoded).to_json() | {"cpu_seconds": round(done.cpu_seconds, 2)}

    def _model_optimizer(self, layers: list[Layer]) -> list[dict[str, Any]]:
        about = {"name": "NVIDIA Model Optimizer", "version": MODEL_OPTIMIZER_VERSION, "looks_at": "weights, inputs"}
        try:
            packages = [f"torch=={self._pins['torch']}", *MODEL_OPTIMIZER_PACKAGES]
            python = environment(self._envs / MODEL_OPTIMIZER, packages)
        except NotInstalled as reason:
            return [{**about, "variant": "", "skipped": str(reason)}]
        about["version"] = version_of(python, MODEL_OPTIMIZER) or ""
        given, entries = self._folder / "layers.safetensors", []
        tensors = {}
        for layer in layers:
            tensors |= {f"{layer.key}.{name}": getattr(layer, name) for name in ("weight", "seen", "fresh")}
        save_file(tensors, given)
        for variant, config in MODEL_OPTIMIZER_CONFIGS.items():
            answer = self._folder / "outputs.safetensors"
            answer.unlink(missing_ok=True)
            command = [str(python), str(SCRIPTS / "model_optimizer.py"), config, str(given), str(answer)]
            done = run(command, None, 1, self._folder / "log", self._timeout)
            if done.status or not answer.exists():
                entries.append({**about, "variant": variant, "skipped": self._why(done)})
                continue
            got = load_file(answer)
            wanted = {layer.key: layer.fresh.float() @ layer.weight.float().T for layer in layers}
            errors = Errors(
                *([sqnr_db(wanted[key], got[f"{key}.{mode}"]) for key in wanted] for mode in ("quantized", "emulated"))
            )
            seconds = json.loads(done.last_words())["cpu_seconds"]
            entries.append({**about, "variant": variant, **errors.to_json(), "cpu_seconds": round(seconds, 2)})
            print(entries[-1], flush=True)
        return entries

    def _why(self, done: Run) -> str:
        """What a program that failed said last, without folders of this machine."""
        if done.status < 0:
            return f"did not finish within {self._timeout:g} s"
        return done.last_words().replace(f"{self._folder}/", "").replace(f"{self._envs}/", "")[:160]
