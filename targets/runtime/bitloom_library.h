/* What a library consists of, and which of its variants a CPU gets. */
#ifndef BITLOOM_LIBRARY_H
#define BITLOOM_LIBRARY_H

#include "bitloom_cpu.h"
#if defined(BL_OPENCL) /* a library whose steps run on an OpenCL device, all but some */
#include "bitloom_opencl.h"
#endif

/* The memory that a step reads and writes. */
struct bl_operands {
    unsigned char *arena;
    const void *const *inputs;
    void *const *outputs;
};

struct bl_step {
    int32_t (*run)(const struct bl_operands *at, void *scratch, int32_t begin, int32_t end);
    /* For a quantize or dequantize step at the library's edge: moves the port's codes in its place; else NULL. */
    void (*move_codes)(const struct bl_operands *at);
    int32_t tiles;
#if defined(BL_OPENCL)
    int first_launch, launch_count; /* where there are any, they are the step */
#endif
};

/* Where OpenCL steps run, NULL for what suits best. device: a part of its or its platform's name; cache: the folder of
 * compiled programs, "" for none. */
struct bl_place {
    const char *device, *cache;
};

struct bl_port {
    size_t alignment, codes_alignment; /* bytes */
};

struct bl_requirement {
    enum bl_cpu_feature feature;
    const char *complaint;
};

/* The steps for one kind of CPU. */
struct bl_variant {
    const char *name;
    const struct bl_step *steps;
    const struct bl_requirement *requirements;
    const uint32_t *models; /* that it is tuned for, as bl_cpu_model has them */
    int step_count, requirement_count, model_count;
    size_t arena_bytes, scratch_bytes; /* scratch: for each thread; both are multiples of the cache line */
};

struct bl_library {
    const struct bl_variant *variants; /* those that require more come first */
    const struct bl_port *inputs, *outputs;
    int variant_count, input_count, output_count;
    int threads; /* with which it was fastest when it was tuned; 0 where that is not known */
    const char *unknown_variant; /* complaint */
#if defined(BL_OPENCL)
    const struct bl_program *program;
#endif
};

static inline const char *bl_missing_feature(const struct bl_variant *variant)
{
    for (int i = 0; i < variant->requirement_count; i++)
        if (!bl_cpu_has(variant->requirements[i].feature))
            return variant->requirements[i].complaint;
    return NULL;
}

static inline int bl_is_tuned_for(const struct bl_variant *variant, uint32_t model)
{
    for (int i = 0; i < variant->model_count; i++)
        if (variant->models[i] == model)
            return 1;
    return 0;
}

/* The variant called `wanted`; if that is NULL, the one that uses most of this CPU's features, and among equals one
 * that is tuned for it. NULL and a complaint where there is none: about the one that requires least. */
static inline const struct bl_variant *bl_choose(const struct bl_library *library, const char *wanted,
                                                 const char **complaint)
{
    uint32_t model = bl_cpu_model();
    const struct bl_variant *best = NULL;

    *complaint = library->unknown_variant;
    for (int i = 0; i < library->variant_count; i++) {
        const struct bl_variant *variant = &library->variants[i];
        const char *missing;

        if (wanted && strcmp(wanted, variant->name) != 0)
            continue;
        missing = bl_missing_feature(variant);
        if (missing)
            *complaint = missing;
        else if (!best || (variant->requirement_count == best->requirement_count && !bl_is_tuned_for(best, model) &&
                           bl_is_tuned_for(variant, model)))
            best = variant;
    }
    return best;
}

#endif
