"""Scheduled TIR -> object file with plain C functions: no runtime, no undefined symbols of TVM.

The outermost `parallel` loop of a scheduled function becomes a half-open range of its iterations that
the caller passes: `int32_t symbol(void *…, int32_t begin, int32_t end)`. The library's own thread pool
splits the range. A function without a parallel loop gets the same two parameters and ignores them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tvm
from tvm import ir, tirx
from tvm.s_tir import transform as st
from tvm.tirx import transform as tx
from tvm.tirx.buffer import is_buffer_var
from tvm.tirx.stmt import AllocBuffer, AttrStmt, Bind, DeclBuffer, For, IfThenElse, Return, SeqStmt, While

Stmt = Any  # TVM's statement classes carry no types


def map_stmt(s: Stmt, visit: Callable[[Stmt], Stmt]) -> Stmt:
    """Rebuilds a flattened statement bottom-up, `visit` applied to every node."""
    match s:
        case SeqStmt():
            s = SeqStmt([map_stmt(x, visit) for x in s.seq])
        case For():
            body = map_stmt(s.body, visit)
            s = For(s.loop_var, s.min, s.extent, s.kind, body, s.thread_binding, s.annotations, s.step)
        case IfThenElse():
            otherwise = map_stmt(s.else_case, visit) if s.else_case is not None else None
            s = IfThenElse(s.condition, map_stmt(s.then_case, visit), otherwise)
        case AttrStmt():
            s = AttrStmt(s.node, s.attr_key, s.value, map_stmt(s.body, visit))
        case While():
            s = While(s.condition, map_stmt(s.body, visit))
        case _:
            pass
    return visit(s)


def _keep_on_stack(s: Stmt) -> Stmt:
    """Local buffers of 1 KB and more stay stack arrays, which LLVM can promote to registers."""
    if not isinstance(s, AllocBuffer):
        return s
    allocation: Any = s
    if allocation.buffer.ty.storage_scope != "local":
        return s
    annotations = {**dict(allocation.annotations), "disable_lower_builtin": tirx.const(True, "bool")}
    return AllocBuffer(allocation.buffer, annotations)


class _RangeOfTiles:
    """Turns the parallel loop into a loop over [begin, end); at most one may stand in a function."""

    def __init__(self, begin: Any, end: Any) -> None:
        self.begin, self.end, self.found = begin, end, 0

    def __call__(self, s: Stmt) -> Stmt:
        if isinstance(s, For) and int(s.kind) == int(tirx.ForKind.PARALLEL):
            self.found += 1
            extent = self.end - self.begin
            return For(s.loop_var, self.begin, extent, tirx.ForKind.SERIAL, s.body, None, s.annotations)
        return s


def _plain_function(f: Any) -> Any:
    """attrs: `bitloom.may_alias`, where there is one, names the buffers that may be one and the same."""
    may_alias = f.attrs.get("bitloom.may_alias", ())
    parameters: list[Any] = []
    declarations: list[Any] = []
    for p in f.params:
        if is_buffer_var(p):
            pointer = tirx.Var(p.name, ir.PointerType(p.ty.dtype, "global"))
            data = pointer
            if p.name in may_alias:
                # LLVM takes buffers for disjoint unless their pointers are bound in the body.
                data = tirx.Var(f"{p.name}_data", pointer.ty)
                declarations.append(Bind(data, pointer))
            declarations.append(DeclBuffer(p, data=data))
            parameters.append(pointer)
        else:
            parameters.append(p)
    begin, end = tirx.Var("begin", "int32"), tirx.Var("end", "int32")
    tiles = _RangeOfTiles(begin, end)
    body = map_stmt(map_stmt(f.body, _keep_on_stack), tiles)
    if tiles.found > 1:
        raise ValueError(
            f"{f.attrs['global_symbol']}: {tiles.found} parallel loops; a kernel has at most one"
        )
    body = AttrStmt(ir.StringImm("default"), "device_id", tirx.const(0, "int32"), body)
    body = AttrStmt(ir.StringImm("default"), "device_type", tirx.const(1, "int32"), body)
    # The Return stands in a sequence of its own: beside an allocation it would swallow the free.
    sequence = SeqStmt([*declarations, body, Return(tirx.const(0, "int32"))])
    return tirx.PrimFunc([*parameters, begin, end], sequence, ir.PrimType("int32"), f.attrs)


def _make_plain(mod: Any, _context: Any) -> Any:
    return tvm.IRModule({gv: _plain_function(f) for gv, f in mod.functions.items()}, attrs=mod.attrs)


_plain_functions: Any = tvm.transform.module_pass(_make_plain, opt_level=0, name="PlainFunctions")


def _passes(target: Any) -> Any:
    """TVM's own lowering of a scheduled function, with plain functions in place of packed ones."""
    return tvm.ir.transform.Sequential(
        [
            tx.BindTarget(target.with_host(target)),
            st.CanonicalizeLoop(),
            st.LowerInitBlock(),
            st.PlanAndUpdateBufferAllocationLocation(),
            st.ConvertBlocksToOpaque(),
            st.CompactBufferAllocation(),
            st.LowerMatchBuffer(),
            st.StmtSimplify(),
            st.AnnotateIrregularLoop(),
            st.InjectSoftwarePipeline(),
            st.LowerOpaqueBlock(),
            tx.FlattenBuffer(),
            tx.NarrowDataType(32),
            st.LoopPartition(),
            tx.VectorizeLoop(True),
            st.InjectDoubleBuffer(),
            tx.StorageRewrite(),
            st.HoistIfThenElse(),
            tx.UnrollLoop(),
            st.RenormalizeSplitPattern(),
            tx.StmtSimplify(),
            tx.RemoveNoOp(),
            st.RewriteUnsafeSelect(),
            tx.CommonSubexprElim(),
            tx.VerifyMemory(),
            _plain_functions,
            tx.LowerTVMBuiltin(),
            tx.LowerIntrin(),
        ]
    )


