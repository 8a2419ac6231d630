// C-factors that a data set determines (Tian & Pearl 2002; Bareinboim & Pearl 2012; Lee, Correa & Bareinboim 2019; Lee
// & Bareinboim 2020).

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "admg.hpp"
#include "expression.hpp"
#include "fits.hpp"
#include "subgraph.hpp"
#include "worlds.hpp"

namespace mdcm {

// Reason why a data set does not determine a c-factor.
struct Obstacle {
  enum class Kind : std::uint8_t {
    kNone,
    kInside,   // nodes belong to the factor and are intervened on
    kColumns,  // nodes are not observed
    kHedge,    // nodes are the set at which Identify fails: a c-forest that contains the factor
    kValues,   // nodes are not set to all required values
  };
  Kind kind = Kind::kNone;
  std::vector<Node> nodes;  // ascending
};

// The c-factors of a graph in the distribution P(observed | do(targets)) of a group of data sets, whose graph is the
// projection of the mutilated graph onto the observed nodes and targets.
class DataSource {
 public:
  // `number` identifies the source in expressions.
  DataSource(const Admg& graph, const DatasetGroup& group, std::int32_t number);

  // Prepares for factors among the c-components of the subgraph induced by `nodes`.
  void prepare(Nodes nodes);
  // The obstacle to Q[factor] being a function of the source's distribution at the values set, if any.
  Obstacle examine(std::span<const CFactors::Argument> members, std::span<const CFactors::Argument> arguments);
  // Q[factor] as an expression over the symbols of the arguments. Requires that examine() reports no obstacle.
  std::int32_t express(std::span<const CFactors::Argument> members, std::span<const CFactors::Argument> arguments,
                       ExpressionBuilder& builder);

  const DatasetGroup& group() const { return *group_; }

 private:
  const Admg& graph() const { return projected_ ? *projected_ : *whole_; }
  Node global(Node v) const { return projected_ == nullptr ? v : known_[static_cast<std::size_t>(v)]; }
  Node local(Node v) const { return projected_ == nullptr ? v : local_[static_cast<std::size_t>(v)]; }
  bool is_target(Node v) const { return is_target_[static_cast<std::size_t>(v)]; }  // local
  std::vector<Node> local_nodes(std::span<const CFactors::Argument> members) const;
  std::vector<Node> ancestors_in_component(Nodes factor);
  Symbol symbol(Node v) const;
  std::vector<Symbol> symbols(Nodes nodes) const;
  std::int32_t factor_from_joint(Nodes part, ExpressionBuilder& builder);
  std::int32_t factor_from_quotients(Nodes part, Nodes set, std::int32_t q, ExpressionBuilder& builder) const;

  const Admg* whole_;
  const DatasetGroup* group_;
  std::int32_t number_;
  std::vector<Node> known_;  // nodes of the projection if some columns are missing; may be empty
  std::vector<Node> local_;
  std::unique_ptr<Admg> projected_;
  std::vector<bool> is_target_;
  std::unique_ptr<Subgraph> sub_;
  // c-components of an ancestral set
  std::vector<std::int32_t> label_;
  std::vector<std::vector<Node>> parts_;
  std::vector<std::uint32_t> seen_;
  std::uint32_t search_ = 0;
  // by node, the argument of the factor in express()
  std::vector<Symbol> symbol_of_;
};

}  // namespace mdcm
