"""Channels, curvature and reservoir: right numbers, exact merging, one content once in the file."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from nvfp4_studio.calibration import (
    Calibration,
    CalibrationError,
    Collector,
    LayerStatistics,
    details_cost,
    load,
    merge_files,
    observe,
    reading,
    save,
)
from nvfp4_studio.calibration.curvature import MAX_ROWS, Curvature
from nvfp4_studio.calibration.reservoir import ROWS
from nvfp4_studio.calibration.stored import StoredFile
from nvfp4_studio.tests.unit.calibration.single_layer import LayerObserver

CPU = torch.device("cpu")
BINS = torch.arange(16)


def rows_of(seed: int, count: int, width: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * scale


def statistics_of(*inputs: torch.Tensor, detail: str = "curvature", noise_bin: int = 15) -> LayerStatistics:
    observer = LayerObserver(CPU, detail)
    for turn, values in enumerate(inputs):
        seen = observe(values, detail=detail, turn=turn)
        assert seen is not None
        observer.observe(seen, noise_bin == BINS)
    return observer.finish(inputs[0].shape[-1], 8)


class Model(nn.Module):
    """q and k of one input 160 wide, and a layer of 24."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.out = nn.Linear(160, 24), nn.Linear(160, 24), nn.Linear(24, 160)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.q(x) + self.k(x))


MODEL = Model()


def sampling(seed: int, detail: str = "curvature") -> Calibration:
    generator = random.Random(seed)
    collector = Collector(MODEL, detail)
    with torch.inference_mode():
        for step in range(generator.choice((1, 2))):
            x = rows_of(seed * 10 + step, generator.choice((1, 3, 40)), 160, generator.choice((0.01, 1.0, 300.0)))
            with collector.observing(generator.random(), passes=generator.choice(((0,), (1,)))):
                MODEL(x)
    return collector.finish(images=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [24, 128, 160, 300])
