"""Static shapes of a model's inputs, from the model and from what the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.frontend.reading import Model
from compiler.ir.types import Shape

if TYPE_CHECKING:
    from onnx import ValueInfoProto

# An extent, or the name of an unknown one ("" where it has none).
Extent = int | str


@dataclass(frozen=True, slots=True)
class DeclaredInput:
    """An input as the model declares it. extents is None where not even the rank is known."""

    name: str
    extents: tuple[Extent, ...] | None

    @classmethod
    def of(cls, info: ValueInfoProto) -> DeclaredInput:
        tensor = info.type.tensor_type
        if not tensor.HasField("shape"):
            return cls(info.name, None)
        # Some exporters write 0 or -1 for an unknown extent.
        return cls(
            info.name, tuple(d.dim_value if d.dim_value > 0 else d.dim_param for d in tensor.shape.dim)
        )

    def __str__(self) -> str:
        if self.extents is None:
            return f"{self.name} [rank unknown]"
        return f"{self.name} [{','.join(str(e) or '?' for e in self.extents)}]"


def input_shapes(
    model: Model, inputs: Sequence[ValueInfoProto], given: Mapping[str, Shape] | None
) -> dict[str, Shape]:
    """Every input's static shape. A named extent ("N") that is fixed by one input is fixed in all.

    Errors: BitloomError for shapes of unknown inputs, shapes that contradict the model or each other, and
    extents that nobody fixes; the last lists all such inputs with the option that fixes each.
    """
    declared = [DeclaredInput.of(i) for i in inputs]
    given = given or {}
    known = ", ".join(str(d) for d in declared)
    for name in given:
        if name not in {d.name for d in declared}:
            raise model.error(f'a shape is given for "{name}", which is not an input', f"inputs: {known}")
    symbols: dict[str, tuple[int, str]] = {}
    for d in declared:
        if d.name in given:
            _bind(model, d, given[d.name], symbols)
    shapes = {d.name: given[d.name] if d.name in given else _resolved(d, symbols) for d in declared}
    unknown = [d for d in declared if shapes[d.name] is None]
    if unknown:
        raise model.error(
            f"the shapes of {len(unknown)} of its inputs are not fixed: {', '.join(map(str, unknown))}",
            "fix them: " + " ".join(f"--shape {d.name}={_suggestion(d)}" for d in unknown),
        )
    return {name: shape for name, shape in shapes.items() if shape is not None}


def _bind(model: Model, declared: DeclaredInput, shape: Shape, symbols: dict[str, tuple[int, str]]) -> None:
    """Checks a given shape and learns its named extents. symbols: extent and the input that fixed it."""
    text = f"[{','.join(map(str, shape))}]"
    if any(extent < 1 for extent in shape):
        raise model.error(f'input "{declared.name}": extents must be positive, not {text}')
    if declared.extents is None:
        return
    if len(shape) != len(declared.extents):
        raise model.error(
            f'input "{declared.name}" has {len(declared.extents)} axes ({declared}), but the given shape '
            f"{text} has {len(shape)}"
        )
    for axis, (extent, wanted) in enumerate(zip(declared.extents, shape, strict=True)):
        if isinstance(extent, int) and extent != wanted:
            raise model.error(
                f"the model fixes axis {axis} of {declared} to {extent}, but the given shape is {text}",
                "export the model with a dynamic axis",
            )
        if isinstance(extent, str) and extent:
            first, by = symbols.setdefault(extent, (wanted, declared.name))
            if first != wanted:
                raise model.error(
                    f'extent "{extent}" is {first} in input "{by}", but {wanted} in input "{declared.name}"'
                )


def _resolved(declared: DeclaredInput, symbols: Mapping[str, tuple[int, str]]) -> Shape | None:
    if declared.extents is None:
        return None
    found = [symbols.get(e, (0, ""))[0] if isinstance(e, str) else e for e in declared.extents]
    return tuple(found) if all(found) else None


def _suggestion(declared: DeclaredInput) -> str:
    """1 for an unknown leading extent (a batch), the extent's name in <> for others."""
    if declared.extents is None:
        return "<extents>"
    words = [
        str(e) if isinstance(e, int) else "1" if axis == 0 else f"<{e or f'axis {axis}'}>"
        for axis, e in enumerate(declared.extents)
    ]
    return ",".join(words)
