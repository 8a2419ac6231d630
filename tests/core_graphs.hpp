// Small graphs, random graphs and data sets that the tests of the core are made of.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "admg.hpp"
#include "fits.hpp"

namespace mdcm {

using Pairs = std::vector<std::pair<Node, Node>>;
using Set = std::vector<Node>;

inline std::size_t at(Node v) { return static_cast<std::size_t>(v); }

inline Set to_set(Nodes nodes) {
  Set sorted(nodes.begin(), nodes.end());
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

struct Columns {
  explicit Columns(const Pairs& pairs) {
    for (const auto& [a, b] : pairs) {
      first.push_back(a);
      second.push_back(b);
    }
  }
  Set first;
  Set second;
};

inline Admg make(Node n, const Pairs& directed, const Pairs& bidirected = {}, const std::vector<Set>& latents = {}) {
  const Columns arcs(directed);
  const Columns pairs(bidirected);
  std::vector<std::int64_t> offsets{0};
  Set children;
  for (const Set& latent : latents) {
    children.insert(children.end(), latent.begin(), latent.end());
    offsets.push_back(static_cast<std::int64_t>(children.size()));
  }
  return Admg(n, EdgeView{arcs.first, arcs.second, pairs.first, pairs.second, offsets, children});
}

inline GraphFault fault_of(Node n, const Pairs& directed, const Pairs& bidirected = {}) {
  try {
    make(n, directed, bidirected);
  } catch (const GraphFault& fault) {
    return fault;
  }
  ADD_FAILURE() << "the graph was accepted";
  return GraphFault(GraphFault::Kind::kTooLarge, {}, 0);
}

// Random mixed graphs; the order of the nodes is a random topological order.
struct RandomGraph {
  Node n;
  Pairs directed;
  Pairs bidirected;
  std::vector<Set> latents;

  RandomGraph(Node size, double density, double confounding, std::mt19937& rng, int num_latents = 0) : n(size) {
    std::uniform_real_distribution<double> unit(0, 1);
    Set order(at(n));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), rng);
    for (std::size_t i = 0; i < order.size(); ++i) {
      for (std::size_t j = i + 1; j < order.size(); ++j) {
        if (unit(rng) < density) directed.emplace_back(order[i], order[j]);
        if (unit(rng) < confounding) bidirected.emplace_back(order[j], order[i]);
      }
    }
    for (int k = 0; k < num_latents; ++k) {
      std::shuffle(order.begin(), order.end(), rng);
      const auto size_of = std::uniform_int_distribution<std::size_t>(2, at(n))(rng);
      latents.emplace_back(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(size_of));
    }
  }

  Admg admg() const { return make(n, directed, bidirected, latents); }

  // the same graph with every latent expanded into its clique
  Admg expanded() const {
    std::set<std::pair<Node, Node>> pairs;
    for (const auto& [a, b] : bidirected) pairs.insert(std::minmax(a, b));
    for (const Set& latent : latents) {
      for (const Node a : latent) {
        for (const Node b : latent) {
          if (a < b) pairs.insert({a, b});
        }
      }
    }
    return make(n, directed, Pairs(pairs.begin(), pairs.end()));
  }
};

inline Set members_of(Node n, unsigned mask) {
  Set found;
  for (Node v = 0; v < n; ++v) {
    if ((mask >> v & 1U) != 0) found.push_back(v);
  }
  return found;
}

inline bool holds(const Set& set, Node v) { return std::find(set.begin(), set.end(), v) != set.end(); }

// Data in which every value of the targets is set.
inline DatasetGroup group(Set targets, std::vector<std::uint8_t> columns = {}, std::int64_t rows = -1) {
  DatasetGroup found;
  found.domain.assign(targets.size(), 2);
  found.boxes.push_back({std::vector<std::vector<std::int32_t>>(targets.size())});
  found.targets = std::move(targets);
  found.columns = std::move(columns);
  found.rows = rows;
  return found;
}

}  // namespace mdcm
