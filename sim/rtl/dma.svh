// LOAD, STORE and FETCH (streams 0, 1 and 2), and the ports that they share.
//
// Each engine sends one request for a burst in a cycle while it has fewer than `outstanding` on their way, and goes on
// with those of the next instruction when it has sent all of one. A request is ready `latency` cycles later; the port
// serves ready requests one by one, in turns where several engines have one, and is busy for the burst's time, which is
// held in sixteenths of a cycle. Bytes move when a burst has passed, in the order of instructions: those of one move when
// the one before it has ended.

localparam int FIFO = 64;

// Instructions that an engine has begun and not ended, in a ring for each stream, the oldest at `head`; registers as
// they were when each began. asked: how many of them have sent all their requests.
logic [127:0] flight[3 * OUTSTANDING_INSTRUCTIONS];
logic [127:0] flight_strides[3 * OUTSTANDING_INSTRUCTIONS], flight_local[3 * OUTSTANDING_INSTRUCTIONS];
logic [63:0] flight_banks[3 * OUTSTANDING_INSTRUCTIONS];
longint flight_began[3 * OUTSTANDING_INSTRUCTIONS];
int flight_head[3], flight_count[3], flight_asked[3];
logic [127:0] oldest[3], oldest_strides[3], oldest_local[3];

// When each request on its way is ready, the oldest at `head`; how many there are of each stream on each port.
longint request_ready[3 * FIFO];
int request_head[3], on_way[3 * 2];
int request_plane[3], request_row[3], request_offset[3];  // next to ask for
int moved_plane[3], moved_row[3], moved_offset[3];  // next to move
logic all_moved[3];
int scattering[3];  // cycles that the core's side still needs for single elements

// Ports: 0 SRAM, 1 DRAM. client: the engine whose burst is on it, -1 for none; left: in sixteenths.
int port_client[2], port_last[2], port_left[2];

function automatic logic transfers(int engine);
  return engine == LOAD || engine == STORE || engine == FETCH;
endfunction
function automatic int stream_of(int engine);
  return engine == STORE ? 1 : engine == FETCH ? 2 : 0;
endfunction
function automatic int engine_of_stream(int s);
  return s == 0 ? LOAD : s == 1 ? STORE : FETCH;
endfunction

// Place in the ring of the n-th of those that a stream has begun.
function automatic int place_of(int s, int n);
  return s * OUTSTANDING_INSTRUCTIONS + (flight_head[s] + n) % OUTSTANDING_INSTRUCTIONS;
endfunction

// Shape of the block of an instruction; compressed bytes are one row.
function automatic logic asks(logic [127:0] i);
  return `OPCODE(i) == OP_LOAD || `OPCODE(i) == OP_STORE || `OPCODE(i) == OP_INFLATE;
endfunction
function automatic logic inflates(logic [127:0] i);
  return `OPCODE(i) == OP_INFLATE;
endfunction
function automatic int block_port(logic [127:0] i);
  if (inflates(i)) return int'(`INFLATE_DRAM(i));
  return `OPCODE(i) == OP_STORE ? int'(`STORE_DRAM(i)) : int'(`LOAD_DRAM(i));
endfunction
function automatic int block_row_bytes(logic [127:0] i);
  if (inflates(i)) return int'(`INFLATE_PACKED_BYTES(i));
  return `OPCODE(i) == OP_STORE ? int'(`STORE_ROW_BYTES(i)) : int'(`LOAD_ROW_BYTES(i));
endfunction
function automatic int block_rows(logic [127:0] i);
  if (inflates(i)) return 1;
  return `OPCODE(i) == OP_STORE ? int'(`STORE_ROWS(i)) : int'(`LOAD_ROWS(i));
endfunction
function automatic int block_planes(logic [127:0] i);
  if (inflates(i)) return 1;
  return `OPCODE(i) == OP_STORE ? int'(`STORE_PLANES(i)) : int'(`LOAD_PLANES(i));
endfunction
function automatic int latency(int s, int port);
  if (port == 0) return s == 1 ? SRAM_WRITE_LATENCY : SRAM_READ_LATENCY;
  return s == 1 ? DRAM_WRITE_LATENCY : DRAM_READ_LATENCY;
endfunction
function automatic int outstanding(int s, int port);
  if (port == 0) return s == 1 ? SRAM_WRITE_OUTSTANDING : SRAM_READ_OUTSTANDING;
  return s == 1 ? DRAM_WRITE_OUTSTANDING : DRAM_READ_OUTSTANDING;
