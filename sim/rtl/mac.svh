// MAC: an array whose weights are loaded beside the fold that is computed.
//
// Two sets of weights: `next`, which fills from the weight memory, and `array`, which multiplies. In each cycle one
// output position meets all weights of the array, and the sums are added to the accumulators; where those are more
// than the accumulators' port moves in a cycle, a position takes several.

localparam int LANES = 8 * COLUMNS;
localparam int DEPTH = 8 * ROWS > 128 ? 8 * ROWS : 128;

// A fold: `outputs` lanes from channel `first_output` on, kernel position (y, x), `count` channels from `channel` on.
typedef struct packed {
  int first_output, outputs, y, x, channel, count;
  logic overwrite;
} fold_t;

logic signed [8:0] next_weights[DEPTH * LANES], array_weights[DEPTH * LANES];
fold_t loading, next_fold, array_fold;
logic next_valid, all_loaded, streaming;
int load_row, load_column, weight_at;
int position_y, position_x, position_cycle, drained;

function automatic int output_lanes(int act_bits, int wgt_bits);
  int per_column, most;
  most = MAX_MACS * act_bits / 8;
  if (most < 1) most = 1;
  per_column = 8 / wgt_bits;
  return COLUMNS * (per_column < most ? per_column : most);
endfunction

function automatic logic is_depthwise();
  return `OPCODE(running[MAC]) == OP_DEPTHWISE;
endfunction
function automatic int mac_rows();
  return is_depthwise() ? int'(`DEPTHWISE_ROWS(running[MAC])) : int'(`GEMM_ROWS(running[MAC]));
endfunction
function automatic int mac_columns();
  return is_depthwise() ? int'(`DEPTHWISE_COLUMNS(running[MAC])) : int'(`GEMM_COLUMNS(running[MAC]));
endfunction
function automatic int mac_outputs();
  return is_depthwise() ? int'(`OPERANDS_CHANNELS(operands)) : int'(`GEMM_OUTPUTS(running[MAC]));
endfunction
function automatic int mac_lanes();
  int act_bits, wgt_bits, wide;
  act_bits = 1 << `OPERANDS_ACT_BITS(operands);
  wgt_bits = 1 << `OPERANDS_WGT_BITS(operands);
  if (!is_depthwise()) return output_lanes(act_bits, wgt_bits);
  wide = act_bits > wgt_bits ? act_bits : wgt_bits;
  return DEPTHWISE_CHANNELS * 8 / wide < 1 ? 1 : DEPTHWISE_CHANNELS * 8 / wide;
endfunction
function automatic int least(int a, int b);
  return a < b ? a : b;
endfunction
function automatic int kernel_taps();
  return `WINDOW_KERNEL_Y(window[0]) * `WINDOW_KERNEL_X(window[0]);
endfunction

