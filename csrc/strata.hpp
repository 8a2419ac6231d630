// Strata in which two samples of the same columns differ: the leaves of a tree that tells one from the other.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace mdcm {

// Draws with weights and rows with counts, each column in bins from 0; bins are stored row by row.
struct TwoSamples {
  std::span<const std::int32_t> draw_bins;
  std::span<const std::int32_t> row_bins;
  std::span<const double> share;
  std::span<const double> counts;
  // Number of bins of each column, and whether they are intervals in order, which a split must not interleave.
  std::span<const std::int32_t> sizes;
  std::span<const std::uint8_t> ordered;
};

// A leaf that is split: draws and rows whose bin of the column does not stay are the next leaf by number.
struct Split {
  std::int32_t leaf;
  std::int32_t column;
  std::vector<std::uint8_t> stays;
};

struct Strata {
  std::vector<Split> splits;
  std::vector<std::int32_t> leaf_of_draw;
  std::vector<std::int32_t> leaf_of_row;
};

struct StrataLimits {
  // Leaves at most.
  std::size_t most;
  // Rows that both sides of a split hold, or would hold were rows like draws.
  double expected;
  // Loss of divergence that a split may have.
  double least;
};

// Greedy growth (Athey & Imbens 2016): the split that gains most of the divergence sum q log(q / p) comes first, with q
// the share of the draws and p that of the rows in a leaf, half a row added. Of levels the best split in two is among
// those in the order of the ratio of rows to draws (Breiman et al. 1984, section 4.2).
// O(leaves x columns x (draws + rows + bins log bins)).
Strata grow_strata(const TwoSamples& samples, const StrataLimits& limits);

}  // namespace mdcm