def test_channels_and_products_agree_with_a_plain_computation(dtype: torch.dtype, width: int) -> None:
    inputs = [rows_of(1, 70, width).to(dtype), (rows_of(2, 33, width) * 3).to(dtype)]
    x = torch.cat(inputs).double()
    for detail in ("channels", "curvature"):
        channels = statistics_of(*inputs, detail=detail).channels
        assert channels is not None and channels.rows == 103
        assert torch.equal(channels.amax.double(), x.abs().amax(0))
        torch.testing.assert_close(channels.mean_square(), x.square().mean(0), rtol=1e-5, atol=1e-9)
    curvature = statistics_of(*inputs).curvature
    assert curvature is not None and curvature.blocks() == -(-width // 128)
    for block in range(curvature.blocks()):
        part = x[:, block * 128 : block * 128 + 128]
        torch.testing.assert_close(curvature.gram(block), part.T @ part / 103, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(curvature.mean_square(), x.square().mean(0), rtol=1e-5, atol=1e-6)


def test_scales_keep_nothing_of_the_channels() -> None:
    found = statistics_of(rows_of(1, 20, 32), detail="scales")
    assert (found.channels, found.curvature, found.reservoir) == (None, None, None)


def test_a_sum_of_products_is_precise_beside_an_outlier_channel() -> None:
    """One channel a thousand times as large sets the block's grid; the others keep five digits."""
    x = rows_of(3, 4000, 128)
    x[:, 5] *= 1000
    found = statistics_of(x).curvature
    assert found is not None
    torch.testing.assert_close(found.gram(0), (x.double().T @ x.double()) / 4000, rtol=1e-4, atol=2e-2)
    assert float(found.gram(0)[7, 7]) == pytest.approx(float(x[:, 7].double().square().mean()), rel=1e-4)


def test_zeros_have_no_sums_and_overflowing_squares_take_no_part() -> None:
    found = statistics_of(torch.zeros(4, 256))
    assert found.curvature is not None and found.curvature.pieces() == ()
    assert not found.curvature.gram(1).any()
    huge = statistics_of(torch.full((4, 32), 1e30), torch.ones(3, 32))
    assert huge.amax == pytest.approx(1e30) and huge.channels is not None
    assert (huge.rows, huge.channels.rows, huge.channels.amax.tolist()) == (7, 3, [1.0] * 32)


def test_too_many_rows_are_refused() -> None:
    found = statistics_of(torch.ones(4, 32)).curvature
    assert found is not None
    many = Curvature(MAX_ROWS - 3, found.features, found.parts)
    with pytest.raises(CalibrationError, match="merge fewer calibrations"):
        many.merged(found)


def test_the_reservoir_keeps_each_row_once_with_where_it_was_seen() -> None:
    text = rows_of(1, 3, 40)
    observer = LayerObserver(CPU, "curvature")
    for noise_bin, passes in ((9, (1,)), (4, (0,)), (7, (0,))):
        seen = observe(text, detail="curvature")
        assert seen is not None
        observer.observe(seen, noise_bin == BINS, passes)
    found = observer.finish(40, 8).reservoir
    assert found is not None
    wanted = {tuple(row) for row in text.bfloat16().float().tolist()}
    assert {tuple(row) for row in found.values().float().tolist()} == wanted
    assert found.noise_bins().tolist() == [4] * 3 and found.passes().tolist() == [0] * 3


def test_the_reservoir_is_a_fair_choice_of_the_sampled_rows() -> None:
    inputs = [rows_of(seed, 400, 16) + (seed >= 10) * 100 for seed in range(20)]
    found = statistics_of(*inputs).reservoir
    assert found is not None and found.values().shape == (ROWS, 16)
    late = int((found.values()[:, 0] > 50).sum())
    assert 16 <= late <= 48  # 32 expected, standard deviation 4 at most


def test_a_batch_of_two_passes_labels_its_rows() -> None:
    x = rows_of(5, 8, 16).reshape(2, 4, 16)
    observer = LayerObserver(CPU, "curvature")
    seen = observe(x, passes=2, detail="curvature")
    assert seen is not None and seen.stride == 2
    observer.observe(seen, BINS == 3, (1, 0))
    found = observer.finish(16, 8).reservoir
    assert found is not None
    by_row = dict(zip(map(tuple, found.values().float().tolist()), found.passes().tolist(), strict=True))
    rows = x.reshape(8, 16).bfloat16().float().tolist()
    assert by_row == {tuple(rows[0]): 1, tuple(rows[2]): 1, tuple(rows[4]): 0, tuple(rows[6]): 0}


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seeds=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    details=st.lists(st.sampled_from(["scales", "channels", "curvature"]), min_size=6, max_size=6),
    data=st.data(),
)
def test_any_split_in_any_order_gives_the_same_file(
    tmp_path: Path, seeds: list[int], details: list[str], data: st.DataObject
) -> None:
    """Samplings in files, files of files, merged in memory or through the disk: the same bytes."""
    runs = [sampling(seed, detail) for seed, detail in zip(seeds, details, strict=False)]
    plain = Calibration()
    for run in runs:
        plain = plain.merged(run)
    save(plain, tmp_path / "plain.safetensors")

    order = data.draw(st.permutations(range(len(runs))))
    cut = data.draw(st.integers(0, len(runs)))
    halves = []
    for number, part in enumerate((order[:cut], order[cut:])):
        paths = []
        for index in part:
            paths.append(tmp_path / f"{number}-{index}.safetensors")
            save(runs[index], paths[-1])
        half = tmp_path / f"half{number}.safetensors"
        save(merge_files(paths), half)
        halves.append(half)
    save(merge_files(reversed(halves)), tmp_path / "merged.safetensors")
    assert (tmp_path / "merged.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()
    assert load(tmp_path / "merged.safetensors").same_as(plain)


def test_a_file_may_be_merged_into_itself_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    total = Calibration()
    for seed in range(5):
        run = sampling(seed)
        total = total.merged(run)
        save(load(path).merged(run) if path.exists() else run, path)
    assert load(path).same_as(total)


def test_equal_contents_are_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save(sampling(1), path)
    found = load_file(path)
    kinds = ("channels.{}.sums", "channels.{}.amax", "curvature.{}.sums", "reservoir.{}.values")
    stored = {kind: [index for index in range(3) if kind.format(index) in found] for kind in kinds}
    assert stored == dict.fromkeys(kinds, [0, 1])  # k, out; q is k
    loaded = load(path)
    assert loaded.layers["q"].curvature is not None and loaded.layers["k"].curvature is not None
    assert loaded.layers["q"].curvature.parts == loaded.layers["k"].curvature.parts


@pytest.mark.skipif(not StoredFile.STAYS_OPEN, reason="this system replaces no file that is open")
@pytest.mark.parametrize("gone", ["replaced", "deleted"])
def test_a_loaded_calibration_outlives_its_file(tmp_path: Path, gone: str) -> None:
    path = tmp_path / "c.safetensors"
    save(sampling(1), path)
    old = load(path)
    if gone == "replaced":
        save(sampling(2).merged(sampling(3)), path)
    else:
        path.unlink()
    assert old.same_as(sampling(1))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
def test_a_calibration_holds_one_open_file_however_many_layers_and_merges(tmp_path: Path) -> None:
    def held() -> int:
        return sum(os.path.realpath(link).startswith(str(tmp_path)) for link in Path("/proc/self/fd").iterdir())

    paths = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    for seed, path in enumerate(paths):
        save(sampling(seed), path)
    loaded = load(paths[0])
    assert held() == 1 and len(loaded.layers) > 1
    total = merge_files([*paths, paths[0]])
    assert held() == 4, "each load has its own"
    del loaded
    assert held() == 3
    save(total, paths[0])
    del total
    assert held() == 0
    save(sampling(1, "channels"), paths[0])
    kept = load(paths[0])
    assert kept.layers and held() == 0, "nothing is left to be read"


@pytest.mark.parametrize("stays_open", [False, StoredFile.STAYS_OPEN])
def test_a_file_that_was_written_over_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stays_open: bool
) -> None:
    monkeypatch.setattr(StoredFile, "STAYS_OPEN", stays_open)
    path = tmp_path / "c.safetensors"
    save(sampling(1), path)
    old = load(path)
    assert old.same_as(sampling(1))
    path.write_bytes(path.read_bytes() + b" ")
    curvature, reservoir = old.layers["q"].curvature, old.layers["q"].reservoir
    assert curvature is not None and reservoir is not None
    for read in (curvature.mean_square, reservoir.values):
        with pytest.raises(CalibrationError, match=r"has been changed since it was loaded, .* or use a copy\.$"):
            read()


def test_where_open_files_are_not_replaced_a_new_image_is_told_to_what_reads_the_old_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoredFile, "STAYS_OPEN", False)
    path = tmp_path / "c.safetensors"
    save(sampling(1), path)
    reservoir = load(path).layers["q"].reservoir
    save(sampling(2).merged(sampling(3)), path)
    assert reservoir is not None
    with pytest.raises(CalibrationError, match="perhaps by another image; start again while nothing is generated"):
        reservoir.values()


