"""A model in several files: with Hugging Face's index, by numbered names, or in a diffusers folder.

Shards are safetensors, or PyTorch's (``pytorch_model.bin.index.json``).

Nothing outside of the model's folder is read: an index that names ``../x``, an absolute path or a link
that leads out is refused. Links inside a Hugging Face cache, which lead from ``snapshots`` to
``blobs``, stay within the model's folder there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import SourceError
from .header import read_header, unique
from .pickled import SUFFIXES as PYTORCH_SUFFIXES
from .pickled import read_pytorch
from .tensors import Index, TensorInfo

INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")
MAX_INDEX_BYTES = 32_000_000
"""About 200 bytes a tensor for 160 000 tensors."""
MAX_SHARDS = 400
"""All stay open while a conversion runs; Windows allows 512 open files to a program."""
MAX_CONFIG_BYTES = 1_000_000
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin)")
_QUANTIZATION = "_quantization_metadata"


def read_shard_index(path: Path) -> Index:
    """Read a ``*.index.json`` and the headers of the shards that it names.

    Raises:
        SourceError: no such index, a shard outside of its folder, missing or damaged, a tensor in two
            shards, or one that the index places where it is not.
    """
    placed = _weight_map(path)
    names = sorted(set(placed.values()))
    index = _joined(path, [_inside(path.parent, name, path) for name in names])
    wrong = [
        tensor
        for tensor, name in placed.items()
        if tensor not in index.tensors or index.files[index.tensors[tensor].file].name != name
    ]
    if wrong:
        raise SourceError(
            f"{path} places {len(wrong)} tensors in shards that do not hold them, first {wrong[0][:200]}; "
            "the shards are of another model or incomplete, download them again."
        )
    return index


def is_shard(path: Path) -> bool:
    """True for a name like ``model-00002-of-00005.safetensors``: never a model of its own."""
    return _NUMBERED.fullmatch(path.name) is not None


def is_later_shard(path: Path) -> bool:
    """True for every numbered shard but the first, which stands for the model in lists."""
    numbered = _NUMBERED.fullmatch(path.name)
    return numbered is not None and int(numbered[2]) != 1


def read_shards_of(path: Path) -> Index:
    """Read the whole model that one of its numbered shards belongs to.

    Raises:
        SourceError: a shard is missing, damaged, or of another model.
    """
    numbered = _NUMBERED.fullmatch(path.name)
    assert numbered is not None
    shards = _complete(path.parent, numbered[1], int(numbered[3]), numbered[4])
    return _joined(path, [_inside(path.parent, shard, path) for shard in shards])


def read_folder(folder: Path) -> Index:
    """Read the one model in a folder: a single file, shards with or without index, or ``transformer/`` in it.

    Raises:
        SourceError: the folder holds no model or more than one, or a shard is missing.
    """
    try:
        inside = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise SourceError(f"The folder {folder} cannot be read: {error.strerror}.") from error
    found = _models(folder, inside)
    if not found:
        parts = [
            name for name in inside if re.fullmatch(r"(transformer|unet)(_\d)?", name) and (folder / name).is_dir()
        ]
        if len(parts) == 1:
            return read_folder(folder / parts[0])
        if parts:
            raise SourceError(
                f"{folder} holds several diffusion models ({', '.join(parts)}); name one of the folders in it."
            )
        raise SourceError(
            f"{folder} is a folder without .safetensors files; name a checkpoint, or a folder with one model's shards."
        )
    if len(found) > 1:
        raise SourceError(f"{folder} is a folder with several models ({_listed(found)}); name one of the files in it.")
    ((name, shards),) = found.items()
    return (
        read_shard_index(folder / name) if not shards else _joined(folder, [_inside(folder, s, folder) for s in shards])
    )


def is_diffusers(folder: Path) -> bool:
    """True when a folder's ``config.json`` is that of a diffusers model."""
    config = folder / "config.json"
    try:
        if config.stat().st_size > MAX_CONFIG_BYTES:
            return False
        data = json.loads(config.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "_class_name" in data and "_diffusers_version" in data


def _models(folder: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """The models in a folder: index file or first shard -> its files; an index has none of its own here."""
    names = [name for name in names if (folder / name).is_file()]
    models: dict[str, list[str]] = {name: [] for name in names if name.endswith(INDEX_SUFFIXES)}
    listed = {shard for name in models for shard in _weight_map(folder / name).values()}
    for name in names:
        numbered = _NUMBERED.fullmatch(name)
        if name in listed or not (numbered or name.endswith(".safetensors")):
            continue
        if numbered is None:
            models[name] = [name]
            continue
        stem, count, suffix = numbered[1], int(numbered[3]), numbered[4]
        first = f"{stem}-00001-of-{count:05}.{suffix}"
        if first not in models:
            models[first] = _complete(folder, stem, count, suffix)
    return models


def _complete(folder: Path, stem: str, count: int, suffix: str) -> list[str]:
    if not 0 < count <= MAX_SHARDS:
        raise SourceError(f"{folder}: {stem} has {count} shards; nvfp4-studio reads at most {MAX_SHARDS}.")
    shards = [f"{stem}-{number:05}-of-{count:05}.{suffix}" for number in range(1, count + 1)]
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise SourceError(
            f"{folder}: {len(missing)} of {count} shards are missing ({_listed(missing)}); download them."
        )
    return shards


def _weight_map(path: Path) -> dict[str, str]:
    """The checked part of an index: tensor -> file name."""
    try:
        size = path.stat().st_size
        if size > MAX_INDEX_BYTES:
            raise SourceError(f"{path} has {size} bytes, too many for an index of shards.")
        data = json.loads(path.read_bytes(), object_pairs_hook=unique)
    except OSError as error:
        raise SourceError(f"{path} cannot be opened: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is damaged ({error}); download it again.") from error
    placed = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(placed, dict) or not placed:
        raise SourceError(f'{path} has no table "weight_map", so it is no index of shards.')
    for name, shard in placed.items():
        if not name.isprintable() or not isinstance(shard, str) or not 0 < len(shard) <= 255 or not shard.isprintable():
            raise SourceError(f"{path}: the entry {name[:80]!r} of its weight_map names no file; download it again.")
    if len(set(placed.values())) > MAX_SHARDS:
        raise SourceError(f"{path} names {len(set(placed.values()))} shards; nvfp4-studio reads at most {MAX_SHARDS}.")
    return placed


def _inside(folder: Path, name: str, index: Path) -> Path:
    """The path of a shard, which must be a file directly in the folder, not only by name.

    Raises:
        SourceError: it leads elsewhere or is not there.
    """
    if name in (".", "..") or any(sign in name for sign in "/\\:"):
        raise SourceError(
            f"{index} names the shard {name!r}, which is not in its own folder; get it from its author again."
        )
    path = folder / name
    try:
        real, home = path.resolve(strict=True), folder.resolve()
    except FileNotFoundError as error:
        raise SourceError(f"{index} needs the shard {name}, which is missing; download it too.") from error
    except (OSError, RuntimeError) as error:
        raise SourceError(f"{path} cannot be opened: {error}.") from error
    cache = next((parent.parent for parent in home.parents if parent.name == "snapshots"), home)
    if not (real.is_relative_to(home) or real.is_relative_to(cache / "blobs")) or not real.is_file():
        raise SourceError(f"{path} is a link that leads out of its folder; put the file itself there.")
    return path


def _joined(path: Path, files: list[Path]) -> Index:
    """One index of several files. A header entry on which files disagree is left out; layers' formats must agree."""
    tensors: dict[str, TensorInfo] = {}
    headers: list[Mapping[str, str]] = []
    for number, file in enumerate(files):
        part = read_pytorch(file) if file.suffix.lower() in PYTORCH_SUFFIXES else read_header(file)
        for name, info in part.tensors.items():
            if name in tensors:
                raise SourceError(
                    f"{path}: tensor {name[:200]} is in two shards ({files[tensors[name].file].name}, {file.name}); "
                    "they are not of one model, download them again."
                )
            tensors[name] = replace(info, file=number)
        headers.append(part.metadata)
    metadata: dict[str, str] = {}
    for key in dict.fromkeys(key for header in headers for key in header):
        values = {header[key] for header in headers if key in header}
        if len(values) == 1:
            metadata[key] = values.pop()
        elif key == _QUANTIZATION:
            raise SourceError(f"{path}: its shards disagree about {key}; convert from the FP8 or BF16 original.")
    return Index(tuple(files), metadata, tensors)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
