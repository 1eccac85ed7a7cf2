"""`nvfp4-studio card`: every figure of the page is in its JSON, and nothing of another file gets onto it."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])")
UNITS = (1.0, 1e-3, 1e-6, 1e-9)
"""As bytes are told: B, kB, MB, GB."""


def numbers_in(value: Any) -> Iterator[float]:
    """Every number of a JSON value, those in texts too."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from numbers_in(str(key))
            yield from numbers_in(one)
    elif isinstance(value, list):
        for one in value:
            yield from numbers_in(one)
    elif isinstance(value, str):
        yield from (float(found) for found in NUMBER.findall(value))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def untraceable(page: str, card: dict[str, Any]) -> list[str]:
    """Numbers of the page that are, to the digits shown, no number of the card."""
    known = [value * unit for value in set(numbers_in(card)) for unit in UNITS]

    def is_known(shown: str) -> bool:
        digits = len(shown.partition(".")[2])
        return any(math.isclose(float(shown), value, rel_tol=0, abs_tol=0.5000001 * 10.0**-digits) for value in known)

    return [shown for shown in NUMBER.findall(page.replace("SHA-256", "")) if not is_known(shown)]


@pytest.fixture
def converted(run: Any, checkpoint: Path, calibration: Path) -> Path:
    path = checkpoint.with_name("converted.safetensors")
    assert run("convert", checkpoint, path, "--calibration", calibration).status == 0
    return path


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    return json.loads((folder / "card.json").read_text("utf-8")), (folder / "README.md").read_text("utf-8")


def test_every_number_of_the_page_is_in_the_card(
    run: Any, converted: Path, checkpoint: Path, calibration: Path, comparison: Callable[..., Any]
) -> None:
    bench = comparison("model.safetensors", "sub\\converted.safetensors", "other.safetensors")
    words = ("--source", checkpoint, "--calibration", calibration, "--bench", bench.folder / "bench.json")
    assert run("card", converted, *words, "--license", "Apache-2.0").status == 0
    card, page = card_of(converted.with_name("converted.card"))
    assert len(NUMBER.findall(page)) > 60 and untraceable(page, card) == []
    assert untraceable(page.replace("24 of 25", "23.5 of 25"), card) == ["23.5"]
    assert card["file"]["sha256"] == hashlib.sha256(converted.read_bytes()).hexdigest()
    assert card["source"]["sha256"] == {checkpoint.name: hashlib.sha256(checkpoint.read_bytes()).hexdigest()}
    assert card["source"]["checked"] and card["source"]["bytes"] == checkpoint.stat().st_size
    assert [model["name"] for model in card["benchmark"]["models"]] == [
        "model.safetensors",
        "sub\\converted.safetensors",
    ]
    assert "other.safetensors" not in page and "predicted |" in page
    assert page.startswith('---\nlicense: "apache-2.0"\ntags:\n- "comfyui"\n')
    for name in re.findall(r"!\[[\w-]+\]\(([\w.-]+)\)", page):
        assert (converted.with_name("converted.card") / name).stat().st_size > 1000
    assert {"contact-sheet.png", "times.png", "psnr.png", "weights.png", "calibration.png"} <= {
        path.name for path in converted.with_name("converted.card").iterdir()
    }


def test_layers_errors_and_coverage_are_those_of_the_files(run: Any, converted: Path, calibration: Path) -> None:
    run("card", converted, "--calibration", calibration)
    card, page = card_of(converted.with_name("converted.card"))
    report = json.loads(converted.with_name("converted.report.json").read_text("utf-8"))
    formats = {entry["format"]: entry["layers"] for entry in card["layers"]["formats"]}
    assert formats == report["plan"]["formats"] and card["layers"]["nvfp4"] == report["summary"]["nvfp4_layers"]
    assert sum(entry["percent_of_weights"] for entry in card["layers"]["formats"]) == pytest.approx(100, abs=0.1)
    assert card["weights"]["mean_sqnr_db"] == pytest.approx(report["summary"]["mean_sqnr_db"])
    assert [group["group"] for group in card["weights"]["groups"]] == [group["group"] for group in report["groups"]]
    seen = card["calibration"]
    assert (seen["images"], seen["layers_seen"], seen["layers"]) == (2, 24, 25)
    assert "24 of 25 Linear layers seen" in page
    planned = card["file"]["made"]["rounding_planned"]
    assert sum(planned.values()) == formats["nvfp4"] and f"planned: {next(iter(planned))} in" in page
    assert card["loading"]["loader"] == "Load Checkpoint" and card["loading"]["folder"] == "models/checkpoints"


