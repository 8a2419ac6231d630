// Searches inside subsets of the nodes, and Tian's recursion from one c-factor to another.

#pragma once

#include <cstdint>
#include <vector>

#include "admg.hpp"

namespace mdcm {

// Subsets of the nodes as marks that are cleared by a new epoch, and searches inside them.
class Subgraph {
 public:
  explicit Subgraph(const Admg& graph);

  void restrict_to(Nodes set);
  void admit(Node v) { inside_[static_cast<std::size_t>(v)] = epoch_; }
  bool inside(Node v) const { return inside_[static_cast<std::size_t>(v)] == epoch_; }
  // Ancestors of `nodes` in the graph over the set, in no order.
  std::vector<Node> ancestors(Nodes nodes);
  // The c-component of the graph over the set that holds `root`, in no order; the second form fills a vector.
  std::vector<Node> part_of(Node root);
  void part_of(Node root, std::vector<Node>& part);
  void sort(std::vector<Node>& nodes) const;  // topologically

  // Whether Q[factor], which bidirected paths connect, is a function of Q[from] (Tian & Pearl 2002; complete by Huang &
  // Valtorta 2006). If not, `stuck` is the set that the recursion ends in: all of it are ancestors of the factor in
  // the graph over it, and bidirected paths connect it.
  bool is_identifiable(Nodes factor, Nodes from, std::vector<Node>& stuck);

 private:
  const Admg& graph_;
  std::vector<std::uint32_t> inside_;
  std::vector<std::uint32_t> seen_;
  std::vector<std::uint32_t> used_;
  std::uint32_t epoch_ = 0;
  std::uint32_t search_ = 0;
};

}  // namespace mdcm
