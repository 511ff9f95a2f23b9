// AMX on a processor that has AVX-512 alone: linked or preloaded, it carries out the tile
// instructions of a program's own machine code when they trap, as Intel's manual defines them
// (Architecture Instruction Set Extensions, TDPBF16PS), and ends the program at what a processor
// would refuse. Where Linux lets the process use the processor's own tiles, nothing traps.
#include <immintrin.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;

struct Shapes {  // the operand of ldtilecfg
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(Shapes) == 64);

struct Tiles {
  Shapes shapes;
  alignas(kRowBytes) uint8_t data[kTiles][kRows][kRowBytes];
};
thread_local Tiles tiles;

[[noreturn]] void refuse(const char* why) {
  std::fprintf(stderr, "amx: %s\n", why);
  std::_Exit(1);
}

void configure(const void* from) {
  Shapes shapes;
  std::memcpy(&shapes, from, sizeof shapes);
  if (shapes.palette != 1) refuse("ldtilecfg of a palette other than 1");
  for (uint8_t reserved : shapes.reserved)
    if (reserved) refuse("ldtilecfg with reserved bytes that are not zero");
  for (int tile = 0; tile < 16; ++tile) {
    const int rows = shapes.rows[tile], bytes = shapes.row_bytes[tile];
    if (rows > kRows || bytes > kRowBytes || (rows == 0) != (bytes == 0) ||
        (rows && tile >= kTiles))
      refuse("ldtilecfg of a shape that no tile has");
  }
  std::memset(&tiles, 0, sizeof tiles);
  tiles.shapes = shapes;
}

int rows(int tile) {
  if (tiles.shapes.palette != 1 || tiles.shapes.rows[tile] == 0) refuse("a tile without a shape");
  return tiles.shapes.rows[tile];
}

int words(int tile) { return tiles.shapes.row_bytes[tile] / 4; }

void load(int tile, const uint8_t* from, int64_t stride) {
  std::memset(tiles.data[tile], 0, sizeof tiles.data[tile]);
  for (int r = 0; r < rows(tile); ++r)
    std::memcpy(tiles.data[tile][r], from + r * stride, tiles.shapes.row_bytes[tile]);
}

void store(int tile, uint8_t* to, int64_t stride) {
  for (int r = 0; r < rows(tile); ++r)
    std::memcpy(to + r * stride, tiles.data[tile][r], tiles.shapes.row_bytes[tile]);
}

// Even and odd products in sums of their own, which are then added; denormal numbers are zero.
void multiply(int sum, int a, int b) {
  if (rows(sum) != rows(a) || words(a) != rows(b) || words(sum) != words(b))
    refuse("tdpbf16ps of tiles that do not fit each other");
  _mm_setcsr(0x1f80 | 0x8040);  // round to nearest even; denormals are zero, in and out
  const __m512i odd_half = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  for (int r = 0; r < rows(sum); ++r) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int k = 0; k < words(a); ++k) {
      uint32_t pair;
      std::memcpy(&pair, tiles.data[a][r] + 4 * k, sizeof pair);
      const __m512i row = _mm512_load_si512(tiles.data[b][k]), two = _mm512_set1_epi32(pair);
      const auto shifted = [](__m512i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); };
      const auto masked = [&](__m512i x) {
        return _mm512_castsi512_ps(_mm512_and_si512(x, odd_half));
      };
      even = _mm512_fmadd_ps(shifted(two), shifted(row), even);
      odd = _mm512_fmadd_ps(masked(two), masked(row), odd);
    }
    float* const out = reinterpret_cast<float*>(tiles.data[sum][r]);
    const auto present = static_cast<__mmask16>((1u << words(sum)) - 1);
    const __m512 total = _mm512_add_ps(_mm512_load_ps(out), _mm512_add_ps(even, odd));
    _mm512_store_ps(out, _mm512_maskz_mov_ps(present, total));
  }
}

