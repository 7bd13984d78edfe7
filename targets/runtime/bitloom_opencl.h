/* The steps of a library that an OpenCL device runs: its program, its memory, its queue.
 *
 * One in-order queue. The arena belongs to the device while its steps run and is mapped, without a copy where memory is
 * unified, while the CPU's do; between two steps of the device nothing waits.
 */
#ifndef BITLOOM_OPENCL_H
#define BITLOOM_OPENCL_H

#include "bitloom_opencl_device.h"

static inline int bl_build(struct bl_device *d, const char **reason)
{
    bl_cl_int error = d->cl.BuildProgram(d->built, 1, &d->device, d->options, NULL, NULL);
    char *log;

    if (error == CL_SUCCESS)
        return 1;
    log = reason ? malloc(BL_REASON) : NULL;
    if (log) {
        size_t bytes = 0;
        char *whole;

        d->cl.GetProgramBuildInfo(d->built, d->device, CL_PROGRAM_BUILD_LOG, 0, NULL, &bytes);
        whole = malloc(bytes + 1);
        if (whole) {
            whole[bytes] = 0;
            if (d->cl.GetProgramBuildInfo(d->built, d->device, CL_PROGRAM_BUILD_LOG, bytes, whole, NULL) != CL_SUCCESS)
                whole[0] = 0;
        }
        snprintf(log, BL_REASON, "%s does not build the kernels (%s, error %d):\n%s", d->name, bl_cl_words(error),
                 (int)error, whole ? whole : "");
        free(whole);
        *reason = log;
    }
    return 0;
}

static inline int bl_refused(struct bl_device *d, const char *what, bl_cl_int error, const char **reason)
{
    char text[BL_TEXT];

    snprintf(text, sizeof text, "%s: %s on %.200s (OpenCL error %d)", what, bl_cl_words(error), d->name, (int)error);
    bl_say(reason, "%s", text);
    return 0;
}

/* A kernel for each launch. Mali's driver compiles here, not before. */
static inline int bl_make_kernels(struct bl_device *d, const char **reason)
{
    const struct bl_program *program = d->program;
    bl_cl_int error = CL_SUCCESS;

    for (int i = 0; i < program->launch_count; i++) {
        const struct bl_launch *launch = &program->launches[i];
        size_t most = 0;

        d->kernels[i] = d->cl.CreateKernel(d->built, launch->kernel, &error);
        if (!d->kernels[i])
            return bl_refused(d, launch->kernel, error, reason);
        d->cl.GetKernelWorkGroupInfo(d->kernels[i], d->device, CL_KERNEL_WORK_GROUP_SIZE, sizeof most, &most, NULL);
        if (most < launch->local[0] * launch->local[1] * launch->local[2]) {
            bl_say(reason, "the device has not the registers for a work-group of %s: compile for mali/generic",
                   launch->kernel);
            return 0;
        }
        for (int k = 0; k < launch->argument_count && error == CL_SUCCESS; k++) {
            const struct bl_argument *argument = &program->arguments[launch->first_argument + k];
            bl_cl_handle *memory = argument->constant ? &d->constants : &d->arena;

            error = d->cl.SetKernelArg(d->kernels[i], (bl_cl_uint)(2 * k), sizeof *memory, memory);
            if (error == CL_SUCCESS)
                error = d->cl.SetKernelArg(d->kernels[i], (bl_cl_uint)(2 * k + 1), sizeof argument->offset,
                                           &argument->offset);
        }
        if (error != CL_SUCCESS)
            return bl_refused(d, launch->kernel, error, reason);
    }
    return 1;
}

static inline void bl_drop_program(struct bl_device *d)
{
    for (int i = 0; i < d->program->launch_count; i++) {
        if (d->kernels[i])
            d->cl.ReleaseKernel(d->kernels[i]);
        d->kernels[i] = NULL;
    }
    if (d->built)
        d->cl.ReleaseProgram(d->built);
    d->built = NULL;
}

static inline int bl_program_from_binary(struct bl_device *d, unsigned char *binary, size_t bytes)
{
    bl_cl_int error, status = CL_SUCCESS;
    const unsigned char *start = binary;

    if (!binary)
        return 0;
    d->built = d->cl.CreateProgramWithBinary(d->context, 1, &d->device, &bytes, &start, &status, &error);
    if (d->built && status == CL_SUCCESS && bl_build(d, NULL) && bl_make_kernels(d, NULL))
        return 1;
    bl_drop_program(d);
    return 0;
}

