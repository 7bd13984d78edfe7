// Which banks an instruction needs: the hull of what it reads and writes, as its operands' registers say.

function automatic logic [63:0] bank_range(int first_bit, int bank_size, int begin_at, int size);
  logic [63:0] mask;
  mask = 0;
  if (size > 0)
    for (int b = begin_at / bank_size; b <= (begin_at + size - 1) / bank_size; b++) mask[first_bit+b] = 1;
  return mask;
endfunction

function automatic logic [63:0] local_banks(int memory, int begin_at, int size);
  case (memory)
    ACTIVATION: return bank_range(ACTIVATION_BANK_BIT, ACTIVATION_BANK, begin_at, size);
    WEIGHT: return bank_range(WEIGHT_BANK_BIT, WEIGHT_BANK, begin_at, size);
    PARAMETER: return bank_range(PARAMETER_BANK_BIT, PARAMETER_BANK, begin_at, size);
    TABLE: return bank_range(TABLE_BANK_BIT, TABLE_BANK, begin_at, size);
    default: return bank_range(ACCUMULATOR_BANK_BIT, ACCUMULATOR_BANK, begin_at, size);
  endcase
endfunction

// Rows of an image up to the last one that `rows` outputs see.
function automatic int seen(int rows, int stride, int kernel, int dilation, int pad, int extent);
  int last;
  last = (rows - 1) * stride + (kernel - 1) * dilation + 1 - pad;
  return last < 0 ? 0 : last > extent ? extent : last;
endfunction

function automatic logic [63:0] image_banks(logic [127:0] w, int base, int rows, int columns, int row_stride,
                                            int pixel_stride, int pixel_bytes);
  int height, width;
  height = seen(rows, `WINDOW_STRIDE_Y(w), `WINDOW_KERNEL_Y(w), `WINDOW_DILATION_Y(w), `WINDOW_PAD_TOP(w),
                `WINDOW_HEIGHT(w));
  width = seen(columns, `WINDOW_STRIDE_X(w), `WINDOW_KERNEL_X(w), `WINDOW_DILATION_X(w), `WINDOW_PAD_LEFT(w),
               `WINDOW_WIDTH(w));
  if (height == 0 || width == 0) return 0;
  return local_banks(ACTIVATION, base, (height - 1) * row_stride + (width - 1) * pixel_stride + pixel_bytes);
endfunction

function automatic logic [63:0] rows_banks(int base, int rows, int stride, int count, int bits);
  return local_banks(ACTIVATION, base, (rows - 1) * stride + ceil_div(count * bits, 8));
endfunction

function automatic logic [63:0] dma_banks(logic [127:0] r, int memory, int base, int row_bytes, int rows, int planes);
  int element;
  element = 1 << `LOCAL_STRIDES_ELEMENT_BYTES(r);
  return local_banks(memory, base,
                     (planes - 1) * `LOCAL_STRIDES_PLANE(r) + (rows - 1) * `LOCAL_STRIDES_ROW(r) +
                     (ceil_div(row_bytes, element) - 1) * `LOCAL_STRIDES_ELEMENT(r) + element);
endfunction

