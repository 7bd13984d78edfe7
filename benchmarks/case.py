"""A model with inputs, in a form that every contender's process can read: nothing but numpy is needed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Case:
    """calibration: inputs of one run each, float32 with batch axis; the first one is also the timed input.
    tflite: the same network as an int8 TensorFlow Lite file, where somebody made one."""

    name: str
    model: Path
    input_name: str
    calibration: tuple[NDArray[np.float32], ...]
    tflite: Path | None = None

    @property
    def timed_input(self) -> NDArray[np.float32]:
        return self.calibration[0]

    def save(self, folder: Path) -> None:
        """Writes case.json and case.npz into folder."""
        tflite = None if self.tflite is None else str(self.tflite.absolute())
        facts = {"name": self.name, "model": str(self.model.absolute()), "input_name": self.input_name}
        (folder / "case.json").write_text(json.dumps({**facts, "tflite": tflite}))
        np.savez(folder / "case.npz", calibration=np.stack(self.calibration))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote."""
        facts = json.loads((folder / "case.json").read_text())
        tflite = None if facts["tflite"] is None else Path(facts["tflite"])
        with np.load(folder / "case.npz") as arrays:
            calibration = tuple(arrays["calibration"])
        return cls(facts["name"], Path(facts["model"]), facts["input_name"], calibration, tflite)
