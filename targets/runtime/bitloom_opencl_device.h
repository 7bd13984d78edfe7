/* Which OpenCL device a library takes, and what it asks of it.
 *
 * Nothing here changes the device.
 */
#ifndef BITLOOM_OPENCL_DEVICE_H
#define BITLOOM_OPENCL_DEVICE_H

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
    return bl_device_number(d, device, CL_DEVICE_AVAILABLE, 4) &&
           bl_device_number(d, device, CL_DEVICE_ENDIAN_LITTLE, 4) &&
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

    if (d->cl.GetDeviceInfo(d->device, CL_DEVICE_EXTENSIONS, 0, NULL, &bytes) != CL_SUCCESS)
        return options;
    list = malloc(bytes + 1);
    if (!list)
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

#endif
