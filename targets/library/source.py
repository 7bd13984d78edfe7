"""The C source of a library (its steps over the shared runtime) and the assembly that holds its constants."""

from collections.abc import Iterator, Sequence

from targets.library.description import (
    CACHE_LINE_BYTES,
    Arena,
    Constant,
    DType,
    Edge,
    Input,
    LibraryDescription,
    Operand,
    Output,
    Port,
    Scratch,
    Step,
    Variant,
    View,
)
from targets.library.device_source import device_functions, device_tables, is_called, step_rows
from targets.library.header import comment_text


def source(description: LibraryDescription, build: str) -> str:
    """`build` is the digest that `<name>_build` returns."""
    name, variants = description.name, description.variants
    return _SOURCE.format(
        name=name,
        build=build,
        opencl="" if description.opencl is None else "#define BL_OPENCL 1\n",
        device="" if description.opencl is None else device_tables(description, build),
        device_functions="" if description.opencl is None else device_functions(name),
        program="" if description.opencl is None else "    .program = &program,\n",
        place="NULL" if description.opencl is None else "&anywhere",
        kernels="\n".join(
            _kernel_declarations([step for v in variants for step in v.steps if is_called(step)])
        ),
        variants="\n".join(_variant(description, index) for index in range(len(variants))),
        variant_rows="\n".join(_variant_row(index, variant) for index, variant in enumerate(variants)),
        ports="\n".join(
            (_port_table("inputs", description.inputs), _port_table("outputs", description.outputs))
        ),
        input_count=len(description.inputs),
        output_count=len(description.outputs),
        threads=description.threads,
        unknown=f"{name} has no such variant; it holds {_variant_names(description)}",
    )


def _variant(description: LibraryDescription, index: int) -> str:
    """Functions and tables of one variant."""
    variant, suffix = description.variants[index], f"v{index}"
    movers: dict[int, str] = {}
    functions: list[str] = []
    for kind, ports in (("input", variant.inputs), ("output", variant.outputs)):
        for number, port in enumerate(ports):
            if port.edge is not None:
                movers[port.edge.step] = f"{suffix}_move_{kind}_{number}"
                functions.append(_mover(movers[port.edge.step], kind, number, port, port.edge))
    steps = [
        _step_function(f"{suffix}_step_{i}", description.name, s)
        for i, s in enumerate(variant.steps)
        if not s.launches
    ]
    rows = step_rows(variant, suffix, movers, opencl=description.opencl is not None)
    return _VARIANT.format(
        title=comment_text(variant.name),
        suffix=suffix,
        functions="\n".join([*steps, *functions]),
        rows="\n".join(rows),
        requirements=_requirement_table(description, index),
        models=", ".join(f"{model:#x}" for model in variant.models) or "0",
    )


def _variant_row(index: int, variant: Variant) -> str:
    values = (
        f'"{variant.name}"',
        f"v{index}_steps",
        f"v{index}_requirements",
        f"v{index}_models",
        len(variant.steps),
        len(variant.cpu_features),
        len(variant.models),
        _whole_lines(variant.arena_bytes),
        _whole_lines(variant.scratch_bytes_per_thread),
    )
    return f"    {{{', '.join(map(str, values))}}},"


def _variant_names(description: LibraryDescription) -> str:
    return " and ".join(variant.name for variant in description.variants)


def blob_assembly(symbol: str, file: str) -> str:
    """Assembly (with C preprocessing) that puts a file into read-only memory, and a byte of 0 behind it."""
    return _BLOB.format(symbol=symbol, file=file, alignment=CACHE_LINE_BYTES)


