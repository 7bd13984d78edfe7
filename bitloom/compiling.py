"""bitloom.compile: a model file in, a device library out."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import re
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bitloom.library_files import IR_SUFFIX
from bitloom.options import element_named, observer_named, scales_named
from bitloom.refusals import check_output
from compiler.driver import (
    CountsCycles,
    Imported,
    Progress,
    QuantizeOptions,
    TakesRecords,
    Target,
    import_float,
    no_progress,
    quantize_imported,
)
from compiler.ir.diagnostics import BitloomError
from compiler.ir.graph import Graph
from compiler.ir.printer import graph_text
from compiler.lowering.cache import Cache, default_folder, default_limit, source_digest
from compiler.numerics.element import Array
from compiler.quantize.budget import Budget, Metric
from compiler.quantize.calibration_run import read_calibration
from compiler.quantize.layers import contraction_layers
from compiler.quantize.quantize_graph import WeightWidths
from schedules.tuning.records import records_folder
from targets import target_named
from targets.library.emit import install_files

Samples = str | Path | Iterable[Array] | Iterable[Mapping[str, Array]]
_SHOWN_LAYERS = 5


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled library: a folder with lib<name>.a, lib<name>.so, <name>.h, <name>.json and the quantized
    graph <name>.ir.gz."""

    name: str
    path: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """What <name>.json says."""
        return json.loads((self.path / f"{self.name}.json").read_text())


def compile(
    model: str | Path,
    *,
    calibration: Samples,
    target: str = "host",
    variants: Sequence[str] = (),
    output: str | Path = "out",
    name: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    weights: str = "int8",
    activations: str = "int8",
    observer: str = "minmax",
    observer_options: Mapping[str, float] | None = None,
    layer_weights: Mapping[str, str] | None = None,
    weight_scales: str = "channel",
    budget: str | None = None,
    cache: bool = True,
    records: bool = True,
    progress: Progress = no_progress,
) -> Artifact:
    """Compiles `model` (an .onnx file) for `target` into the folder `output`.

    calibration: an .npz file, or an iterable of arrays (one-input models) or of {input: array}; float32, in
        the model's own input scale; some 20 to 200 typical samples.
    variants: more targets, such as "cortex-a76", whose kernels the library carries too; each context runs the
        best that its CPU has.
    name: of the library and its C functions; the file's name if left out.
    shapes: for dynamic inputs. weights: int8, int4, int2 or binary; activations: int8 or int16.
    layer_weights: weights of single layers by ONNX node name. observer: how ranges are found.
    weight_scales: "channel" (a scale for each output channel) or "tensor" (one for each layer: less exact,
        but the codes of most channels are small, which compresses well).
    budget: "size<=800KiB" or "size<=60%" (of the model with int8 weights), for NPUs also "cycles<=80%":
        chooses narrower weights for the layers where the outputs suffer least; layers named in layer_weights
        keep theirs.
    cache: whether to use results of earlier compilations of the very same inputs.
    records: whether kernels are planned by what `tune` has recorded for the target's machines.
    progress: called with each stage, and how many of its pieces are done where they are counted.
    Errors: BitloomError with a message to act on; `output` is then as it was before.
    """
    chosen = target_named(target, variants)
    limits = None if budget is None else Budget.parse(budget)
    if records and isinstance(chosen, TakesRecords):
        small = limits is not None and limits.metric is Metric.SIZE
        chosen = chosen.with_records(records_folder(), warn, packed=small)
    options = QuantizeOptions(
        weights=WeightWidths(
            element_named(weights, "weights"),
            {layer: element_named(w, "weights") for layer, w in (layer_weights or {}).items()},
            scales_named(weight_scales),
        ),
        activations=element_named(activations, "activations"),
        observer=observer_named(observer, dict(observer_options or {})),
        budget=limits,
    )
    library = c_name(name or Path(model).stem)
    check_output(Path(output))
    progress("import")
    imported = import_float(Path(model), shapes)
    _check_layers(options.weights.layers, imported.graph)
    samples = read_calibration(calibration, imported.graph)
    store, limit = Cache(default_folder() if cache else None), default_limit()
    artifact = Artifact(library, Path(output))
    settings = f"{library}\0{options!r}\0{observer} {observer_options}\0{chosen.digest}"
    key = _key(imported, samples, settings)
    stored = store.get("artifacts", key)
    if stored is not None:
        progress("take from the cache")
        install_files(_unpack(stored), artifact.path)
        return artifact
    clock = chosen if isinstance(chosen, CountsCycles) else None
    compilation = quantize_imported(imported, samples, options, progress=progress, clock=clock)
    build = chosen.build(compilation.graph, progress)
    text = graph_text(compilation.graph).encode()
    attachments = {f"{library}{IR_SUFFIX}": gzip.compress(text, 1, mtime=0)}
    facts = {**_provenance(chosen, key, samples), **build.facts, **_notes(imported)}
    if compilation.bit_widths is not None:
        facts["bit_widths"] = compilation.bit_widths.as_dict()
    build.emit(library, artifact.path, attachments, facts, store, progress)
    store.put("artifacts", key, _pack(artifact))
    store.trim(limit)
    return artifact


