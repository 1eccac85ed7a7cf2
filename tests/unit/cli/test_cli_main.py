from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nvfp4_studio import __version__
from nvfp4_studio.calibration import POLICIES
from nvfp4_studio.cli import convert, demo, main
from nvfp4_studio.converters import ROUNDINGS

Run = Callable[..., object]


def subprocess_run(*words: object, module: str = "nvfp4_studio.cli.main") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        env=None,
    )


def test_version_and_help_without_importing_torch() -> None:
    code = (
        "import sys; from nvfp4_studio.cli.main import main; assert main(['--help']) == 0; "
        "assert main(['--version']) == 0; assert main(['convert']) == 2; assert main(['verify', '--help']) == 0; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
    assert f"nvfp4-studio {__version__}" in done.stdout


@pytest.mark.parametrize("module", ["nvfp4_studio.cli.main", "nvfp4_studio.cli"])
def test_both_modules_run(module: str) -> None:
    done = subprocess_run("--version", module=module)
    assert (done.returncode, done.stdout.strip()) == (0, f"nvfp4-studio {__version__}")


@pytest.mark.parametrize(
    "words", [(), ("fly",), ("convert", "a"), ("inspect",), ("calibration",), ("plan", "a", "--no")]
)
def test_wrong_usage_is_status_2(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.status == 2
    assert "usage: nvfp4-studio" in result.err and result.out == ""


def test_without_words_the_help_is_shown(run: Run) -> None:
    result, asked = run(), run("--help")
    assert (result.status, result.out, result.err) == (2, "", asked.out)


@pytest.mark.parametrize("verb", ["plan", "convert"])
def test_help_explains_every_choice_with_the_cores_words(run: Run, verb: str) -> None:
    result = run(verb, "--help")
    assert result.status == 0
    said = " ".join(result.out.split())
    for name, sentence in {**POLICIES, **ROUNDINGS}.items():
        assert name in said and sentence in said
    assert "the tensor scale sets range, not resolution" in said


def test_recipes_are_listed(run: Run) -> None:
    assert {"flux", "generic", "weight-only"} <= set(json.loads(run("recipes", "--json").out))
    assert "qwen-image-v3" in run("recipes").out


def test_an_error_is_one_sentence_without_traceback(tmp_path: Path) -> None:
    done = subprocess_run("inspect", tmp_path / "absent.safetensors")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("nvfp4-studio: ") and "absent.safetensors" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr


def test_an_error_of_the_system_is_a_sentence_too(run: Run, calibration: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = run("calibration", "show", calibration, "--plot", tmp_path / "file" / "folder.png")
    assert result.status == 1 and len(result.err.splitlines()) == 1
    assert str(tmp_path / "file") in result.err and "Traceback" not in result.err


def test_ctrl_c_anywhere_is_status_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    verb = main.VERBS["recipes"]
    monkeypatch.setitem(main.VERBS, "recipes", main.Verb(verb.help, verb.add_arguments, interrupted))
    result = run("recipes")
    assert (result.status, result.err) == (130, "nvfp4-studio: Interrupted.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell's pipe")
def test_a_reader_that_goes_away_is_no_traceback(checkpoint: Path) -> None:
    command = f"'{sys.executable}' -m nvfp4_studio.cli.main inspect '{checkpoint}' --json | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout == "{" and done.stderr == ""


@pytest.mark.parametrize("status", [0, 1])
def test_demo_passes_folder_and_status_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    from nvfp4_studio.demo import run as demo_run

    seen: list[Path] = []

    def fake(out: Path, progress: Callable[[int, int, str], None]) -> int:
        seen.append(out)
        progress(1, 1, "generating")
        return status

    monkeypatch.setattr(demo_run, "run_demo", fake)
    assert run("demo", "--out", tmp_path / "here").status == status
    assert run("demo").status == status
    assert seen == [tmp_path / "here", Path(demo.DEFAULT_FOLDER)]


def test_a_reports_path_may_name_one_of_its_files() -> None:
    for given in ("folder/r", "folder/r.json", "folder/r.md"):
        assert convert._report_stem(given, "out.safetensors") == Path("folder/r")
    assert convert._report_stem("folder/v1.2", "out.safetensors") == Path("folder/v1.2")
