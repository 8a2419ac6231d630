// Strata in which two samples of the same columns differ: the leaves of a classification tree.

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
  // Number of bins of each column, and whether the bins are ordered, so that a split must be at a threshold.
  std::span<const std::int32_t> sizes;
  std::span<const std::uint8_t> ordered;
};

// A split of a leaf: draws and rows whose bin of the column does not stay become a new leaf, numbered consecutively.
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
  // Maximal number of leaves.
  std::size_t most;
  // Minimal number of rows on both sides of a split, observed or expected if rows were distributed as draws.
  double expected;
  // Largest loss of divergence of a split.
  double least;
};

// Greedy growth (Athey & Imbens 2016): the split with the largest gain of the divergence sum q log(q / p) comes first,
// with q the share of the draws and p that of the rows in a leaf, smoothed by half a row. The best binary split of
// unordered levels is a threshold of the ratio of rows to draws (Breiman et al. 1984, section 4.2).
// O(leaves x columns x (draws + rows + bins log bins)).
Strata grow_strata(const TwoSamples& samples, const StrataLimits& limits);

}  // namespace mdcm