/* The program as the device has it, to be freed; NULL where the driver does not give it. */
static inline unsigned char *bl_program_binary(struct bl_device *d, size_t *bytes)
{
    unsigned char *binary;

    *bytes = 0;
    d->cl.GetProgramInfo(d->built, CL_PROGRAM_BINARY_SIZES, sizeof *bytes, bytes, NULL);
    if (*bytes == 0)
        return NULL;
    binary = malloc(*bytes);
    if (binary && d->cl.GetProgramInfo(d->built, CL_PROGRAM_BINARIES, sizeof binary, &binary, NULL) != CL_SUCCESS) {
        free(binary);
        return NULL;
    }
    return binary;
}

static inline int bl_program_from_source(struct bl_device *d, const char **reason)
{
    const char *source = d->program->source;
    size_t bytes = strlen(source);
    bl_cl_int error;

    d->built = d->cl.CreateProgramWithSource(d->context, 1, &source, &bytes, &error);
    if (!d->built)
        return bl_refused(d, "its program", error, reason);
    return bl_build(d, reason) && bl_make_kernels(d, reason);
}

static inline int bl_make_program(struct bl_device *d, const char *folder, const char **reason)
{
    size_t bytes = 0;
    unsigned char *binary;
    int done;

    snprintf(d->cache.key, sizeof d->cache.key, "%s\n%s\n%s\n%s\n%s", d->program->build, d->name, d->driver, d->version,
             d->options);
    bl_cache_place(&d->cache, folder, d->program->name);
    binary = bl_cache_read(&d->cache, &bytes);
    done = bl_program_from_binary(d, binary, bytes);
    free(binary);
    if (done)
        return 1;
    if (!bl_program_from_source(d, reason))
        return 0;
    binary = bl_program_binary(d, &bytes);
    if (!binary)
        return 1;
    bl_cache_write(&d->cache, binary, bytes);
    /* On as from now every create: PoCL compiles what came from source again, at each first launch. */
    bl_drop_program(d);
    done = bl_program_from_binary(d, binary, bytes) || bl_program_from_source(d, reason);
    free(binary);
    return done;
}

static inline unsigned char *bl_map(struct bl_device *d)
{
    bl_cl_int error;

    if (!d->mapped)
        d->mapped = d->cl.EnqueueMapBuffer(d->queue, d->arena, 1, CL_MAP_READ_WRITE, 0, d->program->arena_bytes, 0,
                                           NULL, NULL, &error);
    return d->mapped;
}

static inline int bl_unmap(struct bl_device *d)
{
    if (d->mapped && d->cl.EnqueueUnmapMemObject(d->queue, d->arena, d->mapped, 0, NULL, NULL) != CL_SUCCESS)
        return 0;
    d->mapped = NULL;
    return 1;
}

static inline int bl_make_memory(struct bl_device *d, const char **reason)
{
    const struct bl_program *program = d->program;
    uint64_t most = bl_device_number(d, d->device, CL_DEVICE_MAX_MEM_ALLOC_SIZE, 8);
    bl_cl_int error = -61;
    unsigned char *arena;

    if (most && (program->arena_bytes > most || program->constant_bytes > most))
        return bl_refused(d, "its memory", error, reason);
    d->arena = d->cl.CreateBuffer(d->context, CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR, program->arena_bytes, NULL,
                                  &error);
    if (!d->arena)
        return bl_refused(d, "its arena", error, reason);
    d->constants = d->cl.CreateBuffer(d->context, CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR, program->constant_bytes,
                                      (void *)(uintptr_t)program->constants, &error);
    if (!d->constants)
        return bl_refused(d, "its constants", error, reason);
    arena = bl_map(d); /* drivers allocate no sooner */
    if (!arena)
        return bl_refused(d, "its arena", -4, reason);
    memset(arena, 0, program->arena_bytes);
    return 1;
}

