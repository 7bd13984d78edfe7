/* The part of a driver that is the same for every network; the tables stand behind it in the same file. */
#include <stdatomic.h>
#include <string.h>

enum memory { in_host, in_sram, in_dram, in_constants };
enum kind { on_device, on_host, copy, quantize, dequantize };

struct value {
    const char *name, *element;
    uint32_t bytes, rank;
    const uint32_t *shape;
    const int32_t *strides;
    enum memory memory;
    uint64_t byte;
    const unsigned char *constant;
};

struct stream {
    uint32_t byte, instructions;
};

/* on_device: streams, one for each core. Otherwise: operands are numbers of values, inputs first. */
struct step {
    enum kind kind;
    const char *value, *layer, *op, *reason;
    const struct stream *streams;
    const uint32_t *operands;
    uint32_t input_count, output_count;
    float factor; /* quantize: 1/scale; dequantize: scale */
    int32_t zero_point, low, high;
};

struct network {
    uint32_t cores, config_low, config_high, command_bytes, command_crc, constant_crc;
    uint64_t sram_bytes, dram_bytes, constant_bytes;
    uint32_t input_count, output_count, step_count;
    const uint32_t *inputs, *outputs;
    const struct step *steps;
    const struct value *values;
};

static uint32_t get(const struct bl_npu *npu, uint32_t at)
{
    return npu->registers[at / 4];
}

static void put(struct bl_npu *npu, uint32_t at, uint32_t value)
{
    npu->registers[at / 4] = value;
}

static uint64_t get_wide(const struct bl_npu *npu, uint32_t at)
{
    return get(npu, at) | (uint64_t)get(npu, at + 4) << 32;
}

/* CRC-32 of IEEE 802.3, four bits at a time. */
static uint32_t crc(const unsigned char *data, size_t bytes)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    uint32_t found = 0xffffffffu;

    for (size_t i = 0; i < bytes; i++) {
        found ^= data[i];
        found = found >> 4 ^ table[found & 15];
        found = found >> 4 ^ table[found & 15];
    }
    return ~found;
}

static int attach(const struct network *network, struct bl_npu *npu)
{
    if (!npu || !npu->registers || !npu->commands || !npu->sram || !npu->dram)
        return bl_npu_bad_argument;
    if (get(npu, bl_npu_reg_magic) != BL_NPU_MAGIC)
        return bl_npu_wrong_magic;
    if (get(npu, bl_npu_reg_version) != BL_NPU_VERSION)
        return bl_npu_wrong_version;
    if (get(npu, bl_npu_reg_cores) != network->cores || get(npu, bl_npu_reg_config) != network->config_low ||
        get(npu, bl_npu_reg_config + 4) != network->config_high)
        return bl_npu_wrong_config;
    if (get(npu, bl_npu_reg_command_bytes) < network->command_bytes ||
        get_wide(npu, bl_npu_reg_sram_bytes) < network->sram_bytes ||
        get_wide(npu, bl_npu_reg_dram_bytes) < network->dram_bytes)
        return bl_npu_too_small;
    return bl_npu_ok;
}

static int load(const struct network *network, struct bl_npu *npu, const void *commands, size_t command_bytes,
                const void *constants, size_t constant_bytes)
{
    int status = attach(network, npu);

    if (status != bl_npu_ok)
        return status;
    if (!commands || !constants)
        return bl_npu_bad_argument;
    if (command_bytes != network->command_bytes || constant_bytes != network->constant_bytes ||
        crc(commands, command_bytes) != network->command_crc || crc(constants, constant_bytes) != network->constant_crc)
        return bl_npu_wrong_contents;
    memcpy(npu->commands, commands, command_bytes);
    memcpy(npu->dram, constants, constant_bytes);
    return bl_npu_ok;
}

/* Looks until the device has completed what the doorbell asked for. */
static int await(struct bl_npu *npu)
{
    uint32_t number = get(npu, bl_npu_reg_doorbell);
    uint64_t looks = 0;

    while (get(npu, bl_npu_reg_completed) != number) {
        if (looks++ >= npu->poll_limit)
            return bl_npu_timeout;
        if (npu->pause)
            npu->pause(npu->user);
    }
    atomic_thread_fence(memory_order_seq_cst);
    return bl_npu_ok;
}

static int run_streams(const struct network *network, struct bl_npu *npu, const struct step *step)
{

    for (uint32_t core = 0; core < network->cores; core++) {
        put(npu, bl_npu_reg_streams + bl_npu_stream_bytes * core, step->streams[core].byte);
        put(npu, bl_npu_reg_streams + bl_npu_stream_bytes * core + 4, step->streams[core].instructions);
    }
    atomic_thread_fence(memory_order_seq_cst); /* tensors and streams are there before the bell rings */
    put(npu, bl_npu_reg_doorbell, get(npu, bl_npu_reg_doorbell) + 1);
    if (await(npu) != bl_npu_ok)
        return bl_npu_timeout;
    if (get(npu, bl_npu_reg_status) == bl_npu_failed) {
        npu->error = get(npu, bl_npu_reg_error);
        npu->error_core = get(npu, bl_npu_reg_error_core);
        npu->error_index = get(npu, bl_npu_reg_error_index);
        return bl_npu_device_error;
    }
    npu->cycles += get_wide(npu, bl_npu_reg_cycles);
    return bl_npu_ok;
}