endfunction
function automatic int burst_bytes(int port);
  return port == 0 ? SRAM_BURST : DRAM_BURST;
endfunction
function automatic logic scattered(int s);
  return !inflates(oldest[s]) &&
      `LOCAL_STRIDES_ELEMENT(oldest_local[s]) != (1 << `LOCAL_STRIDES_ELEMENT_BYTES(oldest_local[s]));
endfunction

// What stands first may begin while others are on their way: its registers are copied.
task automatic begin_in_flight(int s, logic [127:0] i, logic [63:0] needed);
  int place;
  place = place_of(s, flight_count[s]);
  flight[place] = i;
  flight_strides[place] = strides[s];
  flight_local[place] = local_strides[s];
  flight_banks[place] = needed;
  flight_began[place] = cycle;
  flight_count[s] += 1;
  if (flight_count[s] == 1) set_up(s);
endtask

task automatic end_in_flight(int s);
  flight_head[s] = (flight_head[s] + 1) % OUTSTANDING_INSTRUCTIONS;
  flight_count[s] -= 1;
  if (flight_asked[s] > 0) flight_asked[s] -= 1;
  set_up(s);
endtask

// For the instruction that has become the oldest.
task automatic set_up(int s);
  oldest[s] = flight[place_of(s, 0)];
  oldest_strides[s] = flight_strides[place_of(s, 0)];
  oldest_local[s] = flight_local[place_of(s, 0)];
  {moved_plane[s], moved_row[s], moved_offset[s]} = 0;
  {fill_plane[s], fill_row[s], fill_offset[s]} = 0;
  all_moved[s] = 0;
  scattering[s] = 0;
  {arrived[s], inflated[s], block_at[s], block_left[s]} = 0;
endtask

function automatic logic [63:0] banks_in_flight(int s);
  logic [63:0] mask;
  mask = 0;
  for (int n = 0; n < flight_count[s]; n++) mask |= flight_banks[place_of(s, n)];
  return mask;
endfunction

// One request in a cycle, in the order of instructions; those that move nothing send none.
task automatic ask_step(int s);
  logic [127:0] i;
  int port;
  while (flight_asked[s] < flight_count[s] && !asks(flight[place_of(s, flight_asked[s])])) flight_asked[s] += 1;
  if (flight_asked[s] < flight_count[s]) begin
    i = flight[place_of(s, flight_asked[s])];
    port = block_port(i);
    if (cycle - flight_began[place_of(s, flight_asked[s])] >= longint'(ISSUE_CYCLES) &&
        on_way[2*s+port] < outstanding(s, port)) begin
      request_ready[s*FIFO+(request_head[s]+on_way[2*s]+on_way[2*s+1])%FIFO] = cycle + longint'(latency(s, port));
      on_way[2*s+port] += 1;
      request_offset[s] += burst_bytes(port);
      if (request_offset[s] >= block_row_bytes(i)) begin
        request_offset[s] = 0;
        request_row[s] += 1;
        if (request_row[s] == block_rows(i)) begin
          request_row[s] = 0;
          request_plane[s] += 1;
          if (request_plane[s] == block_planes(i)) begin
            request_plane[s] = 0;
            flight_asked[s] += 1;
          end
        end
      end
    end
  end
endtask

// A cycle of an engine. Whatever is on its way, only the oldest instruction moves bytes.
task automatic transfer_step(int s, output logic ended);
  ended = 0;
  ask_step(s);
  case (`OPCODE(oldest[s]))
    OP_LOAD, OP_STORE: ;
    OP_INFLATE: inflate_step(s);
    OP_FILL: if (cycle - flight_began[place_of(s, 0)] >= longint'(ISSUE_CYCLES)) fill_step(s, ended);
    default: ended = 1;  // nothing but tokens
  endcase
endtask

function automatic logic transfer_ended(int s);
  case (`OPCODE(oldest[s]))
    OP_LOAD, OP_STORE: return all_moved[s] && scattering[s] == 0;
    OP_INFLATE: return all_moved[s] && inflated[s] == int'(`INFLATE_RAW_BYTES(oldest[s]));
    default: return 0;
  endcase
endfunction

function automatic logic can_be_served(int s, int port);
  if (flight_count[s] == 0 || !asks(oldest[s]) || all_moved[s] || scattering[s] > 0) return 0;
  return block_port(oldest[s]) == port && on_way[2*s+port] > 0 && request_ready[s*FIFO+request_head[s]] <= cycle;