static inline void bl_device_close(struct bl_device *d)
{
    if (!d)
        return;
    if (d->queue) {
        bl_unmap(d);
        d->cl.Finish(d->queue);
    }
    if (d->kernels)
        bl_drop_program(d);
    if (d->arena)
        d->cl.ReleaseMemObject(d->arena);
    if (d->constants)
        d->cl.ReleaseMemObject(d->constants);
    if (d->queue)
        d->cl.ReleaseCommandQueue(d->queue);
    if (d->context)
        d->cl.ReleaseContext(d->context);
    free(d->kernels);
    free(d);
}

static inline int bl_prepare(struct bl_device *d, const char *wanted, const char *folder, const char **reason)
{
    void *library = bl_cl_library();
    const char *missing;
    bl_cl_int error = CL_SUCCESS;

    if (!library) {
        bl_say(reason, "there is no OpenCL library (libOpenCL.so, or Mali's own): install the GPU's driver, or name "
                       "the library in %s", "BITLOOM_OPENCL");
        return 0;
    }
    missing = bl_cl_load(&d->cl, library);
    if (missing) {
        bl_say(reason, "the OpenCL library has no %s: it is older than OpenCL 1.2", missing);
        return 0;
    }
    if (!bl_find_device(d, wanted, reason))
        return 0;
    bl_device_text(d, d->device, CL_DRIVER_VERSION, d->driver);
    d->options = bl_options(d);
    snprintf(d->title, sizeof d->title, "%s, %s, driver %s, %s", d->name, d->platform, d->driver,
             strstr(d->options, "-DDOT_") ? strstr(d->options, "-DDOT_") + 2 : "short vectors");
    d->context = d->cl.CreateContext(NULL, 1, &d->device, NULL, NULL, &error);
    if (!d->context)
        return bl_refused(d, "its context", error, reason);
    d->queue = d->cl.CreateCommandQueue(d->context, d->device, 0, &error);
    if (!d->queue)
        return bl_refused(d, "its queue", error, reason);
    return bl_make_memory(d, reason) && bl_make_program(d, folder, reason);
}

/* NULL, and a reason, where there is no device that can run the program. */
static inline struct bl_device *bl_device_open(const struct bl_program *program, const char *wanted, const char *folder,
                                               const char **reason)
{
    struct bl_device *d = calloc(1, sizeof *d);

    if (reason)
        *reason = "out of memory";
    if (!d)
        return NULL;
    d->program = program;
    d->kernels = calloc((size_t)program->launch_count + 1, sizeof *d->kernels);
    if (d->kernels && bl_prepare(d, wanted, folder, reason))
        return d;
    bl_device_close(d);
    return NULL;
}

/* The same device with a queue that takes times, or without; what there was to do is done. */
static inline int bl_timing(struct bl_device *d, int on)
{
    bl_cl_int error;
    bl_cl_handle queue = d->cl.CreateCommandQueue(d->context, d->device, on ? CL_QUEUE_PROFILING : 0, &error);
    bl_cl_handle *events = on ? calloc((size_t)d->program->launch_count + 1, sizeof *events) : NULL;

    if (!queue || (on && !events) || !bl_unmap(d) || d->cl.Finish(d->queue) != CL_SUCCESS) {
        if (queue)
            d->cl.ReleaseCommandQueue(queue);
        free(events);
        return 0;
    }
    d->cl.ReleaseCommandQueue(d->queue);
    d->queue = queue;
    free(d->events);
    d->events = events;
    return bl_map(d) != NULL;
}

/* What a launch took; its event is gone then. */
static inline uint64_t bl_launch_nanoseconds(struct bl_device *d, int launch)
{
    uint64_t start = 0, end = 0;
    bl_cl_handle event = d->events[launch];

    if (!event)
        return 0;
    d->cl.GetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof start, &start, NULL);
    d->cl.GetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end, NULL);
    d->cl.ReleaseEvent(event);
    d->events[launch] = NULL;
    return end - start;
}

/* Launches [first, first + count), after all before. */
static inline int bl_device_launch(struct bl_device *d, int first, int count)
{
    if (!bl_unmap(d))
        return 0;
    for (int i = first; i < first + count; i++) {
        const struct bl_launch *launch = &d->program->launches[i];

        if (d->cl.EnqueueNDRangeKernel(d->queue, d->kernels[i], 3, NULL, launch->global, launch->local, 0, NULL,
                                       d->events ? &d->events[i] : NULL) != CL_SUCCESS)
            return 0;
    }
    return 1;
}

#endif
