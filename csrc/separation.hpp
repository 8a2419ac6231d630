// M-separation and the rules of do-calculus.

#pragma once

#include "admg.hpp"

namespace mdcm {

// Whether every path between x and y is blocked given z in the mutilated graph (Richardson 2003). The three sets must
// be disjoint. O(n + visited edges) time, a byte per node.
bool m_separated(const Admg& graph, Nodes x, Nodes y, Nodes z, const Cut& cut = {});

// The rules of Pearl (1995), Theorem 3; the four sets must be disjoint. O(n + edges).
// Rule 1: P(y | do(x), z, w) = P(y | do(x), w).
bool rule1(const Admg& graph, Nodes y, Nodes z, Nodes x, Nodes w);
// Rule 2: P(y | do(x), do(z), w) = P(y | do(x), z, w).
bool rule2(const Admg& graph, Nodes y, Nodes z, Nodes x, Nodes w);
// Rule 3: P(y | do(x), do(z), w) = P(y | do(x), w).
bool rule3(const Admg& graph, Nodes y, Nodes z, Nodes x, Nodes w);

}  // namespace mdcm