def _whole_lines(size: int) -> int:
    """Threads and operands on different cache lines: no false sharing, aligned vectors."""
    return -(-size // CACHE_LINE_BYTES) * CACHE_LINE_BYTES


def _kernel_declarations(steps: Sequence[Step]) -> Iterator[str]:
    arity: dict[str, int] = {}
    for step in steps:
        if arity.setdefault(step.kernel, len(step.operands)) != len(step.operands):
            raise ValueError(f'step "{step.label}" calls {step.kernel} with another number of operands')
    for kernel, operands in arity.items():
        yield f"HIDDEN extern int32_t {kernel}({'const void *, ' * operands}int32_t, int32_t);"


def _address(name: str, operand: Operand) -> str:
    match operand:
        case Arena(offset):
            return f"at->arena + {offset}"
        case Constant(offset):
            return f"{name}__constants + {offset}"
        case Input(index):
            return f"at->inputs[{index}]"
        case Output(index):
            return f"at->outputs[{index}]"
        case Scratch(offset):
            return f"(unsigned char *)scratch + {offset}"


def _step_function(function: str, library: str, step: Step) -> str:
    addresses = [_address(library, operand) for operand in step.operands]
    unused = [
        name
        for name, mark in (("at", "at->"), ("scratch", "*)scratch"))
        if not any(mark in address for address in addresses)
    ]
    body = "".join(f"    (void){name};\n" for name in unused)
    call = f"{step.kernel}({', '.join([*addresses, 'begin', 'end'])})"
    if step.copies:
        body += "    (void)begin;\n    (void)end;\n"
        call = f"memcpy({', '.join(reversed(addresses))}, {step.copies}) == NULL"
    return (
        f"/* {comment_text(step.label)} ({comment_text(step.layer)}) */\n"
        f"static int32_t {function}(const struct bl_operands *at, void *scratch, "
        "int32_t begin, int32_t end)\n"
        f"{{\n{body}    return {call};\n}}\n"
    )


def _mover(function: str, kind: str, index: int, port: Port, edge: Edge) -> str:
    """A function with one loop per axis between the caller's dense codes and their place in the arena."""
    codes = edge.codes
    inner = "    " * (len(codes.shape) + 1)
    loops = [
        f"{'    ' * (axis + 1)}for (ptrdiff_t i{axis} = 0; i{axis} < {size}; i{axis}++)\n"
        for axis, size in enumerate(codes.shape)
    ]
    terms = [f"i{axis} * {stride}" for axis, stride in enumerate(codes.strides)]
    stored = f"stored[{' + '.join(terms) or '0'}]"
    if kind == "input":
        pointer = f"const {codes.dtype.c_name} *codes = at->inputs[{index}];"
        move = f"{stored} = {_converted('*codes++', codes.storage, codes.storage_offset)};"
    else:
        pointer = f"{codes.dtype.c_name} *codes = at->outputs[{index}];"
        move = f"*codes++ = {_converted(stored, codes.dtype, -codes.storage_offset)};"
    return (
        f"/* {kind} {index}, {comment_text(port.name)}: {_kept(codes)} */\n"
        f"static void {function}(const struct bl_operands *at)\n{{\n"
        f"    {codes.storage.c_name} *stored = (void *)({_address('', codes.place)});\n"
        f"    {pointer}\n\n{''.join(loops)}{inner}{move}\n}}\n"
    )


def _kept(codes: View) -> str:
    offset = f" + {codes.storage_offset}" if codes.storage_offset else ""
    return f"{codes.dtype.value} codes of shape {list(codes.shape)}, kept as {codes.storage.value}{offset}"


def _converted(value: str, dtype: DType, offset: int) -> str:
    return f"({dtype.c_name})({value} + ({offset}))" if offset else f"({dtype.c_name})({value})"


def _port_table(array: str, ports: Sequence[Port]) -> str:
    rows = [f"{{{port.alignment}, {port.codes_alignment}}}" for port in ports] or ["{1, 1}"]
    return f"static const struct bl_port {array}_table[] = {{{', '.join(rows)}}};"


def _requirement_table(description: LibraryDescription, index: int) -> str:
    """What the CPU must have, and what is said where it lacks it."""
    variant = description.variants[index]
    holds = f"{description.name} holds {_variant_names(description)}; {variant.name} needs the CPU feature"
    rows = [
        f'    {{BL_CPU_{feature.name},\n     "{holds} {feature.value}, which this CPU does not have"}},\n'
        for feature in variant.cpu_features
    ] or ['    {BL_CPU_SSE4_1, ""}, /* never looked at */\n']
    return f"static const struct bl_requirement v{index}_requirements[] = {{\n{''.join(rows)}}};"


_VARIANT = """\
/* Variant {title}. */

{functions}
static const struct bl_step {suffix}_steps[] = {{
{rows}
}};

{requirements}

static const uint32_t {suffix}_models[] = {{{models}}};
"""

_SOURCE = """\
/* {name}.c: generated by bitloom. */
#define _GNU_SOURCE
{opencl}#include "bitloom_runtime.h"
#include "{name}.h"

/* Hidden here makes the kernels hidden in the linked library too, whatever they were compiled with. */
#define HIDDEN __attribute__((visibility("hidden")))

HIDDEN extern const unsigned char {name}__constants[];

/* Operands, then the half-open range of tiles. A kernel writes what it was built to write, const or not. */
{kernels}

{variants}
static const struct bl_variant variants[] = {{
{variant_rows}
}};

{ports}
{device}
static const struct bl_library library = {{
    .variants = variants,
    .inputs = inputs_table,
    .outputs = outputs_table,
    .variant_count = sizeof variants / sizeof variants[0],
    .input_count = {input_count},
    .output_count = {output_count},
    .threads = {threads},
    .unknown_variant = "{unknown}",
{program}}};

static struct bl_context *context_of({name}_ctx *ctx)
{{
    return (struct bl_context *)ctx;
}}

static const struct bl_context *inside(const {name}_ctx *ctx)
{{
    return (const struct bl_context *)ctx;
}}

int {name}_abi_version(void)
{{
    return {name}_ABI;
}}

const char *{name}_build(void)
{{
    return "{build}";
}}

size_t {name}_context_bytes(int threads)
{{
    return bl_context_bytes(&library, threads);
}}

{name}_ctx *{name}_create(int threads, const char **reason)
{{
    return ({name}_ctx *)bl_create(&library, NULL, {place}, threads, reason);
}}

{name}_ctx *{name}_create_variant(const char *variant, int threads, const char **reason)
{{
    return ({name}_ctx *)bl_create(&library, variant, {place}, threads, reason);
}}

{name}_ctx *{name}_create_in(void *memory, size_t bytes, int threads, const char **reason)
{{
    return ({name}_ctx *)bl_create_in(&library, NULL, {place}, memory, bytes, threads, reason);
}}

void {name}_destroy({name}_ctx *ctx)
{{
    bl_destroy(context_of(ctx));
}}

int {name}_run({name}_ctx *ctx, const void *const *inputs, void *const *outputs)
{{
    return bl_run(context_of(ctx), 0, inputs, outputs);
}}

int {name}_run_quantized({name}_ctx *ctx, const void *const *inputs, void *const *outputs)
{{
    return bl_run(context_of(ctx), 1, inputs, outputs);
}}

const char *{name}_variant(const {name}_ctx *ctx)
{{
    return inside(ctx)->variant->name;
}}

int {name}_step_count(const {name}_ctx *ctx)
{{
    return inside(ctx)->variant->step_count;
}}

int {name}_run_step({name}_ctx *ctx, int step, const void *const *inputs, void *const *outputs)
{{
    return bl_run_step(context_of(ctx), step, 0, inputs, outputs);
}}

int {name}_run_step_quantized({name}_ctx *ctx, int step, const void *const *inputs, void *const *outputs)
{{
    return bl_run_step(context_of(ctx), step, 1, inputs, outputs);
}}

const void *{name}_arena(const {name}_ctx *ctx)
{{
    return inside(ctx)->arena;
}}

size_t {name}_arena_bytes(const {name}_ctx *ctx)
{{
    return inside(ctx)->variant->arena_bytes;
}}
{device_functions}"""

_BLOB = """\
/* A part of a library: generated by bitloom. */
#if defined(__APPLE__)
    .section __TEXT,__const
    .globl _{symbol}
    .private_extern _{symbol}
    .balign {alignment}
_{symbol}:
    .incbin "{file}"
    .byte 0
#else
    .section .rodata.{symbol},"a",%progbits
    .globl {symbol}
    .hidden {symbol}
    .type {symbol}, %object
    .balign {alignment}
{symbol}:
    .incbin "{file}"
    .byte 0
    .size {symbol}, . - {symbol}
    .section .note.GNU-stack,"",%progbits
#endif
"""
