/* What libraries use of OpenCL 1.2, without its headers, and where its library is found at run time.
 *
 * Source: Khronos, The OpenCL Specification 1.2 and CL/cl.h of the OpenCL headers.
 */
#ifndef BITLOOM_OPENCL_API_H
#define BITLOOM_OPENCL_API_H

#include "bitloom_system.h"

#include <stddef.h>
#include <stdint.h>

typedef int32_t bl_cl_int;
typedef uint32_t bl_cl_uint;
typedef uint64_t bl_cl_bits;
typedef struct bl_cl_object *bl_cl_handle; /* of any kind */

enum {
    CL_SUCCESS = 0,
    CL_PLATFORM_NAME = 0x0902,
    CL_PLATFORM_VERSION = 0x0901,
    CL_DEVICE_TYPE = 0x1000,
    CL_DEVICE_MAX_WORK_GROUP_SIZE = 0x1004,
    CL_DEVICE_MAX_MEM_ALLOC_SIZE = 0x1010,
    CL_DEVICE_ENDIAN_LITTLE = 0x1026,
    CL_DEVICE_AVAILABLE = 0x1027,
    CL_DEVICE_COMPILER_AVAILABLE = 0x1028,
    CL_DEVICE_NAME = 0x102B,
    CL_DRIVER_VERSION = 0x102D,
    CL_DEVICE_EXTENSIONS = 0x1030,
    CL_DEVICE_DOT_PRODUCT_CAPABILITIES = 0x1073,
    CL_PROGRAM_BINARY_SIZES = 0x1165,
    CL_PROGRAM_BINARIES = 0x1166,
    CL_PROGRAM_BUILD_LOG = 0x1183,
    CL_KERNEL_WORK_GROUP_SIZE = 0x11B0,
    CL_PROFILING_COMMAND_START = 0x1282,
    CL_PROFILING_COMMAND_END = 0x1283
};

#define CL_DEVICE_TYPE_GPU ((bl_cl_bits)1 << 2)
#define CL_DEVICE_TYPE_ALL ((bl_cl_bits)0xFFFFFFFF)
#define CL_QUEUE_PROFILING ((bl_cl_bits)1 << 1)
#define CL_MEM_READ_WRITE ((bl_cl_bits)1 << 0)
#define CL_MEM_READ_ONLY ((bl_cl_bits)1 << 2)
#define CL_MEM_ALLOC_HOST_PTR ((bl_cl_bits)1 << 4)
#define CL_MEM_COPY_HOST_PTR ((bl_cl_bits)1 << 5)
#define CL_MAP_READ_WRITE ((bl_cl_bits)3)
#define CL_DOT_PRODUCT_OF_4X8 ((bl_cl_bits)1 << 1)

