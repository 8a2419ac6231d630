// Which mechanisms are trained together, in which order, and what must be generated along with them.

#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "admg.hpp"
#include "components.hpp"

namespace mdcm {

// A backdoor path c <- q <- ... <- s, or c <- q <- ... <- b <-> s, from a child c of q to a member s of the same set.
struct Witness {
  std::vector<Node> path;        // c, q, ..., s
  bool ends_bidirected = false;  // whether the last step is b <-> s
};

// Computes, for one set after another, the least S that contains it and is closed under
//
//   q not in I, q has a child in S, and q in De(S and the siblings of S), all under do(I)   =>   q in S.
//
// S minus the set is the smallest set A that satisfies the modularity condition of Rahman & Kocaoglu (2024, Def. 4.4
// and D.1), and every set that satisfies it contains A: rule 2 fails for a parent p of S exactly when directed edges
// lead to p, past no other parent of S, from a member of S or a sibling of one; then p is no parent of a larger
// solution either.
//
// Scratch memory is O(n + hubs), allocated once. One run costs O(edges met), at worst O(n + edges), and clears
// nothing. Not safe for concurrent use; one object per thread.
class ModularityClosure {
 public:
  explicit ModularityClosure(const Admg& graph);

  // S for the members of `set` outside `targets`, under do(targets): first those members, then A in the order in
  // which it was forced. Valid until the next run.
  Nodes run(Nodes set, Nodes targets);

  // How many leading members of the last result come from the set itself.
  std::size_t num_given() const { return num_given_; }

  // A without the members given: what the last run added.
  Nodes added() const { return Nodes(closed_).subspan(num_given_); }

  // Whether v belongs to the last result.
  bool contains(Node v) const { return closed_at_[index(v)] == epoch_; }

  // Why q, one of added(), was forced. The inner nodes of the path are outside S, so the path is open in the graph
  // in which rule 2 for S without q is read off.
  Witness witness(Node q) const;

 private:
  static std::size_t index(Node v) { return static_cast<std::size_t>(v); }
  void close(Node v);
  void reach(Node source, Node came_from);

  const Admg& graph_;
  std::uint32_t epoch_ = 0;
  std::size_t num_given_ = 0;
  Node last_position_ = -1;
  std::vector<std::uint32_t> target_at_;
  std::vector<std::uint32_t> closed_at_;
  std::vector<std::uint32_t> parent_at_;
  std::vector<std::uint32_t> reached_at_;
  std::vector<std::uint32_t> hub_at_;
  std::vector<Node> child_;  // the member of S through which a parent was met
  std::vector<Node> from_;   // where a reached node was entered from: a parent, or an encoded sibling
  std::vector<Node> closed_;
  std::vector<Node> open_;
};

// The h-graph: h-nodes, each a union of c-components whose mechanisms are trained together, and an edge s -> t where
// matching t needs a trained member of s.
//
// An h-node that is trained adversarially needs the A of its modularity closure. One that is trained by likelihood
// needs nothing: the likelihood splits into one term per c-component (Tian & Pearl 2002), each read off observed
// values. Starting from one h-node per c-component, strongly connected components are contracted and the needs of the
// contracted nodes computed anew, until nothing merges: the result is a DAG in which everything is trained before it
// is used. Departs from Def. 4.3 of Rahman & Kocaoglu (2024), whose edges are tests of single parents and neither
// suffice for that order nor give the finest partition.
//
// Needs are computed when asked for and never stored: memory is O(n + edges of the graph) even where the needs of all
// h-nodes together are quadratic.
class HGraph {
 public:
  // `adversarial` has one entry per c-component, numbered as c_components() numbers them. `graph` must outlive this.
  // Time: fewer than three closures per h-node and round.
  HGraph(const Admg& graph, std::span<const std::uint8_t> adversarial);

  // H-nodes are numbered by level, then by their first member in topological order.
  Node size() const { return parts_.count(); }
  const std::vector<Node>& labels() const { return hnodes_.label; }  // the h-node of every node
  const std::vector<Node>& levels() const { return level_; }         // 0 for an h-node that needs nothing
  Nodes members(Node h) const { return parts_[h]; }                  // in topological order
  bool is_adversarial(Node h) const { return adversarial_[static_cast<std::size_t>(h)] != 0; }
  int rounds() const { return rounds_; }  // contractions, the last of which merged nothing

  // Edges s -> t, sorted. One closure per h-node; the result can be quadratic.
  std::vector<std::pair<Node, Node>> edges() const;

 private:
  class Needs;
  void number(const Components& order);

  const Admg& graph_;
  Components hnodes_;
  Parts parts_;
  std::vector<std::uint8_t> adversarial_;
  std::vector<Node> level_;
  int rounds_ = 0;
};

}  // namespace mdcm