endfunction

function automatic int burst_sixteenths(int port);
  return port == 0 ? SRAM_BURST_SIXTEENTHS : DRAM_BURST_SIXTEENTHS;
endfunction

task automatic ports_step();
  int passed;
  for (int p = 0; p < 2; p++) begin
    if (port_client[p] < 0) begin
      for (int turn = 1; turn <= 3; turn++)
        if (port_client[p] < 0 && can_be_served((port_last[p] + turn) % 3, p))
          port_client[p] = (port_last[p] + turn) % 3;
      if (port_client[p] < 0) port_left[p] = 0;  // an idle port saves no time up
      if (port_client[p] >= 0) begin
        port_last[p] = port_client[p];
        port_left[p] += burst_sixteenths(p);
        begin_scatter(port_client[p], p);
      end
    end
    if (port_client[p] >= 0) begin
      port_left[p] -= 16;
      // A decoder takes what has passed of a burst; whoever only copies sees whole bursts.
      if (inflates(oldest[port_client[p]])) begin
        passed = burst_bytes(p) - port_left[p] * burst_bytes(p) / burst_sixteenths(p);
        arrived[port_client[p]] = moved_offset[port_client[p]] +
            least(bytes_to_move(port_client[p], p), passed);
      end
      if (port_left[p] <= 0) begin
        move_burst(port_client[p], p);
        port_client[p] = -1;
      end
    end
  end
  for (int s = 0; s < 3; s++) if (scattering[s] > 0) scattering[s] -= 1;
endtask

function automatic int bytes_to_move(int s, int port);
  int left;
  left = block_row_bytes(oldest[s]) - moved_offset[s];
  return left < burst_bytes(port) ? left : burst_bytes(port);
endfunction

task automatic begin_scatter(int s, int port);
  if (scattered(s))
    scattering[s] = ceil_div(bytes_to_move(s, port) >> `LOCAL_STRIDES_ELEMENT_BYTES(oldest_local[s]),
                             SCATTER_ELEMENTS);
endtask

task automatic move_burst(int s, int port);
  logic [127:0] i, external_steps, local_steps;
  int local_at, external_at, element_bytes, offset;
  i = oldest[s];
  external_steps = oldest_strides[s];
  local_steps = oldest_local[s];
  request_head[s] = (request_head[s] + 1) % FIFO;
  on_way[2*s+port] -= 1;
  element_bytes = 1 << `LOCAL_STRIDES_ELEMENT_BYTES(local_steps);
  if (!inflates(i)) for (int b = 0; b < bytes_to_move(s, port); b++) begin
    offset = moved_offset[s] + b;
    local_at = moved_plane[s] * `LOCAL_STRIDES_PLANE(local_steps) + moved_row[s] * `LOCAL_STRIDES_ROW(local_steps) +
        (offset / element_bytes) * `LOCAL_STRIDES_ELEMENT(local_steps) + offset % element_bytes;
    external_at = moved_plane[s] * `STRIDES_PLANE(external_steps) + moved_row[s] * `STRIDES_ROW(external_steps) + offset;
    if (s == 1) begin
      local_at += int'(`STORE_LOCAL(i));
      external_at += `STORE_EXTERNAL(i);
      if (port == 0) sram[external_at] = act_mem[local_at];
      else dram[external_at] = act_mem[local_at];
    end else begin
      local_at += int'(`LOAD_LOCAL(i));
      external_at += `LOAD_EXTERNAL(i);
      write_local(`LOAD_MEMORY(i), local_at, port == 0 ? sram[external_at] : dram[external_at]);
    end
  end
  moved_offset[s] += burst_bytes(port);
  if (moved_offset[s] >= block_row_bytes(i)) begin
    moved_offset[s] = 0;
    moved_row[s] += 1;
    if (moved_row[s] == block_rows(i)) begin
      moved_row[s] = 0;
      moved_plane[s] += 1;
      all_moved[s] = moved_plane[s] == block_planes(i);
    end
  end
endtask

task automatic write_local(int memory, int at, logic [7:0] value);
  case (memory)
    ACTIVATION: act_mem[at] = value;
    WEIGHT: wgt_mem[at] = value;
    PARAMETER: par_mem[at] = value;
    default: tab_mem[at] = value;
  endcase
endtask

