#include "strata.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace mdcm {
namespace {

constexpr double kNoRatio = 1e-12;

struct Candidate {
  double gain = 0;
  std::int32_t column = -1;
  std::vector<std::uint8_t> stays;
};

struct Leaf {
  std::vector<std::uint32_t> draws;
  std::vector<std::uint32_t> rows;
  Candidate best;
};

// The term of the divergence of a stratum with a share q of the draws and n of `total` rows.
double divergence_term(double q, double n, double total) {
  return q > 0 ? q * std::log(q * (total + 1) / (n + 0.5)) : 0.0;
}

class Grower {
 public:
  Grower(const TwoSamples& samples, const StrataLimits& limits)
      : samples_(samples),
        limits_(limits),
        columns_(samples.sizes.size()),
        total_(std::accumulate(samples.counts.begin(), samples.counts.end(), 0.0)) {
    const std::int32_t widest = columns_ == 0 ? 0 : *std::max_element(samples.sizes.begin(), samples.sizes.end());
    q_.resize(static_cast<std::size_t>(widest));
    n_.resize(static_cast<std::size_t>(widest));
    ratio_.resize(static_cast<std::size_t>(widest));
    order_.resize(static_cast<std::size_t>(widest));
  }

  Strata grow() {
    Strata strata;
    std::vector<Leaf> leaves(1);
    leaves[0].draws.resize(samples_.share.size());
    leaves[0].rows.resize(samples_.counts.size());
    std::iota(leaves[0].draws.begin(), leaves[0].draws.end(), 0U);
    std::iota(leaves[0].rows.begin(), leaves[0].rows.end(), 0U);
    leaves[0].best = best_split(leaves[0]);
    while (leaves.size() < limits_.most) {
      const auto chosen = std::max_element(leaves.begin(), leaves.end(),
                                           [](const Leaf& a, const Leaf& b) { return a.best.gain < b.best.gain; });
      if (chosen->best.column < 0) break;
      const auto number = static_cast<std::int32_t>(chosen - leaves.begin());
      Split split{number, chosen->best.column, std::move(chosen->best.stays)};
      Leaf next;
      partition(chosen->draws, next.draws, samples_.draw_bins, split);
      partition(chosen->rows, next.rows, samples_.row_bins, split);
      chosen->best = best_split(*chosen);
      next.best = best_split(next);
      leaves.push_back(std::move(next));
      strata.splits.push_back(std::move(split));
    }
    strata.leaf_of_draw.resize(samples_.share.size());
    strata.leaf_of_row.resize(samples_.counts.size());
    for (std::size_t k = 0; k < leaves.size(); ++k) {
      for (const auto i : leaves[k].draws) strata.leaf_of_draw[i] = static_cast<std::int32_t>(k);
      for (const auto i : leaves[k].rows) strata.leaf_of_row[i] = static_cast<std::int32_t>(k);
    }
    return strata;
  }

 private:
  std::size_t bin(std::span<const std::int32_t> bins, std::uint32_t item, std::size_t column) const {
    return static_cast<std::size_t>(bins[item * columns_ + column]);
  }

  // Moves the items that do not stay to the new leaf.
  void partition(std::vector<std::uint32_t>& here, std::vector<std::uint32_t>& next, std::span<const std::int32_t> bins,
                 const Split& split) const {
    const auto column = static_cast<std::size_t>(split.column);
    const auto middle = std::stable_partition(
        here.begin(), here.end(), [&](std::uint32_t item) { return split.stays[bin(bins, item, column)] != 0; });
    next.assign(middle, here.end());
    here.erase(middle, here.end());
  }

  // The split of a leaf with the largest gain; column -1 if no split is allowed.
  Candidate best_split(const Leaf& leaf) {
    Candidate result;
    double q_all = 0;
    double n_all = 0;
    for (const auto i : leaf.draws) q_all += samples_.share[i];
    for (const auto i : leaf.rows) n_all += samples_.counts[i];
    if (q_all <= 0 || n_all < 2 * limits_.expected) return result;
    const double here = divergence_term(q_all, n_all, total_);
    const double ratio = n_all / q_all;
    for (std::size_t column = 0; column < columns_; ++column) {
      const auto size = static_cast<std::size_t>(samples_.sizes[column]);
      sort_bins(leaf, column, size);
      double q = 0;
      double n = 0;
      for (std::size_t k = 0; k + 1 < size; ++k) {
        q += q_[order_[k]];
        n += n_[order_[k]];
        const double q_rest = q_all - q;
        const double n_rest = n_all - n;
        if (std::max(q * ratio, n) < limits_.expected || std::max(q_rest * ratio, n_rest) < limits_.expected) continue;
        // a split without gain may enable a later split with gain
        const double gain =
            divergence_term(q, n, total_) + divergence_term(q_rest, n_rest, total_) - here + limits_.least;
        if (gain <= result.gain) continue;
        result.gain = gain;
        result.column = static_cast<std::int32_t>(column);
        result.stays.assign(size, 0);
        for (std::size_t j = 0; j <= k; ++j) result.stays[order_[j]] = 1;
      }
    }
    return result;
  }

  // Shares and rows of every bin of a column in a leaf, and the bins in the order of the thresholds.
  void sort_bins(const Leaf& leaf, std::size_t column, std::size_t size) {
    std::fill_n(q_.begin(), size, 0.0);
    std::fill_n(n_.begin(), size, 0.0);
    for (const auto i : leaf.draws) q_[bin(samples_.draw_bins, i, column)] += samples_.share[i];
    for (const auto i : leaf.rows) n_[bin(samples_.row_bins, i, column)] += samples_.counts[i];
    const auto last = order_.begin() + static_cast<std::ptrdiff_t>(size);
    std::iota(order_.begin(), last, std::size_t{0});
    if (samples_.ordered[column] != 0) return;
    for (std::size_t k = 0; k < size; ++k) ratio_[k] = n_[k] / std::max(q_[k], kNoRatio);
    std::stable_sort(order_.begin(), last, [&](std::size_t a, std::size_t b) { return ratio_[a] < ratio_[b]; });
  }

  const TwoSamples& samples_;
  const StrataLimits limits_;
  std::size_t columns_;
  double total_;
  std::vector<double> q_, n_, ratio_;
  std::vector<std::size_t> order_;
};

}  // namespace

Strata grow_strata(const TwoSamples& samples, const StrataLimits& limits) { return Grower(samples, limits).grow(); }

}  // namespace mdcm
