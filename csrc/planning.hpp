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
  kMinimal,  // smallest modularity sets, and only the edges that they require
  kPaper,    // sets and edges as printed, and the edges from the members of the sets
};

// The h-graph (Rahman & Kocaoglu 2024, Algorithm 1): h-nodes, each a union of c-components whose mechanisms are trained
// together, and an edge s -> t if matching t needs a trained member of s.
//
// An h-node that is trained adversarially needs the A of its fits. Trained by likelihood, or pre-trained, it needs
// nothing: the likelihood factorises over the c-components (Tian & Pearl 2002), each factor a function of observed
// values. Starting from the initial parts, strongly connected components are contracted and the needs of the contracted
// nodes recomputed, until nothing merges: the result is a DAG in which every mechanism is trained before it is used.
// The minimal method departs from Def. 4.3 of Rahman & Kocaoglu (2024), whose edges are tests of single parents and
// neither suffice for that order nor give the finest partition; the paper method draws those edges too, and extends A
// by all parents at once as Algorithm 2 does.
//
// Needs are computed on request and never stored: memory is O(n + edges of the graph + fits) even if the needs of all
// h-nodes together are quadratic. The fits to a single data set that observes everything, one per h-node, are not
// stored either.
class HGraph {
 public:
  // `initial` are unions of c-components, `training` the objective of each; parts that are merged are trained
  // adversarially. The paper method takes no targets. `graph` must outlive this object.
  // Time: fewer than three closures per h-node, group and round; the paper method tests every pair of h-nodes joined by
  // an arc.
  HGraph(const Admg& graph, Components initial, std::vector<Training> training, std::vector<DatasetGroup> groups,
         Method method = Method::kMinimal);

  // H-nodes are numbered by level, then by their first member in topological order.
  Node size() const { return parts_.count(); }
  const std::vector<Node>& labels() const { return hnodes_.label; }  // the h-node of every node
  const std::vector<Node>& levels() const { return level_; }         // 0 for an h-node without needs
  Nodes members(Node h) const { return parts_[h]; }                  // in topological order
  Training training(Node h) const { return training_[static_cast<std::size_t>(h)]; }
  int rounds() const { return rounds_; }  // number of contractions, the last of which merges nothing

  // Whether every h-node has a single fit, of all its members, to the only group.
  bool has_plain_fits() const { return plain_; }
  const std::vector<PlannedFit>& fits(Node h) const { return fits_[static_cast<std::size_t>(h)]; }
  const std::vector<DatasetGroup>& groups() const { return groups_; }
  // The first h-node that no group determines; its number is -1 if there is none.
  const Untrained& untrained() const { return untrained_; }

  // Edges s -> t, sorted. A closure per fit; the result can be quadratic in the graph.
  std::vector<std::pair<Node, Node>> edges() const;

 private:
  class Needs;
  void choose_fits();
  void number_hnodes(const Components& order);

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

// Rahman & Kocaoglu (2024), Algorithm 2, line 7: extend A by all parents of the set and A until rule 2 holds.
// Ascending. O(n + edges) per step, at most as many steps as the longest path.
std::vector<Node> paper_set(const Admg& graph, Nodes set);

}  // namespace mdcm