// INFLATE: up to INFLATE_BYTES numbers in a cycle, as far as the bytes that they need have arrived.
int arrived[3], inflated[3];  // compressed bytes, bytes written
int block_at[3], block_left[3], block_shift[3];  // first byte behind the block's header, bytes that it still holds, k
int unary_at[3], rest_at[3];  // bits, counted from block_at

function automatic logic [7:0] packed_byte(int s, int at);
  int external_at;
  external_at = `INFLATE_EXTERNAL(oldest[s]) + at;
  return `INFLATE_DRAM(oldest[s]) ? dram[external_at] : sram[external_at];
endfunction
function automatic int packed_bit(int s, int at);
  return int'(packed_byte(s, block_at[s] + at / 8)) >> (at % 8) & 1;
endfunction

// What the next number takes of the unary part, or of a stored block.
function automatic int number_bits(int s);
  int ones;
  if (block_shift[s] == INFLATE_STORED) return 8;
  ones = 0;
  while (packed_bit(s, unary_at[s] + ones) == 1 && ones < 256) ones += 1;
  return ones + 1;
endfunction

task automatic inflate_step(int s);
  int folded;
  logic [7:0] value;
  for (int n = 0; n < INFLATE_BYTES; n++) begin
    if (block_left[s] == 0 && inflated[s] < int'(`INFLATE_RAW_BYTES(oldest[s])) &&
        arrived[s] > block_end(s)) begin
      block_at[s] = block_end(s) + 1;
      block_shift[s] = int'(packed_byte(s, block_at[s] - 1));
      block_left[s] = least(INFLATE_BLOCK, int'(`INFLATE_RAW_BYTES(oldest[s])) - inflated[s]);
      rest_at[s] = 0;
      unary_at[s] = block_shift[s] == INFLATE_STORED ? 0 : 8 * ceil_div(block_left[s] * block_shift[s], 8);
    end
    // The low bits lie before the unary numbers: they have arrived[s] when those have.
    if (block_left[s] > 0 && arrived[s] >= block_at[s] + ceil_div(unary_at[s] + number_bits(s), 8)) begin
      if (block_shift[s] == INFLATE_STORED) value = packed_byte(s, block_at[s] + unary_at[s] / 8);
      else begin
        folded = (number_bits(s) - 1) << block_shift[s];
        for (int b = 0; b < block_shift[s]; b++) folded |= packed_bit(s, rest_at[s] + b) << b;
        rest_at[s] += block_shift[s];
        value = 8'(folded & 1 ? ~(folded >> 1) : folded >> 1);
      end
      unary_at[s] += number_bits(s);
      write_local(`INFLATE_MEMORY(oldest[s]),
                  `INFLATE_LOCAL(oldest[s]) + inflated[s], value);
      inflated[s] += 1;
      block_left[s] -= 1;
    end
  end
endtask

// Where the block that has just ended stops, and the next one begins.
function automatic int block_end(int s);
  return inflated[s] == 0 ? 0 : block_at[s] + ceil_div(unary_at[s], 8);
endfunction

// FILL: a piece of a row in each cycle.
int fill_plane[3], fill_row[3], fill_offset[3];

task automatic fill_step(int s, output logic ended);
  logic [127:0] i, r;
  int element, count, offset;
  i = oldest[s];
  r = oldest_local[s];
  element = 1 << `LOCAL_STRIDES_ELEMENT_BYTES(r);
  count = scattered(s) ? SCATTER_ELEMENTS * element : FILL_BYTES;
  for (int b = 0; b < count; b++) begin
    offset = fill_offset[s] + b;
    if (offset < `FILL_ROW_BYTES(i))
      write_local(`FILL_MEMORY(i),
                  `FILL_LOCAL(i) + fill_plane[s] * `LOCAL_STRIDES_PLANE(r) + fill_row[s] * `LOCAL_STRIDES_ROW(r) +
                  (offset / element) * `LOCAL_STRIDES_ELEMENT(r) + offset % element,
                  offset % 2 ? 8'(`FILL_PATTERN(i) >> 8) : 8'(`FILL_PATTERN(i)));
  end
  fill_offset[s] += count;
  ended = 0;
  if (fill_offset[s] >= `FILL_ROW_BYTES(i)) begin
    fill_offset[s] = 0;
    fill_row[s] += 1;
    if (fill_row[s] == `FILL_ROWS(i)) begin
      fill_row[s] = 0;
      fill_plane[s] += 1;
      ended = fill_plane[s] == `FILL_PLANES(i);
    end
  end
endtask
