// Identification of interventional distributions from P(V), with an estimand or a hedge.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "admg.hpp"

namespace mdcm {

// An expression over P(V), as a list of terms in which operands come before what uses them; equal subexpressions are
// one term. Its size is polynomial in the graph although the tree it stands for need not be.
struct Expression {
  enum class Kind : std::uint8_t {
    kProbability,  // P(nodes | given)
    kProduct,      // of the operands; 1 if there is none
    kQuotient,     // first operand by the second
    kSum,          // of the operand over nodes
  };
  struct Term {
    Kind kind;
    std::vector<Node> nodes;  // ascending
    std::vector<Node> given;  // ascending
    std::vector<std::int32_t> operands;

    bool operator==(const Term&) const = default;
  };
  std::vector<Term> terms;  // the last one is the expression
};

// Why a query is not identifiable: two sets that bidirected paths connect, `inner` inside `outer`, every node of
// either an ancestor of the roots in the graph over it alone; outer meets the interventions, inner does not (Shpitser
// & Pearl 2006). Two models that agree on P(V) disagree on the query.
struct Hedge {
  std::vector<Node> inner;  // ascending
  std::vector<Node> outer;  // ascending
};

struct Identification {
  std::optional<Expression> estimand;
  Hedge hedge;  // where there is no estimand
};

// P(y | do(x)) from P(V): sound and complete (Tian & Pearl 2002; Shpitser & Pearl 2006; Huang & Valtorta 2006).
// y is not empty, and the two sets are disjoint. No recursion. Decisions take O(n (n + edges)) at worst.
Identification identify(const Admg& graph, Nodes y, Nodes x);

}  // namespace mdcm