static struct bl_npu_operand operand_of(const struct bl_npu *npu, const struct value *value)
{
    unsigned char *memories[] = {npu->host, npu->sram, npu->dram};
    struct bl_npu_operand found = {value->name,  value->element, NULL, value->bytes,
                                   value->rank, value->shape,   value->strides};

    /* A constant is never a result: nobody writes through this pointer. */
    found.data = value->memory == in_constants ? (void *)(uintptr_t)value->constant
                                               : memories[value->memory] + value->byte;
    return found;
}

static uint64_t elements_of(const struct bl_npu_operand *x)
{
    uint64_t count = 1;

    for (uint32_t axis = 0; axis < x->rank; axis++)
        count *= x->shape[axis];
    return count;
}

/* The element with number `index` in C order. */
static unsigned char *element(const struct bl_npu_operand *x, uint64_t index)
{
    int64_t at = 0;

    for (uint32_t axis = x->rank; axis-- > 0; index /= x->shape[axis])
        at += (int64_t)(index % x->shape[axis]) * x->strides[axis];
    return (unsigned char *)x->data + at * (int64_t)x->bytes;
}

static int32_t code_of(const unsigned char *at, uint32_t bytes)
{
    int8_t narrow;
    int16_t wide;

    if (bytes == 1) {
        memcpy(&narrow, at, 1);
        return narrow;
    }
    memcpy(&wide, at, 2);
    return wide;
}

/* clamp(floor(x / scale + 1/2), low, high) + zero point, each operation rounded to float32; of NaN, the highest. */
static int32_t quantized(const struct step *step, float x)
{
    volatile float scaled = x * step->factor; /* volatile: no fused multiplication and addition */
    volatile float moved = scaled + 0.5f;
    int32_t low = step->low - step->zero_point, high = step->high - step->zero_point, floor;

    if (!(moved < (float)high))
        return step->high;
    if (moved < (float)low)
        return step->low;
    floor = (int32_t)moved;
    return floor - (moved < (float)floor) + step->zero_point;
}

static void move(const struct step *step, const struct bl_npu_operand *x, const struct bl_npu_operand *y)
{
    uint64_t count = elements_of(x);

    for (uint64_t i = 0; i < count; i++) {
        const unsigned char *from = element(x, i);
        unsigned char *to = element(y, i);

        if (step->kind == copy) {
            memcpy(to, from, x->bytes);
        } else if (step->kind == quantize) {
            float real;
            memcpy(&real, from, sizeof real);
            int32_t code = quantized(step, real);
            int8_t narrow = (int8_t)code;
            int16_t wide = (int16_t)code;
            memcpy(to, y->bytes == 1 ? (void *)&narrow : (void *)&wide, y->bytes);
        } else {
            float real = (float)(code_of(from, x->bytes) - step->zero_point) * step->factor;
            memcpy(to, &real, sizeof real);
        }
    }
}

static int run_host(const struct network *network, struct bl_npu *npu, const struct step *step, uint32_t index)
{
    struct bl_npu_operand operands[MAX_OPERANDS];

    for (uint32_t i = 0; i < step->input_count + step->output_count; i++)
        operands[i] = operand_of(npu, &network->values[step->operands[i]]);
    if (step->kind != on_host) {
        move(step, &operands[0], &operands[1]);
        return bl_npu_ok;
    }
    struct bl_npu_call call = {index,          step->value,        step->layer,         step->op,
                               step->reason,   step->input_count,  step->output_count,  operands,
                               operands + step->input_count};
    if (!npu->compute)
        return bl_npu_needs_host;
    return npu->compute(npu->user, &call) == 0 ? bl_npu_ok : bl_npu_host_failed;
}

/* Between a dense array of the caller and a value. */
static void port(struct bl_npu *npu, const struct value *value, unsigned char *dense, int writes)
{
    struct bl_npu_operand x = operand_of(npu, value);
    uint64_t count = elements_of(&x);

    for (uint64_t i = 0; i < count; i++) {
        unsigned char *there = element(&x, i), *here = dense + i * x.bytes;
        memcpy(writes ? there : here, writes ? here : there, x.bytes);
    }
}

static int run(const struct network *network, struct bl_npu *npu, const void *const *inputs, void *const *outputs)
{
    int status = attach(network, npu);

    if (status != bl_npu_ok)
        return status;
    if (!inputs || !outputs || !npu->host || (uintptr_t)npu->host % 16)
        return bl_npu_bad_argument;
    npu->cycles = 0;
    npu->failed_step = npu->error = npu->error_core = npu->error_index = 0;
    /* A run that was given up may still write into the memories. */
    if ((status = await(npu)) != bl_npu_ok)
        return status;
    for (uint32_t i = 0; i < network->input_count; i++)
        port(npu, &network->values[network->inputs[i]], (unsigned char *)(uintptr_t)inputs[i], 1);
    for (uint32_t i = 0; i < network->step_count; i++) {
        const struct step *step = &network->steps[i];
        status = step->kind == on_device ? run_streams(network, npu, step) : run_host(network, npu, step, i);
        if (status != bl_npu_ok) {
            npu->failed_step = i;
            return status;
        }
    }
    for (uint32_t i = 0; i < network->output_count; i++)
        port(npu, &network->values[network->outputs[i]], outputs[i], 0);
    return bl_npu_ok;
}
