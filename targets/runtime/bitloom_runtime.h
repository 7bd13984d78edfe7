/* What every library shares: contexts, the team of threads, the execution of steps.
 *
 * A library's generated source includes this file, so that all of it is static there: two libraries in one program
 * share no symbol and no state. _GNU_SOURCE must be defined first (sched_getaffinity).
 */
#ifndef BITLOOM_RUNTIME_H
#define BITLOOM_RUNTIME_H

#include "bitloom_library.h"
#include "bitloom_signal.h"
#include "bitloom_system.h"

#if defined(BL_OPENCL)
enum { BL_THREADS_MOST = 256, BL_WORKER_STACK_BYTES = 8 << 20 }; /* a driver may compile at a launch */
#else
enum { BL_THREADS_MOST = 256, BL_WORKER_STACK_BYTES = 1 << 20 }; /* musl's default stack is 128 KiB */
#endif

enum bl_status { BL_OK = 0, BL_BAD_ARGUMENT = 1, BL_KERNEL_FAILED = 2 };

struct bl_job {
    struct bl_operands at;
    int step, last; /* the current one; the end of the run */
    int quantized;
};

struct bl_worker {
    /* The tiles of the current step that are this worker's to begin, unless another is faster: the first in the lower
     * half, their end in the upper one. */
    _Alignas(BL_CACHE_LINE) _Atomic uint64_t share;
    _Alignas(BL_CACHE_LINE) struct bl_context *context;
    pthread_t thread;
    int index;
};

/* A step is opened by giving each worker its share, and ends when all tiles are finished, not when all workers have
 * seen it: one that sleeps, or that the system has put aside, holds up nobody unless it has begun a tile. Whoever
 * finishes the last tile goes on: runs the serial steps that follow, and opens the next parallel one.
 * The job may be read by whoever has claimed a tile, and written by whoever finished the last one. */
struct bl_context {
    struct bl_signal signal; /* changes when a step opens, the run ends, or the workers are to stop */
    _Alignas(BL_CACHE_LINE) _Atomic int32_t unfinished; /* tiles of the current step */
    _Alignas(BL_CACHE_LINE) struct bl_job job;
    const struct bl_library *library;
    const struct bl_variant *variant;
    unsigned char *arena, *scratch;
    void *allocation; /* to be freed, or NULL */
    int threads;
    _Atomic int running, stopping, kernel_failed;
#if defined(BL_OPENCL)
    struct bl_device *device;
#endif
    struct bl_worker workers[];
};

