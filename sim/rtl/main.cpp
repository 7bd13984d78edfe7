// Runs programs on the hardware description: each argument is a folder with program.bin, sram.bin and dram.bin, into
// which the memories, cycles and busy cycles of the engines are written.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "Vnpu.h"
#include "Vnpu___024root.h"
#include "verilated.h"

namespace {

constexpr long kMostCycles = 50'000'000;

std::vector<uint8_t> read_file(const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

template <typename Memory>
void fill(Memory &memory, const std::vector<uint8_t> &bytes, size_t size) {
  for (size_t i = 0; i < size; ++i) memory[i] = i < bytes.size() ? bytes[i] : 0;
}

template <typename Memory>
void write_file(const std::string &path, const Memory &memory, size_t count) {
  std::ofstream out(path, std::ios::binary);
  for (size_t i = 0; i < count; ++i) out.write(reinterpret_cast<const char *>(&memory[i]), sizeof memory[i]);
}

bool run(const std::string &folder) {
  VerilatedContext context;
  auto top = std::make_unique<Vnpu>(&context);
  auto *root = top->rootp;
  top->clk = 0;
  top->eval();
  fill(root->npu__DOT__sram, read_file(folder + "/sram.bin"), EXTERNAL_BYTES);
  fill(root->npu__DOT__dram, read_file(folder + "/dram.bin"), EXTERNAL_BYTES);
  fill(root->npu__DOT__act_mem, {}, ACTIVATION_BYTES);
  fill(root->npu__DOT__wgt_mem, {}, WEIGHT_BYTES);
  fill(root->npu__DOT__par_mem, {}, PARAMETER_BYTES);
  fill(root->npu__DOT__tab_mem, {}, TABLE_BYTES);
  for (int i = 0; i < ACCUMULATOR_WORDS; ++i) root->npu__DOT__acc_mem[i] = 0;
  const auto program = read_file(folder + "/program.bin");
  for (size_t i = 0; i < program.size() / 16; ++i)
    for (int word = 0; word < 4; ++word) {
      uint32_t value = 0;
      for (int b = 3; b >= 0; --b) value = value << 8 | program[16 * i + 4 * word + b];
      root->npu__DOT__program_mem[i][word] = value;
    }
  for (long cycle = 0; cycle < kMostCycles && !top->done && !top->failed; ++cycle) {
    top->clk = 1;
    top->eval();
    top->clk = 0;
    top->eval();
  }
  write_file(folder + "/sram.out", root->npu__DOT__sram, EXTERNAL_BYTES);
  write_file(folder + "/dram.out", root->npu__DOT__dram, EXTERNAL_BYTES);
  write_file(folder + "/activation.out", root->npu__DOT__act_mem, ACTIVATION_BYTES);
  write_file(folder + "/accumulator.out", root->npu__DOT__acc_mem, ACCUMULATOR_WORDS);
  std::ofstream out(folder + "/counters.txt");
  out << root->npu__DOT__cycle;
  for (int e = 0; e < 5; ++e) out << ' ' << root->npu__DOT__busy_cycles[e];
  out << '\n';
  return top->done && !top->failed;
}

}  // namespace

int main(int count, char **folders) {
  for (int i = 1; i < count; ++i)
    if (!run(folders[i])) {
      std::fprintf(stderr, "%s: the program did not halt\n", folders[i]);
      return 1;
    }
  return 0;
}
