"""The native half of CONTRIBUTING's walk: the toy method's kernel for the CPU and its binding, in a
small library that is loaded beside the walked package."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ops.test_walk import CHECK, DRAW, ROOT, walked  # noqa: F401 (a fixture)
from tests.source_tree import needs_sources

CSRC = ROOT / "csrc"
ISA = CSRC / "cpu/isa.h"
pytestmark = [
    needs_sources,
    pytest.mark.proves("csrc/bindings/common", "csrc/cpu/greedy", "tests/ops/test_walk.py"),
    pytest.mark.skipif(
        platform.machine() != "x86_64" or not shutil.which("g++"), reason="needs g++ on x86-64"
    ),
]
NEW = {
    "cpu/select_apart.h": """
#pragma once

#include "cpu/greedy/image.h"
#include "cpu/isa.h"

namespace zoprune {

// Picks the best scores that are at least `gap` tokens from one another.
ZOPRUNE_PER_ISA(void select_apart(int64_t gap, const KeyLayout& layout, const GreedyImage& image,
                                  bool sort, ParallelFor parallel_for);)

}  // namespace zoprune
""",
    "cpu/select_apart.cpp": """
#include "cpu/select_apart.h"

#include "cpu/greedy/lazy_greedy.h"

namespace zoprune::ZOPRUNE_ISA {
namespace {

class Apart {
 public:
  static constexpr bool kPicksAreLowered = false;
  static constexpr bool kRanksFallAlike = true;

  Apart(int64_t gap, const GreedyImage& image)
      : gap_(gap), score_(image.tokens), blocked_(image.tokens) {
    for (int64_t i = 0; i < image.tokens; ++i)
      score_[i] = finite_score(image.scores[i] + (image.weights ? image.weights[i] : 0));
  }

  uint64_t rank(int64_t token) const {
    return pack_rank(blocked_[token] ? Candidate::blocked : Candidate::free, score_[token], token);
  }
  bool lowers() const { return true; }
  void pick(int64_t token) { picks_.push_back(token); }
  void lower(const Lowering& by) {
    for (int64_t p = by.first_pick; p < by.first_pick + by.num_picks; ++p)
      for (int64_t i = 0; i < by.behind(p); ++i)
        if (std::abs(by.tokens[i] - picks_[p]) < gap_) blocked_[by.tokens[i]] = 1;
  }

 private:
  int64_t gap_;
  std::vector<float> score_;
  std::vector<char> blocked_;
  std::vector<int64_t> picks_;
};

}  // namespace

void select_apart(int64_t gap, const KeyLayout&, const GreedyImage& image, bool sort,
                  ParallelFor parallel_for) {
  if (image.keep == 0) return;
  Apart apart(gap, image);
  LazyGreedy<Apart> greedy(image, nullptr, apart, parallel_for);
  greedy.grow(image.keep);
  greedy.write(sort);
}

}  // namespace zoprune::ZOPRUNE_ISA
""",
    # Its tensor travels as the `weights` of GreedyTensors.
    "bindings/select_apart.cpp": """
#include "cpu/select_apart.h"

#include "bindings/common/methods.h"

namespace zoprune {
namespace {

struct SelectApart : GreedyOperator {
  static constexpr const char* kName = "select_apart";
  using Keys = std::optional<Tensor>;
  static constexpr bool kNeedsKeysOrPositions = false;

  int64_t gap = 2;
  bool sort = true;
  auto fields() { return std::tie(weights, must_keep, valid, gap, sort); }

  void check(const Checker& check) { check.require(gap >= 1, "gap", "an integer >= 1", gap); }
  GreedyKernel kernel() const { return greedy_kernel(ZOPRUNE_BEST(select_apart), sort, gap); }
};

}  // namespace

ZOPRUNE_LIBRARY_IMPL(CPU, m) { add_on_cpu<SelectApart>(m); }

}  // namespace zoprune
""",
}
FLAGS = (
    "-std=c++17 -O1 -fPIC -Wall -Wextra -ffp-contract=off -DTORCH_TARGET_VERSION=0x020b000000000000"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The toy's files and what they share with others, one instruction set."""
    folder = tmp_path_factory.mktemp("native")
    for path, text in NEW.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text.lstrip())
    # This processor's best instruction set may be any: the scalar kernels stand for all.
    one = re.sub(
        r"#if defined\(__x86_64__\)\n.*?#else\n(.*?)#endif", r"\1", ISA.read_text(), flags=re.S
    )
    (folder / "cpu/isa.h").write_text(one)
    torch_folder = Path(torch.__file__).parent
    includes = [folder, CSRC, CSRC / "include", torch_folder / "include"]
    sources = [folder / path for path in NEW if path.endswith(".cpp")]
    sources += [CSRC / "cpu/similarity.cpp"]
    sources += [CSRC / f"bindings/common/{name}.cpp" for name in ("greedy", "segments")]
    built = folder / "libapart.so"
    command = ["g++", *FLAGS.split(), "-DZOPRUNE_ISA=scalar", *(f"-I{path}" for path in includes)]
    command += ["-shared", *sources, torch_folder / "lib/libtorch_cpu.so", "-o", built]
    subprocess.run(list(map(str, command)), check=True)
    return built


COMPARED = (
    DRAW
    + """
for _ in range(40):
    given, gap = draw(90, 30)
    want = zoprune_kernels.operators.OPERATORS["select_apart"].fallback(*given, gap=gap, sort=False)
    assert torch.equal(ops.select_apart(*given, gap=gap, sort=False), want), (want.shape, gap)
"""
)


def test_the_native_half_picks_what_the_reference_does(walked, library):  # noqa: F811
    environment = os.environ | {"PYTHONPATH": f"{walked}", "ZOPRUNE_BACKEND": "reference"}
    load = f"""
import torch, zoprune_kernels
torch.ops.load_library("{library}")
assert torch._C._dispatch_has_kernel_for_dispatch_key("zoprune::select_apart", "CPU")
"""
    command = [sys.executable, "-c", load + CHECK + COMPARED]
    done = subprocess.run(command, cwd=walked, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
