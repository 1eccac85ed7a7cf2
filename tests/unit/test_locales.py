"""The interface's languages: each has every text, in its own words, with the placeholders of the English one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LOCALES = Path(__file__).resolve().parents[2] / "locales"
LANGUAGES = ("de", "fr", "zh", "ja")
FILES = ("main.json", "nodeDefs.json", "commands.json", "settings.json")
"""What ComfyUI's ``/i18n`` reads in each language's folder (``app/custom_node_manager.py``)."""

COUNTED = {"one", "other"}
"""A text that depends on a count. Chinese and Japanese have one form for all counts."""

TERMS = (
    "NVFP4",
    "FP8",
    "MXFP8",
    "INT8",
    "BF16",
    "LoRA",
    "VAE",
    "ComfyUI",
    "amax",
    "dB",
    "SQNR",
    "PSNR",
    "SSIM",
    "HaarPSI",
    "GPTQ",
    "cfg",
)
"""Said the same in every language, so a translation without them lost something."""

SAME = {
    "de": {"Block", "Budget", "Format", "Name", "Plan", "Sampler", "Scheduler", "Seed", "Text"},
    "fr": {"calibration", "calibrations", "format", "mode", "plan", "source", "type"},
    "zh": set(),
    "ja": set(),
}
"""English words that are the language's own too, in lower case except for German's nouns."""


def texts(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from texts(value, (*path, key))
        else:
            yield (*path, key), value


def load(language: str) -> dict[tuple[str, ...], Any]:
    found = {}
    for name in FILES:
        file = LOCALES / language / name
        if file.is_file():
            found |= {(name, *path): text for path, text in texts(json.loads(file.read_text("utf-8")))}
    return found


ENGLISH = load("en")


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"\{\w+\}", text))


def test_there_are_the_files_that_comfyui_reads_and_no_others() -> None:
    here = {path.relative_to(LOCALES).as_posix() for path in LOCALES.rglob("*") if path.is_file()}
    names = {name for name in FILES if (LOCALES / "en" / name).is_file()}
    assert here == {f"{language}/{name}" for language in ("en", *LANGUAGES) for name in names}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_there_and_none_too_many(language: str) -> None:
    found = load(language)
    counted = {path[:-1] for path in ENGLISH if path[-1] == "one" and (*path[:-1], "other") in ENGLISH}
    wanted = {path for path in ENGLISH if not (language in ("zh", "ja") and path[:-1] in counted and path[-1] == "one")}
    missing = [".".join(path) for path in ENGLISH if path in wanted and path not in found]
    extra = [".".join(path) for path in found if path not in ENGLISH]
    assert (missing, extra) == ([], [])


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_texts_are_texts_without_stray_spaces(language: str) -> None:
    bad = [
        path for path, text in load(language).items() if not isinstance(text, str) or not text or text != text.strip()
    ]
    assert bad == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_left_in_english(language: str) -> None:
    same = {"NVFP4 Studio", *SAME[language]}
    left = []
    for path, text in load(language).items():
        words = re.sub("|".join(TERMS) + r"|\{\w+\}|[\W\d_]", "", text)
        if text == ENGLISH.get(path) and len(words) > 2 and not {text, text.lower()} & same:
            left.append(f"{'.'.join(path)}: {text}")
    assert left == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_placeholders_and_terms_are_those_of_the_english_text(language: str) -> None:
    lost = []
    for path, text in load(language).items():
        english = ENGLISH.get(path, "")
        terms = [term for term in TERMS if re.search(rf"\b{term}\b", english) and term not in text]
        if placeholders(text) != placeholders(english) or terms:
            lost.append(f"{'.'.join(path)}: {placeholders(english)} {terms}: {text}")
    assert lost == []


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_texts_that_the_frontend_formats_hold_none_of_its_syntax(language: str) -> None:
    """vue-i18n takes | for plural forms, @ for links and { for values; main.json's nvfp4Studio is read by the pack."""
    formatted = {path: text for path, text in load(language).items() if "nvfp4Studio" not in path}
    assert [path for path, text in formatted.items() if re.search(r"[|@{}]", text)] == []
