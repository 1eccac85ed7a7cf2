"""The work folder of a run: what was counted, so that a stopped run goes on and nothing is counted twice.

`journal.json` names the run's request, the jobs that are counted, and the files that hold their sum; measured influence
lies beside them, as beside every calibration. Counting a job writes the new sums under new names, then replaces the
journal, which makes them valid, then removes the old ones. A crash at any point leaves the journal with exactly the
sums of the jobs that it names. Merging is exact and commutative, so the order of the jobs does not matter.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from ...calibration import Calibration, CalibrationError, load, save
from ...calibration.files import write_atomically
from ...converters.errors import SensitivityError
from ...converters.sensitivity import Probes, added_probes, beside, keep_beside, merged_influence
from ...converters.writing.journal import lock
from .errors import RequestError, ServerError

FORMAT = "nvfp4-studio-calibrate"
VERSION = 1
JOURNAL = "journal.json"
LOCK = "lock"
MAX_BYTES = 64 << 20


class WorkFolder:
    """Sums so far, as files and loaded from them. Within the context no second run uses the folder; one in which
    nothing was counted is removed at its end.

    run: random, and part of every name that the run uses on the servers, so that what it left there is found.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any], models: int) -> None:
        self.folder = folder
        self.sums: list[Calibration] = []
        self.influence: list[dict[str, Probes]] = []
        self.done: set[int] = set()
        self.run = secrets.token_hex(4)
        self._request = dict(request)
        self._models = models
        self._files: list[str] = []
        self._lock: BinaryIO | None = None

    def __enter__(self) -> WorkFolder:
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            self._lock = held.enter_context(open(self.folder / LOCK, "ab"))
            if not lock(self._lock):
                raise RequestError(f"Another run is using {self.folder}: wait for it, or choose another --out.")
            self._open()
            held.pop_all()  # from here on it is closed on leaving
        return self

    def __exit__(self, *_: object) -> None:
        assert self._lock is not None
        if not self.done and self.folder.exists():
            self.remove()
        self._lock.close()

    @property
    def images(self) -> int:
        """Images counted, of the first model."""
        return self.sums[0].images if self.sums else 0

    def temporary(self, job: int, model: int) -> Path:
        """Where a job's statistics are downloaded to."""
        return self.folder / f"job-{job}-{model}.part"

    def count(self, job: int, files: Sequence[Path]) -> int:
        """Add the statistics of a job, one file per model, unless it is counted already; its images.

        The influence that lies beside a file is added with it. Raises ServerError when the statistics cannot be read or are of another model; nothing is counted then.
        """
        if job in self.done:
            return 0
        try:
            added = [load(path) for path in files]
            probes = [merged_influence([path]) for path in files]
        except (CalibrationError, SensitivityError) as error:
            raise ServerError(f"its statistics cannot be used ({error})") from error
        for calibration in added:
            if not calibration.samplings or not calibration.layers:
                raise ServerError("its statistics are empty: no sampler used the calibrated model")
        sums = [_merged(old, new) for old, new in zip(self.sums, added, strict=True)] if self.sums else added
        if self.influence:
            probes = [added_probes(pair) for pair in zip(self.influence, probes, strict=True)]
        names = [f"sum-{len(self.done) + 1}-{model}.safetensors" for model in range(self._models)]
        for name, calibration, influence in zip(names, sums, probes, strict=True):
            save(calibration, self.folder / name)
            keep_beside(influence, self.folder / name)
        images: int = added[0].images
        self._write(names, self.done | {job})
        # Large parts of a calibration stay in its file, so the sums must be those of the files that remain.
        self.sums, self.influence = [load(self.folder / name) for name in names], probes
        for old in self._files:
            (self.folder / old).unlink(missing_ok=True)
            beside(self.folder / old).unlink(missing_ok=True)
        self._files = names
        self.done.add(job)
        return images

    def remove(self) -> None:
        """Delete the folder's own files, and the folder when nothing else is in it."""
        (self.folder / JOURNAL).unlink(missing_ok=True)
        self._sweep(keep=())
        if self._lock is not None:
            self._lock.close()
        (self.folder / LOCK).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _open(self) -> None:
        path = self.folder / JOURNAL
        if not path.exists():
            self._write([], set())
            return
        try:
            raw = path.read_bytes()[: MAX_BYTES + 1]
            found = json.loads(raw) if len(raw) <= MAX_BYTES else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or not _is_journal(found):
            raise RequestError(f"{path} is no journal of this version: delete the folder {self.folder} to begin anew.")
        self.run = found["run"]
        if not found["done"]:  # killed before anything was counted: nothing to continue
            self._write([], set())
            return
        known = found["request"]
        differing = sorted(key for key in {*known, *self._request} if known.get(key) != self._request.get(key))
        if differing:
            raise RequestError(
                f"{self.folder} holds a stopped run with other {', '.join(differing)}: repeat its command to continue "
                "it, choose another --out, or delete the folder."
            )
        self._files, self.done = found["sums"], set(found["done"])
        self._sweep(keep=self._files)
        paths = [self.folder / name for name in self._files]
        self.sums, self.influence = [load(path) for path in paths], [merged_influence([path]) for path in paths]

    def _write(self, files: Sequence[str], done: set[int]) -> None:
        content = {
            "format": FORMAT,
            "version": VERSION,
            "run": self.run,
            "request": self._request,
            "done": sorted(done),
            "sums": list(files),
        }
        write_atomically(self.folder / JOURNAL, json.dumps(content, indent=1).encode())

    def _sweep(self, keep: Sequence[str]) -> None:
        """Remove what a killed run left: sums that never became valid, downloads that were not counted."""
        kept = {path for name in keep for path in (self.folder / name, beside(self.folder / name))}
        for pattern in ("sum-*.safetensors", "sum-*.influence.json", "job-*.influence.json", "job-*.part", ".*.tmp"):
            for path in self.folder.glob(pattern):
                if path not in kept:
                    path.unlink()


def _is_journal(found: Mapping[str, Any]) -> bool:
    if (found.get("format"), found.get("version")) != (FORMAT, VERSION):
        return False
    sums, done = found.get("sums"), found.get("done")
    return (
        isinstance(found.get("request"), dict)
        and isinstance(found.get("run"), str)
        and isinstance(sums, list)
        and all(isinstance(name, str) and Path(name).name == name for name in sums)
        and isinstance(done, list)
        and all(isinstance(job, int) for job in done)
        and bool(sums) == bool(done)
    )


def _merged(old: Calibration, new: Calibration) -> Calibration:
    """Both together, after checking that they list the same layers: merging itself would keep both sets."""
    mine, theirs = ({*calibration.layers, *calibration.unobserved} for calibration in (old, new))
    if mine != theirs:
        name = min(mine ^ theirs)
        where = "before" if name in mine else "from this server"
        raise DifferentModel(f"layer {name} is only in the statistics {where}")
    try:
        return old.merged(new)
    except CalibrationError as error:
        raise DifferentModel(str(error)) from error


class DifferentModel(ServerError):
    """Statistics of another model than those counted before."""
