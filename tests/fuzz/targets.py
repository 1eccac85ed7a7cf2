"""What is fuzzed: for each target how an input is mutated and what reads it.

A reader may return or raise a ``StudioError`` whose text is one printable line. Anything else is a find.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutate import json_mutator, mutated_bytes

from nvfp4_studio.calibration import StudioError, load, markdown
from nvfp4_studio.cli.benching import page as bench
from nvfp4_studio.cli.benching.output import plots_of, read_result
from nvfp4_studio.cli.carding.benchmark import of_this_file
from nvfp4_studio.cli.carding.card import make_card
from nvfp4_studio.cli.carding.file import describe_file
from nvfp4_studio.cli.carding.page import card_page
from nvfp4_studio.cli.carding.weights import from_report, from_verification, layer_plot_rows
from nvfp4_studio.converters import sensitivity
from nvfp4_studio.converters.kernels import load_table
from nvfp4_studio.converters.layers import recognise
from nvfp4_studio.converters.plots import bar_chart
from nvfp4_studio.converters.recipe import Blocks
from nvfp4_studio.converters.recipe_file import load_recipe
from nvfp4_studio.converters.sensitivity import load_probes
from nvfp4_studio.converters.sensitivity.page import sensitivity_sections
from nvfp4_studio.converters.source import open_source
from nvfp4_studio.converters.verify import verify

CORPUS = Path(__file__).parent / "corpus"
Mutator = Callable[[bytes, random.Random, list[bytes]], bytes]
Reader = Callable[[Path, bytes], None]
KEYS = ["double_blocks.0.img_attn.qkv.weight", "double_blocks.1.img_attn.qkv.weight", "img_in.weight"]


@dataclass(frozen=True)
class Target:
    """``mutate`` makes an input from a seed, ``read`` writes it into a folder of its own and opens it."""

    mutate: Mutator
    read: Reader


def safetensors(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Mutate a safetensors file: its bytes, its header's JSON or the JSON inside of the header's texts.

    Mostly the header's length is put right again, so that mutations reach what comes after it.
    """
    if rng.random() < 0.2:
        return mutated_bytes(data, rng, others)
    length = int.from_bytes(data[:8], "little")
    head, body = data[8 : 8 + length], data[8 + length :]
    kind = rng.random()
    if kind < 0.4:
        head = json_mutator(head, rng)
    elif kind < 0.8:
        head = _inner_json(head, rng)
    elif kind < 0.9:
        head = mutated_bytes(head, rng, others)
    else:
        body = mutated_bytes(body, rng, others)
    if rng.random() < 0.1:
        body = mutated_bytes(body, rng, others)
    return len(head).to_bytes(8, "little") + head + body


def _inner_json(head: bytes, rng: random.Random) -> bytes:
    header = json.loads(head)
    texts = header.get("__metadata__", {})
    if texts:
        key = rng.choice(list(texts))
        mutate = json_mutator if rng.random() < 0.8 else lambda data, rng: mutated_bytes(data, rng, [data])
        texts[key] = mutate(texts[key].encode(), rng).decode("utf-8", "replace")
    return json.dumps(header).encode()


def text(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Mutate a JSON file."""
    return json_mutator(data, rng) if rng.random() < 0.6 else mutated_bytes(data, rng, others)


def _read(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with open_source(path) as source:
        for name in source.tensors:
            source.read(name)


def _header(folder: Path, data: bytes) -> None:
    _read(folder / "x.safetensors", data)


def _tags(folder: Path, data: bytes) -> None:
    path = folder / "x.safetensors"
    path.write_bytes(data)
    with open_source(path) as source:
        recognise(source)
    verify(CORPUS / "tags" / "plain.safetensors", path)


def _index(folder: Path, data: bytes) -> None:
    for number in (1, 2):
        shard = folder / f"m-0000{number}-of-00002.safetensors"
        if not shard.exists():
            shutil.copyfile(CORPUS / "header" / f"shard{number}.safetensors", shard)
    (folder / "m.safetensors.index.json").write_bytes(data)
    for path in (folder / "m.safetensors.index.json", folder):
        open_source(path).close()


def _calibration(folder: Path, data: bytes) -> None:
    path = folder / "x.safetensors"
    path.write_bytes(data)
    found = load(path)
    found.summary()
    for layer in found.merged(found).layers.values():
        if layer.curvature is not None:
            layer.curvature.mean_square()
        if layer.reservoir is not None:
            layer.reservoir.values()


def _recipe(folder: Path, data: bytes) -> None:
    path = folder / "x.json"
    path.write_bytes(data)
    recipe = load_recipe(str(path))
    for key in KEYS:
        recipe.policy(key, (384, 128), Blocks.find(KEYS))


def _pickled(folder: Path, data: bytes) -> None:
    _read(folder / "x.pt", data)


def _measured(folder: Path, data: bytes) -> None:
    """A sensitivity, an influence or a table of kernel speeds; each reader refuses what the others take."""
    path = folder / "x.json"
    path.write_bytes(data)
    refused = []
    for read in (_sensitivity, load_probes, lambda path: load_table(str(path))):
        try:
            read(path)
        except StudioError as error:
            refused.append(error)
    if len(refused) == 3:
        raise refused[0]


def _sensitivity(path: Path) -> None:
    found = sensitivity.load(path)
    markdown("t", sensitivity_sections(found))
    chosen = {layer.module: layer.outcomes[-1] for layer in found.layers}
    found.bytes_of(chosen), found.error_of(chosen), found.speed_of(chosen)
    sensitivity.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))


def _card(folder: Path, data: bytes) -> None:
    """A comparison's result, a conversion's report or a verification, up to the page of a card and the plots."""
    path = folder / "x.json"
    path.write_bytes(data)
    refused = []
    for read in (_bench, lambda path: _page(from_report(path, "second.safetensors", 5), None), _verification):
        try:
            read(path)
        except StudioError as error:
            refused.append(error)
    if len(refused) == 3:
        raise refused[0]


def _bench(path: Path) -> None:
    result = read_result(path)
    bench.page(result).encode()
    plots_of(result, path.parent)
    _page(None, of_this_file(result, "second.safetensors", None))


def _verification(path: Path) -> None:
    _page(from_verification(path, "second.safetensors", 5), None)


def _page(weights: dict[str, Any] | None, result: dict[str, Any] | None) -> None:
    with open_source(CORPUS / "tags" / "plain.safetensors") as source:
        file = describe_file(source)
    origin = {"name": None, "bytes": None, "size": None, "sha256": None, "checked": False}
    card = make_card(file, "0" * 64, origin, weights, None, result, None, None)
    json.dumps(card, allow_nan=False)
    card_page(card).encode()
    rows = layer_plot_rows(weights) if weights else []
    if rows:
        bar_chart("", rows, "dB")


TARGETS = {
    "header": Target(safetensors, _header),
    "tags": Target(safetensors, _tags),
    "index": Target(text, _index),
    "calibration": Target(safetensors, _calibration),
    "recipe": Target(text, _recipe),
    "pickled": Target(mutated_bytes, _pickled),
    "measured": Target(text, _measured),
    "card": Target(text, _card),
}


def seeds(target: str) -> list[bytes]:
    """The committed corpus of a target, in a fixed order."""
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


def made(target: str, seed: int, number: int, corpus: list[bytes]) -> bytes:
    """Input ``number``: the same bytes on every machine."""
    rng = random.Random(f"{seed}:{target}:{number}")
    return TARGETS[target].mutate(rng.choice(corpus), rng, corpus)