// What follows a ModRM byte names: registers of the context, numbered as instructions do.
class Operand {
 public:
  Operand(const ucontext_t& context, const uint8_t* vex, const uint8_t* modrm)
      : registers_(context.uc_mcontext.gregs), at_(modrm + 1) {
    const int mode = *modrm >> 6, low = *modrm & 7;
    const int high_base = (~vex[1] >> 5 & 1) << 3, high_index = (~vex[1] >> 6 & 1) << 3;
    if (mode == 3) return;
    bool relative = mode == 0 && low == 5, absolute = false;
    if (low == 4) {
      const int scale = *at_ >> 6, index = (*at_ >> 3 & 7) | high_index;
      const int base = *at_ & 7;
      ++at_;
      if (index != 4) stride = value(index) << scale;
      absolute = mode == 0 && base == 5;
      if (!absolute) address = value(base | high_base);
    } else if (!relative) {
      address = value(low | high_base);
    }
    if (mode == 1) address += displacement<int8_t>();
    if (mode == 2 || relative || absolute) address += displacement<int32_t>();
    if (relative) address += reinterpret_cast<int64_t>(at_);
  }

  const uint8_t* end() const { return at_; }  // of the instruction

  int64_t address = 0, stride = 0;

 private:
  int64_t value(int number) const {
    constexpr int kOrder[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                              REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                              REG_R12, REG_R13, REG_R14, REG_R15};
    return registers_[kOrder[number]];
  }

  template <typename T>
  int64_t displacement() {
    T by;
    std::memcpy(&by, at_, sizeof by);
    at_ += sizeof by;
    return by;
  }

  const greg_t* registers_;
  const uint8_t* at_;
};

// Carries out the tile instruction at `code`, if it is one; returns where the next one starts.
const uint8_t* step(const ucontext_t& context, const uint8_t* code) {
  // VEX.128.0F38.W0: C4, inverted RXB and the map, then W, inverted vvvv, L and the prefix.
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84) != 0) return nullptr;
  const int prefix = code[2] & 3, opcode = code[3], tile = code[4] >> 3 & 7;
  const bool memory = code[4] >> 6 != 3;
  const Operand operand(context, code, code + 4);
  auto* const address = reinterpret_cast<uint8_t*>(operand.address);
  enum { kNone, k66, kF3, kF2 };
  if (opcode == 0x49 && prefix == kNone && memory) {
    configure(address);
  } else if (opcode == 0x49 && prefix == kNone) {
    std::memset(&tiles, 0, sizeof tiles);  // tilerelease
  } else if (opcode == 0x49 && prefix == kF2) {
    std::memset(tiles.data[tile], 0, sizeof tiles.data[tile]);  // tilezero
  } else if (opcode == 0x4b && (prefix == kF2 || prefix == k66)) {
    load(tile, address, operand.stride);
  } else if (opcode == 0x4b && prefix == kF3) {
    store(tile, address, operand.stride);
  } else if (opcode == 0x5c && prefix == kF3) {
    multiply(tile, code[4] & 7, ~code[2] >> 3 & 7);
  } else {
    return nullptr;
  }
  return operand.end();
}

// Of SIGILL. Tile instructions that follow at once do not trap again, which would take longest.
void carry_out(int, siginfo_t*, void* raw) {
  auto& context = *static_cast<ucontext_t*>(raw);
  auto& counter = context.uc_mcontext.gregs[REG_RIP];
  auto* const start = reinterpret_cast<const uint8_t*>(counter);
  for (const uint8_t* code = start; (code = step(context, code));)
    counter = reinterpret_cast<greg_t>(code);
  if (reinterpret_cast<const uint8_t*>(counter) == start) signal(SIGILL, SIG_DFL);  // not ours
}

const struct Handler {
  Handler() {
    struct sigaction action = {};
    action.sa_sigaction = carry_out;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0)
      sigaction(SIGILL, &action, nullptr);
  }
} handler;

}  // namespace