#define BL_CL_FUNCTIONS(F) \
    F(bl_cl_int, GetPlatformIDs, (bl_cl_uint, bl_cl_handle *, bl_cl_uint *)) \
    F(bl_cl_int, GetPlatformInfo, (bl_cl_handle, bl_cl_uint, size_t, void *, size_t *)) \
    F(bl_cl_int, GetDeviceIDs, (bl_cl_handle, bl_cl_bits, bl_cl_uint, bl_cl_handle *, bl_cl_uint *)) \
    F(bl_cl_int, GetDeviceInfo, (bl_cl_handle, bl_cl_uint, size_t, void *, size_t *)) \
    F(bl_cl_handle, CreateContext, \
      (const intptr_t *, bl_cl_uint, const bl_cl_handle *, void (*)(const char *, const void *, size_t, void *), \
       void *, bl_cl_int *)) \
    F(bl_cl_int, ReleaseContext, (bl_cl_handle)) \
    F(bl_cl_handle, CreateCommandQueue, (bl_cl_handle, bl_cl_handle, bl_cl_bits, bl_cl_int *)) \
    F(bl_cl_int, ReleaseCommandQueue, (bl_cl_handle)) \
    F(bl_cl_handle, CreateBuffer, (bl_cl_handle, bl_cl_bits, size_t, void *, bl_cl_int *)) \
    F(bl_cl_int, ReleaseMemObject, (bl_cl_handle)) \
    F(bl_cl_handle, CreateProgramWithSource, \
      (bl_cl_handle, bl_cl_uint, const char **, const size_t *, bl_cl_int *)) \
    F(bl_cl_handle, CreateProgramWithBinary, \
      (bl_cl_handle, bl_cl_uint, const bl_cl_handle *, const size_t *, const unsigned char **, bl_cl_int *, \
       bl_cl_int *)) \
    F(bl_cl_int, BuildProgram, \
      (bl_cl_handle, bl_cl_uint, const bl_cl_handle *, const char *, void (*)(bl_cl_handle, void *), void *)) \
    F(bl_cl_int, GetProgramBuildInfo, (bl_cl_handle, bl_cl_handle, bl_cl_uint, size_t, void *, size_t *)) \
    F(bl_cl_int, GetProgramInfo, (bl_cl_handle, bl_cl_uint, size_t, void *, size_t *)) \
    F(bl_cl_int, ReleaseProgram, (bl_cl_handle)) \
    F(bl_cl_handle, CreateKernel, (bl_cl_handle, const char *, bl_cl_int *)) \
    F(bl_cl_int, ReleaseKernel, (bl_cl_handle)) \
    F(bl_cl_int, SetKernelArg, (bl_cl_handle, bl_cl_uint, size_t, const void *)) \
    F(bl_cl_int, GetKernelWorkGroupInfo, (bl_cl_handle, bl_cl_handle, bl_cl_uint, size_t, void *, size_t *)) \
    F(bl_cl_int, EnqueueNDRangeKernel, \
      (bl_cl_handle, bl_cl_handle, bl_cl_uint, const size_t *, const size_t *, const size_t *, bl_cl_uint, \
       const bl_cl_handle *, bl_cl_handle *)) \
    F(void *, EnqueueMapBuffer, \
      (bl_cl_handle, bl_cl_handle, bl_cl_uint, bl_cl_bits, size_t, size_t, bl_cl_uint, const bl_cl_handle *, \
       bl_cl_handle *, bl_cl_int *)) \
    F(bl_cl_int, EnqueueUnmapMemObject, \
      (bl_cl_handle, bl_cl_handle, void *, bl_cl_uint, const bl_cl_handle *, bl_cl_handle *)) \
    F(bl_cl_int, Flush, (bl_cl_handle)) \
    F(bl_cl_int, Finish, (bl_cl_handle)) \
    F(bl_cl_int, GetEventProfilingInfo, (bl_cl_handle, bl_cl_uint, size_t, void *, size_t *)) \
    F(bl_cl_int, ReleaseEvent, (bl_cl_handle))

#define BL_CL_MEMBER(result, name, parameters) result(*name) parameters;
struct bl_cl_api {
    BL_CL_FUNCTIONS(BL_CL_MEMBER)
};
#undef BL_CL_MEMBER

/* Android's vendors install no loader, and its linker hides what lies elsewhere; older Linux images for Mali have
 * the driver alone. The library stays loaded: drivers do not survive being taken out. */
static inline void *bl_cl_library(void)
{
    static const char *const places[] = {
        "libOpenCL.so",
        "libOpenCL.so.1",
        "/vendor/lib64/libOpenCL.so",
        "/system/vendor/lib64/libOpenCL.so",
        "/system/lib64/libOpenCL.so",
        "libGLES_mali.so",
        "/vendor/lib64/egl/libGLES_mali.so",
        "/system/vendor/lib64/egl/libGLES_mali.so",
        "libmali.so",
        "libmali.so.1",
    };
    const char *chosen = getenv("BITLOOM_OPENCL");

    if (chosen)
        return dlopen(chosen, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        void *library = dlopen(places[i], RTLD_NOW | RTLD_LOCAL);
        if (library)
            return library;
    }
    return NULL;
}

/* The name of a function that the library lacks, or NULL. */
static inline const char *bl_cl_load(struct bl_cl_api *api, void *library)
{
#define BL_CL_LOAD(result, name, parameters) \
    *(void **)&api->name = dlsym(library, "cl" #name); \
    if (!api->name) \
        return "cl" #name;
    BL_CL_FUNCTIONS(BL_CL_LOAD)
#undef BL_CL_LOAD
    return NULL;
}

static inline const char *bl_cl_words(bl_cl_int error)
{
    switch (error) {
    case -1001:
    case -1:
        return "there is no such device";
    case -2:
        return "the device is not available";
    case -3:
        return "the device has no compiler";
    case -4:
    case -6:
    case -61:
        return "out of memory";
    case -5:
        return "out of the device's resources";
    case -11:
        return "the program does not build";
    case -52:
    case -54:
    case -55:
        return "the launch does not suit the device";
    default:
        return "the driver refuses";
    }
}

#endif