def test_what_is_not_known_is_said(run: Any, converted: Path) -> None:
    converted.with_name("converted.report.json").unlink()
    assert run("card", converted).status == 0
    card, page = card_of(converted.with_name("converted.card"))
    assert card["weights"] is card["calibration"] is card["benchmark"] is card["predicted"] is None
    assert 'license: "unknown"' in page and "The licence of the source is unknown" in page
    assert "Pictures and speed were not measured" in page and "not compared with the source's" in page
    assert card["source"]["sha256"] and not card["source"]["checked"]


def test_the_licence_of_the_sources_header_is_taken_and_words_are_no_identifier(
    run: Any, checkpoint: Path, tmp_path: Path
) -> None:
    licensed, target = tmp_path / "licensed.safetensors", tmp_path / "out.safetensors"
    save_file(load_file(checkpoint), licensed, {"modelspec.license": "MIT"})
    run("convert", licensed, target)
    run("card", target, "--out", tmp_path / "header")
    card, page = card_of(tmp_path / "header")
    assert (
        card["license"] == {"text": "MIT", "identifier": "mit", "from": "the source's header"}
        and 'license: "mit"' in page
    )
    words = ("--license", "FLUX-1-dev-Non-Commercial-License")
    run("card", target, "--out", tmp_path / "words", *words)
    _, page = card_of(tmp_path / "words")
    assert 'license: "other"\nlicense_name: "FLUX-1-dev-Non-Commercial-License"' in page, "no hub knows that identifier"
    run("card", target, "--out", tmp_path / "words", "--license", 'FLUX.1 [dev] "Non-Commercial"')
    _, page = card_of(tmp_path / "words")
    assert 'license: "other"\nlicense_name: "FLUX.1 [dev] \\"Non-Commercial\\""' in page


EVIL = "x`<img src=//a.example/t.png>![p](//a.example) | y\n\n# Safe to use & <script>"


def changed_header(path: Path, target: Path, **metadata: str) -> Path:
    with safe_open(path, "pt") as file:
        kept = file.metadata()
    save_file(load_file(path), target, {**kept, **metadata})
    return target


