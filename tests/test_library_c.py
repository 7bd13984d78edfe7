"""A library in C programs: linked statically, counted, cut short, watched by ThreadSanitizer."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitloom.loading import RunError, load
from targets.library.description import Arena, DType, Input, LibraryDescription, Output, Port, Step, Variant
from targets.library.emit import RUNTIME_INCLUDE, emit_library, library_sources
from targets.library.toolchain import Toolchain
from tests.library_kernels import (
    ELEMENTS,
    SHAPE,
    build,
    compile_program,
    description,
    kernel_object,
    output_of,
    with_variant,
)

EXAMPLE = Path(__file__).parents[1] / "examples" / "c" / "main.c"

# A chain of steps over 64 counters, every third of them serial: each adds up its predecessor's neighbours,
# so that a thread that runs ahead of the barrier, or a part done twice, changes the result.
CHAIN_LENGTH, CHAIN_WIDTH = 60, 64
CHAIN_KERNELS = """
#include <stdint.h>
int32_t {n}_start(const int32_t *x, uint32_t *y, int32_t begin, int32_t end)
{{
    for (int i = begin; i < end; i++) y[i] = x[i];
    return 0;
}}
int32_t {n}_mix(const uint32_t *x, uint32_t *y, int32_t begin, int32_t end)
{{
    for (int i = begin; i < end; i++) y[i] = 3 * x[i] + x[(i + 1) % 64] + x[(i + 63) % 64];
    return 0;
}}
int32_t {n}_mix_all(const uint32_t *x, uint32_t *y, int32_t begin, int32_t end)
{{
    return {n}_mix(x, y, begin * 64, end * 64);
}}
"""


def chain(name: str) -> LibraryDescription:
    places = [Arena(0), Arena(256)]
    steps = [Step(f"{name}_start", (Input(0), places[0]), CHAIN_WIDTH, "start", "start")]
    for i in range(CHAIN_LENGTH):
        last = i == CHAIN_LENGTH - 1
        operands = (places[i % 2], Output(0) if last else places[(i + 1) % 2])
        kernel, tiles = ("mix_all", 1) if i % 3 == 2 else ("mix", CHAIN_WIDTH)
        steps.append(Step(f"{name}_{kernel}", operands, tiles, f"mix {i}", "mix"))
    x, y = (Port(port, DType.INT32, (CHAIN_WIDTH,)) for port in ("x", "y"))
    return LibraryDescription(name, b"", (Variant("plain", tuple(steps), 512, (x,), (y,)),))


def chain_result(x: np.ndarray) -> np.ndarray:
    y = x.astype(np.uint32)
    for _ in range(CHAIN_LENGTH):
        y = 3 * y + np.roll(y, -1) + np.roll(y, 1)
    return y


CHAIN_MAIN = """
#include "chain.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    int threads = atoi(argv[1]), runs = atoi(argv[2]), pause_us = argc > 3 ? atoi(argv[3]) : 0;
    static int32_t x[64], y[64];
    for (int i = 0; i < 64; i++) x[i] = i * i;
    const void *in[] = {x};
    void *out[] = {y};
    chain_ctx *ctx = chain_create(threads, NULL);
    if (!ctx) return 1;
    uint64_t sum = 0;
    for (int run = 0; run < runs; run++) {
        x[0] = run;
        if (chain_run(ctx, in, out) != 0) return 2;
        for (int i = 0; i < 64; i++) sum = sum * 31 + (uint32_t)y[i];
        if (pause_us) usleep(pause_us);
    }
    chain_destroy(ctx);
    printf("%llu\\n", (unsigned long long)sum);
    return 0;
}
"""


def chain_checksum(runs: int) -> int:
    total, x = 0, np.arange(64) ** 2
    for run in range(runs):
        x[0] = run
        for value in chain_result(x):
            total = (total * 31 + int(value)) % 2**64
    return total


@pytest.fixture(scope="module")
def chain_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    toolchain = Toolchain.host()
    (folder / "kernels.c").write_text(CHAIN_KERNELS.format(n="chain"))
    toolchain.compile(folder / "kernels.c", folder / "kernels.o")
    files = emit_library(chain("chain"), [folder / "kernels.o"], folder / "out", toolchain)
    (folder / "main.c").write_text(CHAIN_MAIN)
    arguments = [str(folder / "main.c"), f"-I{folder / 'out'}", str(files.static), "-pthread"]
    return compile_program(arguments, folder / "main")


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 8])
def test_steps_wait_for_each_other_whatever_the_number_of_threads(chain_program: Path, threads: int) -> None:
    assert int(output_of([str(chain_program), str(threads), "200"])) == chain_checksum(200)


def test_threads_that_fell_asleep_between_runs_wake_up(chain_program: Path) -> None:
    assert int(output_of([str(chain_program), "3", "20", "2000"])) == chain_checksum(20)


@pytest.mark.slow
def test_thread_sanitizer_finds_no_race(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("ThreadSanitizer needs gcc")
    described = chain("chain")
    (tmp_path / "kernels.c").write_text(CHAIN_KERNELS.format(n="chain"))
    (tmp_path / "main.c").write_text(CHAIN_MAIN)
    sources = library_sources(described, [], Toolchain.host()).write("chain", tmp_path)
    program = tmp_path / "main"
    command = ["gcc", "-std=gnu11", "-fsanitize=thread", "-O1", "-g", f"-I{RUNTIME_INCLUDE}", f"-I{tmp_path}"]
    files = [tmp_path / "kernels.c", tmp_path / "main.c", *sources]
    built = subprocess.run(
        [*command, *map(str, files), "-o", str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in built.stderr:
        pytest.skip("gcc has no ThreadSanitizer here")
    assert built.returncode == 0, built.stderr
    for arguments in (["2", "300"], ["4", "100"], ["3", "20", "3000"]):
        done = subprocess.run(
            ["setarch", "-R", str(program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if "personality" in done.stderr:  # containers may forbid it; newer sanitizers do without
            done = subprocess.run(
                [str(program), *arguments], capture_output=True, text=True, check=False, timeout=120
            )
        assert done.returncode == 0, done.stderr[:2000]
        assert int(done.stdout) == chain_checksum(int(arguments[1]))


def single_output() -> LibraryDescription:
    """The tiny library without its sum: the example serves one input and one output."""
    full = description()
    y = full.outputs[0]
    assert y.edge is not None
    steps = full.variants[0].steps
    return with_variant(
        full, steps=(*steps[:2], steps[3]), outputs=(replace(y, edge=replace(y.edge, step=2)),)
    )


def test_the_example_prints_the_largest_output(tmp_path: Path) -> None:
    files = emit_library(single_output(), [kernel_object(tmp_path)], tmp_path / "out", Toolchain.host())
    header = files.header
    arguments = [
        "-DMODEL=tiny",
        f"-include{header}",
        str(EXAMPLE),
        str(files.static),
        "-std=c11",
        "-Werror",
    ]
    program = compile_program([*arguments, "-Wall", "-pthread"], tmp_path / "main")
    x = np.zeros(SHAPE, np.float32)
    x[0, 2, 4, 7] = 9.0
    x.tofile(tmp_path / "x.f32")
    assert int(output_of([str(program), str(tmp_path / "x.f32")])) == np.ravel_multi_index(
        (0, 2, 4, 7), SHAPE
    )
    zeros = ELEMENTS * 2 // 3  # channel 2 has the largest bias
    assert int(output_of([str(program)])) == zeros
    failed = subprocess.run([str(program), "absent"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and f"absent: not {x.nbytes} bytes" in failed.stderr


ALLOCATIONS = """
#include "tiny.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static int allocations, frees;
void *counted_malloc(size_t n) { allocations++; return malloc(n); }
void *counted_calloc(size_t n, size_t m) { allocations++; return calloc(n, m); }
void *counted_aligned_alloc(size_t a, size_t n) { allocations++; return aligned_alloc(a, n); }
void counted_free(void *p) { frees += p != NULL; free(p); }
static int threads_left;
int counted_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *p)
{
    return threads_left-- > 0 ? pthread_create(t, a, f, p) : 11;
}
static float x[240], y[240];
static int32_t total;
static _Alignas(64) char memory[65536];
static void use(tiny_ctx *ctx)
{
    const void *in[] = {x};
    void *out[] = {y, &total};
    int bad = 0;
    for (int i = 0; i < 10; i++) bad |= tiny_run(ctx, in, out);
    for (int i = 0; i < tiny_step_count(ctx); i++) bad |= tiny_run_step(ctx, i, in, out);
    const void *off[] = {(char *)x + 1};
    printf("%d %d ", bad, tiny_run(ctx, off, out));
    printf("%d %d ", tiny_run_step(ctx, -1, in, out), tiny_run_step(ctx, 99, in, out));
    printf("%d; ", allocations);
}
int main(void)
{
    const char *reason = "";
    setvbuf(stdout, (char[4096]){0}, _IOFBF, 4096);
    threads_left = 100;
    tiny_ctx *ctx = tiny_create(3, &reason);
    use(ctx);
    tiny_destroy(ctx);
    printf("freed %d; ", frees);
    ctx = tiny_create_in(memory, tiny_context_bytes(3), 3, &reason);
    use(ctx);
    tiny_destroy(ctx);
    tiny_destroy(NULL);
    printf("freed %d\\n", frees);
    printf("%d ", tiny_create_in(memory, tiny_context_bytes(3) - 1, 3, &reason) == NULL), puts(reason);
    printf("%d ", tiny_create_in(memory + 8, sizeof memory - 8, 1, &reason) == NULL), puts(reason);
    threads_left = 2;
    printf("%d ", tiny_create(4, &reason) == NULL), puts(reason);
    threads_left = 0;
    ctx = tiny_create(1, NULL);
    printf("%d %zu\\n", ctx != NULL, tiny_context_bytes(-1));
    tiny_destroy(ctx);
    return 0;
}
"""


def test_create_allocates_once_and_nothing_else_does(tmp_path: Path) -> None:
    described = description()
    sources = library_sources(described, [], Toolchain.host()).write("tiny", tmp_path)
    counted = ("malloc", "calloc", "aligned_alloc", "free", "pthread_create")
    flags = [f"-D{function}=counted_{function}" for function in counted]
    objects = [kernel_object(tmp_path)]
    for source in sources:
        objects.append(tmp_path / f"{source.stem}.o")
        Toolchain.host().compile(source, objects[-1], [RUNTIME_INCLUDE], flags)
    (tmp_path / "main.c").write_text(ALLOCATIONS)
    arguments = [str(tmp_path / "main.c"), *map(str, objects), f"-I{tmp_path}", "-pthread"]
    program = compile_program(arguments, tmp_path / "main")
    assert output_of([str(program)]).splitlines() == [
        "0 1 1 1 1; freed 1; 0 1 1 1 1; freed 1",
        "1 the memory for the context is smaller than context_bytes(threads)",
        "1 the memory for the context must be aligned to 64 bytes",
        "1 the system refused to start a thread",
        "1 0",
    ]


TWO_MODELS = """
#include "one.h"
#include "two.h"
#include <cstdio>
int main()
{
    static float x[one_input_0_elements], y[one_output_0_elements];
    int32_t sums[2] = {};
    const void *in[] = {x};
    void *out_one[] = {y, &sums[0]}, *out_two[] = {y, &sums[1]};
    one_ctx *one = one_create(2, nullptr);
    two_ctx *two = two_create(1, nullptr);
    if (one_run(one, in, out_one) != one_ok || two_run(two, in, out_two) != two_ok)
        return 1;
    std::printf("%d %d\\n", sums[0], sums[1]);
    one_destroy(one);
    two_destroy(two);
}
"""


def test_two_libraries_link_into_one_cxx_program(tmp_path: Path) -> None:
    one, two = build(tmp_path, "one"), build(tmp_path, "two")
    (tmp_path / "main.cpp").write_text(TWO_MODELS)
    includes = [f"-I{built.files.header.parent}" for built in (one, two)]
    archives = [str(built.files.static) for built in (one, two)]
    arguments = [
        str(tmp_path / "main.cpp"),
        *includes,
        *archives,
        "-pthread",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
    ]
    program = compile_program(arguments, tmp_path / "main", "c++")
    total = sum(-3 + bias for bias in (5, -7, 100)) * 80
    assert output_of([str(program)]).split() == [str(total)] * 2


def test_a_failing_kernel_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "kernels.c").write_text(
        "#include <stdint.h>\n"
        "int32_t bad_k(const void *x, void *y, int32_t b, int32_t e)\n"
        "{ (void)x, (void)y; return b <= 5 && 5 < e; }\n"
    )
    toolchain = Toolchain.host()
    toolchain.compile(tmp_path / "kernels.c", tmp_path / "kernels.o")
    x, y = (Port(port, DType.INT32, (4,)) for port in ("x", "y"))
    step = Step("bad_k", (Input(0), Output(0)), 8, "k", "k")
    described = LibraryDescription("bad", b"", (Variant("plain", (step,), 0, (x,), (y,)),))
    files = emit_library(described, [tmp_path / "kernels.o"], tmp_path / "out", toolchain)
    with load(files.manifest, 4) as model, pytest.raises(RunError, match="bad: a kernel failed"):
        model(np.zeros(4, np.int32))
