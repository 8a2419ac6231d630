#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <random>
#include <utility>
#include <vector>

#include "admg.hpp"
#include "components.hpp"
#include "core_graphs.hpp"
#include "fits.hpp"
#include "modularity.hpp"
#include "planning.hpp"
#include "separation.hpp"

namespace mdcm {
namespace {

HGraph hgraph(const Admg& graph, Training training = Training::kAdversarial,
              std::vector<DatasetGroup> groups = {DatasetGroup{}}, Method method = Method::kMinimal) {
  const Components components = c_components(graph);
  return {graph, components, std::vector<Training>(at(components.count), training), std::move(groups), method};
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

TEST(HGraph, PaperMethodTakesAllParentsAndIsOrdered) {
  // X -> Z1 -> Z2 -> Y, X <-> Y
  const Admg graph = make(4, {{0, 1}, {1, 2}, {2, 3}}, {{0, 3}});
  const HGraph h = hgraph(graph, Training::kAdversarial, {group({})}, Method::kPaper);
  EXPECT_EQ(h.edges(), (Pairs{{0, 2}, {1, 2}}));
  const Set both{0, 3};
  EXPECT_EQ(paper_set(graph, both), (Set{1, 2}));
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
  const auto& missing = h.untrained().missing;
  EXPECT_EQ(missing[0].kind, Missing::Kind::kColumns);
  EXPECT_EQ(missing[0].nodes, (Set{1}));
  EXPECT_EQ(missing[1].kind, Missing::Kind::kInside);
  EXPECT_EQ(missing[1].nodes, (Set{2}));
  EXPECT_EQ(missing[2].kind, Missing::Kind::kValues);
  EXPECT_EQ(missing[2].nodes, (Set{1}));
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
