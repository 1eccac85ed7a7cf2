"""How much of a layer's error reaches the model's output: measured by disturbing one layer at a time.

Relative errors of layers are much alike, a few hundredths for NVFP4 anywhere, and what they do to the picture differs
by a factor of ten thousand. On two trained models the rank correlation between a layer's own error and the error that
it makes of the velocity is 0.2; times the influence measured here it is 0.9, and the sum over layers predicts the
whole error within 1 dB (``benchmarks/sensitivity_check.py``).

A probe adds white noise of a known relative size to a layer's output and evaluates the model again at the same
point: influence is ``(‖Δv‖² / ‖v‖²) / strength²``, the share of the relative squared error that arrives. It depends on
the model alone, neither on formats nor on rounding, and a few points of the schedule suffice.
"""

from __future__ import annotations

import statistics
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from ...calibration.exact import GRID
from ..errors import SensitivityError
from .document import MAX_LAYERS, Reader
from .json_file import read_json, write_json
from .values import LayerSensitivity

FORMAT, VERSION = "nvfp4-studio-influence", 1
MAX_BYTES = 1 << 24
STEPS_OF_ONE = round(1 / GRID)
MAX_INFLUENCE = 1 << 40
"""Above it a disturbance is not answered but blown up, and the probe says nothing."""
STRENGTH = 0.05
"""Relative size of the noise: as small as NVFP4's own error, so that the network answers as it will, and far above
the rounding of bfloat16 (0.002)."""


@dataclass(frozen=True)
class Probes:
    """What is known of one layer: the sum of its probes in steps of 2**-40, and their number, which is at least one.

    Each probe is rounded once, to the grid on which calibrations keep their sums (``calibration.exact``). Sums of
    integers are the same in any order, so merged files do not depend on how the probes were split.
    """

    total: int
    count: int

    @classmethod
    def of(cls, influence: float, count: int = 1) -> Probes:
        """So many probes with this mean."""
        return cls(round(influence * count * STEPS_OF_ONE), count)

    @property
    def influence(self) -> float:
        """The mean."""
        return self.total / (self.count * STEPS_OF_ONE)

    def merged(self, other: Probes) -> Probes:
        """Both together."""
        return Probes(self.total + other.total, self.count + other.count)


