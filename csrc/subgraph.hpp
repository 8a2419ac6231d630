// Searches inside subsets of the nodes, and identification of a c-factor from another (Tian & Pearl 2002).

#pragma once

#include <cstdint>
#include <vector>

#include "admg.hpp"

namespace mdcm {

// A subset of the nodes, as marks that a new epoch clears, and searches inside it.
class Subgraph {
 public:
  explicit Subgraph(const Admg& graph);

  void restrict_to(Nodes set);
  void add(Node v) { inside_[static_cast<std::size_t>(v)] = epoch_; }
  bool inside(Node v) const { return inside_[static_cast<std::size_t>(v)] == epoch_; }
  // Ancestors of `nodes` in the induced subgraph, unordered.
  std::vector<Node> ancestors(Nodes nodes);
  // The c-component of `root` in the induced subgraph, unordered; the second form fills a vector.
  std::vector<Node> c_component_of(Node root);
  void c_component_of(Node root, std::vector<Node>& part);
  void sort_topologically(std::vector<Node>& nodes) const;

  // Whether Q[factor], with `factor` connected by bidirected paths, is a function of Q[from]: algorithm Identify of
  // Tian & Pearl (2002), complete by Huang & Valtorta (2006). If not, `stuck` is the set at which it fails: connected
  // by bidirected paths, and all of it ancestors of the factor in the subgraph that it induces.
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
