"""The manifest `<name>.json`: what a loader needs, and whatever the compiler wants on record."""

import json
from collections.abc import Mapping
from dataclasses import asdict

from targets.library.description import Arena, LibraryDescription, Output, Port, Variant, View
from targets.library.header import ABI_VERSION

FORMAT = "bitloom-library"


def manifest(
    description: LibraryDescription, files: Mapping[str, str], triple: str, extra: Mapping[str, object]
) -> dict[str, object]:
    """`files` maps "header", "static", "shared" to names; `extra` adds new keys (else ValueError)."""
    record: dict[str, object] = {
        "format": FORMAT,
        "abi": ABI_VERSION,
        "name": description.name,
        "triple": triple,
        "files": dict(files),
        "constant_bytes": len(description.constants),
        "arena_bytes": description.arena_bytes,
        "scratch_bytes_per_thread": description.scratch_bytes_per_thread,
        "inputs": [_port(port) for port in description.inputs],
        "outputs": [_port(port) for port in description.outputs],
        "variants": [_variant(variant) for variant in description.variants],
        **({} if description.opencl is None else {"opencl": True}),
        **({"threads": description.threads} if description.threads else {}),
    }
    taken = sorted({*record, "build"} & set(extra))
    if taken:
        raise ValueError(f"the manifest has keys of its own named {', '.join(taken)}")
    return record | dict(extra)


def manifest_text(record: Mapping[str, object]) -> str:
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


def _variant(variant: Variant) -> dict[str, object]:
    return {
        "name": variant.name,
        "cpu_features": [feature.value for feature in variant.cpu_features],
        "arena_bytes": variant.arena_bytes,
        "scratch_bytes_per_thread": variant.scratch_bytes_per_thread,
        "steps": [
            {
                "label": step.label,
                "layer": step.layer,
                "kernel": step.kernel,
                "tiles": step.tiles,
                "result": None if step.result is None else _view(step.result),
            }
            for step in variant.steps
        ],
    }


def _port(port: Port) -> dict[str, object]:
    return {
        "name": port.name,
        "dtype": port.dtype.value,
        "shape": list(port.shape),
        "layout": port.layout,
        "alignment": port.alignment,
        "scale": port.codes_scale,
        "zero_point": port.codes_zero_point,
        "codes_dtype": port.codes_dtype.value if port.edge else None,
    }


def _view(view: View) -> dict[str, object]:
    record: dict[str, object] = asdict(view)
    match view.place:
        case Arena(offset):
            record["place"] = {"arena": offset}
        case Output(index):
            record["place"] = {"output": index}
    return record | {"dtype": view.dtype.value, "storage": view.storage.value}
