"""What the manifest of a library says, as values, and how a library is found and opened."""

import ctypes
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.ir.diagnostics import BitloomError

ABI_VERSION = 2
_FORMAT = "bitloom-library"
NPU_FORMAT = "bitloom-npu"
_ONNX_NAMES = {"float32": "float"}


# The quantized graph beside a library, as IR text.
IR_SUFFIX = ".ir.gz"


class LoadError(BitloomError):
    """The folder holds no library that this machine and this version of bitloom can run."""


@dataclass(frozen=True, slots=True)
class PortInfo:
    """An input or output: dense, C order. real = scale · (code − zero_point) for `codes_dtype`."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    layout: str
    alignment: int
    scale: float | None
    zero_point: int | None
    codes_dtype: np.dtype[Any] | None

    @property
    def type(self) -> str:
        """The element type as onnxruntime's NodeArg spells it."""
        return f"tensor({_ONNX_NAMES.get(self.dtype.name, self.dtype.name)})"

    def dtype_for(self, quantized: bool) -> np.dtype[Any]:
        return self.codes_dtype if quantized and self.codes_dtype is not None else self.dtype


@dataclass(frozen=True, slots=True)
class ResultInfo:
    """Where the codes of a step's result lie: in output `output`, or `arena_offset` bytes into the arena."""

    output: int | None
    arena_offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    storage: np.dtype[Any]
    storage_offset: int
    packed: bool

    def read(self, memory: NDArray[Any]) -> NDArray[Any]:
        """Copies the codes out of `memory`, whose bytes begin where the place's memory begins."""
        flat = memory[self.arena_offset :]
        if self.packed:
            bytes_ = -(-self.shape[-1] // 8)
            rows = (
                flat[: math.prod(self.shape[:-1]) * bytes_].view(np.uint8).reshape(*self.shape[:-1], bytes_)
            )
            bits = np.unpackbits(rows, axis=-1, count=self.shape[-1], bitorder="little")
            return (bits.astype(np.int8) * 2 - 1).astype(self.dtype)
        strides = tuple(stride * self.storage.itemsize for stride in self.strides)
        stored = np.ndarray(self.shape, self.storage, flat.data, strides=strides)
        if self.storage_offset == 0:
            return stored.astype(self.dtype)
        return (stored.astype(np.int64) - self.storage_offset).astype(self.dtype)


@dataclass(frozen=True, slots=True)
class StepInfo:
    """One kernel call of the library; `layer` names the model's nodes that it came from."""

    label: str
    layer: str
    kernel: str
    tiles: int
    result: ResultInfo | None


def manifest_path_of(path: Path) -> Path:
    if path.is_file():
        if path.suffix == ".json":
            return path
        return path.with_name(path.stem.removeprefix("lib") + ".json")
    if not path.is_dir():
        raise LoadError(f"there is no {path}")
    found = [file for file in sorted(path.glob("*.json")) if _is_manifest(file)]
    if not found and _npu_manifests(path):
        raise LoadError(
            f"{path} holds a network for the NPU, no library", f"run it by bitloom simulate {path}"
        )
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise LoadError(f"{path} must hold one library's manifest; it holds {names}")
    return found[0]


def _is_manifest(path: Path, wanted: str = _FORMAT) -> bool:
    try:
        record: Any = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(record, dict) and record.get("format") == wanted


def compiled_manifest(path: Path) -> dict[str, Any]:
    """What `compile` wrote into a folder: a library's manifest, or that of a network for the NPU."""
    if path.is_dir() and (found := _npu_manifests(path)):
        return json.loads(found[0].read_bytes())
    return read_manifest(manifest_path_of(path))


def holds_npu_network(folder: Path) -> bool:
    """Whether `compile` wrote a network for the NPU there."""
    return bool(_npu_manifests(folder))


def _npu_manifests(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("*.json")) if _is_manifest(file, NPU_FORMAT)]


def read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file() or not _is_manifest(path):
        raise LoadError(f"{path} is not the manifest of a library")
    record: dict[str, Any] = json.loads(path.read_bytes())
    if record["abi"] != ABI_VERSION:
        raise LoadError(
            f"{path.name} has ABI {record['abi']}, this bitloom runs {ABI_VERSION}: compile again"
        )
    return record


def open_shared(manifest_path: Path, manifest: Mapping[str, Any]) -> ctypes.CDLL:
    shared = manifest_path.parent / manifest["files"]["shared"]
    try:
        library = ctypes.CDLL(str(shared.resolve()))
        build = library[f"{manifest['name']}_build"]
    except (OSError, AttributeError) as error:
        raise LoadError(
            f"cannot load {shared} (made for {manifest['triple']}): {error}",
            "what is made for another machine runs there or emulated: --runner ssh:USER@HOST or qemu:CPU",
        ) from error
    build.restype, build.argtypes = ctypes.c_char_p, ()
    if build().decode() != manifest["build"]:
        raise LoadError(f"{shared.name} and {manifest_path.name} come from different builds: compile again")
    return library


def port_info(record: Mapping[str, Any]) -> PortInfo:
    codes = record["codes_dtype"]
    return PortInfo(
        name=record["name"],
        dtype=np.dtype(record["dtype"]),
        shape=tuple(record["shape"]),
        layout=record["layout"],
        alignment=record["alignment"],
        scale=record["scale"],
        zero_point=record["zero_point"],
        codes_dtype=None if codes is None else np.dtype(codes),
    )


def variant_records(manifest: Mapping[str, Any], variant: str | None) -> dict[str, Mapping[str, Any]]:
    """What the manifest says of each variant by name, or of `variant` alone.

    Errors: LoadError for a variant that it does not name.
    """
    known = {record["name"]: record for record in manifest["variants"]}
    if variant is None:
        return known
    if variant not in known:
        raise LoadError(f'{manifest["name"]} has no variant "{variant}"; it holds {", ".join(known)}')
    return {variant: known[variant]}


def step_info(record: Mapping[str, Any]) -> StepInfo:
    view = record["result"]
    result = None
    if view is not None:
        result = ResultInfo(
            output=view["place"].get("output"),
            arena_offset=view["place"].get("arena", 0),
            dtype=np.dtype(view["dtype"]),
            shape=tuple(view["shape"]),
            strides=tuple(view["strides"]),
            storage=np.dtype(view["storage"]),
            storage_offset=view["storage_offset"],
            packed=view["packed"],
        )
    return StepInfo(record["label"], record["layer"], record["kernel"], record["tiles"], result)
