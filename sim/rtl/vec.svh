// VEC: VEC_LANES elements of a row at a time, from accumulators or codes to codes.

int vec_row, vec_element, vec_cycle, vec_drained;

function automatic int vec_rows();
  case (`OPCODE(running[VEC]))
    OP_REQUANTIZE: return `REQUANTIZE_PIXELS(running[VEC]);
    OP_ELEMENTWISE: return `ELEMENTWISE_ROWS(running[VEC]);
    OP_SOFTMAX: return `SOFTMAX_ROWS(running[VEC]);
    OP_POOL: return `POOL_ROWS(running[VEC]) * `POOL_COLUMNS(running[VEC]);
    default: return `LOOKUP_ROWS(running[VEC]);
  endcase
endfunction
function automatic int vec_count();
  case (`OPCODE(running[VEC]))
    OP_REQUANTIZE: return `REQUANTIZE_CHANNELS(running[VEC]);
    OP_ELEMENTWISE: return `ELEMENTWISE_COUNT(running[VEC]);
    OP_SOFTMAX: return `SOFTMAX_COUNT(running[VEC]);
    OP_POOL: return `POOL_CHANNELS(running[VEC]);
    default: return `LOOKUP_COUNT(running[VEC]);
  endcase
endfunction
function automatic int vec_destination();
  case (`OPCODE(running[VEC]))
    OP_REQUANTIZE: return `REQUANTIZE_DST(running[VEC]);
    OP_ELEMENTWISE: return `ELEMENTWISE_DST(running[VEC]);
    OP_SOFTMAX: return `SOFTMAX_DST(running[VEC]);
    OP_POOL: return `POOL_DST(running[VEC]);
    default: return `LOOKUP_DST(running[VEC]);
  endcase
endfunction
function automatic int vec_cycles();
  case (`OPCODE(running[VEC]))
    OP_REQUANTIZE:
    return `OUTPUT_LOOKUP(out_register) && LOOKUP_CYCLES > REQUANTIZE_CYCLES ? LOOKUP_CYCLES : REQUANTIZE_CYCLES;
    OP_ELEMENTWISE: return ELEMENTWISE_CYCLES;
    OP_SOFTMAX: return softmax_pass < 2 ? 1 : SOFTMAX_CYCLES - 2;
    OP_POOL: return POOL_CYCLES * `WINDOW_KERNEL_Y(window[1]) * `WINDOW_KERNEL_X(window[1]);
    default: return LOOKUP_CYCLES;
  endcase
endfunction

function automatic longint bounded(longint value);
  longint low, high;
  low = longint'($signed(`OUTPUT_LOW(out_register)));
  high = longint'($signed(`OUTPUT_HIGH(out_register)));
  if (`OUTPUT_OUT_BITS(out_register) == 5) return value;
  return value < low ? low : value > high ? high : value;
endfunction

function automatic longint shifted(longint total, int shift);
  return shift == 0 ? total : (total + (64'sd1 <<< (shift - 1))) >>> shift;
endfunction

task automatic write_code(int element, longint value);
  int bits, at;
  bits = 1 << `OUTPUT_OUT_BITS(out_register);
  at = vec_destination() + vec_row * `OUTPUT_STRIDE(out_register) + element * bits / 8;
  if (bits >= 8) for (int b = 0; b < bits / 8; b++) act_mem[at+b] = 8'(value >> (8 * b));
  else begin
    int field, place;
    place = element * bits % 8;
    field = bits == 1 ? int'(value > 0) : int'(value) & ((1 << bits) - 1);
    act_mem[at] = place == 0 ? 8'(field) : act_mem[at] | 8'(field << place);
  end
endtask

function automatic longint table_byte(int at);
  return longint'($signed(tab_mem[at]));
endfunction
function automatic longint table_half(int at);
  return longint'($signed({tab_mem[at+1], tab_mem[at]}));
endfunction

function automatic longint requantized(int channel);
  logic [71:0] entry;
  logic signed [31:0] total;
  longint code;
  int at;
  at = `REQUANTIZE_PARAM(running[VEC]) + (`REQUANTIZE_PER_TENSOR(running[VEC]) ? 0 : 9 * channel);
  for (int b = 0; b < 9; b++) entry[8*b+:8] = par_mem[at+b];
  total = acc_mem[int'(`REQUANTIZE_ACC(running[VEC]))+vec_row*vec_count()+channel] + $signed(entry[31:0]);
  if (`OUTPUT_OUT_BITS(out_register) == 5) return longint'(total);
  code = shifted(longint'(total) * (longint'(entry[61:32]) + 64'sd1073741824), int'(entry[67:62]));
  code = bounded(code + longint'($signed(`OUTPUT_ZERO_POINT(out_register))));
  return `OUTPUT_LOOKUP(out_register) ? table_byte(int'(`OUTPUT_TABLE(out_register)) + int'(code) + 128) : code;
