/* A program that runs one library once: a request on standard input, the response on standard output.
 *
 * BL_NAME is the library's name, BL_HEADER its header. Numbers are int64, little-endian as on every machine that
 * libraries are made for. The request is a struct request, then
 *     bytes of each input, bytes of each output,
 *     a struct result for each result that is wanted, in order of steps,
 *     the inputs, one behind the other.
 * The response is the name of the variant that runs, each result right after its step, the outputs, and
 * nanoseconds. With results the library runs step by step, once, and takes no time. Without, it runs `repeat` times:
 * as a whole, and gives the time of each run; or by_step, and gives for each run the time of each step.
 */
#define _POSIX_C_SOURCE 200809L
#include BL_HEADER

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PASTE(a, b) a##_##b
#define NAMED(a, b) PASTE(a, b)
#define LIBRARY(function) NAMED(BL_NAME, function)

enum { BUILD_CHARACTERS = 64, NAME_CHARACTERS = 64, ALIGNMENT = 64 };

/* What main returns. */
enum { DONE = 0, BAD_REQUEST = 2, REFUSED = 3, RUN_FAILED = 4, OTHER_BUILD = 5 };

struct request {
    char build[BUILD_CHARACTERS];
    char variant[NAME_CHARACTERS]; /* empty: the one that suits this CPU best */
    int64_t threads, quantized, repeat, by_step, inputs, outputs, results;
};

struct result {
    int64_t step, output, offset, bytes; /* output: -1 for the arena */
};

static void finish(int status, const char *complaint)
{
    fprintf(stderr, "%s\n", complaint);
    exit(status);
}

static void *get(size_t count, size_t size)
{
    size_t bytes = (count * size + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    void *memory = aligned_alloc(ALIGNMENT, bytes);

    if (!memory)
        finish(BAD_REQUEST, "out of memory");
    memset(memory, 0, bytes);
    return memory;
}

static void *take(size_t count, size_t size)
{
    void *memory = get(count, size);

    if (fread(memory, size, count, stdin) != count)
        finish(BAD_REQUEST, "the request ends early");
    return memory;
}

static void give(const void *memory, int64_t bytes)
{
    if (fwrite(memory, 1, (size_t)bytes, stdout) != (size_t)bytes)
        finish(BAD_REQUEST, "cannot write the response");
}

static void check(int status)
{
    if (status != 0)
        finish(RUN_FAILED, status == 1 ? "a pointer is misaligned" : "a kernel failed");
}

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void run_step(LIBRARY(ctx) * context, int64_t quantized, int step, const void *const *inputs,
                     void *const *outputs)
{
    check(quantized ? LIBRARY(run_step_quantized)(context, step, inputs, outputs)
                    : LIBRARY(run_step)(context, step, inputs, outputs));
}

/* Nanoseconds of each step in the order of steps, run behind run. */
static void time_steps(LIBRARY(ctx) * context, const struct request *request, const void *const *inputs,
                       void *const *outputs, int64_t *times)
{
    for (int64_t run = 0; run < request->repeat; run++)
        for (int step = 0; step < LIBRARY(step_count)(context); step++) {
            int64_t start = nanoseconds();
            run_step(context, request->quantized, step, inputs, outputs);
            *times++ = nanoseconds() - start;
        }
}

static void time_runs(LIBRARY(ctx) * context, const struct request *request, const void *const *inputs,
                      void *const *outputs, int64_t *times)
{
    for (int64_t i = 0; i < request->repeat; i++) {
        int64_t start = nanoseconds();
        check(request->quantized ? LIBRARY(run_quantized)(context, inputs, outputs)
                                 : LIBRARY(run)(context, inputs, outputs));
        times[i] = nanoseconds() - start;
    }
}

static void run_steps(LIBRARY(ctx) * context, const struct request *request, const struct result *results,
                      const void *const *inputs, void *const *outputs)
{
    int64_t given = 0;

    for (int step = 0; step < LIBRARY(step_count)(context); step++) {
        run_step(context, request->quantized, step, inputs, outputs);
        for (; given < request->results && results[given].step == step; given++) {
            const struct result *result = &results[given];
            const unsigned char *memory = result->output < 0 ? LIBRARY(arena)(context) : outputs[result->output];
            give(memory + result->offset, result->bytes);
        }
    }
}

int main(void)
{
    struct request *request = take(1, sizeof *request);
    size_t input_count = (size_t)request->inputs, output_count = (size_t)request->outputs;
    int64_t *input_bytes = take(input_count, sizeof *input_bytes);
    int64_t *output_bytes = take(output_count, sizeof *output_bytes);
    struct result *results = take((size_t)request->results, sizeof *results);
    const void **inputs = get(input_count, sizeof *inputs);
    void **outputs = get(output_count, sizeof *outputs);
    int64_t *times, numbers = request->repeat;
    const char *reason;
    LIBRARY(ctx) * context;

    if (strncmp(request->build, LIBRARY(build)(), BUILD_CHARACTERS) != 0)
        finish(OTHER_BUILD, "the library and its manifest come from different builds");
    for (size_t i = 0; i < input_count; i++)
        inputs[i] = take((size_t)input_bytes[i], 1);
    for (size_t i = 0; i < output_count; i++)
        outputs[i] = get((size_t)output_bytes[i], 1);
    context = LIBRARY(create_variant)(request->variant[0] ? request->variant : NULL, (int)request->threads, &reason);
    if (!context)
        finish(REFUSED, reason);
    strncpy(request->variant, LIBRARY(variant)(context), NAME_CHARACTERS - 1);
    give(request->variant, NAME_CHARACTERS);
    numbers *= request->by_step ? LIBRARY(step_count)(context) : 1;
    times = get((size_t)numbers, sizeof *times);
    if (request->results > 0)
        run_steps(context, request, results, inputs, outputs);
    else
        (request->by_step ? time_steps : time_runs)(context, request, inputs, outputs, times);
    LIBRARY(destroy)(context);
    for (size_t i = 0; i < output_count; i++)
        give(outputs[i], output_bytes[i]);
    give(times, numbers * (int64_t)sizeof *times);
    return fflush(stdout) == 0 ? DONE : BAD_REQUEST;
}