static inline int bl_cores(void)
{
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
        return CPU_COUNT(&allowed);
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

/* 0 for a count that cannot be served. */
static inline int bl_thread_count(const struct bl_library *library, int threads)
{
    if (threads == 0) {
        threads = bl_cores();
        if (library->threads > 0 && library->threads < threads)
            threads = library->threads;
        return threads < BL_THREADS_MOST ? threads : BL_THREADS_MOST;
    }
    return threads > 0 && threads <= BL_THREADS_MOST ? threads : 0;
}

/* Of an arena that lies in the context; a device keeps its own. */
static inline size_t bl_arena_inside(const struct bl_variant *variant)
{
#if defined(BL_OPENCL)
    (void)variant;
    return 0;
#else
    return variant->arena_bytes;
#endif
}

/* Of whichever variant takes most. */
static inline size_t bl_context_bytes(const struct bl_library *library, int threads)
{
    size_t count = (size_t)bl_thread_count(library, threads), most = 0;

    if (count == 0)
        return 0;
    for (int i = 0; i < library->variant_count; i++) {
        const struct bl_variant *variant = &library->variants[i];
        size_t bytes = bl_arena_inside(variant) + count * variant->scratch_bytes;
        most = bytes > most ? bytes : most;
    }
    return sizeof(struct bl_context) + count * sizeof(struct bl_worker) + most;
}

static inline void bl_run_tiles(struct bl_context *context, const struct bl_worker *worker, int32_t begin, int32_t end)
{
    const struct bl_step *step = &context->variant->steps[context->job.step];
    unsigned char *scratch = context->scratch + (size_t)worker->index * context->variant->scratch_bytes;

    if (step->run(&context->job.at, scratch, begin, end) != 0)
        atomic_store_explicit(&context->kernel_failed, 1, memory_order_relaxed);
}

static inline void bl_open_step(struct bl_context *context, int32_t tiles)
{
    int threads = context->threads;

    atomic_store_explicit(&context->unfinished, tiles, memory_order_relaxed);
    for (int i = 0; i < threads; i++) {
        uint64_t begin = (uint64_t)tiles * i / threads, end = (uint64_t)tiles * (i + 1) / threads;
        atomic_store_explicit(&context->workers[i].share, end << 32 | begin, memory_order_release);
    }
    bl_signal_change(&context->signal);
}

#if defined(BL_OPENCL)
/* Gives the arena to the CPU, when all that the device was to do is done. */
static inline int bl_take_arena(struct bl_context *context)
{
    context->arena = context->job.at.arena = bl_map(context->device);
    return context->arena != NULL;
}

/* Whether the device took a step; one that is the CPU's may run then. Ends the run where the device fails. */
static inline int bl_on_device(struct bl_context *context, const struct bl_step *step)
{
    int good = step->launch_count ? bl_device_launch(context->device, step->first_launch, step->launch_count)
                                  : bl_take_arena(context);

    if (!good) {
        atomic_store_explicit(&context->kernel_failed, 1, memory_order_relaxed);
        context->job.step = context->job.last;
    }
    return step->launch_count || !good;
}
#endif

/* Goes on after the current step, alone: all its tiles are finished. */
static inline void bl_advance(struct bl_context *context, const struct bl_worker *worker)
{
    struct bl_job *job = &context->job;

    while (++job->step < job->last) {
        const struct bl_step *step = &context->variant->steps[job->step];
#if defined(BL_OPENCL)
        if (bl_on_device(context, step))
            continue;
#endif
        if (job->quantized && step->move_codes) {
            step->move_codes(&job->at);
        } else if (step->tiles == 1 || context->threads == 1) {
            bl_run_tiles(context, worker, 0, step->tiles);
        } else {
            bl_open_step(context, step->tiles);
            return; /* from here on, the job may be anybody's */
        }
    }
    atomic_store_explicit(&context->running, 0, memory_order_release);
    if (worker->index != 0)
        bl_signal_change(&context->signal);
}

/* Takes a quarter of what is left of a share. A claim is decided by this one word alone: if it succeeds although the
 * step has changed since the load, then it is as good a claim in the new step. */
static inline int bl_claim(struct bl_worker *owner, int32_t *begin, int32_t *end)
{
    uint64_t share = atomic_load_explicit(&owner->share, memory_order_relaxed);
    uint32_t first, left;

    do {
        first = (uint32_t)share;
        left = (uint32_t)(share >> 32) - first;
        if (left == 0)
            return 0;
    } while (!atomic_compare_exchange_weak_explicit(&owner->share, &share, share + (left + 3) / 4,
                                                    memory_order_acquire, memory_order_relaxed));
    *begin = (int32_t)first;
    *end = (int32_t)(first + (left + 3) / 4);
    return 1;
}

/* Runs tiles of the current step until none is left to begin, its own first. Returns whether there were any. */
static inline int bl_take_part(struct bl_context *context, struct bl_worker *worker)
{
    int32_t begin, end, done = 0;

    for (int i = 0; i < context->threads; i++) {
        struct bl_worker *owner = &context->workers[(worker->index + i) % context->threads];
        while (bl_claim(owner, &begin, &end)) {
            bl_run_tiles(context, worker, begin, end);
            done += end - begin;
        }
    }
    if (done == 0)
        return 0;
    if (atomic_fetch_sub_explicit(&context->unfinished, done, memory_order_acq_rel) == done)
        bl_advance(context, worker);
    return 1;
}

static inline void *bl_worker_main(void *argument)
{
    struct bl_worker *worker = argument;
    struct bl_context *context = worker->context;

    for (;;) {
        uint32_t seen = bl_signal_phase(&context->signal);
        if (atomic_load_explicit(&context->stopping, memory_order_relaxed))
            return NULL;
        if (!bl_take_part(context, worker))
            bl_signal_wait(&context->signal, seen);
    }
}

/* Worker 0 is whoever calls run. Returns how many of the team there are: all, or up to the thread that failed. */
static inline int bl_start_workers(struct bl_context *context)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int started = 1;

    if (context->threads == 1)
        return 1;
    if (pthread_attr_init(&attributes) != 0)
        return 1;
    pthread_attr_setstacksize(&attributes, BL_WORKER_STACK_BYTES);
    sigfillset(&all); /* the program's signals are for its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started < context->threads && pthread_create(&context->workers[started].thread, &attributes, bl_worker_main,
                                                        &context->workers[started]) == 0)
        started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return started;
}

static inline void bl_stop_workers(struct bl_context *context, int started)
{
    atomic_store_explicit(&context->stopping, 1, memory_order_relaxed);
    bl_signal_change(&context->signal);
    for (int i = 1; i < started; i++)
        pthread_join(context->workers[i].thread, NULL);
}

static inline void bl_destroy(struct bl_context *context)
{
    if (!context)
        return;
    bl_stop_workers(context, context->threads);
    bl_signal_close(&context->signal);
#if defined(BL_OPENCL)
    bl_device_close(context->device);
#endif
    free(context->allocation);
}

static inline const char *bl_open(const struct bl_library *library, const struct bl_variant *variant,
                                  struct bl_context *context, int threads)
{
    memset(context, 0, sizeof *context);
    /* A team larger than the machine waits for its own members: they need the cores. */
    bl_signal_open(&context->signal, threads > bl_cores() ? 0 : BL_SPINS);
    context->library = library;
    context->variant = variant;
    context->threads = threads;
    context->arena = (unsigned char *)&context->workers[threads];
    context->scratch = context->arena + bl_arena_inside(variant);
    for (int i = 0; i < threads; i++) {
        memset(&context->workers[i], 0, sizeof context->workers[i]);
        context->workers[i].context = context;
        context->workers[i].index = i;
    }
    int started = bl_start_workers(context);
    if (started == threads)
        return NULL;
    bl_stop_workers(context, started);
    bl_signal_close(&context->signal);
    return "the system refused to start a thread";
}