class Prober:
    """Accumulates probes of any number of layers and evaluations.

    ``layers``: modules whose output is one tensor, by name. ``known``: what earlier probes found, which is added to.
    ``order``, 32 bits: where in the turn to begin; runs that know nothing of each other then probe different layers.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        known: Mapping[str, Probes] | None = None,
        strength: float = STRENGTH,
        seed: int = 0,
        order: int = 0,
    ):
        self._layers = layers
        self._strength = strength
        self._seed = seed
        self._order = order
        self.probes: dict[str, Probes] = dict(known or {})
        self._in_vain: Counter[str] = Counter()

    def least_probed(self) -> str | None:
        """The layer to probe next, None without any.

        Of those with the fewest probes one that has nothing to do with their order: layers of one type are then probed
        all over the schedule.
        """

        def turn(name: str) -> tuple[int, int]:
            count = self._in_vain[name] + (self.probes[name].count if name in self.probes else 0)
            return count, zlib.crc32(f"{name} {count}".encode(), self._order)

        return min(self._layers, key=turn, default=None)

    def probe(self, name: str, reference: torch.Tensor, evaluate: Callable[[], torch.Tensor]) -> None:
        """Disturb one layer in one evaluation. One in which the layer does not run, as of a cached step, does not count.

        Args:
            reference: the model's output without disturbance, of any shape.
            evaluate: computes it again, at the same point.
        """
        with self._disturbed(name) as ran:
            found = evaluate()
        wanted = reference.double()
        power = float(wanted.square().sum())
        if not ran or power == 0:
            self._in_vain[name] += 1
        else:
            share = float((found.double() - wanted).square().sum()) / power / self._strength**2
            if share <= MAX_INFLUENCE:
                self.probes = added_probes((self.probes, {name: Probes.of(share)}))
            else:
                self._in_vain[name] += 1

    @contextmanager
    def _disturbed(self, name: str) -> Iterator[dict[torch.device, torch.Generator]]:
        """What is yielded is empty as long as the layer has not run."""
        generators: dict[torch.device, torch.Generator] = {}

        def disturb(module: nn.Module, arguments: object, output: torch.Tensor) -> torch.Tensor:
            generator = generators.setdefault(output.device, torch.Generator(output.device).manual_seed(self._seed))
            noise = torch.randn(output.shape, generator=generator, device=output.device, dtype=torch.float32)
            values = output.float()
            return (values + noise * (self._strength * values.square().mean().sqrt())).to(output.dtype)

        handle = self._layers[name].register_forward_hook(disturb)
        try:
            yield generators
        finally:
            handle.remove()


def with_influence(layers: Sequence[LayerSensitivity], influence: Mapping[str, float] | None) -> list[LayerSensitivity]:
    """The layers with their influence; one that was not probed, as it never ran, gets the median of its kind or of all.

    Raises:
        SensitivityError: none of them was probed.
    """
    if influence is None:
        return list(layers)
    of_kind: dict[str, list[float]] = {}
    for layer in layers:
        if layer.module in influence:
            for kind in (layer.kind, ""):
                of_kind.setdefault(kind, []).append(influence[layer.module])
    if not of_kind:
        raise SensitivityError(
            f"The influence was measured for {len(influence)} layers and none of this model's; measure it with this model."
        )
    typical = {kind: statistics.median(values) for kind, values in of_kind.items()}
    return [
        replace(layer, influence=influence.get(layer.module, typical.get(layer.kind, typical[""]))) for layer in layers
    ]


def beside(calibration: Path) -> Path:
    """Where the influence is kept that was measured while this calibration was made."""
    return calibration.with_name(f"{calibration.stem}.influence.json")


def merged_influence(calibrations: Iterable[Path]) -> dict[str, Probes]:
    """The probes kept beside any of these calibrations, added up; raises as ``load_probes`` does.

    Exact, associative and commutative. A calibration without influence adds none.
    """
    return added_probes(load_probes(path) for path in map(beside, calibrations) if path.is_file())


def added_probes(several: Iterable[Mapping[str, Probes]]) -> dict[str, Probes]:
    """The probes of several runs, by module."""
    found: dict[str, Probes] = {}
    for probes in several:
        for name, own in probes.items():
            found[name] = found[name].merged(own) if name in found else own
    return found


def keep_beside(probes: Mapping[str, Probes], calibration: Path) -> None:
    """Make these the influence of a calibration: its older one goes, also where nothing was probed.

    Raises SensitivityError.
    """
    path = beside(calibration)
    if probes:
        save_influence(probes, path)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SensitivityError(f"{path} cannot be deleted: {error.strerror or error}.") from error


def influence_summary(probes: Mapping[str, Probes], layers: int) -> str:
    """ "influence of 34 of 35 layers, 2 to 3 probes each"; ``layers`` is how many the calibration has."""
    counts = [found.count for found in probes.values()]
    fewest, most = min(counts, default=0), max(counts, default=0)
    each = f"{fewest} to {most} probes" if fewest < most else f"{most} probe{'s' * (most != 1)}"
    return f"influence of {len(counts)} of {layers} layers, {each} each"


def save_influence(probes: Mapping[str, Probes], path: str | PathLike[str]) -> None:
    """Write a JSON file, replacing an older one only when it is complete. Raises SensitivityError."""
    layers = {name: [found.total, found.count] for name, found in sorted(probes.items())}
    write_json({"format": FORMAT, "version": VERSION, "layers": layers}, path)


def load_influence(path: str | PathLike[str]) -> dict[str, float]:
    """Influence by module; raises as ``load_probes`` does."""
    return {name: found.influence for name, found in load_probes(path).items()}


def load_probes(path: str | PathLike[str]) -> dict[str, Probes]:
    """Read what ``save_influence`` wrote, by module.

    Raises:
        SensitivityError: there is none, or it is something else.
    """
    reader = Reader(str(path), "influence")
    data = reader.of(read_json(path, "influence", MAX_BYTES), dict, "the document")
    if data.get("format") != FORMAT or data.get("version") != VERSION:
        raise reader.wrong("format and version", f"{data.get('format')} {data.get('version')}")
    layers = reader.of(data.get("layers"), dict, "layers", MAX_LAYERS)
    return {reader.text(name, "a layer's name"): _probes(reader, name, entry) for name, entry in layers.items()}


def _probes(reader: Reader, name: str, entry: object) -> Probes:
    total, count = pair if len(pair := reader.of(entry, list, name, 2)) == 2 else (None, None)
    found = reader.count(count, f"probes of {name}")
    if found == 0 or type(total) is not int or not 0 <= total <= found * MAX_INFLUENCE * STEPS_OF_ONE:
        raise reader.wrong(f"sum and number of the probes of {name}", str(entry)[:60])
    return Probes(total, found)
