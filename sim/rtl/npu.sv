// One core of the NPU with its external memories: dispatcher, queues, semaphores, banks, and five engines.
//
// A description that is exact in cycles and in contents, parameterised by npu_parameters.svh, which sim/rtl_model.py
// writes from the same configuration that the simulator reads; fields of instructions come from there too.
// Everything advances once per clock, in this order: engines that are idle start what stands first in their queue, the
// dispatcher hands out one instruction, engines that are busy do one cycle of work. What ends in a cycle is seen in the
// next one.
`include "npu_parameters.svh"

module npu (
    input  logic clk,
    output logic done,
    output logic failed
);
  localparam int LOAD = 0, MAC = 1, VEC = 2, STORE = 3, FETCH = 4, ENGINES = 5;
  localparam int ACTIVATION = 0, WEIGHT = 1, PARAMETER = 2, TABLE = 3;
  localparam int NONE = 31;

  // Memories. An engine owns the banks that it uses, and tokens order what is outside: no two meet in one byte.
  logic [7:0] act_mem[ACTIVATION_BYTES]  /* verilator public_flat_rw */;
  logic [7:0] wgt_mem[WEIGHT_BYTES]  /* verilator public_flat_rw */;
  logic [7:0] par_mem[PARAMETER_BYTES]  /* verilator public_flat_rw */;
  logic [7:0] tab_mem[TABLE_BYTES]  /* verilator public_flat_rw */;
  logic signed [31:0] acc_mem[ACCUMULATOR_WORDS]  /* verilator public_flat_rw */;
  logic [7:0] sram[EXTERNAL_BYTES]  /* verilator public_flat_rw */;
  logic [7:0] dram[EXTERNAL_BYTES]  /* verilator public_flat_rw */;
  logic [127:0] program_mem[PROGRAM_LENGTH]  /* verilator public_flat_rw */;

  // Counters.
  longint cycle  /* verilator public_flat_rw */;
  longint busy_cycles[ENGINES]  /* verilator public_flat_rw */;

  // Dispatcher, queues, semaphores, banks.
  int next_instruction;
  logic [127:0] queue[ENGINES * QUEUE_DEPTH];
  int queue_head[ENGINES], queue_count[ENGINES];
  int token_count[32];

  // Engines: what runs, which banks they use. LOAD, FETCH and STORE may run several instructions (dma.svh): of them,
  // running is only what takes one cycle, and issued nothing.
  logic busy[ENGINES], one_cycle[ENGINES];
  logic [127:0] running[ENGINES];
  logic [63:0] running_banks[ENGINES];
  int issued[ENGINES];  // cycles of the current instruction so far

  // Registers.
  logic [127:0] strides[3], local_strides[3];  // by stream, see dma.svh
  logic [127:0] window[2];  // MAC, VEC
  logic [127:0] operands, out_register, in_register, factors;

  initial begin
    done = 0;
    failed = 0;
    cycle = 0;
    next_instruction = 0;
    for (int e = 0; e < ENGINES; e++) begin
      queue_head[e] = 0;
      queue_count[e] = 0;
      busy[e] = 0;
      one_cycle[e] = 0;
      running_banks[e] = 0;
      busy_cycles[e] = 0;
    end
    for (int s = 0; s < 3; s++) begin
      {flight_head[s], flight_count[s], flight_asked[s], request_head[s]} = 0;
      {on_way[2*s], on_way[2*s+1]} = 0;
      {request_plane[s], request_row[s], request_offset[s]} = 0;
      set_up(s);
    end
    for (int t = 0; t < 32; t++) token_count[t] = 0;
    for (int p = 0; p < 2; p++) begin
      port_client[p] = -1;
      port_last[p] = 2;
      port_left[p] = 0;
    end
  end

  function automatic int ceil_div(int a, int b);
    return (a + b - 1) / b;
  endfunction

  function automatic int engine_of(logic [127:0] i);
    case (`OPCODE(i))
      OP_SYNC, OP_STRIDES, OP_LOCAL_STRIDES, OP_WINDOW, OP_LOAD, OP_FILL, OP_INFLATE: return int'(`SYNC_ENGINE(i));
      OP_STORE: return STORE;
      OP_OPERANDS, OP_GEMM, OP_DEPTHWISE: return MAC;
      default: return VEC;
    endcase
  endfunction

  // Registers and bare semaphores take one cycle and no bank.
  function automatic logic is_short(logic [127:0] i);
    case (`OPCODE(i))
      OP_SYNC, OP_STRIDES, OP_LOCAL_STRIDES, OP_WINDOW, OP_OPERANDS, OP_OUTPUT, OP_INPUTS, OP_FACTORS: return 1;
      default: return 0;
    endcase
  endfunction

  `include "banks.svh"
  `include "dma.svh"
  `include "mac.svh"
  `include "vec.svh"

  task automatic write_register(logic [127:0] i);
    case (`OPCODE(i))
      OP_STRIDES: strides[stream_of(int'(`SYNC_ENGINE(i)))] = i;
      OP_LOCAL_STRIDES: local_strides[stream_of(int'(`SYNC_ENGINE(i)))] = i;
      OP_WINDOW: window[`SYNC_ENGINE(i) == VEC] = i;
      OP_OPERANDS: operands = i;
      OP_OUTPUT: out_register = i;
      OP_INPUTS: in_register = i;
      OP_FACTORS: factors = i;
      default: ;
    endcase
  endtask

  // Registers and bare semaphores that post nothing are done when they begin; others end in their engine's order.
  function automatic logic is_alone(logic [127:0] i);
    return !is_short(i) || `POST0(i) != NONE || `POST1(i) != NONE;
  endfunction

  function automatic logic can_begin(int e, logic [127:0] i);
    if (!transfers(e)) return !busy[e];
    return !is_alone(i) || flight_count[stream_of(e)] < OUTSTANDING_INSTRUCTIONS;
  endfunction

  // An engine may share a bank with itself: it moves one burst after the other.
  function automatic logic [63:0] banks_of_others(int e);
    logic [63:0] mask;
    mask = 0;
    for (int other = 0; other < ENGINES; other++) if (other != e) mask |= running_banks[other];
    return mask;
  endfunction

  // Lower engines first; a bank that one of them has just taken is busy for the others.
  task automatic start_engines();
    for (int e = 0; e < ENGINES; e++) begin
      logic [127:0] i;
      logic [63:0] needed;
      one_cycle[e] = 0;
      i = queue[e * QUEUE_DEPTH + queue_head[e]];
      needed = is_short(i) ? 0 : banks_of(i);
      if (queue_count[e] > 0 && can_begin(e, i) && (`WAIT0(i) == NONE || token_count[`WAIT0(i)] > 0) &&
          (`WAIT1(i) == NONE || token_count[`WAIT1(i)] > 0) && (needed & banks_of_others(e)) == 0) begin
        queue_head[e] = (queue_head[e] + 1) % QUEUE_DEPTH;
        queue_count[e] -= 1;
        if (`WAIT0(i) != NONE) token_count[`WAIT0(i)] -= 1;
        if (`WAIT1(i) != NONE) token_count[`WAIT1(i)] -= 1;
        if (is_short(i)) write_register(i);
        if (transfers(e) && is_alone(i)) begin
          busy[e] = 1;
          running_banks[e] |= needed;
          begin_in_flight(stream_of(e), i, needed);
        end else begin
          running[e] = i;
          if (is_short(i)) one_cycle[e] = 1;
          else begin
            busy[e] = 1;
            running_banks[e] = needed;
            issued[e] = 0;
          end
        end
      end
    end
  endtask

  function automatic logic all_idle();
    for (int e = 0; e < ENGINES; e++) if (busy[e] || one_cycle[e] || queue_count[e] > 0) return 0;
    return 1;
  endfunction

  task automatic dispatch();
    logic [127:0] i;
    int e;
    i = program_mem[next_instruction];
    if (`OPCODE(i) == OP_HALT || `OPCODE(i) == OP_FENCE) begin
      if (all_idle()) begin
        if (`OPCODE(i) == OP_HALT) done = 1;
        else next_instruction += 1;
      end
    end else begin
      e = engine_of(i);
      if (queue_count[e] < QUEUE_DEPTH) begin
        queue[e*QUEUE_DEPTH+(queue_head[e]+queue_count[e])%QUEUE_DEPTH] = i;
        queue_count[e] += 1;
        next_instruction += 1;
      end
    end
  endtask

  // Whether the engine has done its last cycle of work for an instruction.
  task automatic work(int e, output logic ended);
    ended = 0;
    if (transfers(e)) transfer_step(stream_of(e), ended);
    else if (issued[e] >= ISSUE_CYCLES)
      case (`OPCODE(running[e]))
        OP_GEMM, OP_DEPTHWISE: mac_step(issued[e] == ISSUE_CYCLES, ended);
        OP_REQUANTIZE, OP_ELEMENTWISE, OP_POOL, OP_LOOKUP, OP_SOFTMAX: vec_step(issued[e] == ISSUE_CYCLES, ended);
        default: failed = 1;
      endcase
    issued[e] += 1;
    busy_cycles[e] += 1;
  endtask

  task automatic end_instruction(int e);
    if (transfers(e)) begin
      post(oldest[stream_of(e)]);
      end_in_flight(stream_of(e));
      busy[e] = flight_count[stream_of(e)] > 0;
      running_banks[e] = banks_in_flight(stream_of(e));
    end else begin
      post(running[e]);
      busy[e] = 0;
      running_banks[e] = 0;
    end
  endtask

  task automatic post(logic [127:0] i);
    if (`POST0(i) != NONE) token_count[`POST0(i)] += 1;
    if (`POST1(i) != NONE) token_count[`POST1(i)] += 1;
  endtask

  always @(posedge clk)
    if (!done && !failed) begin
      logic ended[ENGINES];
      start_engines();
      dispatch();
      if (!done) begin
        for (int e = 0; e < ENGINES; e++) begin
          ended[e] = 0;
          if (busy[e]) work(e, ended[e]);
        end
        ports_step();
        for (int e = 0; e < ENGINES; e++) begin
          if (busy[e] && transfers(e)) ended[e] |= transfer_ended(stream_of(e));
          if (one_cycle[e]) post(running[e]);
          if (ended[e]) end_instruction(e);
        end
        cycle += 1;
      end
    end
endmodule