// A code of `bits` bits, number `index` behind byte `base` of the activation memory.
function automatic longint act_code(int base, int index, int bits);
  int at, field;
  at = base + index * bits / 8;
  case (bits)
    32: return longint'($signed({act_mem[at+3], act_mem[at+2], act_mem[at+1], act_mem[at]}));
    16: return longint'($signed({act_mem[at+1], act_mem[at]}));
    8: return longint'($signed(act_mem[at]));
    default: begin
      field = (int'(act_mem[at]) >> (index * bits % 8)) & ((1 << bits) - 1);
      if (bits == 1) return field == 1 ? 1 : -1;
      return longint'(field >= (1 << (bits - 1)) ? field - (1 << bits) : field);
    end
  endcase
endfunction

function automatic logic signed [8:0] weight_code(logic [7:0] data, int place, int bits);
  int field;
  field = (int'(data) >> (place * bits)) & ((1 << bits) - 1);
  if (bits == 1) field = field == 1 ? 1 : -1;
  else if (field >= (1 << (bits - 1))) field -= 1 << bits;
  return 9'(field - int'($signed(`OPERANDS_WGT_ZERO(operands))));
endfunction

task automatic set_fold_size();
  int reduction;
  reduction = ROWS * 8 >> `OPERANDS_ACT_BITS(operands);
  loading.outputs = least(mac_lanes(), mac_outputs() - loading.first_output);
  loading.count = is_depthwise() ? kernel_taps() :
      least(reduction, int'(`OPERANDS_CHANNELS(operands)) - loading.channel);
  loading.overwrite = loading.y == 0 && loading.x == 0 && loading.channel == 0 &&
      !(is_depthwise() ? `DEPTHWISE_ACCUMULATE(running[MAC]) : `GEMM_ACCUMULATE(running[MAC]));
endtask

task automatic advance_loading();
  if (!is_depthwise()) begin
    loading.channel += loading.count;
    if (loading.channel >= `OPERANDS_CHANNELS(operands)) begin
      loading.channel = 0;
      loading.x += 1;
      if (loading.x == `WINDOW_KERNEL_X(window[0])) begin
        loading.x = 0;
        loading.y += 1;
      end
    end
  end
  if (is_depthwise() || loading.y == `WINDOW_KERNEL_Y(window[0])) begin
    loading.y = 0;
    loading.first_output += loading.outputs;
    all_loaded = loading.first_output >= mac_outputs();
  end
  set_fold_size();
endtask

// One cycle of the weight memory's port: consecutive bytes for a fold, one row for a depthwise convolution.
task automatic load_weights();
  int bits, row_bytes, channel;
  bits = 1 << `OPERANDS_WGT_BITS(operands);
  if (is_depthwise()) begin
    row_bytes = ceil_div(mac_outputs() * bits, 8);
    for (int n = 0; n < loading.outputs; n++) begin
      channel = loading.first_output + n;
      next_weights[load_row*LANES+n] = weight_code(
          wgt_mem[`DEPTHWISE_WGT(running[MAC]) + load_row * row_bytes + channel * bits / 8],
          channel * bits % 8 / bits, bits);
    end
    load_row += 1;
  end else begin
    row_bytes = ceil_div(loading.outputs * bits, 8);
    for (int b = 0; b < WEIGHT_PORT_BYTES; b++)
      if (load_row < loading.count) begin
        for (int p = 0; p < 8 / bits; p++)
          next_weights[load_row*LANES+load_column*8/bits+p] = weight_code(wgt_mem[weight_at], p, bits);
        weight_at += 1;
        load_column += 1;
        if (load_column == row_bytes) begin
          load_column = 0;
          load_row += 1;
        end
      end
  end
  if (load_row == loading.count) begin
    next_fold = loading;
    next_valid = 1;
    load_row = 0;
    advance_loading();
  end
endtask

// Product sums of one output position, of the rows [begin_row, end_row) of the array.
task automatic multiply(int begin_row, int end_row, logic overwrite);
  int row, column, base, acc, act_bits;
  longint act;
  logic signed [31:0] sum[LANES];
  act_bits = 1 << `OPERANDS_ACT_BITS(operands);
  for (int n = 0; n < array_fold.outputs; n++) sum[n] = 0;
  for (int k = begin_row; k < end_row; k++) begin
    row = position_y * `WINDOW_STRIDE_Y(window[0]) - `WINDOW_PAD_TOP(window[0]);
    column = position_x * `WINDOW_STRIDE_X(window[0]) - `WINDOW_PAD_LEFT(window[0]);
    row += (is_depthwise() ? k / `WINDOW_KERNEL_X(window[0]) : array_fold.y) * `WINDOW_DILATION_Y(window[0]);
    column += (is_depthwise() ? k % `WINDOW_KERNEL_X(window[0]) : array_fold.x) * `WINDOW_DILATION_X(window[0]);
    if (row >= 0 && row < int'(`WINDOW_HEIGHT(window[0])) &&
        column >= 0 && column < int'(`WINDOW_WIDTH(window[0]))) begin
      base = (is_depthwise() ? int'(`DEPTHWISE_ACT(running[MAC])) : int'(`GEMM_ACT(running[MAC]))) +
          row * `OPERANDS_ROW_STRIDE(operands) + column * `OPERANDS_PIXEL_STRIDE(operands);
      for (int n = 0; n < array_fold.outputs; n++) begin
        if (n == 0 || is_depthwise())
          act = act_code(base, is_depthwise() ? array_fold.first_output + n : array_fold.channel + k, act_bits) -
              longint'($signed(`OPERANDS_ACT_ZERO(operands)));
        sum[n] += 32'(act * longint'(array_weights[k*LANES+n]));
      end
    end
  end
  acc = is_depthwise() ? int'(`DEPTHWISE_ACC(running[MAC])) : int'(`GEMM_ACC(running[MAC]));
  acc += (position_y * mac_columns() + position_x) * mac_outputs() + array_fold.first_output;
  for (int n = 0; n < array_fold.outputs; n++)
    acc_mem[acc+n] = (overwrite ? 0 : acc_mem[acc+n]) + sum[n];
endtask

task automatic stream_position();
  int cycles, begin_row;
  if (is_depthwise()) begin
    cycles = ceil_div(kernel_taps(), DEPTHWISE_TAPS);
    begin_row = position_cycle * DEPTHWISE_TAPS;
    multiply(begin_row, least(begin_row + DEPTHWISE_TAPS, kernel_taps()),
             array_fold.overwrite && position_cycle == 0);
  end else begin
    cycles = ceil_div(array_fold.outputs * 32, ACCUMULATOR_PORT_BITS);
    if (position_cycle == 0) multiply(0, array_fold.count, array_fold.overwrite);
  end
  position_cycle += 1;
  if (position_cycle == cycles) begin
    position_cycle = 0;
    position_x += 1;
    if (position_x == mac_columns()) begin
      position_x = 0;
      position_y += 1;
      streaming = position_y < mac_rows();
    end
  end
endtask

task automatic mac_step(logic first, output logic ended);
  ended = 0;
  if (first) begin
    {next_valid, all_loaded, streaming} = 0;
    {load_row, load_column, drained} = 0;
    weight_at = int'(`GEMM_WGT(running[MAC]));
    loading = 0;
    set_fold_size();
  end
  if (!streaming && next_valid) begin
    array_fold = next_fold;
    array_weights = next_weights;
    next_valid = 0;
    streaming = 1;
    {position_y, position_x, position_cycle} = 0;
  end else if (!streaming && all_loaded) begin
    drained += 1;
    ended = drained == MAC_PIPELINE;
  end
  if (streaming) stream_position();
  if (!next_valid && !all_loaded) load_weights();
endtask
