// Short stand-ins for keys, whose products tell cheaply which tokens are probably alike. They
// decide nothing: what they propose is compared exactly.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/keys.h"
#include "cpu/product/kernels.h"
#include "cpu/product/panels.h"
#include "zoprune/philox.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

using Pairs = std::vector<std::pair<int64_t, int64_t>>;  // of tokens

// A sketch is a key's elements with random signs, added up modulo its width, and then as long as
// one: the cosine of two sketches is off by about (1 - c) / sqrt(width), c being that of the keys.
class Sketches {
 public:
  static constexpr int64_t kWidth = kSketchWidth;
  static constexpr int64_t kWorthwhile = 8 * kWidth;  // keys shorter than this are as quick

  // Of these tokens, whose norms it measures. Below, a token is its index in `tokens`.
  Sketches(Keys& keys, const std::vector<int64_t>& tokens, ParallelFor parallel_for)
      : parallel_for_(parallel_for),
        count_(tokens.size()),
        sketches_(new Element[count_ * kWidth]) {
    std::vector<float> signs(keys.dim());
    for (int64_t i = 0; i < keys.dim(); ++i) {
      const uint32_t at = static_cast<uint32_t>(i);
      const uint32_t word = philox4x32(0, at / 128, 0, kStream, 0).word[at / 32 % 4];
      signs[i] = word >> (at % 32) & 1 ? 1.0f : -1.0f;
    }
    for_each_part(parallel_for_, count_, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<char[]> space(new char[keys.row_bytes()]);
      for (int64_t i = begin; i < end; ++i) {
        float sums[kWidth];
        keys.sketch(tokens[i], space.get(), signs.data(), sums);
        normalise(sums);
        convert(sums, kWidth, kWidth, 0, sketch(i));
      }
    });
  }

  // Pairs of a token `among` some and one of `rows`, other than it, that are probably alike: for
  // each row the most alike, and up to `each` - 1 more. Those of the same first token together.
  Pairs likely_pairs(const std::vector<int64_t>& rows, const std::vector<int64_t>& among,
                     int each) const {
    const int64_t num_rows = rows.size(), num_cols = among.size();
    const int64_t panels = (num_cols + kPanel - 1) / kPanel;
    const auto packed = pack(among, panels);
    std::vector<int64_t> column_of(count_, -1), found(num_rows * each, -1);
    for (int64_t c = 0; c < num_cols; ++c) column_of[among[c]] = c;
    for_each_part(parallel_for_, (num_rows + kRows - 1) / kRows, [&](int64_t begin, int64_t end) {
      Element space[kRows * kWidth];
      for (int64_t first = begin * kRows; first < std::min(end * kRows, num_rows); first += kRows) {
        const int64_t some = std::min(kRows, num_rows - first);
        for (int64_t r = 0; r < some; ++r)
          std::copy_n(sketch(rows[first + r]), kWidth, space + r * kWidth);
        // The highest of each lane's columns so far, and in which vector of columns it was.
        Lanes highest[kRows];
        Positions vector_of[kRows] = {};
        std::fill_n(highest, kRows, Lanes{} + kNone);
        for (int64_t panel = 0; panel < panels; ++panel) {
          float cosines[kRows * kPanel] = {};
          add_rows(space, kWidth, some, packed.get() + panel * kPanelWords, kSketchWords, cosines);
          const int64_t cols = std::min(kPanel, num_cols - panel * kPanel);
          for (int64_t r = 0; r < some; ++r) {
            float* const row = cosines + r * kPanel;
            const int64_t own = column_of[rows[first + r]] - panel * kPanel;
            if (own >= 0 && own < kPanel) row[own] = kNone;
            if (cols < kPanel) std::fill(row + cols, row + kPanel, kNone);
            for (int64_t c = 0; c < kPanel; c += kLanes) {
              const Lanes value = load_lanes(row + c);
              const Positions now =
                  Positions{} + static_cast<int32_t>((panel * kPanel + c) / kLanes);
              vector_of[r] = value > highest[r] ? now : vector_of[r];
              highest[r] = value > highest[r] ? value : highest[r];
            }
          }
        }
        for (int64_t r = 0; r < some; ++r)
          for (int i = 0; i < each; ++i) {
            int lane = 0;
            for (int j = 1; j < kLanes; ++j)
              if (highest[r][j] > highest[r][lane]) lane = j;
            if (highest[r][lane] == kNone) break;
            found[(first + r) * each + i] = vector_of[r][lane] * kLanes + lane;
            highest[r][lane] = kNone;
          }
      }
    });
    return by_column(found, rows, among, each);
  }

 private:
  typedef int32_t Positions __attribute__((vector_size(sizeof(Lanes))));
  using Element = std::conditional_t<kFastBFloat16, BFloat16, float>;
  static constexpr uint32_t kStream = 0x534B4554;  // "SKET"
  static constexpr int64_t kRows = 48;             // whole tiles of every instruction set
  static constexpr int64_t kSketchWords = kWidth / kPerWord<Element>,
                           kPanelWords = kSketchWords * kPanel;
  static constexpr float kNone = -2;

  Element* sketch(int64_t token) const { return sketches_.get() + token * kWidth; }

  static void normalise(float* sums) {
    float lane[kLanes] = {}, squares = 0;
    for (int64_t i = 0; i < kWidth; i += kLanes)
      for (int64_t j = 0; j < kLanes; ++j) lane[j] += sums[i + j] * sums[i + j];
    for (float value : lane) squares += value;
    const float scale = squares > 0 ? 1 / std::sqrt(squares) : 0.0f;
    for (int64_t i = 0; i < kWidth; ++i) sums[i] *= scale;
  }

  // Pairs in the order of their columns, `found` [rows, each], -1 where there is none.
  static Pairs by_column(const std::vector<int64_t>& found, const std::vector<int64_t>& rows,
                         const std::vector<int64_t>& among, int each) {
    std::vector<int64_t> end(among.size() + 1);
    for (int64_t c : found)
      if (c >= 0) ++end[c + 1];
    std::partial_sum(end.begin(), end.end(), end.begin());
    Pairs pairs(end.back());
    for (size_t i = 0; i < found.size(); ++i)
      if (found[i] >= 0) pairs[end[found[i]]++] = {among[found[i]], rows[i / each]};
    return pairs;
  }

  std::unique_ptr<uint32_t[]> pack(const std::vector<int64_t>& tokens, int64_t panels) const {
    const int64_t count = tokens.size();
    const std::unique_ptr<Element[]> rows(new Element[count * kWidth]);
    for (int64_t i = 0; i < count; ++i) std::copy_n(sketch(tokens[i]), kWidth, &rows[i * kWidth]);
    std::unique_ptr<uint32_t[]> packed(new uint32_t[panels * kPanelWords]);
    const Weight weight{kFastBFloat16 ? KeyType::bfloat16 : KeyType::float32, rows.get(), count,
                        kWidth, kWidth};
    for (int64_t panel = 0; panel < panels; ++panel)
      pack_panel(weight, panel * kPanel, kWidth, 0,
                 reinterpret_cast<Element*>(packed.get() + panel * kPanelWords));
    return packed;
  }

  const ParallelFor parallel_for_;
  const int64_t count_;
  const std::unique_ptr<Element[]> sketches_;  // [count, kWidth]
};

}  // namespace
}  // namespace zoprune::ZOPRUNE_ISA