static inline struct bl_context *bl_refuse(const char *complaint, const char **reason)
{
    if (reason)
        *reason = complaint;
    return NULL;
}

/* `bl_open`, with a device where the library is for one. A reason that it gives goes before the complaint. */
static inline const char *bl_open_at(const struct bl_library *library, const struct bl_variant *variant,
                                     const struct bl_place *place, struct bl_context *context, int threads,
                                     const char **reason)
{
#if defined(BL_OPENCL)
    struct bl_device *device = bl_device_open(library->program, place->device, place->cache, reason);
    const char *complaint;

    if (!device)
        return reason ? *reason : "";
    complaint = bl_open(library, variant, context, threads);
    if (complaint)
        bl_device_close(device);
    else
        context->device = device;
    return complaint;
#else
    (void)place;
    (void)reason;
    return bl_open(library, variant, context, threads);
#endif
}

/* wanted: the name of a variant, or NULL for the one that suits this CPU best. */
static inline struct bl_context *bl_create_in(const struct bl_library *library, const char *wanted,
                                              const struct bl_place *place, void *memory, size_t bytes, int threads,
                                              const char **reason)
{
    const char *complaint = NULL;
    const struct bl_variant *variant = bl_choose(library, wanted, &complaint);
    int count = bl_thread_count(library, threads);

    if (!variant)
        return bl_refuse(complaint, reason);
    complaint = NULL;
    if (count == 0)
        complaint = "the number of threads must be 0 (the library's choice) to 256";
    else if (!memory || (uintptr_t)memory % BL_CACHE_LINE != 0)
        complaint = "the memory for the context must be aligned to 64 bytes";
    else if (bytes < bl_context_bytes(library, count))
        complaint = "the memory for the context is smaller than context_bytes(threads)";
    else
        complaint = bl_open_at(library, variant, place, memory, count, reason);
    if (complaint)
        return bl_refuse(complaint, reason);
    if (reason)
        *reason = NULL;
    return memory;
}

