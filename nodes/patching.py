"""The wrapper around each sampling: a session inside, and what it saw added to the calibration file.

Life of the state: the patch on the model holds settings only; a :class:`Session` lives for one sampling and
is bound into that sampling's own copy of the model options; the file is the only thing that survives.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ..calibration import (
    DEFAULT_DETAIL,
    Calibration,
    CalibrationError,
    linear_layers,
    load,
    mismatches,
    save,
)
from ..calibration.errors import StudioError
from ..converters.sensitivity import keep_beside
from . import host
from .probing import Probing
from .session import KEY, Session
from .texts import NAMED_LAYERS, after_sampling, during_sampling
from .weights import adaptation, original_samples


class CalibrationPatch:
    """What NVFP4Calibrate adds to a model as its OUTER_SAMPLE wrapper.

    ``path`` is the calibration file, ``restart`` starts it anew at the first sampling of each prompt,
    ``show`` takes status texts, ``tell`` counts for whoever draws them, ``detail`` is the level and ``influence``
    says whether layers are probed. Two things are remembered from sampling to sampling, because the node's output stays
    in ComfyUI's cache and serves many prompts: the prompt for which the file was already started anew, and the model's
    fingerprint.
    """

    def __init__(
        self,
        path: Path,
        *,
        restart: bool,
        show: Callable[[str], None],
        detail: str = DEFAULT_DETAIL,
        influence: bool = False,
        tell: Callable[[dict[str, Any]], None] = lambda counts: None,
    ) -> None:
        self._path = path
        self._restart = restart
        self._show = show
        self._tell = tell
        self._detail = detail
        self._influence = influence
        self._restarted_for = ""
        self._fingerprint: tuple[weakref.ref[Any], dict[str, torch.Tensor]] | None = None

    def __call__(self, executor: Any, noise: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Sample as without this wrapper; then add what was seen to the file, also after an error or a cancel."""
        guider = executor.class_obj
        prompt = host.current_prompt() or "outside of the queue"
        anew = self._restart and self._restarted_for != prompt
        before = None if anew else _stored(self._path)
        samples = self._samples(guider.model_patcher)
        if before is not None:
            check_same_model(before, guider.model_patcher.model.diffusion_model, self._path, samples)
        probing = Probing(self._path, noise, anew=before is None) if self._influence else None
        session = Session(self._shown_while(before), self._detail, samples, adaptation(guider.model_patcher), probing)
        completed = False
        try:
            with session.attached(guider):
                result = executor(noise, *args, **kwargs)
            completed = True
            return result
        finally:
            if self._finish(session, int(noise.shape[0]), anew=anew, completed=completed):
                self._restarted_for = prompt

    def _shown_while(self, before: Calibration | None) -> Callable[[int], None]:
        """What a sampling calls with the number of its model calls so far, now and then."""
        samplings, steps = (before.samplings, before.steps) if before is not None else (0, 0)

        def show(calls: int) -> None:
            self._show(during_sampling(calls, before))
            self._tell({"running": True, "samplings": samplings, "calls": steps + calls, "calls_now": calls})

        return show

    def _samples(self, patcher: Any) -> dict[str, torch.Tensor]:
        """The fingerprint of the model's own weights, looked at once per model."""
        if self._fingerprint is None or self._fingerprint[0]() is not patcher.model:
            layers, _ = linear_layers(patcher.model.diffusion_model)
            self._fingerprint = (weakref.ref(patcher.model), original_samples(patcher, layers))
        return self._fingerprint[1]

    def _finish(self, session: Session, images: int, *, anew: bool, completed: bool) -> bool:
        """Save, and tell whether there was something to save.

        A failure here becomes the sampling's error only when the sampling itself went well: raised while an
        interrupt or another error is on its way it would take that one's place.
        """
        try:
            seen = session.finish(images if completed else 0)
            if seen is None:
                return False
            stored = None if anew else _stored(self._path)
            total = seen if stored is None else stored.merged(seen)
            is_new = not self._path.exists()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save(total, self._path)
            probed = session.probing.finish() if session.probing is not None else None
            if anew and not probed:
                keep_beside({}, self._path)  # what lies there is that of the calibration before
            hindered = session.probing is not None and session.probing.hindered
        except (StudioError, OSError) as error:
            if completed:
                raise
            host.log.warning("The statistics of the interrupted sampling are lost: %s", error)
            return False
        if is_new:
            host.refresh_lists()
        text = after_sampling(
            total,
            self._path.stem,
            completed=completed,
            compiled=session.compiled,
            probed=probed,
            hindered=hindered,
        )
        self._show(text)
        counts = {"samplings": total.samplings, "images": total.images, "calls": total.steps}
        self._tell({"running": False, **counts, "enough": total.enough()})
        if seen.nonfinite_layers():
            host.log.warning("NaN or infinite inputs, left out: %s", ", ".join(seen.nonfinite_layers()))
        return True


def check_same_model(
    calibration: Calibration, root: torch.nn.Module, path: Path, samples: dict[str, torch.Tensor]
) -> None:
    """Refuse to add a model's statistics to those of another one; names the first differences.

    ``samples`` are the model's fingerprint: another checkpoint of the same shapes is another model.
    """
    found, left_out = linear_layers(root)
    shapes = {name: (module.out_features, module.in_features) for name, module in found.items()}
    stored = set(calibration.layers) | set(calibration.unobserved)
    differences = [
        *mismatches(calibration, shapes, samples),
        *(f"{name} is not in this model" for name in sorted(set(calibration.unobserved) - set(found) - set(left_out))),
        # An imported calibration holds the layers that its author converted; one made here knows them all.
        *(f"{name} is not in the calibration" for name in sorted(set(found) - stored) if calibration.samplings),
    ]
    if differences:
        raise CalibrationError(
            f"The calibration {path.stem!r} is of another model: {'; '.join(differences[:NAMED_LAYERS])} ({len(differences)} "
            "differences in all). Give this model a calibration name of its own, or choose restart."
        )


def add_calibration(model: Any, patch: CalibrationPatch) -> Any:
    """A clone of a ModelPatcher that calibrates whenever it is sampled."""
    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, patch)
    return clone


def _stored(path: Path) -> Calibration | None:
    return load(path) if path.exists() else None
