"""The CUDA half of CONTRIBUTING's walk: the toy method's objective for csrc/cuda/greedy, whose
threads are fibers of the CPU here."""

import os
import subprocess
import sys

import pytest

from tests.cuda.on_cpu import FLAGS, SHIM, needs_compiler
from tests.ops.test_walk import DRAW, ROOT, walked  # noqa: F401 (a fixture)
from tests.source_tree import needs_sources

pytestmark = [
    needs_sources,
    needs_compiler,
    pytest.mark.proves("csrc/cuda/greedy", "csrc/include", "tests/ops/test_walk.py"),
]
NEW = {
    "cuda/select_apart.h": """
#pragma once

#include "cuda/greedy/greedy.h"

namespace zoprune::cuda {

// Picks the best scores that are at least `gap` tokens from one another.
struct Apart {
  int64_t gap = 2;
};

}  // namespace zoprune::cuda
""",
    "cuda/select_apart.cu": """
#include "cuda/select_apart.h"

#include "cuda/greedy/kernel.cuh"

namespace zoprune::cuda {

template <>
struct Greedy<Apart> {
  using Pair = float;  // 1 where two tokens are too near
  struct State {
    float score;
    bool blocked;
  };
  static constexpr bool kGainsRiseOnce = false;

  Apart how;
  Pair* pairs = nullptr;
  float* score = nullptr;  // [total_tokens]
  const float* bonus = nullptr;

  void lay_out(Arena& arena, const SelectArguments& arguments, const SelectPlan& plan) {
    pairs = arena.take<Pair>(int64_t{plan.groups} * kBlock * kBlock);
    score = arena.take<float>(arguments.total_tokens);
    bonus = arguments.weights;
  }

  __device__ void begin(const SelectArguments&, const Image& image) { bonus += image.start; }
  __device__ void rank_for(int) {}
  __device__ int begin_round(int, int left) const { return left; }
  __device__ int step() const { return 1; }
  __device__ bool by_gain() const { return false; }
  __device__ float gain(const State& state) const { return state.score; }

  __device__ State start(float score, int i, bool) const {
    return {finite_score(score + bonus[i]), false};
  }
  __device__ State load(int64_t token) const { return {load_fresh(score + token), false}; }
  __device__ void store(int64_t token, const State& state) const { score[token] = state.score; }

  __device__ uint64_t rank(uint64_t rank, const State& state) const {
    const bool blocks = rank_class(rank) == Candidate::free && state.blocked;
    return pack_rank(blocks ? Candidate::blocked : rank_class(rank), state.score, rank_index(rank));
  }
  __device__ Pair relate(const Image&, int i, int other, float) const {
    return other >= 0 && abs(i - other) < how.gap ? 1.0f : 0.0f;
  }
  __device__ void publish(const State (&)[kSlots], int, int) const {}
  __device__ void lower(State (&state)[kSlots], const uint64_t (&)[kSlots], const Pair* pairs,
                        int pick, int) const {
    for (int slot = 0; slot < kSlots; ++slot)
      if (pairs[pick * kBlock + slot * 32 + lane()] > 0) state[slot].blocked = true;
  }
  __device__ void settle(State& state, const Pair*, const Image&, int,
                         const Pair (&of_picks)[kSlots]) const {
    for (int slot = 0; slot < kSlots; ++slot)
      if (slot * 32 < shared().picks && __ballot_sync(kAllLanes, of_picks[slot] > 0) != 0)
        state.blocked = true;
  }
};

template SelectPlan plan_select<Apart>(const SelectArguments&, const Device&);
template std::string select(const SelectArguments&, const Apart&, const SelectPlan&, void*,
                            cudaStream_t);

}  // namespace zoprune::cuda
""",
    # Of one call: images, tokens, picks and gap as arguments, arrays in a file; picks are printed.
    "main.cpp": """
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/select_apart.h"

int main(int, char** given) {
  using namespace zoprune::cuda;
  SelectArguments call;
  call.images = std::atoi(given[2]), call.tokens = std::atoi(given[3]);
  call.keep = std::atoi(given[4]);
  call.total_tokens = call.images * call.tokens, call.total_keep = call.images * call.keep;
  call.sort = false;
  const auto tokens = static_cast<size_t>(call.total_tokens);
  std::vector<float> scores(tokens), bonus(tokens);
  std::vector<char> kept(tokens), valid(tokens);
  std::FILE* const file = std::fopen(given[1], "rb");
  const bool whole = std::fread(scores.data(), 4, tokens, file) == tokens &&
                     std::fread(bonus.data(), 4, tokens, file) == tokens &&
                     std::fread(kept.data(), 1, tokens, file) == tokens &&
                     std::fread(valid.data(), 1, tokens, file) == tokens;
  if (!whole) shim::fail("the file of the call ends early");
  std::vector<int64_t> indices(static_cast<size_t>(call.total_keep), -1);
  call.scores = scores.data(), call.weights = bonus.data(), call.indices = indices.data();
  call.must_keep = reinterpret_cast<bool*>(kept.data());
  call.valid = reinterpret_cast<bool*>(valid.data());
  const SelectPlan plan = plan_select<Apart>(call, {4, 227 << 10});
  std::vector<char> workspace(plan.workspace_bytes, -1);
  const Apart apart{std::atoi(given[5])};
  const std::string error = select(call, apart, plan, workspace.data(), nullptr);
  if (!error.empty()) shim::fail(error.c_str());
  for (int64_t index : indices) std::printf("%ld ", static_cast<long>(index));
}
""",
}
COMPARED = (
    """
import subprocess, sys
import torch, zoprune_kernels

fallback = zoprune_kernels.operators.OPERATORS["select_apart"].fallback
torch.manual_seed(0)
"""
    + DRAW
    + """
for _ in range(12):
    given, gap = draw(400, 40)
    want = fallback(*given, gap=gap, sort=False)
    scores, _, k, bonus, kept, valid = given
    with open("call", "wb") as file:
        for array in (scores, bonus, kept, valid):
            file.write(array.numpy().tobytes())
    command = [sys.argv[1], "call", "2", *map(str, (scores.shape[1], k, gap))]
    picks = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert list(map(int, picks)) == want.flatten().tolist(), (scores.shape, k, gap)
"""
)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda_walk")
    (folder / "cuda").mkdir()
    for path, text in NEW.items():
        (folder / path).write_text(text.lstrip())
    includes = [f"-I{path}" for path in (folder, SHIM, ROOT / "csrc/include", ROOT / "csrc")]
    checks = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-sanitize=null,object-size"
    sources = [folder / path for path in NEW if not path.endswith(".h")]
    command = ["g++", *FLAGS.split(), *checks.split(), *includes, "-x", "c++", *sources]
    subprocess.run([*command, "-o", folder / "apart"], check=True)
    return folder / "apart"


def test_the_cuda_half_picks_what_the_reference_does(walked, program):  # noqa: F811
    environment = os.environ | {"PYTHONPATH": f"{walked}", "ZOPRUNE_BACKEND": "reference"}
    command = [sys.executable, "-c", COMPARED, program]
    done = subprocess.run(command, cwd=walked, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