endfunction

function automatic longint elementwise(int element);
  longint a, b, total, ma, mb;
  int function_code;
  function_code = int'(`ELEMENTWISE_FUNCTION(running[VEC]));
  a = act_code(`ELEMENTWISE_A(running[VEC]) + vec_row * `INPUTS_A_STRIDE(in_register), element,
               1 << `INPUTS_A_BITS(in_register));
  b = act_code(`ELEMENTWISE_B(running[VEC]) + vec_row * `INPUTS_B_STRIDE(in_register),
               `INPUTS_B_SCALAR(in_register) ? 0 : element, 1 << `INPUTS_B_BITS(in_register));
  case (function_code)
    3: return bounded(a < b ? a : b);
    4: return bounded(a > b ? a : b);
    5: return bounded(a);
    default: ;
  endcase
  a -= longint'($signed(`INPUTS_A_ZERO(in_register)));
  b -= longint'($signed(`INPUTS_B_ZERO(in_register)));
  ma = longint'($signed(`FACTORS_MULTIPLIER_A(factors)));
  mb = longint'($signed(`FACTORS_MULTIPLIER_B(factors)));
  case (function_code)
    0: total = a * ma + b * mb;
    1: total = a * b * ma;
    default: total = a * ma;
  endcase
  return bounded(shifted(total, int'(`FACTORS_SHIFT(factors))) + longint'($signed(`OUTPUT_ZERO_POINT(out_register))));
endfunction

function automatic longint pooled(int channel);
  longint total, largest, code;
  int row, column, bits;
  bits = 1 << `INPUTS_A_BITS(in_register);
  total = 0;
  largest = bits == 1 ? -1 : -(64'sd1 <<< (bits - 1));
  for (int i = 0; i < `WINDOW_KERNEL_Y(window[1]); i++)
    for (int j = 0; j < `WINDOW_KERNEL_X(window[1]); j++) begin
      row = (vec_row / `POOL_COLUMNS(running[VEC])) * `WINDOW_STRIDE_Y(window[1]) + i * `WINDOW_DILATION_Y(window[1]) -
          `WINDOW_PAD_TOP(window[1]);
      column = (vec_row % `POOL_COLUMNS(running[VEC])) * `WINDOW_STRIDE_X(window[1]) +
          j * `WINDOW_DILATION_X(window[1]) - `WINDOW_PAD_LEFT(window[1]);
      if (row >= 0 && row < int'(`WINDOW_HEIGHT(window[1])) &&
          column >= 0 && column < int'(`WINDOW_WIDTH(window[1]))) begin
        code = act_code(`POOL_A(running[VEC]) + row * `INPUTS_A_IMAGE_STRIDE(in_register) +
                        column * `INPUTS_A_STRIDE(in_register),
                        channel, bits);
        if (code > largest) largest = code;
        total += code - longint'($signed(`INPUTS_A_ZERO(in_register)));
      end
    end
  if (`POOL_FUNCTION(running[VEC]) == 0) return bounded(largest);
  total *= longint'($signed(`FACTORS_MULTIPLIER_A(factors)));
  return bounded(shifted(total, int'(`FACTORS_SHIFT(factors))) + longint'($signed(`OUTPUT_ZERO_POINT(out_register))));
endfunction

function automatic longint looked_up(int element);
  longint code, left, right;
  int bits, at, index;
  bits = 1 << `INPUTS_A_BITS(in_register);
  at = `LOOKUP_TABLE(running[VEC]);
  code = act_code(`LOOKUP_A(running[VEC]) + vec_row * `INPUTS_A_STRIDE(in_register), element, bits);
  index = int'(code) + (bits == 1 ? 1 : 1 << (bits - 1));
  if (bits == 16) begin
    left = table_half(at + 2 * (index >> 7));
    right = table_half(at + 2 * (index >> 7) + 2);
    return bounded(left + (((right - left) * longint'(index & 127) + 64) >>> 7));
  end
  return bounded(`OUTPUT_OUT_BITS(out_register) > 3 ? table_half(at + 2 * index) : table_byte(at + index));
endfunction

// Softmax goes over each row three times: largest code, sum of exponentials, quotients.
int softmax_pass;
longint softmax_largest, softmax_total;

function automatic longint softmax_code(int element);
  return act_code(`SOFTMAX_A(running[VEC]) + vec_row * `INPUTS_A_STRIDE(in_register), element,
                  1 << `INPUTS_A_BITS(in_register));
endfunction

function automatic longint table_word(int at);
  return longint'($signed({tab_mem[at+3], tab_mem[at+2], tab_mem[at+1], tab_mem[at]}));
endfunction

function automatic longint exponential(int element);
  int distance, at;
  distance = int'(softmax_largest - softmax_code(element));
  at = `SOFTMAX_TABLE(running[VEC]);
  if (`INPUTS_A_BITS(in_register) == 3) return table_word(at + 4 * distance);
  return shifted(table_word(at + 4 * (distance >> 8)) * table_word(at + 1024 + 4 * (distance & 255)),
                 `OUTPUT_OUT_BITS(out_register) == 3 ? 44 : 30);
endfunction

task automatic softmax(int element);
  longint ratio, most;
  int bits;
  bits = 1 << `OUTPUT_OUT_BITS(out_register);
  most = (64'sd1 <<< bits) - 1;
  case (softmax_pass)
    0: if (element == 0 || softmax_code(element) > softmax_largest) softmax_largest = softmax_code(element);
    1: softmax_total = (element == 0 ? 0 : softmax_total) + exponential(element);
    default: begin
      ratio = ((exponential(element) <<< (bits + 1)) + softmax_total) / (softmax_total <<< 1);
      write_code(element, (ratio < most ? ratio : most) - (64'sd1 <<< (bits - 1)));
    end
  endcase
endtask

task automatic vec_step(logic first, output logic ended);
  ended = 0;
  if (first) {vec_row, vec_element, vec_cycle, vec_drained, softmax_pass} = 0;
  if (vec_row == vec_rows()) begin
    vec_drained += 1;
    ended = vec_drained == VEC_PIPELINE;
  end else begin
    vec_cycle += 1;
    if (vec_cycle == vec_cycles()) begin
      vec_cycle = 0;
      for (int e = vec_element; e < vec_element + VEC_LANES && e < vec_count(); e++)
        case (`OPCODE(running[VEC]))
          OP_REQUANTIZE: write_code(e, requantized(e));
          OP_ELEMENTWISE: write_code(e, elementwise(e));
          OP_POOL: write_code(e, pooled(e));
          OP_SOFTMAX: softmax(e);
          default: write_code(e, looked_up(e));
        endcase
      vec_element += VEC_LANES;
      if (vec_element >= vec_count()) begin
        vec_element = 0;
        if (`OPCODE(running[VEC]) == OP_SOFTMAX && softmax_pass < 2) softmax_pass += 1;
        else begin
          softmax_pass = 0;
          vec_row += 1;
        end
      end
    end
  end
endtask
