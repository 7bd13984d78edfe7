"""The part of a library's C source that is about an OpenCL device, and the rows of steps."""

from collections.abc import Mapping

from targets.library.description import Arena, Constant, LibraryDescription, Operand, Step, Variant


def is_called(step: Step) -> bool:
    """Whether a step is a call of a kernel for the CPU."""
    return not step.launches and not step.copies


def step_rows(variant: Variant, suffix: str, movers: Mapping[int, str], opencl: bool) -> list[str]:
    """Initializers of struct bl_step."""
    rows: list[str] = []
    launches = 0
    for i, step in enumerate(variant.steps):
        function = "NULL" if step.launches else f"{suffix}_step_{i}"
        fields = [function, movers.get(i, "NULL"), str(step.tiles)]
        if opencl:
            fields += [str(launches), str(len(step.launches))]
        launches += len(step.launches)
        rows.append(f"    {{{', '.join(fields)}}},")
    return rows


def device_tables(description: LibraryDescription, build: str) -> str:
    """All launches, their arguments, and the program."""
    [variant] = description.variants
    launches: list[str] = []
    arguments: list[str] = []
    for step in variant.steps:
        for launch in step.launches:
            sizes = (f"{{{', '.join(map(str, size))}}}" for size in (launch.global_size, launch.work_group))
            first, count = len(arguments), len(step.operands)
            launches.append(f'    {{"{launch.kernel}", {", ".join(sizes)}, {first}, {count}}},')
        if step.launches:
            arguments += _arguments(step) * len(step.launches)
    return _TABLES.format(
        name=description.name,
        build=build,
        launches="\n".join(launches) or '    {"", {1, 1, 1}, {1, 1, 1}, 0, 0},',
        count=len(launches),
        arguments="\n".join(arguments) or "    {0, 0},",
        constant_bytes=len(description.constants),
        arena_bytes=variant.arena_bytes,
    )


def _arguments(step: Step) -> list[str]:
    def row(operand: Operand) -> str:
        match operand:
            case Arena(offset):
                return f"    {{0, {offset}}},"
            case Constant(offset):
                return f"    {{1, {offset}}},"
            case _:
                raise ValueError(f'step "{step.label}": a device reads and writes no {operand}')

    return [row(operand) for operand in step.operands]


def device_functions(name: str) -> str:
    return _FUNCTIONS.format(name=name)


_TABLES = """
HIDDEN extern const char {name}__kernels[];

static const struct bl_launch launches[] = {{
{launches}
}};

static const struct bl_argument arguments[] = {{
{arguments}
}};

static const struct bl_program program = {{
    .name = "{name}",
    .build = "{build}",
    .source = {name}__kernels,
    .constants = {name}__constants,
    .constant_bytes = {constant_bytes},
    .arena_bytes = {arena_bytes},
    .launches = launches,
    .arguments = arguments,
    .launch_count = {count},
}};

static const struct bl_place anywhere = {{NULL, NULL}};
"""

_FUNCTIONS = """
{name}_ctx *{name}_create_on(const char *device, const char *cache, int threads, const char **reason)
{{
    const struct bl_place place = {{device, cache}};
    return ({name}_ctx *)bl_create(&library, NULL, &place, threads, reason);
}}

const char *{name}_device(const {name}_ctx *ctx)
{{
    return inside(ctx)->device->title;
}}

int {name}_profile({name}_ctx *ctx, const void *const *inputs, void *const *outputs, uint64_t *nanoseconds)
{{
    return bl_profile(context_of(ctx), inputs, outputs, nanoseconds);
}}
"""
