#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <queue>
#include <random>
#include <vector>

#include "admg.hpp"
#include "components.hpp"
#include "core_graphs.hpp"
#include "separation.hpp"

namespace mdcm {
namespace {

// Separation by another road than the search under test: in the subgraph of the ancestors of everything mentioned,
// join every two nodes that a collider path connects (augmentation), delete z, and look for a connection.
bool separated_by_augmentation(const RandomGraph& g, const Set& x, const Set& y, const Set& z) {
  const auto n = at(g.n);
  std::vector<std::vector<bool>> arc(n, std::vector<bool>(n, false));
  std::vector<std::vector<bool>> pair(n, std::vector<bool>(n, false));
  for (const auto& [a, b] : g.directed) arc[at(a)][at(b)] = true;
  for (const auto& [a, b] : g.bidirected) pair[at(a)][at(b)] = pair[at(b)][at(a)] = true;
  std::vector<bool> keep(n, false);
  for (const Set* set : {&x, &y, &z}) {
    for (const Node v : *set) keep[at(v)] = true;
  }
  for (std::size_t round = 0; round < n; ++round) {
    for (std::size_t a = 0; a < n; ++a) {
      for (std::size_t b = 0; b < n; ++b) {
        if (arc[a][b] && keep[b]) keep[a] = true;
      }
    }
  }
  const auto into = [&](std::size_t a, std::size_t b) { return arc[a][b] || pair[a][b]; };
  std::vector<std::vector<bool>> joined(n, std::vector<bool>(n, false));
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = 0; b < n; ++b) {
      if (a == b || !keep[a] || !keep[b]) continue;
      if (arc[a][b] || arc[b][a] || pair[a][b]) joined[a][b] = true;
      // a, then colliders joined by bidirected edges, then b
      std::vector<bool> seen(n, false);
      std::queue<std::size_t> open;
      for (std::size_t c = 0; c < n; ++c) {
        if (keep[c] && c != a && into(a, c)) {
          seen[c] = true;
          open.push(c);
        }
      }
      while (!open.empty()) {
        const std::size_t c = open.front();
        open.pop();
        if (c != b && into(b, c)) joined[a][b] = true;
        for (std::size_t d = 0; d < n; ++d) {
          if (keep[d] && !seen[d] && pair[c][d]) {
            seen[d] = true;
            open.push(d);
          }
        }
      }
    }
  }
  std::vector<bool> seen(n, false);
  for (const Node v : z) seen[at(v)] = true;
  std::queue<std::size_t> open;
  for (const Node v : x) {
    seen[at(v)] = true;
    open.push(at(v));
  }
  while (!open.empty()) {
    const std::size_t a = open.front();
    open.pop();
    if (std::find(y.begin(), y.end(), static_cast<Node>(a)) != y.end()) return false;
    for (std::size_t b = 0; b < n; ++b) {
      if ((joined[a][b] || joined[b][a]) && !seen[b]) {
        seen[b] = true;
        open.push(b);
      }
    }
  }
  return true;
}

TEST(Admg, EmptyGraphHasEmptyOrder) {
  const Admg graph = make(0, {});
  EXPECT_EQ(graph.size(), 0);
  EXPECT_TRUE(graph.topological_order().empty());
  EXPECT_EQ(c_components(graph).count, 0);
}

TEST(Admg, RowsAreSortedAndRepeatedArcsCountOnce) {
  const Admg graph = make(4, {{3, 0}, {1, 0}, {3, 2}, {1, 0}, {2, 0}}, {{3, 0}, {2, 0}});
  EXPECT_EQ(graph.num_directed(), 4U);
  EXPECT_EQ(to_set(graph.parents(0)), (Set{1, 2, 3}));
  EXPECT_TRUE(std::is_sorted(graph.parents(0).begin(), graph.parents(0).end()));
  EXPECT_TRUE(std::equal(graph.children(3).begin(), graph.children(3).end(), Set{0, 2}.begin()));
  EXPECT_TRUE(std::equal(graph.siblings(0).begin(), graph.siblings(0).end(), Set{2, 3}.begin()));
}

TEST(Admg, CycleIsNamedFromItsSmallestNode) {
  const GraphFault fault = fault_of(6, {{5, 0}, {4, 2}, {2, 3}, {3, 4}, {4, 5}});
  EXPECT_EQ(fault.kind(), GraphFault::Kind::kCycle);
  EXPECT_EQ(fault.nodes(), (Set{2, 3, 4}));
}

