/* The steps of a library that an OpenCL device runs: its program, its memory, its queue.
 *
 * One in-order queue. The arena belongs to the device while its steps run and is mapped, without a copy where memory is
 * unified, while the CPU's do; between two steps of the device nothing waits.
 */
#ifndef BITLOOM_OPENCL_H
#define BITLOOM_OPENCL_H

#include "bitloom_opencl_api.h"
#include "bitloom_opencl_cache.h"

enum { BL_REASON = 4096, BL_TEXT = 512, BL_DEVICES = 64 };

/* An operand: bytes behind the start of the arena or of the constants. */
struct bl_argument {
    int constant;
    int32_t offset;
};

struct bl_launch {
    const char *kernel;
    size_t global[3], local[3];
    int first_argument, argument_count;
};

struct bl_program {
    const char *name, *build; /* of the library; build: a digest of everything in it */
    const char *source;
    const unsigned char *constants;
    size_t constant_bytes, arena_bytes;
    const struct bl_launch *launches;
    const struct bl_argument *arguments;
    int launch_count;
};

struct bl_device {
    struct bl_cl_api cl;
    const struct bl_program *program;
    bl_cl_handle device, context, queue, built, arena, constants;
    bl_cl_handle *kernels; /* one for each launch, with its arguments */
    bl_cl_handle *events;  /* of each launch, while it is timed; else NULL */
    unsigned char *mapped; /* the arena, while the CPU has it */
    struct bl_cache cache;
    const char *options;
    char name[BL_TEXT], driver[BL_TEXT], platform[BL_TEXT], version[BL_TEXT], title[3 * BL_TEXT];
};

/* Sets *reason to a text that stays allocated, for who reads it cannot say when he is done. */
static inline void bl_say(const char **reason, const char *what, const char *detail)
{
    char *text = reason ? malloc(BL_REASON) : NULL;

    if (!text)
        return;
    snprintf(text, BL_REASON, what, detail);
    *reason = text;
}

static inline void bl_device_text(struct bl_device *d, bl_cl_handle device, bl_cl_uint what, char *text)
{
    if (d->cl.GetDeviceInfo(device, what, BL_TEXT - 1, text, NULL) != CL_SUCCESS)
        text[0] = 0;
    text[BL_TEXT - 1] = 0;
}

static inline uint64_t bl_device_number(struct bl_device *d, bl_cl_handle device, bl_cl_uint what, size_t bytes)
{
    uint64_t value = 0; /* little-endian, as is all that libraries are made for */

    return d->cl.GetDeviceInfo(device, what, bytes, &value, NULL) == CL_SUCCESS ? value : 0;
}

/* Whether the words of a list hold one. */
static inline int bl_has_word(const char *list, const char *word)
{
    size_t length = strlen(word);

    for (const char *at = list; (at = strstr(at, word)) != NULL; at += length)
        if ((at == list || at[-1] == ' ') && (at[length] == ' ' || at[length] == 0))
            return 1;
    return 0;
}

/* Whether a name holds a part, in capitals or not. */
static inline int bl_holds(const char *name, const char *part)
{
    for (; *name; name++) {
        size_t i = 0;

        while (part[i] && name[i] &&
               (name[i] == part[i] || ((name[i] ^ part[i]) == 32 && (part[i] | 32) >= 'a' && (part[i] | 32) <= 'z')))
            i++;
        if (!part[i])
            return 1;
    }
    return 0;
}

static inline int bl_usable(struct bl_device *d, bl_cl_handle device)
{
    return bl_device_number(d, device, CL_DEVICE_AVAILABLE, 4) && bl_device_number(d, device, CL_DEVICE_ENDIAN_LITTLE, 4) &&
           bl_device_number(d, device, CL_DEVICE_COMPILER_AVAILABLE, 4);
}