def warn(text: str) -> None:
    """Tells a user of what is wrong and does not stop us."""
    print(f"warning: {text}", file=sys.stderr)


def _notes(imported: Imported) -> dict[str, Any]:
    return {
        "notes": [
            {"layer": str(n.location), "pass": n.pass_name, "text": n.text} for n in imported.notes.entries
        ],
    }


def _check_layers(names: Iterable[str], graph: Graph) -> None:
    """Errors: BitloomError for names that no layer with weights has; it lists those most alike."""
    layers = contraction_layers(graph)
    known = {name for layer in layers for node in layer.nodes for name in node.location.names}
    for name in names:
        if name not in known:
            alike = get_close_matches(name, known, _SHOWN_LAYERS) or [x.name for x in layers[:_SHOWN_LAYERS]]
            raise BitloomError(
                f'no layer with weights is called "{name}"',
                f"{len(layers)} layers have weights, for example {', '.join(alike)}" if layers else None,
            )


def c_name(name: str) -> str:
    """`name` as a C identifier: other characters become underscores."""
    identifier = re.sub(r"\W", "_", name, flags=re.ASCII)
    if not identifier.strip("_"):
        raise BitloomError(f'"{name}" gives no C identifier', "choose a name with letters: --name my_model")
    return identifier if identifier[0].isalpha() else f"m_{identifier}"


def _provenance(target: Target, key: str, samples: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    packages = ("apache-tvm", "onnx", "onnxruntime", "numpy", "ziglang")
    return {
        "target": target.name,
        "digest": key,
        "calibration_samples": len(samples),
        "versions": {
            "bitloom": metadata.version("bitloom") if _is_installed() else "source",
            "python": platform.python_version(),
            **{p: metadata.version(p) for p in packages},
        },
    }


def _is_installed() -> bool:
    try:
        metadata.version("bitloom")
    except metadata.PackageNotFoundError:
        return False
    return True


def _key(imported: Imported, samples: Sequence[Mapping[str, Array]], settings: str) -> str:
    """Digest of everything that the result depends on."""
    digest = hashlib.sha256(f"{source_digest()}\0{settings}\0".encode())
    digest.update(imported.model.digest)
    for value in imported.graph.inputs:
        digest.update(str(value.type).encode())
    for sample in samples:
        for name in sorted(sample):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(sample[name]).data)
    return digest.hexdigest()


def _pack(artifact: Artifact) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        own = [
            artifact.path.glob(f"{prefix}.*") for prefix in (f"*{artifact.name}", f"{artifact.name}_driver")
        ]
        for path in sorted({path for paths in own for path in paths}):
            archive.add(path, path.name)
    return stream.getvalue()


def _unpack(data: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member)
            assert content is not None
            files[member.name] = content.read()
    return files
