#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <numeric>
#include <queue>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "admg.hpp"
#include "components.hpp"
#include "fits.hpp"
#include "identify.hpp"
#include "modularity.hpp"
#include "planning.hpp"
#include "separation.hpp"

namespace mdcm {
namespace {

using Pairs = std::vector<std::pair<Node, Node>>;
using Set = std::vector<Node>;

std::size_t at(Node v) { return static_cast<std::size_t>(v); }

Set to_set(Nodes nodes) {
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

Admg make(Node n, const Pairs& directed, const Pairs& bidirected = {}, const std::vector<Set>& latents = {}) {
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

GraphFault fault_of(Node n, const Pairs& directed, const Pairs& bidirected = {}) {
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

Set members_of(Node n, unsigned mask) {
  Set found;
  for (Node v = 0; v < n; ++v) {
    if ((mask >> v & 1U) != 0) found.push_back(v);
  }
  return found;
}

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

// Def. 4.4 and D.1 by trying all subsets: the smallest one with rule 2, and whether all others contain it.
TEST(Modularity, ClosureIsTheLeastSolution) {
  std::mt19937 rng(6);
  int with_ancestors = 0;
  for (int trial = 0; trial < 1500; ++trial) {
    const Node n = 2 + static_cast<Node>(rng() % 5);
    const RandomGraph g(n, 0.45, 0.25, rng, trial % 7 == 0 ? 1 : 0);
    const Admg graph = g.admg();
    const unsigned all = (1U << n) - 1;
    const unsigned h = static_cast<unsigned>(rng()) & all;
    const unsigned intervened = static_cast<unsigned>(rng()) & static_cast<unsigned>(rng()) & all;
    const Set targets = members_of(n, intervened);
    const unsigned given = h & ~intervened;
    unsigned smallest = all;
    std::vector<unsigned> solutions;
    for (unsigned extra = 0; extra <= all; ++extra) {
      if ((extra & (h | intervened)) != 0) continue;
      const unsigned s = given | extra;
      unsigned parents = 0;
      for (const auto& [tail, head] : g.directed) {
        if ((s >> head & 1U) != 0 && (s >> tail & 1U) == 0) parents |= 1U << tail;
      }
      const Set z = members_of(n, parents & ~intervened);
      if (rule2(graph, members_of(n, s), z, targets, {})) {
        solutions.push_back(extra);
        if (std::popcount(extra) < std::popcount(smallest)) smallest = extra;
      }
    }
    ASSERT_FALSE(solutions.empty());
    ModularityClosure closure(graph);
    closure.run(members_of(n, h), targets);
    EXPECT_EQ(to_set(closure.added()), members_of(n, smallest));
    for (const unsigned other : solutions) EXPECT_EQ(other & smallest, smallest);
    with_ancestors += smallest != 0 ? 1 : 0;
  }
  EXPECT_GT(with_ancestors, 150);
}

TEST(Modularity, WitnessIsABackdoorPathOutsideTheSet) {
  std::mt19937 rng(7);
  int seen = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    const Node n = 3 + static_cast<Node>(rng() % 10);
    const RandomGraph g(n, 0.3, 0.1, rng, trial % 5 == 0 ? 1 : 0);
    const Admg graph = g.admg();
    const Admg pairs = g.expanded();
    const Set h = members_of(n, static_cast<unsigned>(rng() & rng()));
    const Set targets = members_of(n, static_cast<unsigned>(rng() & rng() & rng()));
    ModularityClosure closure(graph);
    closure.run(h, targets);
    const auto has = [](Nodes row, Node v) { return std::find(row.begin(), row.end(), v) != row.end(); };
    for (const Node q : closure.added()) {
      ++seen;
      const Witness w = closure.witness(q);
      ASSERT_GE(w.path.size(), 3U);
      EXPECT_EQ(w.path[1], q);
      EXPECT_TRUE(closure.contains(w.path.front()));
      EXPECT_TRUE(closure.contains(w.path.back()));
      for (std::size_t i = 0; i + 1 < w.path.size(); ++i) {
        const bool bidirected = w.ends_bidirected && i + 2 == w.path.size();
        EXPECT_TRUE(has(bidirected ? pairs.siblings(w.path[i]) : pairs.parents(w.path[i]), w.path[i + 1]));
        EXPECT_FALSE(has(targets, w.path[i]));
      }
      EXPECT_FALSE(w.ends_bidirected && has(targets, w.path.back()));
      for (std::size_t i = 2; i + 1 < w.path.size(); ++i) EXPECT_FALSE(closure.contains(w.path[i]));
    }
  }
  EXPECT_GT(seen, 1000);
}

bool holds(const Set& set, Node v) { return std::find(set.begin(), set.end(), v) != set.end(); }

HGraph hgraph(const Admg& graph, Training training = Training::kAdversarial,
              std::vector<DatasetGroup> groups = {DatasetGroup{}}, Method method = Method::kMinimal) {
  const Components components = c_components(graph);
  return {graph, components, std::vector<Training>(at(components.count), training), std::move(groups), method};
}

// Data in which every value of the targets is set.
DatasetGroup group(Set targets, std::vector<std::uint8_t> columns = {}, std::int64_t rows = -1) {
  DatasetGroup found;
  found.domain.assign(targets.size(), 2);
  found.boxes.push_back({std::vector<std::vector<std::int32_t>>(targets.size())});
  found.targets = std::move(targets);
  found.columns = std::move(columns);
  found.rows = rows;
  return found;
}

TEST(HGraph, FrontDoor) {
  const Admg graph = make(3, {{0, 1}, {1, 2}}, {{0, 2}});
  const HGraph h = hgraph(graph);
  ASSERT_EQ(h.size(), 2);
  EXPECT_EQ(to_set(h.members(0)), (Set{1}));
  EXPECT_EQ(to_set(h.members(1)), (Set{0, 2}));
  EXPECT_EQ(h.edges(), (Pairs{{0, 1}}));
  EXPECT_EQ(h.levels(), (Set{0, 1}));
}

TEST(HGraph, LikelihoodNeedsNoOrder) {
  const Admg graph = make(3, {{0, 1}, {1, 2}}, {{0, 2}});
  const HGraph h = hgraph(graph, Training::kLikelihood);
  EXPECT_EQ(h.size(), 2);
  EXPECT_TRUE(h.edges().empty());
  EXPECT_EQ(h.levels(), (Set{0, 0}));
  EXPECT_EQ(to_set(h.members(0)), (Set{0, 2}));
}

TEST(HGraph, MutualNeedsAreMerged) {
  // a -> p -> y, q -> r -> y' with a <-> y, and p, r so placed that each c-component needs the other
  const Admg graph = make(4, {{0, 1}, {1, 2}, {2, 3}}, {{0, 2}, {1, 3}});
  const HGraph h = hgraph(graph);
  ASSERT_EQ(h.size(), 1);
  EXPECT_EQ(h.rounds(), 2);
}

TEST(HGraph, NeedsComeFirstOnRandomGraphs) {
  std::mt19937 rng(8);
  int merged = 0;
  for (int trial = 0; trial < 500; ++trial) {
    const RandomGraph g(6 + static_cast<Node>(rng() % 14), 0.3, 0.06, rng, trial % 2);
    const Admg graph = g.admg();
    const HGraph h = hgraph(graph);
    ModularityClosure closure(graph);
    Set longest(at(h.size()), 0);
    for (Node k = 0; k < h.size(); ++k) {
      closure.run(h.members(k), {});
      for (const Node q : closure.added()) {
        const Node needed = h.labels()[at(q)];
        EXPECT_LT(needed, k);
        longest[at(k)] = std::max(longest[at(k)], longest[at(needed)] + 1);
      }
    }
    EXPECT_EQ(h.levels(), longest);
    merged += h.size() < c_components(graph).count ? 1 : 0;
  }
  EXPECT_GT(merged, 50);
}

TEST(HGraph, WhatIsGivenIsThereFromTheStart) {
  const Admg graph = make(3, {{0, 1}, {1, 2}}, {{0, 2}});
  const HGraph h(graph, c_components(graph), {Training::kAdversarial, Training::kGiven}, {group({}, {1, 1, 1})});
  EXPECT_TRUE(h.edges().empty());
  EXPECT_EQ(h.untrained().hnode, -1);
  EXPECT_TRUE(h.fits(1).empty());
  EXPECT_EQ(h.fits(0).size(), 1U);
}

TEST(DatasetGroup, CoversEveryCombinationOrNot) {
  DatasetGroup g = group({3, 7});
  const Set both{3, 7};
  const Set first{3};
  EXPECT_TRUE(g.covers(both));
  g.boxes = {{{{0}, {0, 1}}}, {{{1}, {0}}}};
  EXPECT_TRUE(g.covers(first));
  EXPECT_FALSE(g.covers(both));
  g.boxes.push_back({{{}, {1}}});
  EXPECT_TRUE(g.covers(both));
  EXPECT_TRUE(g.covers({}));
  // without a number of levels only a box of every value counts
  g.domain = {0, 2};
  EXPECT_TRUE(g.covers(first));
  EXPECT_FALSE(g.covers(both));
  g.boxes.push_back({{{}, {0}}});
  EXPECT_TRUE(g.covers(both));
  g.domain = {1 << 15, 1 << 15};
  g.boxes = {{{{0}, {0}}}};
  EXPECT_FALSE(g.covers(both));
}

TEST(FitChooser, InterventionsShrinkWhatMustBeGenerated) {
  // the graph of Fig. 2: X1 Z1 Z2 Z3 X2
  const Admg graph = make(5, {{0, 1}, {3, 1}, {1, 2}, {1, 4}}, {{0, 4}, {1, 2}, {1, 3}});
  const HGraph h = hgraph(graph, Training::kAdversarial, {group({}), group({1})});
  ASSERT_EQ(h.size(), 2);
  EXPECT_TRUE(h.edges().empty());
  EXPECT_EQ(h.untrained().hnode, -1);
  for (Node k = 0; k < 2; ++k) {
    if (h.labels()[0] == k) {
      ASSERT_EQ(h.fits(k).size(), 1U);
      EXPECT_EQ(h.fits(k)[0].groups, (std::vector<std::int32_t>{1}));
    } else {
      ASSERT_EQ(h.fits(k).size(), 2U);
      EXPECT_EQ(to_set(h.fits(k)[1].variables).size(), 2U);
    }
  }
}

TEST(FitChooser, SaysWhatEveryGroupLacks) {
  const Admg graph = make(3, {{0, 1}, {1, 2}}, {{0, 2}});
  DatasetGroup one_value = group({1});
  one_value.boxes = {{{{0}}}};
  const HGraph h = hgraph(graph, Training::kAdversarial, {group({}, {1, 0, 1}), group({2}), one_value});
  ASSERT_GE(h.untrained().hnode, 0);
  EXPECT_EQ(to_set(h.members(h.untrained().hnode)), (Set{0, 2}));
  const auto& lacks = h.untrained().lacks;
  EXPECT_EQ(lacks[0].kind, Lack::Kind::kColumns);
  EXPECT_EQ(lacks[0].nodes, (Set{1}));
  EXPECT_EQ(lacks[1].kind, Lack::Kind::kInside);
  EXPECT_EQ(lacks[1].nodes, (Set{2}));
  EXPECT_EQ(lacks[2].kind, Lack::Kind::kValues);
  EXPECT_EQ(lacks[2].nodes, (Set{1}));
}

TEST(FitChooser, EveryFitOfRandomDataSatisfiesRuleTwo) {
  std::mt19937 rng(9);
  int under_do = 0;
  for (int trial = 0; trial < 300; ++trial) {
    const Node n = 4 + static_cast<Node>(rng() % 8);
    const RandomGraph g(n, 0.3, 0.08, rng, trial % 2);
    const Admg graph = g.admg();
    std::vector<DatasetGroup> groups{group({})};
    for (int k = 0; k < 2; ++k) {
      Set targets;
      std::vector<std::uint8_t> columns(at(n), 1);
      for (Node v = 0; v < n; ++v) {
        if (rng() % 4 == 0) targets.push_back(v);
        if (rng() % 5 == 0) columns[at(v)] = 0;
      }
      groups.push_back(group(targets, columns));
    }
    const HGraph h = hgraph(graph, Training::kAdversarial, groups);
    EXPECT_EQ(h.untrained().hnode, -1);
    ModularityClosure closure(graph);
    for (Node k = 0; k < h.size(); ++k) {
      for (const PlannedFit& fit : h.fits(k)) {
        for (const std::int32_t j : fit.groups) {
          const DatasetGroup& data = groups[static_cast<std::size_t>(j)];
          const Nodes closed = closure.run(fit.variables, data.targets);
          const Set inside(closed.begin(), closed.end());
          Set outside;
          for (const Node v : inside) {
            EXPECT_TRUE(data.observes(v));
            EXPECT_TRUE(h.labels()[at(v)] <= k);
            for (const Node p : graph.parents(v)) {
              if (!holds(inside, p) && !data.is_target(p) && !holds(outside, p)) outside.push_back(p);
            }
          }
          for (const Node p : outside) EXPECT_TRUE(data.observes(p));
          EXPECT_TRUE(rule2(graph, inside, outside, data.targets, {}));
          under_do += data.targets.empty() ? 0 : 1;
        }
      }
    }
  }
  EXPECT_GT(under_do, 300);
}

TEST(HGraph, PaperMethodTakesAllParentsAndIsOrdered) {
  // X -> Z1 -> Z2 -> Y, X <-> Y
  const Admg graph = make(4, {{0, 1}, {1, 2}, {2, 3}}, {{0, 3}});
  const HGraph h = hgraph(graph, Training::kAdversarial, {group({})}, Method::kPaper);
  EXPECT_EQ(h.edges(), (Pairs{{0, 2}, {1, 2}}));
  const Set both{0, 3};
  EXPECT_EQ(paper_set(graph, both), (Set{1, 2}));
}

// P(y | do(x), z) from P(V).
Question question(const Set& y, const Set& x, const Set& z = {}) {
  Question asked;
  asked.worlds.emplace_back();
  for (const Node v : x) asked.worlds[0].push_back({v, v, -1});
  for (const Node v : y) asked.atoms.push_back({v, 0, false});
  for (const Node v : z) asked.atoms.push_back({v, 0, true});
  return asked;
}

const std::vector<DatasetGroup> kObservational{group({})};

TEST(Identify, BowHasAHedge) {
  const Admg graph = make(2, {{0, 1}}, {{0, 1}});
  const Question asked = question({1}, {0});
  const Identification found(graph, kObservational, asked);
  EXPECT_EQ(found.verdict(), Identification::Verdict::kNo);
  ASSERT_EQ(found.failures().size(), 1U);
  EXPECT_EQ(found.failures()[0].factor, (Set{1}));
  EXPECT_EQ(found.failures()[0].obstacles[0].kind, Obstacle::Kind::kHedge);
  EXPECT_EQ(found.failures()[0].obstacles[0].nodes, (Set{0, 1}));
}

TEST(Identify, FrontDoorHasAnEstimandWithoutWhatSumsToOne) {
  // D -> I -> A, D <-> A, and a child of A that does not matter
  const Admg graph = make(4, {{0, 1}, {1, 2}, {2, 3}}, {{0, 2}});
  const Question asked = question({2}, {0});
  Identification found(graph, kObservational, asked);
  ASSERT_EQ(found.verdict(), Identification::Verdict::kYes);
  const Expression estimand = found.express();
  for (const auto& term : estimand.terms) {
    EXPECT_FALSE(holds(term.symbols, 3));
    for (const std::int32_t operand : term.operands) EXPECT_LT(operand, &term - estimand.terms.data());
  }
  EXPECT_EQ(estimand.terms.back().kind, Expression::Kind::kSum);
  EXPECT_EQ(estimand.terms.back().symbols, (Set{1}));
}

TEST(Identify, EveryHedgeOfARandomGraphIsOne) {
  std::mt19937 rng(10);
  int refused = 0;
  for (int trial = 0; trial < 1000; ++trial) {
    const Node n = 3 + static_cast<Node>(rng() % 10);
    const RandomGraph g(n, 0.4, 0.15, rng, trial % 2);
    const Admg graph = g.admg();
    const Set x{static_cast<Node>(rng() % static_cast<unsigned>(n))};
    const Set y{static_cast<Node>((x[0] + 1 + static_cast<Node>(rng() % static_cast<unsigned>(n - 1))) % n)};
    const Question asked = question(y, x);
    Identification found(graph, kObservational, asked);
    if (found.verdict() == Identification::Verdict::kYes) {
      EXPECT_FALSE(found.express().terms.empty());
      continue;
    }
    ++refused;
    const auto& inner = found.failures()[0].factor;
    const auto& outer = found.failures()[0].obstacles[0].nodes;
    EXPECT_TRUE(holds(outer, x[0]));
    EXPECT_FALSE(holds(inner, x[0]));
    for (const Node v : inner) EXPECT_TRUE(holds(outer, v));
    // an experiment on the cause itself always helps
    const std::vector<DatasetGroup> both{group({}), group({x[0]})};
    EXPECT_EQ(Identification(graph, both, asked).verdict(), Identification::Verdict::kYes);
  }
  EXPECT_GT(refused, 100);
}

TEST(Identify, ValuesThatWereNeverSetAreNotAnswered) {
  // the bow, with an experiment that sets level 1 of 2
  const Admg graph = make(2, {{0, 1}}, {{0, 1}});
  DatasetGroup experiment = group({0});
  experiment.domain = {2};
  experiment.boxes = {{{{1}}}};
  const std::vector<DatasetGroup> data{group({}), experiment};
  for (const std::int32_t level : {Question::kForeign, Question::kFree, 0, 1}) {
    Question asked = question({1}, {});
    asked.values.push_back({0, level});
    asked.worlds[0].push_back({0, 2, -1});
    const Identification found(graph, data, asked);
    EXPECT_EQ(found.verdict() == Identification::Verdict::kYes, level == 1);
    if (level != 1) EXPECT_EQ(found.failures()[0].obstacles[1].kind, Obstacle::Kind::kValues);
  }
}

TEST(Identify, DataSetsWithoutAnyColumnShowNothing) {
  const Admg graph = make(2, {{0, 1}}, {{0, 1}});
  const std::vector<DatasetGroup> nothing{group({}, {0, 0})};
  const Question asked = question({1}, {0});
  const Identification refused(graph, nothing, asked);
  EXPECT_EQ(refused.failures()[0].obstacles[0].kind, Obstacle::Kind::kColumns);
  const std::vector<DatasetGroup> data{group({}, {0, 0}), group({0}, {0, 1})};
  EXPECT_EQ(Identification(graph, data, asked).verdict(), Identification::Verdict::kYes);
}

TEST(Identify, WorldsThatShareNoiseAreInConflict) {
  // P(Y[X=1] | X=0) in the bow, and in X -> Y
  Question asked;
  asked.values = {{0, 1}, {0, 0}};
  asked.worlds = {{}, {{0, 2, -1}}};
  asked.atoms = {{1, 1, false}, {3, 0, true}};
  const Admg bow = make(2, {{0, 1}}, {{0, 1}});
  const Identification refused(bow, kObservational, asked);
  ASSERT_EQ(refused.verdict(), Identification::Verdict::kNo);
  ASSERT_TRUE(refused.failures()[0].conflict.has_value());
  EXPECT_EQ(refused.failures()[0].conflict->variable, 0);
  const Admg arrow = make(2, {{0, 1}});
  EXPECT_EQ(Identification(arrow, kObservational, asked).verdict(), Identification::Verdict::kYes);
}

TEST(Scale, LongChainsNeedNoStack) {
  const Node n = 300000;
  Pairs chain;
  for (Node v = 0; v + 1 < n; ++v) chain.emplace_back(v, v + 1);
  const Admg graph = make(n, chain, {{0, n - 1}});
  const Set first{0};
  const Set last{n - 1};
  EXPECT_EQ(descendants(graph, first).size(), at(n));
  EXPECT_FALSE(m_separated(graph, first, last, {}));
  const HGraph h = hgraph(graph);
  EXPECT_EQ(h.size(), n - 1);
  ModularityClosure closure(graph);
  closure.run(h.members(n - 2), {});
  EXPECT_EQ(closure.added().size(), at(n - 2));

  Pairs cycle = chain;
  cycle.emplace_back(n - 1, 0);
  EXPECT_EQ(fault_of(n, cycle).nodes().size(), at(n));
}

}  // namespace
}  // namespace mdcm
