#include <gtest/gtest.h>

#include <initializer_list>
#include <random>
#include <vector>

#include "admg.hpp"
#include "core_graphs.hpp"
#include "identify.hpp"
#include "separation.hpp"

namespace mdcm {
namespace {

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

}  // namespace
}  // namespace mdcm