def test_a_file_that_is_replaced_while_it_is_opened_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.safetensors"
    save(sampling(1), path)
    opened = reading.safe_open

    def replacing(*arguments: object, **more: object) -> object:
        monkeypatch.setattr(reading, "safe_open", opened)
        save(sampling(2).merged(sampling(3)), path)
        return opened(*arguments, **more)

    monkeypatch.setattr(reading, "safe_open", replacing)
    assert load(path).same_as(sampling(2).merged(sampling(3)))


def test_samplings_of_very_different_size_keep_a_sum_for_each(tmp_path: Path) -> None:
    runs = [statistics_of(rows_of(seed, 50, 128, scale)) for seed, scale in enumerate((1e-3, 1.0, 1e3))]
    merged = [a.merged(b).merged(c) for a, b, c in itertools.permutations(runs)]
    assert all(found.same_as(merged[0]) for found in merged)
    curvature = merged[0].curvature
    assert curvature is not None and len(curvature.pieces()) == 3
    save(Calibration({"a": merged[0]}), tmp_path / "c.safetensors")
    assert load(tmp_path / "c.safetensors").layers["a"].same_as(merged[0])


def test_the_cost_is_known_before_and_never_exceeded(tmp_path: Path) -> None:
    sizes = []
    for detail in ("scales", "channels", "curvature"):
        path = tmp_path / f"{detail}.safetensors"
        save(sampling(1, detail), path)
        cost = details_cost(MODEL, detail)
        assert path.stat().st_size <= cost.file + 2000 and cost.file <= 2 * path.stat().st_size + 200_000
        sizes.append((cost.file, cost.device))
    assert sizes == sorted(sizes)
    with pytest.raises(CalibrationError, match="choose one of scales, channels, curvature"):
        details_cost(MODEL, "everything")


def test_qwen_image_is_estimated_from_its_shapes() -> None:
    block = {f"attn.{name}": (3072, 3072) for name in ("to_q", "to_k", "to_v")}
    block |= {f"attn.add_{name}_proj": (3072, 3072) for name in "qkv"}
    block |= {"attn.to_out.0": (3072, 3072), "attn.to_add_out": (3072, 3072)}
    for stream in ("img", "txt"):
        block |= {f"{stream}_mod.1": (18432, 3072), f"{stream}_mlp.net.0.proj": (12288, 3072)}
        block |= {f"{stream}_mlp.net.2": (3072, 12288)}
    shapes = {f"blocks.{index}.{name}": sides for index in range(60) for name, sides in block.items()}
    assert details_cost(shapes, "scales").file < 20e6
    assert details_cost(shapes, "channels").file < 100e6
    assert 1e9 < details_cost(shapes, "curvature").file < 2e9


MERGE = """
import resource, sys
from nvfp4_studio.calibration import merge_files, save
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save(merge_files(sys.argv[1:2]), sys.argv[3])  # warm
before = peak()
save(merge_files(sys.argv[2].split("|")), sys.argv[3])
print((peak() - before) >> 10)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module on Windows")
def test_merging_holds_one_layer_at_a_time(tmp_path: Path) -> None:
    """Two files of 80 MB, merged in a process that grows by less than the half of one."""
    paths = []
    for seed in range(2):
        layers = {
            f"layer{index}": statistics_of(rows_of(seed * 100 + index, 4, 3072, 2.0 ** (index % 8)))
            for index in range(40)
        }
        paths.append(tmp_path / f"{seed}.safetensors")
        save(Calibration(layers), paths[-1])
    small = tmp_path / "small.safetensors"
    save(Calibration({"a": statistics_of(rows_of(1, 4, 256))}), small)
    assert paths[0].stat().st_size > 60e6
    target = tmp_path / "out.safetensors"
    words = [sys.executable, "-c", MERGE, str(small), "|".join(map(str, paths)), str(target)]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40
