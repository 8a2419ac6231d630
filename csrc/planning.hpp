// Which mechanisms are trained together, in which order, and what must be generated along with them.

#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "admg.hpp"
#include "components.hpp"
#include "fits.hpp"

namespace mdcm {

enum class Method : std::uint8_t {
  kMinimal,  // smallest modularity sets, and only the edges that they ask for
  kPaper,    // sets and edges as printed, and the edges from the members of the sets
};

// The h-graph: h-nodes, each a union of c-components whose mechanisms are trained together, and an edge s -> t where
// matching t needs a trained member of s.
//
// An h-node that is trained adversarially needs the A of its fits. One that is trained by likelihood, or not at all,
// needs nothing: the likelihood splits into one term per c-component (Tian & Pearl 2002), each read off observed
// values. Starting from the given parts, strongly connected components are contracted and the needs of the contracted
// nodes computed anew, until nothing merges: the result is a DAG in which everything is trained before it is used.
// The minimal method departs from Def. 4.3 of Rahman & Kocaoglu (2024), whose edges are tests of single parents and
// neither suffice for that order nor give the finest partition; the paper method draws those edges too, and grows A
// by all parents at a time as Algorithm 2 does.
//
// Needs are computed when asked for and never stored: memory is O(n + edges of the graph + fits) even where the needs
// of all h-nodes together are quadratic. One data set that observes everything is so common that its fits, one per
// h-node, are not stored either.
class HGraph {
 public:
  // `initial` are unions of c-components, each with its way of training; parts that are merged later train
  // adversarially. The paper method takes no targets. `graph` must outlive this.
  // Time: fewer than three closures per h-node, group and round; the paper method tests every pair of h-nodes that an
  // arc joins.
  HGraph(const Admg& graph, Components initial, std::vector<Training> training, std::vector<DatasetGroup> groups,
         Method method = Method::kMinimal);

  // H-nodes are numbered by level, then by their first member in topological order.
  Node size() const { return parts_.count(); }
  const std::vector<Node>& labels() const { return hnodes_.label; }  // the h-node of every node
  const std::vector<Node>& levels() const { return level_; }         // 0 for an h-node that needs nothing
  Nodes members(Node h) const { return parts_[h]; }                  // in topological order
  Training training(Node h) const { return training_[static_cast<std::size_t>(h)]; }
  int rounds() const { return rounds_; }  // contractions, the last of which merged nothing

  // Whether every h-node has one fit, of all its members, from the only group.
  bool has_plain_fits() const { return plain_; }
  const std::vector<PlannedFit>& fits(Node h) const { return fits_[static_cast<std::size_t>(h)]; }
  const std::vector<DatasetGroup>& groups() const { return groups_; }
  // The first h-node that no group can teach; its number is -1 if there is none.
  const Untrained& untrained() const { return untrained_; }

  // Edges s -> t, sorted. One closure per fit; the result can be quadratic.
  std::vector<std::pair<Node, Node>> edges() const;

 private:
  class Needs;
  void choose_fits();
  void number(const Components& order);

  const Admg& graph_;
  Components hnodes_;
  Parts parts_;
  std::vector<Training> training_;
  std::vector<DatasetGroup> groups_;
  Method method_;
  bool plain_;
  std::vector<std::vector<PlannedFit>> fits_;
  std::vector<Untrained> all_untrained_;
  Untrained untrained_;
  std::vector<Node> level_;
  int rounds_ = 0;
};

// Algorithm 2 of Rahman & Kocaoglu (2024), line 7: A grows by all parents of the set and A until rule 2 holds.
// Ascending. O(n + edges) per step, at most as many steps as the longest path.
std::vector<Node> paper_set(const Admg& graph, Nodes set);

}  // namespace mdcm
