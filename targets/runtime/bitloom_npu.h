/* What every driver of a network for the NPU shares: the device's registers and memories, and what a run returns.
 *
 * Registers are 32-bit words, little end first; "two words" are the low and the high half of 64 bits.
 *
 *   0x00 magic            0x4e504c42, "BLPN"
 *   0x04 version          of this map: 1
 *   0x08 cores
 *   0x0c configuration    two words: a digest of it; streams are for one configuration
 *   0x14 SRAM bytes       two words
 *   0x1c DRAM bytes       two words
 *   0x24 command bytes    of the memory that streams are read from
 *   0x28 doorbell         written by the host: a number that differs from `completed` starts all cores
 *   0x2c completed        the doorbell's number when all cores have halted, written last
 *   0x30 status           0 idle, 1 busy, 2 done, 3 failed
 *   0x34 error            of the last run: 0 none, 1 a stream lies outside of the command memory or has no end,
 *                         2 an instruction was refused
 *   0x38 error core, 0x3c error instruction
 *   0x40 cycles           two words: of the last run
 *   0x80 + 16 * core      stream: byte in the command memory (a multiple of 16), 0x84 number of instructions (0: this
 *                         core and all behind it stay idle)
 *
 * SRAM, DRAM and command memory are windows into which the host reads and writes. This code needs the C library alone
 * (memcpy), allocates nothing and keeps no state of its own.
 */
#ifndef BITLOOM_NPU_H
#define BITLOOM_NPU_H

#include <stddef.h>
#include <stdint.h>

#define BL_NPU_MAGIC 0x4e504c42u
#define BL_NPU_VERSION 1u

enum bl_npu_register {
    bl_npu_reg_magic = 0x00,
    bl_npu_reg_version = 0x04,
    bl_npu_reg_cores = 0x08,
    bl_npu_reg_config = 0x0c,
    bl_npu_reg_sram_bytes = 0x14,
    bl_npu_reg_dram_bytes = 0x1c,
    bl_npu_reg_command_bytes = 0x24,
    bl_npu_reg_doorbell = 0x28,
    bl_npu_reg_completed = 0x2c,
    bl_npu_reg_status = 0x30,
    bl_npu_reg_error = 0x34,
    bl_npu_reg_error_core = 0x38,
    bl_npu_reg_error_index = 0x3c,
    bl_npu_reg_cycles = 0x40,
    bl_npu_reg_streams = 0x80
};

enum { bl_npu_stream_bytes = 16, bl_npu_failed = 3 };

/* What the functions of a driver return. */
enum bl_npu_result {
    bl_npu_ok = 0,
    bl_npu_bad_argument = 1,   /* a pointer is NULL, or the host's memory is not aligned to 16 bytes */
    bl_npu_wrong_magic = 2,    /* there is no NPU behind the registers */
    bl_npu_wrong_version = 3,  /* it has another register map */
    bl_npu_wrong_config = 4,   /* it is not the NPU that the network was compiled for */
    bl_npu_too_small = 5,      /* a window is smaller than the network needs */
    bl_npu_wrong_contents = 6, /* commands or constants are not those of this network */
    bl_npu_timeout = 7,        /* the device did not complete within poll_limit looks */
    bl_npu_device_error = 8,   /* it failed: error, error_core and error_index of struct bl_npu say where */
    bl_npu_needs_host = 9,     /* a step is left to the host and there is no callback: failed_step says which */
    bl_npu_host_failed = 10    /* the callback did not return 0: failed_step says which */
};

/* An array. element: "f32", "i8", "i16" or "i32", of `bytes` bytes each, or "b1": bytes of eight, the first in the
 * lowest bit, 1 for +1 and 0 for -1; the last extent counts these bytes. strides: in elements. data: the first element;
 * of a result, to be written. */
struct bl_npu_operand {
    const char *name, *element;
    void *data;
    uint32_t bytes, rank;
    const uint32_t *shape;
    const int32_t *strides;
};

/* A step of the network that the NPU leaves to the host: the operator `op` of the graph <name>.ir.gz whose first
 * result is `value`; reason: why. */
struct bl_npu_call {
    uint32_t step;
    const char *value, *layer, *op, *reason;
    uint32_t input_count, output_count;
    const struct bl_npu_operand *inputs, *outputs;
};

/* A device and what runs on it. The caller fills in all above the line. */
struct bl_npu {
    volatile uint32_t *registers;
    unsigned char *commands, *sram, *dram; /* windows */
    void *host;                            /* NAME_host_bytes bytes, aligned to 16 */
    uint64_t poll_limit;                   /* looks at `completed` before a run counts as lost */
    void (*pause)(void *user);             /* called between two looks; may be NULL */
    int (*compute)(void *user, const struct bl_npu_call *call); /* a step of the host; returns 0. May be NULL */
    void *user;
    /* ---- */
    uint32_t failed_step, error, error_core, error_index;
    uint64_t cycles; /* of the last run, all programs */
};

#endif