def test_what_others_wrote_stays_text_on_the_page(
    run: Any, converted: Path, comparison: Callable[..., Any], tmp_path: Path
) -> None:
    report = converted.with_name("converted.report.json")
    found = json.loads(report.read_text("utf-8"))
    found["plan"]["layers"][0]["name"], found["plan"]["warnings"] = EVIL, [EVIL]
    report.unlink()
    made = {
        "version": EVIL,
        "source": EVIL,
        "recipe": EVIL,
        "source_sha256": {EVIL: EVIL},
        "rounding_planned": {EVIL: 1},
    }
    target = changed_header(converted, tmp_path / "evil.safetensors", nvfp4_studio=json.dumps(made), license=EVIL)
    found["output"], found["summary"]["output_bytes"] = target.name, target.stat().st_size
    target.with_name("evil.report.json").write_text(json.dumps(found), "utf-8")
    bench = comparison("model.safetensors", "evil.safetensors")
    bench.result["notes"].append(EVIL.replace("\n", " "))
    bench.result["models"][0]["name"] = bench.result["request"]["reference"] = EVIL.replace("\n", " ")
    bench.result["orders"] = []
    (bench.folder / "bench.json").write_text(json.dumps(bench.result), "utf-8")
    assert run("card", target, "--bench", bench.folder / "bench.json", "--out", tmp_path / "card").err.count(
        "Safe to use"
    )
    card, page = card_of(tmp_path / "card")
    body = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", page.partition("\n---\n")[2].replace("\\`", ""))
    assert page.count("a.example") > 10 and "# Safe" in body
    assert not re.search(r"(?<!\\)[<\[]", re.sub(r"!\[[\w-]+\]\([\w.-]+\)", "", body)), "a tag or a link"
    assert not re.search(r"^# Safe|(?<!\\)&", body, re.MULTILINE)
    widths = [
        len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()})
        for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    ]
    assert len(widths) > 5 and set(widths) == {1}, "every row has the cells of its table"


@pytest.mark.parametrize(
    "made",
    [
        {"source": 7, "source_sha256": [1], "rounding_planned": [2], "recipe": None, "calibration": {"a": 1}},
        {"source_sha256": {"a": 1, "b": None}, "rounding_planned": {"gptq": "12"}, "recipe_content": {"layers": 3}},
    ],
)
def test_a_header_that_was_changed_is_told_as_far_as_it_can_be(
    run: Any, converted: Path, checkpoint: Path, tmp_path: Path, made: dict[str, Any]
) -> None:
    target = changed_header(converted, tmp_path / "changed.safetensors", nvfp4_studio=json.dumps(made))
    result = run("card", target, "--source", checkpoint)
    card, _ = card_of(tmp_path / "changed.card")
    assert result.status == 0 and card["file"]["made"]["recipe"] == "unknown"
    assert card["file"]["made"]["source_sha256"] is None and card["file"]["made"]["rounding_planned"] == {}


def test_a_card_needs_nothing_that_asks_servers() -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "import nvfp4_studio.cli.card, nvfp4_studio.cli.benching.output, nvfp4_studio.cli.carding.benchmark\n"
        "import nvfp4_studio.cli.carding.card, nvfp4_studio.cli.carding.page"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pictures_of_somebody_else_are_kept(run: Any, converted: Path, comparison: Callable[..., Any]) -> None:
    bench = comparison("model.safetensors", "converted.safetensors", "third.safetensors")
    before = (bench.folder / "psnr.png").read_bytes()
    result = run("card", converted, "--bench", bench.folder / "bench.json", "--out", bench.folder)
    assert result.status == 1 and "contact-sheet.png was not written by nvfp4-studio card" in result.err
    assert (bench.folder / "psnr.png").read_bytes() == before


def test_errors_come_from_a_verification_or_are_measured(
    run: Any, converted: Path, checkpoint: Path, tmp_path: Path
) -> None:
    report = converted.with_name("converted.report.json")
    (tmp_path / "verify.json").write_text(run("verify", checkpoint, converted, "--json").out, "utf-8")
    cards = []
    for folder, words in (("a", ()), ("b", ("--verify", tmp_path / "verify.json"))):
        assert run("card", converted, *words, "--out", tmp_path / folder).status == 0
        cards.append(card_of(tmp_path / folder)[0]["weights"])
    report.unlink()
    run("card", converted, "--source", checkpoint, "--out", tmp_path / "c")
    cards.append(card_of(tmp_path / "c")[0]["weights"])
    assert len({card["from"] for card in cards}) == 3
    card, page = card_of(tmp_path / "b")
    fidelity = json.loads((tmp_path / "verify.json").read_text("utf-8"))["fidelity"]
    assert card["weights"]["fidelity"]["grade"] == fidelity["grade"] and f"Grade {fidelity['grade']} (" in page
    assert untraceable(page, card) == []
    for card in cards[1:]:
        assert card["mean_sqnr_db"] == pytest.approx(cards[0]["mean_sqnr_db"])
        assert card["worst_layer"] == cards[0]["worst_layer"] and card["changed_layers"] == cards[0]["changed_layers"]


def test_files_of_another_model_are_refused(
    run: Any, converted: Path, checkpoint: Path, calibration: Path, comparison: Callable[..., Any], tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    save_file(load_file(checkpoint), other, {"made": "for another test"})
    renamed = tmp_path / "renamed.safetensors"
    renamed.write_bytes(calibration.read_bytes())
    bench = comparison("model.safetensors", "another.safetensors").folder / "bench.json"
    verification = tmp_path / "verification.json"
    verification.write_text(run("verify", checkpoint, other, "--json").out, "utf-8")
    refused = {
        "is not what the file was made from": ("--source", other),
        "was converted with the calibration calibration.safetensors": ("--calibration", renamed),
        "The comparison has no model converted.safetensors": ("--bench", bench),
        "is no verification": ("--verify", bench),
        "is the verification of other.safetensors with": ("--verify", verification),
        "is no result of nvfp4-studio bench": ("--bench", converted.with_name("converted.report.json")),
    }
    for said, words in refused.items():
        result = run("card", converted, *words)
        assert result.status == 1 and said in result.err and len(result.err.splitlines()) == 1
    moved = converted.with_name("moved.safetensors")
    converted.rename(moved)
    converted.with_name("converted.report.json").rename(moved.with_name("moved.report.json"))
    assert "is the report of converted.safetensors" in run("card", moved).err
    assert not list(tmp_path.glob("*.card"))


def test_a_page_of_somebody_else_is_kept(run: Any, converted: Path, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "README.md").write_text("mine", "utf-8")
    result = run("card", converted, "--out", tmp_path / "hub")
    assert result.status == 1 and "was not written by nvfp4-studio card" in result.err
    assert (tmp_path / "hub" / "README.md").read_text("utf-8") == "mine"
    assert run("card", converted, "--out", tmp_path / "new").status == 0
    assert run("card", converted, "--out", tmp_path / "new").status == 0
