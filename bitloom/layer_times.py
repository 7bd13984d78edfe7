"""Where a library's time goes: each of its steps, timed in its place in a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitloom.library_files import StepInfo
from bitloom.model import Array, Model


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One step, in order of execution. microseconds: median over the runs; share: of all steps' time.
    activation_bytes: read and written. tiles: pieces that threads share."""

    step: int
    layer: str
    operator: str
    microseconds: float
    share: float
    macs: int
    activation_bytes: int
    tiles: int
    kernel: str
    input: str
    output: str

    @property
    def rate(self) -> str:
        """Products a second where there are any, else bytes of activations."""
        if not self.microseconds:
            return ""
        if self.macs:
            return f"{self.macs / self.microseconds / 1e3:.1f} GMAC/s"
        return f"{self.activation_bytes / self.microseconds / 1e3:.1f} GB/s"


def layer_times(
    model: Model, inputs: Array | Mapping[str, Array], repeat: int = 30, threads: int | None = None
) -> list[LayerTime]:
    """Times each step in `repeat` runs. threads: those of the model, if left out.

    Errors: RunError where the model's runner keeps no time.
    """
    profile = model.profile(inputs, repeat, threads)
    medians = [float(np.median(seconds)) for _, seconds in profile]
    total = sum(medians)
    found: list[LayerTime] = []
    for index, ((step, _), seconds) in enumerate(zip(profile, medians, strict=True)):
        layer = _layer_of(model.manifest, step)
        found.append(
            LayerTime(
                step=index,
                layer=step.layer,
                operator=layer["operator"],
                microseconds=seconds * 1e6,
                share=seconds / total if total else 0.0,
                macs=layer["macs"],
                activation_bytes=layer["activation_bytes"],
                tiles=step.tiles,
                kernel=step.kernel,
                input=layer["input"].partition(" ")[0],
                output=layer["output"].partition(" ")[0],
            )
        )
    return found


def _layer_of(manifest: Mapping[str, Any], step: StepInfo) -> Mapping[str, Any]:
    """The manifest's row of a step; rows name the kernels of one variant only."""
    rows = [r for r in manifest["layers"] if (" + ".join(r["names"]) or r["operator"]) == step.layer]
    for row in rows:
        if row["kernel"] == step.kernel or len(rows) == 1:
            return row
    # A part of a concatenation or a reshape that could not be saved.
    return {"operator": "copy", "macs": 0, "activation_bytes": 0, "input": "", "output": ""}
