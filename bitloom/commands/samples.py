"""Inputs from files, for running and verifying."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compiler.ir.diagnostics import BitloomError
from compiler.numerics.element import Array


@dataclass(frozen=True, slots=True)
class Expected:
    """An input: its name, its shape, the element types that it may be given in."""

    name: str
    shape: tuple[int, ...]
    dtypes: tuple[np.dtype[Any], ...]

    def __str__(self) -> str:
        return f"{self.name} {_extents(self.shape)} {' or '.join(map(str, self.dtypes))}"


def read_samples(path: Path, inputs: Sequence[Expected]) -> list[dict[str, Array]]:
    """The samples of an .npz or .npy file: {input: array} each.

    A longer leading axis is split into samples; an array without a name is the only input's.
    Errors: BitloomError for files that cannot be read, and for names, shapes and types that do not fit.
    """
    arrays = _by_name(_load(path), inputs, path)
    parts = {port.name: _parts(arrays[port.name], port, path) for port in inputs}
    counts = {name: len(found) for name, found in parts.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f'{count} for "{name}"' for name, count in counts.items())
        raise BitloomError(f"{path}: the inputs have different numbers of samples: {listed}")
    return [{name: found[i] for name, found in parts.items()} for i in range(min(counts.values()))]


def _load(path: Path) -> Array | dict[str, Array]:
    try:
        content: Any = np.load(path)
        return content if isinstance(content, np.ndarray) else dict(content)
    except (zipfile.BadZipFile, EOFError, ValueError):
        raise BitloomError(
            f"{path}: not an .npz or .npy file of arrays", "write it with numpy.savez(path, input=array)"
        ) from None
    except OSError as error:
        raise BitloomError(f"{path}: cannot be read: {error.strerror}") from None


def _by_name(
    content: Array | dict[str, Array], inputs: Sequence[Expected], path: Path
) -> Mapping[str, Array]:
    listed = ", ".join(map(str, inputs))
    given = {"arr_0": content} if isinstance(content, np.ndarray) else content
    if len(inputs) == 1 and given.keys() == {"arr_0"}:
        return {inputs[0].name: given["arr_0"]}
    wanted = {port.name for port in inputs}
    unknown, missing = sorted(given.keys() - wanted), sorted(wanted - given.keys())
    if unknown or missing:
        said = [f"no input is called {', '.join(unknown)}"] if unknown else []
        said += [f"nothing is given for {', '.join(missing)}"] if missing else []
        raise BitloomError(f"{path}: {', and '.join(said)}", f"inputs: {listed}")
    return given


def _parts(array: Array, port: Expected, path: Path) -> list[Array]:
    """[N * batch, ...] as N arrays of the input's shape."""
    if array.dtype == np.float64 and np.dtype(np.float32) in port.dtypes:
        array = array.astype(np.float32)
    if array.dtype not in port.dtypes:
        raise BitloomError(f'{path}: input "{port.name}" is {array.dtype}', f"expected {port}")
    shape = port.shape
    fits = array.ndim == len(shape) and array.shape[1:] == shape[1:]
    if not fits or (shape and (array.shape[0] == 0 or array.shape[0] % shape[0])):
        raise BitloomError(
            f'{path}: input "{port.name}" has the shape {_extents(array.shape)}, expected {_extents(shape)}',
            "a leading axis that is a multiple of the model's is split into samples" if shape else None,
        )
    return list(array.reshape(-1, *shape))


def _extents(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