/* The first GPU, or else the first device, whose own or whose platform's name holds `wanted` (NULL: any). */
static inline int bl_find_device(struct bl_device *d, const char *wanted, const char **reason)
{
    bl_cl_handle platforms[BL_DEVICES], devices[BL_DEVICES];
    bl_cl_uint platform_count = 0, device_count;
    int seen = 0, best = 0;

    if (d->cl.GetPlatformIDs(BL_DEVICES, platforms, &platform_count) != CL_SUCCESS || platform_count == 0) {
        bl_say(reason, "there is an OpenCL library but no platform: install the %s driver", "GPU's");
        return 0;
    }
    for (bl_cl_uint p = 0; p < platform_count && p < BL_DEVICES; p++) {
        char platform[BL_TEXT] = "", version[BL_TEXT] = "", name[BL_TEXT];

        d->cl.GetPlatformInfo(platforms[p], CL_PLATFORM_NAME, BL_TEXT - 1, platform, NULL);
        d->cl.GetPlatformInfo(platforms[p], CL_PLATFORM_VERSION, BL_TEXT - 1, version, NULL);
        if (d->cl.GetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, BL_DEVICES, devices, &device_count) != CL_SUCCESS)
            continue;
        for (bl_cl_uint i = 0; i < device_count && i < BL_DEVICES; i++) {
            int is_gpu = (bl_device_number(d, devices[i], CL_DEVICE_TYPE, 8) & CL_DEVICE_TYPE_GPU) != 0;

            seen++;
            bl_device_text(d, devices[i], CL_DEVICE_NAME, name);
            if (wanted && wanted[0] && !bl_holds(platform, wanted) && !bl_holds(version, wanted) &&
                !bl_holds(name, wanted))
                continue;
            if (!bl_usable(d, devices[i]) || best > is_gpu)
                continue;
            best = is_gpu + 1;
            d->device = devices[i];
            memcpy(d->name, name, BL_TEXT);
            memcpy(d->platform, platform, BL_TEXT);
            memcpy(d->version, version, BL_TEXT);
        }
    }
    if (best == 0 && wanted && wanted[0])
        bl_say(reason, "no usable OpenCL device is called \"%s\"", wanted);
    else if (best == 0)
        bl_say(reason, "there is no OpenCL device%s", seen ? " that is available and has a compiler" : "");
    return best > 0;
}

/* How DOT4 is computed: by what the device lists, for compilers define macros of what it lacks. */
static inline const char *bl_options(struct bl_device *d)
{
    const char *options = "-cl-std=CL1.2";
    size_t bytes = 0;
    char *list;

    if (d->cl.GetDeviceInfo(d->device, CL_DEVICE_EXTENSIONS, 0, NULL, &bytes) != CL_SUCCESS || !(list = malloc(bytes + 1)))
        return options;
    if (d->cl.GetDeviceInfo(d->device, CL_DEVICE_EXTENSIONS, bytes, list, NULL) != CL_SUCCESS)
        bytes = 0;
    list[bytes] = 0;
    if (bl_has_word(list, "cl_arm_integer_dot_product_accumulate_int8"))
        options = "-cl-std=CL1.2 -DDOT_ARM_ACCUMULATE=1";
    else if (bl_has_word(list, "cl_arm_integer_dot_product_int8"))
        options = "-cl-std=CL1.2 -DDOT_ARM=1";
    else if (bl_has_word(list, "cl_khr_integer_dot_product") &&
             bl_device_number(d, d->device, CL_DEVICE_DOT_PRODUCT_CAPABILITIES, 8) & CL_DOT_PRODUCT_OF_4X8)
        options = "-cl-std=CL3.0 -DDOT_KHR=1";
    free(list);
    return options;
}

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
        if (whole && d->cl.GetProgramBuildInfo(d->built, d->device, CL_PROGRAM_BUILD_LOG, bytes, whole, NULL) == CL_SUCCESS)
            whole[bytes] = 0;
        else if (whole)
            whole[0] = 0;
        snprintf(log, BL_REASON, "%s does not build the kernels (%s, error %d):\n%s", d->name, bl_cl_words(error), (int)error, whole ? whole : "");
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
                error = d->cl.SetKernelArg(d->kernels[i], (bl_cl_uint)(2 * k + 1), sizeof argument->offset, &argument->offset);
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

    if (d->cl.GetProgramInfo(d->built, CL_PROGRAM_BINARY_SIZES, sizeof *bytes, bytes, NULL) != CL_SUCCESS || *bytes == 0)
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
        d->mapped = d->cl.EnqueueMapBuffer(d->queue, d->arena, 1, CL_MAP_READ_WRITE, 0, d->program->arena_bytes, 0, NULL,
                                           NULL, &error);
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
    d->arena = d->cl.CreateBuffer(d->context, CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR, program->arena_bytes, NULL, &error);
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
        bl_say(reason, "there is no OpenCL library (libOpenCL.so, or Mali's own): install the GPU's driver, or name the "
                       "library in %s", "BITLOOM_OPENCL");
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