def build_module(
    functions: Mapping[str, Any], target: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> Any:
    """TVM runtime module of scheduled PrimFuncs (by symbol). `inspect_source("asm"|"ll")` shows the code."""
    llvm = tvm.target.Target(dict(target))
    mod = tvm.IRModule({name: f.with_attr("global_symbol", name) for name, f in functions.items()})
    with tvm.transform.PassContext(config=dict(config or {})):
        lowered = _passes(llvm)(mod)
    return tvm.get_global_func("target.build.llvm")(lowered, llvm)


def build_object(
    functions: Mapping[str, Any], target: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> bytes:
    """Object file of scheduled PrimFuncs (by symbol).

    target: TVM target as a mapping, `{"kind": "llvm", "mcpu": …}`. The machine must have every
    intrinsic used: LLVM aborts the process otherwise.
    Errors: ValueError for a function with two parallel loops.
    """
    module = build_module(functions, target, config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.o"
        _finished(module, functions, Path(folder)).write_to_file(str(path), "o")
        return path.read_bytes()


def _finished(module: Any, names: Iterable[str], folder: Path) -> Any:
    """The same module for an object file: what TVM cannot be told is put into the optimised module's text."""
    text = _without_debug_information(module.inspect_source("ll"))
    if 'target triple = "x86_64' in text:
        text = _with_aligned_frames(text, names)
    path = folder / "kernel.ll"
    path.write_text(text)
    return tvm.runtime.load_module(str(path))


_HALF_FLOAT = re.compile(
    r"^define weak [^@\n]*@(\w+)\([^\n]* section \"\.text\.tvm\.fp16\.conv\" \{\n(?:[^}\n].*\n|\n)*\}\n",
    re.MULTILINE,
)


def _without_debug_information(text: str) -> str:
    """Nor conversions of half floats, which TVM adds to every module: together they are half of an object,
    and a static library carries the objects as they are."""

    def unless_called(function: re.Match[str]) -> str:
        return function[0] if text.count(f"@{function[1]}(") > 1 else ""

    return _HALF_FLOAT.sub(unless_called, text).replace("emissionKind: FullDebug", "emissionKind: NoDebug")


def _with_aligned_frames(text: str, names: Iterable[str]) -> str:
    """Functions that align their stack on x86, where the system does to 16 bytes only.

    LLVM decides that before it knows what it spills: without being told, most vectors that it keeps on the
    stack cross two cache lines, or none do, by the chance of where the stack began.
    """
    defined = "|".join(map(re.escape, names))
    groups = set(re.findall(rf"^define .*@(?:{defined})\(.* #(\d+)\b", text, re.MULTILINE))
    for group in groups:
        text = text.replace(f"attributes #{group} = {{", f'attributes #{group} = {{ "stackrealign"', 1)
    return text