TEST(Admg, BadEdgesAreRefusedWithTheirPlace) {
  const GraphFault loop = fault_of(3, {{0, 1}, {2, 2}});
  EXPECT_EQ(loop.kind(), GraphFault::Kind::kSelfLoop);
  EXPECT_EQ(loop.nodes(), (Set{2}));
  EXPECT_EQ(loop.index(), 1U);
  const GraphFault unknown = fault_of(3, {}, {{0, 1}, {1, 3}});
  EXPECT_EQ(unknown.kind(), GraphFault::Kind::kUnknownNode);
  EXPECT_EQ(unknown.index(), 1U);
  const GraphFault repeated = fault_of(3, {}, {{0, 1}, {1, 2}, {1, 0}});
  EXPECT_EQ(repeated.kind(), GraphFault::Kind::kRepeatedPair);
  EXPECT_EQ(repeated.nodes(), (Set{1, 0}));
  EXPECT_EQ(repeated.index(), 2U);
  EXPECT_THROW(make(3, {}, {}, {{1}}), std::invalid_argument);
  EXPECT_THROW(make(3, {}, {}, {{1, 1}}), std::invalid_argument);
  EXPECT_THROW(make(3, {}, {}, {{1, 3}}), GraphFault);
  EXPECT_THROW(make(-1, {}), std::invalid_argument);
}

TEST(Admg, OrderIsKahnsWithTheSmallestNodeFirst) {
  std::mt19937 rng(1);
  for (const Node n : {1, 2, 63, 64, 65, 500, 5000}) {
    const RandomGraph g(n, 2.0 / n, 0, rng);
    const Admg graph = g.admg();
    std::vector<int> open(at(n), 0);
    for (const auto& [tail, head] : g.directed) ++open[at(head)];
    std::priority_queue<Node, Set, std::greater<>> ready;
    for (Node v = 0; v < n; ++v) {
      if (open[at(v)] == 0) ready.push(v);
    }
    Set expected;
    while (!ready.empty()) {
      const Node v = ready.top();
      ready.pop();
      expected.push_back(v);
      for (const Node c : graph.children(v)) {
        if (--open[at(c)] == 0) ready.push(c);
      }
    }
    const Nodes order = graph.topological_order();
    EXPECT_EQ(Set(order.begin(), order.end()), expected);
    for (Node v = 0; v < n; ++v) EXPECT_EQ(order[at(graph.positions()[at(v)])], v);
  }
}

TEST(Admg, AncestorsAndDescendantsRespectCuts) {
  const Admg graph = make(5, {{0, 1}, {1, 2}, {2, 3}, {4, 2}});
  const Set three{3};
  const Set zero{0};
  const Set two{2};
  const Set one{1};
  EXPECT_EQ(ancestors(graph, three), (Set{0, 1, 2, 3, 4}));
  EXPECT_EQ(ancestors(graph, three, Cut{two, {}}), (Set{2, 3}));
  EXPECT_EQ(ancestors(graph, three, Cut{{}, one}), (Set{2, 3, 4}));
  EXPECT_EQ(descendants(graph, zero), (Set{0, 1, 2, 3}));
  EXPECT_EQ(descendants(graph, zero, Cut{two, {}}), (Set{0, 1}));
  EXPECT_EQ(descendants(graph, zero, Cut{{}, two}), (Set{0, 1, 2}));
}

TEST(Projection, HiddenNodeBecomesPairsOrOneLatent) {
  // 0 -> 4(hidden) -> 1, 2, 3
  const Admg graph = make(5, {{0, 4}, {4, 1}, {4, 2}, {4, 3}});
  const Set observed{0, 1, 2, 3};
  const Edges pairs = latent_projection(graph, observed, Facets::kPairs);
  EXPECT_EQ(pairs.tails, (Set{0, 0, 0}));
  EXPECT_EQ(pairs.heads, (Set{1, 2, 3}));
  EXPECT_EQ(pairs.first, (Set{1, 1, 2}));
  EXPECT_EQ(pairs.second, (Set{2, 3, 3}));
  const Edges shared = latent_projection(graph, observed, Facets::kShared);
  EXPECT_TRUE(shared.first.empty());
  EXPECT_EQ(shared.latent_children, (Set{1, 2, 3}));
  EXPECT_EQ(shared.latent_origin, (Set{4}));
}

TEST(Components, HubsConnectLikeTheirCliques) {
  std::mt19937 rng(2);
  for (int trial = 0; trial < 200; ++trial) {
    const RandomGraph g(12, 0.2, 0.03, rng, trial % 4);
    const Set cut = members_of(12, static_cast<unsigned>(rng()) & (trial % 2 == 0 ? 0U : 0x105U));
    EXPECT_EQ(c_components(g.admg(), cut).label, c_components(g.expanded(), cut).label);
  }
}