static inline struct bl_context *bl_create(const struct bl_library *library, const char *wanted,
                                           const struct bl_place *place, int threads, const char **reason)
{
    int count = bl_thread_count(library, threads);
    size_t bytes = bl_context_bytes(library, count ? count : 1);
    struct bl_context *context;
    /* bl_create_in judges the count: 0, which it must not take for "your choice", came from one that is out of range. */
    void *memory = aligned_alloc(BL_CACHE_LINE, bytes);

    if (!memory)
        return bl_refuse("out of memory", reason);
    context = bl_create_in(library, wanted, place, memory, bytes, count ? count : threads, reason);
    if (context)
        context->allocation = memory;
    else
        free(memory);
    return context;
}

static inline int bl_ports_are_good(const struct bl_port *ports, const void *const *pointers, int count, int quantized)
{
    for (int i = 0; i < count; i++) {
        size_t alignment = quantized ? ports[i].codes_alignment : ports[i].alignment;
        if (!pointers[i] || (uintptr_t)pointers[i] % alignment != 0)
            return 0;
    }
    return 1;
}

/* Executes steps [first, last). */
static inline int bl_run_range(struct bl_context *context, int first, int last, int quantized,
                               const void *const *inputs, void *const *outputs)
{
    const struct bl_library *library = context->library;
    struct bl_worker *self = &context->workers[0];

    if (!bl_ports_are_good(library->inputs, inputs, library->input_count, quantized) ||
        !bl_ports_are_good(library->outputs, (const void *const *)outputs, library->output_count, quantized))
        return BL_BAD_ARGUMENT;
    context->job = (struct bl_job){{context->arena, inputs, outputs}, first - 1, last, quantized};
    atomic_store_explicit(&context->kernel_failed, 0, memory_order_relaxed);
    atomic_store_explicit(&context->running, 1, memory_order_relaxed);
    bl_advance(context, self);
    for (;;) {
        uint32_t seen = bl_signal_phase(&context->signal);
        if (!atomic_load_explicit(&context->running, memory_order_acquire))
            break;
        if (!bl_take_part(context, self))
            bl_signal_wait(&context->signal, seen);
    }
#if defined(BL_OPENCL)
    if (!bl_take_arena(context))
        return BL_KERNEL_FAILED;
#endif
    return atomic_load_explicit(&context->kernel_failed, memory_order_relaxed) ? BL_KERNEL_FAILED : BL_OK;
}

static inline int bl_run(struct bl_context *context, int quantized, const void *const *inputs, void *const *outputs)
{
    return bl_run_range(context, 0, context->variant->step_count, quantized, inputs, outputs);
}

#if defined(BL_OPENCL)
static inline int bl_profile(struct bl_context *context, const void *const *inputs, void *const *outputs,
                             uint64_t *nanoseconds)
{
    struct bl_device *device = context->device;
    const struct bl_variant *variant = context->variant;
    int status;

    if (!bl_timing(device, 1))
        return BL_KERNEL_FAILED;
    status = bl_run(context, 0, inputs, outputs);
    for (int i = 0; i < variant->step_count; i++) {
        nanoseconds[i] = 0;
        for (int k = 0; k < variant->steps[i].launch_count; k++)
            nanoseconds[i] += bl_launch_nanoseconds(device, variant->steps[i].first_launch + k);
    }
    return bl_timing(device, 0) && bl_take_arena(context) ? status : BL_KERNEL_FAILED;
}
#endif

static inline int bl_run_step(struct bl_context *context, int step, int quantized, const void *const *inputs,
                              void *const *outputs)
{
    if (step < 0 || step >= context->variant->step_count)
        return BL_BAD_ARGUMENT;
    return bl_run_range(context, step, step + 1, quantized, inputs, outputs);
}

#endif
