"""What calibration sees: the user's samples, and every tensor of the float model on each of them."""

from __future__ import annotations

import zipfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from compiler.frontend.probing import serialized_with_outputs
from compiler.frontend.reading import Model
from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph, Value
from compiler.numerics.element import Array

if TYPE_CHECKING:
    import onnxruntime

# One input of the model for every name.
Sample = Mapping[str, Array]
# A path of an .npz or .npy file, one array, arrays (one-input models), or arrays by input.
Source = str | PathLike[str] | Array | Mapping[str, Array] | Iterable[Array | Mapping[str, Array]]

_SESSION_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


def tensor_stream(
    model: Model, names: Iterable[str], samples: Iterable[Sample]
) -> Iterator[dict[str, Array]]:
    """For each sample, the tensors `names` of the float model, as float32, computed by onnxruntime.

    Errors: BitloomError where onnxruntime cannot run the model.
    """
    wanted = list(dict.fromkeys(names))
    inputs = {i.name for i in model.proto.graph.input}
    session = _session(model, [name for name in wanted if name not in inputs])
    dtypes = {i.name: _SESSION_DTYPES.get(i.type, np.float32) for i in session.get_inputs()}
    computed = [name for name in wanted if name not in inputs]
    for sample in samples:
        feeds = {name: np.asarray(array, dtypes[name]) for name, array in sample.items() if name in dtypes}
        with _explaining(model):
            results = cast("Sequence[Array]", session.run(computed, feeds)) if computed else []
        found = {name: np.asarray(r, np.float32) for name, r in zip(computed, results, strict=True)}
        yield {name: found[name] if name in found else sample[name] for name in wanted}


def _session(model: Model, names: Sequence[str]) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(model.path.parent.absolute())
    )
    with _explaining(model):
        return onnxruntime.InferenceSession(
            serialized_with_outputs(model, names), options, providers=["CPUExecutionProvider"]
        )


@contextmanager
def _explaining(model: Model) -> Generator[None]:
    """Turns errors of onnxruntime, which share no base class, into a BitloomError."""
    from onnxruntime.capi.onnxruntime_pybind11_state import (  # pyright: ignore[reportMissingModuleSource]
        Fail,
        InvalidArgument,
        InvalidGraph,
        NotImplemented,
        RuntimeException,
    )

    try:
        yield
    except (Fail, InvalidArgument, InvalidGraph, NotImplemented, RuntimeException) as error:
        raise model.error(
            f"onnxruntime cannot run the model, so it cannot be calibrated: {error}",
            "check the model: python -m onnx.bin.checker FILE",
        ) from error


def read_calibration(source: Source, graph: Graph) -> list[Sample]:
    """Samples in the shapes of the graph's inputs, float32.

    A longer leading axis is split: [100, 3, 32, 32] is a hundred samples for an input [1, 3, 32, 32].
    Arrays without a name are the model's inputs in order (`arr_0`, `arr_1` in a file).
    Errors: BitloomError for files that cannot be read, unknown or missing names, wrong shapes and element
    types, NaN and infinity, and for no samples at all; they name the input and the sample.
    """
    origin = f"calibration {source}" if isinstance(source, str | PathLike) else "calibration"
    samples: list[Sample] = []
    for entry in _entries(source, origin):
        arrays = _named(entry, graph.inputs, origin)
        samples.extend(_split(arrays, graph.inputs, origin, len(samples)))
    if not samples:
        raise BitloomError(f"{origin}: there are no samples", "give at least one; a hundred are better")
    return samples


def _entries(source: Source, origin: str) -> Iterable[Array | Mapping[str, Array]]:
    if isinstance(source, str | PathLike):
        return [_file(Path(source), origin)]
    if isinstance(source, Mapping | np.ndarray):
        return [cast("Array | Mapping[str, Array]", source)]
    return source


def _file(path: Path, origin: str) -> Array | Mapping[str, Array]:
    try:
        with path.open("rb") as file:
            content: Any = np.load(file)
            return content if isinstance(content, np.ndarray) else dict(content)
    except (zipfile.BadZipFile, EOFError, ValueError):
        raise BitloomError(
            f"{origin}: not an .npz file of arrays", "write it with numpy.savez(path, input=array)"
        ) from None
    except OSError as error:
        raise BitloomError(f"{origin}: cannot be read: {error.strerror}") from None


def _named(entry: Array | Mapping[str, Array], inputs: Sequence[Value], origin: str) -> Mapping[str, Array]:
    """One array for each input, by its name."""
    listed = ", ".join(f"{v.name} {_text(v.type.shape)}" for v in inputs)
    if not isinstance(entry, Mapping):
        if len(inputs) != 1:
            raise BitloomError(
                f"{origin}: one array without a name, but the model has {len(inputs)} inputs",
                f"give dictionaries with the inputs {listed}",
            )
        return {inputs[0].name: entry}
    known = {v.name for v in inputs}
    names = {f"arr_{i}": v.name for i, v in enumerate(inputs)} if "arr_0" in entry.keys() - known else {}
    renamed = {names.get(name, name): array for name, array in entry.items()}
    unknown, missing = renamed.keys() - known, known - renamed.keys()
    if unknown or missing:
        said = [f"no input is called {_quoted(unknown)}"] if unknown else []
        said += [f"nothing is given for {_quoted(missing)}"] if missing else []
        raise BitloomError(f"{origin}: {', and '.join(said)}", f"inputs: {listed}")
    return renamed


def _split(arrays: Mapping[str, Array], inputs: Sequence[Value], origin: str, first: int) -> Iterator[Sample]:
    """The samples along the leading axes. first: the index of the first one, for messages."""
    parts = {v.name: _parts(np.asarray(arrays[v.name]), v, origin) for v in inputs}
    counts = {name: len(p) for name, p in parts.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f'{count} for "{name}"' for name, count in counts.items())
        raise BitloomError(f"{origin}: the inputs have different numbers of samples: {said}")
    for index in range(next(iter(counts.values()))):
        sample = {name: part[index] for name, part in parts.items()}
        for name, array in sample.items():
            _check_finite(array, f'{origin}: input "{name}", sample {first + index}')
        yield sample


def _parts(array: Array, value: Value, origin: str) -> Sequence[Array]:
    """[N * batch, ...] as N arrays of the input's shape."""
    shape = value.type.shape
    if not np.issubdtype(array.dtype, np.floating):
        raise BitloomError(
            f'{origin}: input "{value.name}" wants float32, not {array.dtype}',
            "convert it as the model expects it: array.astype(numpy.float32)",
        )
    if array.shape[1:] != shape[1:] or array.ndim != len(shape) or (shape and array.shape[0] % shape[0]):
        raise BitloomError(
            f'{origin}: input "{value.name}" wants the shape {_text(shape)}, not {_text(array.shape)}',
            "a leading axis that is a multiple of the model's is split into samples" if shape else None,
        )
    with np.errstate(over="ignore"):  # Infinity is found by `_check_finite`.
        return list(array.astype(np.float32, copy=False).reshape(-1, *shape))


def _check_finite(array: Array, where: str) -> None:
    wrong = int(np.count_nonzero(~np.isfinite(array)))
    if wrong:
        nan = int(np.count_nonzero(np.isnan(array)))
        raise BitloomError(
            f"{where}: {wrong} of {array.size} numbers are not finite ({nan} NaN, {wrong - nan} infinite)",
            "remove the sample, or mend how it is made",
        )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in sorted(names))


def _text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