function automatic int gemm_weight_bytes(int outputs);
  int rows, bits, lanes;
  bits = 1 << `OPERANDS_WGT_BITS(operands);
  lanes = output_lanes(1 << `OPERANDS_ACT_BITS(operands), bits);
  rows = `WINDOW_KERNEL_Y(window[0]) * `WINDOW_KERNEL_X(window[0]) * `OPERANDS_CHANNELS(operands);
  return rows * ((outputs / lanes) * ceil_div(lanes * bits, 8) + ceil_div((outputs % lanes) * bits, 8));
endfunction

function automatic logic [63:0] banks_of(logic [127:0] i);
  int act_bits, out_bits, a_bits, channels;
  act_bits = 1 << `OPERANDS_ACT_BITS(operands);
  out_bits = 1 << `OUTPUT_OUT_BITS(out_register);
  a_bits = 1 << `INPUTS_A_BITS(in_register);
  channels = `OPERANDS_CHANNELS(operands);
  case (`OPCODE(i))
    OP_LOAD: return dma_banks(local_strides[stream_of(int'(`LOAD_ENGINE(i)))], `LOAD_MEMORY(i), `LOAD_LOCAL(i),
                              `LOAD_ROW_BYTES(i), `LOAD_ROWS(i), `LOAD_PLANES(i));
    OP_FILL: return dma_banks(local_strides[stream_of(int'(`FILL_ENGINE(i)))], `FILL_MEMORY(i), `FILL_LOCAL(i),
                              `FILL_ROW_BYTES(i), `FILL_ROWS(i), `FILL_PLANES(i));
    OP_INFLATE: return local_banks(`INFLATE_MEMORY(i), `INFLATE_LOCAL(i), `INFLATE_RAW_BYTES(i));
    OP_STORE: return dma_banks(local_strides[1], ACTIVATION, `STORE_LOCAL(i), `STORE_ROW_BYTES(i), `STORE_ROWS(i),
                               `STORE_PLANES(i));
    OP_GEMM: return image_banks(window[0], `GEMM_ACT(i), `GEMM_ROWS(i), `GEMM_COLUMNS(i),
                                `OPERANDS_ROW_STRIDE(operands), `OPERANDS_PIXEL_STRIDE(operands),
                                ceil_div(channels * act_bits, 8)) |
        local_banks(WEIGHT, `GEMM_WGT(i), gemm_weight_bytes(`GEMM_OUTPUTS(i))) |
        local_banks(4, `GEMM_ACC(i), `GEMM_ROWS(i) * `GEMM_COLUMNS(i) * `GEMM_OUTPUTS(i));
    OP_DEPTHWISE: return image_banks(window[0], `DEPTHWISE_ACT(i), `DEPTHWISE_ROWS(i), `DEPTHWISE_COLUMNS(i),
                                     `OPERANDS_ROW_STRIDE(operands), `OPERANDS_PIXEL_STRIDE(operands),
                                     ceil_div(channels * act_bits, 8)) |
        local_banks(WEIGHT, `DEPTHWISE_WGT(i), `WINDOW_KERNEL_Y(window[0]) * `WINDOW_KERNEL_X(window[0]) *
                    ceil_div(channels << `OPERANDS_WGT_BITS(operands), 8)) |
        local_banks(4, `DEPTHWISE_ACC(i), `DEPTHWISE_ROWS(i) * `DEPTHWISE_COLUMNS(i) * channels);
    OP_REQUANTIZE: return local_banks(4, `REQUANTIZE_ACC(i), `REQUANTIZE_PIXELS(i) * `REQUANTIZE_CHANNELS(i)) |
        local_banks(PARAMETER, `REQUANTIZE_PARAM(i),
                    9 * (`REQUANTIZE_PER_TENSOR(i) ? 1 : int'(`REQUANTIZE_CHANNELS(i)))) |
        local_banks(TABLE, `OUTPUT_TABLE(out_register), `OUTPUT_LOOKUP(out_register) ? 256 : 0) |
        rows_banks(`REQUANTIZE_DST(i), `REQUANTIZE_PIXELS(i), `OUTPUT_STRIDE(out_register), `REQUANTIZE_CHANNELS(i),
                   out_bits);
    OP_ELEMENTWISE: return rows_banks(`ELEMENTWISE_A(i), `ELEMENTWISE_ROWS(i), `INPUTS_A_STRIDE(in_register),
                                      `ELEMENTWISE_COUNT(i), a_bits) |
        (`ELEMENTWISE_FUNCTION(i) == 2 || `ELEMENTWISE_FUNCTION(i) == 5 ? 0 :
         rows_banks(`ELEMENTWISE_B(i), `ELEMENTWISE_ROWS(i), `INPUTS_B_STRIDE(in_register),
                    `INPUTS_B_SCALAR(in_register) ? 1 : int'(`ELEMENTWISE_COUNT(i)),
                    1 << `INPUTS_B_BITS(in_register))) |
        rows_banks(`ELEMENTWISE_DST(i), `ELEMENTWISE_ROWS(i), `OUTPUT_STRIDE(out_register), `ELEMENTWISE_COUNT(i),
                   out_bits);
    OP_POOL: return image_banks(window[1], `POOL_A(i), `POOL_ROWS(i), `POOL_COLUMNS(i),
                                `INPUTS_A_IMAGE_STRIDE(in_register), `INPUTS_A_STRIDE(in_register),
                                ceil_div(`POOL_CHANNELS(i) * a_bits, 8)) |
        rows_banks(`POOL_DST(i), `POOL_ROWS(i) * `POOL_COLUMNS(i), `OUTPUT_STRIDE(out_register), `POOL_CHANNELS(i),
                   out_bits);
    OP_SOFTMAX: return rows_banks(`SOFTMAX_A(i), `SOFTMAX_ROWS(i), `INPUTS_A_STRIDE(in_register), `SOFTMAX_COUNT(i),
                                  a_bits) |
        rows_banks(`SOFTMAX_DST(i), `SOFTMAX_ROWS(i), `OUTPUT_STRIDE(out_register), `SOFTMAX_COUNT(i), out_bits) |
        local_banks(TABLE, `SOFTMAX_TABLE(i), 1);
    OP_LOOKUP: return rows_banks(`LOOKUP_A(i), `LOOKUP_ROWS(i), `INPUTS_A_STRIDE(in_register), `LOOKUP_COUNT(i),
                                 a_bits) |
        rows_banks(`LOOKUP_DST(i), `LOOKUP_ROWS(i), `OUTPUT_STRIDE(out_register), `LOOKUP_COUNT(i), out_bits) |
        local_banks(TABLE, `LOOKUP_TABLE(i), 1);
    default: return 0;
  endcase
endfunction