TEST(Components, StronglyConnectedAgainstTransitiveClosure) {
  std::mt19937 rng(3);
  for (int trial = 0; trial < 300; ++trial) {
    const Node n = 1 + static_cast<Node>(rng() % 12);
    std::vector<Set> out(at(n));
    std::vector<std::vector<bool>> reach(at(n), std::vector<bool>(at(n), false));
    for (Node v = 0; v < n; ++v) {
      reach[at(v)][at(v)] = true;
      for (Node w = 0; w < n; ++w) {
        if (rng() % static_cast<unsigned>(n) < 1) {
          out[at(v)].push_back(w);
          reach[at(v)][at(w)] = true;
        }
      }
    }
    for (std::size_t k = 0; k < at(n); ++k) {
      for (std::size_t i = 0; i < at(n); ++i) {
        for (std::size_t j = 0; j < at(n); ++j) {
          if (reach[i][k] && reach[k][j]) reach[i][j] = true;
        }
      }
    }
    int calls = 0;
    // a relation that is forgotten between calls, as the contract allows
    Set scratch;
    const auto successors = [&](Node v) -> const Set& {
      ++calls;
      scratch = out[at(v)];
      return scratch;
    };
    const std::size_t budget = trial % 3 == 0 ? 0 : (trial % 3 == 1 ? at(n) : 10000);
    const Components found = strongly_connected(n, successors, budget);
    EXPECT_LE(calls, budget == 10000 ? n : 2 * n - 1);
    for (std::size_t i = 0; i < at(n); ++i) {
      for (std::size_t j = 0; j < at(n); ++j) {
        EXPECT_EQ(found.label[i] == found.label[j], reach[i][j] && reach[j][i]);
        if (reach[i][j]) {
          EXPECT_GE(found.label[i], found.label[j]);
        }
      }
    }
  }
}

TEST(Separation, AgreesWithAugmentedGraphs) {
  std::mt19937 rng(4);
  int separated = 0;
  for (int trial = 0; trial < 4000; ++trial) {
    const Node n = 2 + static_cast<Node>(rng() % 7);
    const RandomGraph g(n, 0.25, 0.12, rng);
    Set sets[4];
    for (Node v = 0; v < n; ++v) sets[rng() % 4].push_back(v);
    const bool expected = separated_by_augmentation(g, sets[0], sets[1], sets[2]);
    EXPECT_EQ(m_separated(g.admg(), sets[0], sets[1], sets[2]), expected);
    separated += expected && !sets[0].empty() && !sets[1].empty() ? 1 : 0;
  }
  EXPECT_GT(separated, 400);
}

TEST(Separation, HubsActLikeTheirCliques) {
  std::mt19937 rng(5);
  for (int trial = 0; trial < 2000; ++trial) {
    const Node n = 3 + static_cast<Node>(rng() % 6);
    const RandomGraph g(n, 0.25, 0.1, rng, 1 + trial % 3);
    Set sets[6];
    for (Node v = 0; v < n; ++v) sets[rng() % 4].push_back(v);
    for (Node v = 0; v < n; ++v) {
      if (rng() % 5 == 0) sets[4 + rng() % 2].push_back(v);
    }
    const Cut cut{sets[4], sets[5]};
    EXPECT_EQ(m_separated(g.admg(), sets[0], sets[1], sets[2], cut),
              m_separated(g.expanded(), sets[0], sets[1], sets[2], cut));
  }
}

TEST(Separation, FrontDoorRules) {
  // D -> I -> A, D <-> A
  const Admg graph = make(3, {{0, 1}, {1, 2}}, {{0, 2}});
  const Set d{0};
  const Set i{1};
  const Set a{2};
  EXPECT_TRUE(rule2(graph, i, d, {}, {}));
  EXPECT_FALSE(rule2(graph, a, d, {}, {}));
  EXPECT_TRUE(rule2(graph, a, i, d, {}));
  EXPECT_FALSE(rule2(graph, a, i, {}, {}));
  EXPECT_TRUE(rule3(graph, a, d, i, {}));
  EXPECT_TRUE(rule3(graph, d, i, {}, {}));
  EXPECT_FALSE(rule3(graph, i, d, {}, {}));
  EXPECT_FALSE(rule1(graph, a, d, {}, i));
  EXPECT_FALSE(rule1(graph, a, d, i, {}));
}

TEST(Separation, RuleThreeKeepsEdgesIntoAncestorsOfObservations) {
  // z -> w, u -> z, u -> y: z is an ancestor of the observed w, so its edges stay
  const Admg graph = make(4, {{0, 1}, {2, 0}, {2, 3}});
  const Set z{0};
  const Set w{1};
  const Set y{3};
  EXPECT_FALSE(rule3(graph, y, z, {}, w));
  EXPECT_TRUE(rule3(graph, y, z, {}, {}));
}

}  // namespace
}  // namespace mdcm
