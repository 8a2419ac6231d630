// The immutable mixed graph: directed edges, bidirected edges and shared latents over the nodes 0..n-1.
//
// A row of the adjacency array holds a node's parents, children and siblings one after another, so that a search
// that leaves a node in every direction touches one stretch of memory. A latent that is given with its children is
// kept as a hub, never expanded into its clique of bidirected edges: memory is linear in what the caller gave.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

namespace mdcm {

using Node = std::int32_t;
using Nodes = std::span<const Node>;

// Input that is not an ADMG. `nodes` holds the evidence (a cycle, the two ends of an edge, one node), `index` the
// offending position in the list where it was found.
class GraphFault : public std::invalid_argument {
 public:
  enum class Kind { kCycle, kSelfLoop, kUnknownNode, kRepeatedPair, kTooLarge };

  GraphFault(Kind kind, std::vector<Node> nodes, std::size_t index);

  Kind kind() const { return kind_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  std::size_t index() const { return index_; }

 private:
  Kind kind_;
  std::vector<Node> nodes_;
  std::size_t index_;
};

// Edges as parallel arrays: directed tails[i] -> heads[i]; bidirected first[i] <-> second[i]; latent k has the
// children latent_children[latent_offsets[k] .. latent_offsets[k + 1]], two or more and distinct.
struct EdgeView {
  Nodes tails;
  Nodes heads;
  Nodes first;
  Nodes second;
  std::span<const std::int64_t> latent_offsets;
  Nodes latent_children;
};

// A mutilation, as a view: edges into `into` (directed and bidirected) and edges out of `out_of` are absent.
// do(I) is {I, {}}; rule 2's second cut is {{}, Z}. No graph is copied.
struct Cut {
  Nodes into;
  Nodes out_of;
};

// Per-node marks of a search under a cut. Building it is O(n) time and one byte per node.
class Marks {
 public:
  enum Bit : std::uint8_t {
    kNoInto = 1,   // edges into the node are cut
    kNoOutOf = 2,  // edges out of the node are cut
    kGiven = 4,    // conditioned on
    kTarget = 8,   // the search ends here
    kTail = 16,    // visited, arriving from a child (or as a start)
    kHead = 32,    // visited, arriving at an arrowhead
    kWithin = 64,  // belongs to the set that the search is about
  };

  Marks(Node n, const Cut& cut);

  bool has(Node v, std::uint8_t bits) const { return (bits_[static_cast<std::size_t>(v)] & bits) != 0; }
  void set(Node v, std::uint8_t bits) { bits_[static_cast<std::size_t>(v)] |= bits; }
  std::uint8_t operator[](Node v) const { return bits_[static_cast<std::size_t>(v)]; }

 private:
  std::vector<std::uint8_t> bits_;
};

class Admg {
 public:
  // An empty graph of so many nodes takes about two gigabytes.
  static constexpr Node kMostNodes = Node{1} << 26;

  // Builds and validates in O(n + edges). A directed edge that is given twice counts once; a bidirected pair that is
  // given twice is refused, because it would be two latents. Throws GraphFault; a cycle is named by its nodes, each
  // the parent of the next and the last of the first, from its smallest node on.
  Admg(Node n, const EdgeView& edges);

  Node size() const { return n_; }
  std::size_t num_directed() const { return num_directed_; }
  std::size_t num_bidirected() const { return num_bidirected_; }
  Node num_hubs() const { return static_cast<Node>(hub_offsets_.size()) - 1; }

  // Rows are in ascending order. O(1), no allocation.
  Nodes parents(Node v) const { return row(v, 0); }
  Nodes children(Node v) const { return row(v, 1); }
  Nodes siblings(Node v) const { return row(v, 2); }  // by bidirected edges; hubs come on top
  Nodes hubs(Node v) const { return slice(node_hubs_, node_hub_offsets_, v); }
  Nodes hub_children(Node hub) const { return slice(hub_children_, hub_offsets_, hub); }

  // Kahn's order, the smallest available node first, and its inverse. O(1).
  Nodes topological_order() const { return order_; }
  Nodes positions() const { return position_; }

  bool contains(Node v) const { return v >= 0 && v < n_; }

 private:
  Nodes row(Node v, std::size_t part) const {
    const std::size_t at = 3 * static_cast<std::size_t>(v) + part;
    return {adjacent_.data() + offsets_[at], offsets_[at + 1] - offsets_[at]};
  }
  static Nodes slice(const std::vector<Node>& values, const std::vector<std::uint32_t>& offsets, Node v) {
    const auto at = static_cast<std::size_t>(v);
    return {values.data() + offsets[at], offsets[at + 1] - offsets[at]};
  }
  void build_rows(const EdgeView& edges);
  void build_hubs(const EdgeView& edges);
  void order_or_throw();
  std::vector<Node> find_cycle(const std::vector<Node>& open_parents) const;

  Node n_;
  std::size_t num_directed_ = 0;
  std::size_t num_bidirected_ = 0;
  std::vector<std::uint32_t> offsets_;  // 3 n + 1: parents, children, siblings of each node
  std::vector<Node> adjacent_;
  std::vector<std::uint32_t> node_hub_offsets_;
  std::vector<Node> node_hubs_;
  std::vector<std::uint32_t> hub_offsets_;
  std::vector<Node> hub_children_;
  std::vector<Node> order_;
  std::vector<Node> position_;
};

// Calls visit(w) for each w that shares a latent with v, by a pair or a hub (with repetitions, and v itself for hubs).
template <class Visit>
void for_each_sibling(const Admg& graph, Node v, Visit&& visit) {
  for (const Node w : graph.siblings(v)) visit(w);
  for (const Node hub : graph.hubs(v)) {
    for (const Node w : graph.hub_children(hub)) visit(w);
  }
}

// Ancestors (descendants) of `nodes` in the mutilated graph, `nodes` included, ascending. O(n + edges among them).
std::vector<Node> ancestors(const Admg& graph, Nodes nodes, const Cut& cut = {});
std::vector<Node> descendants(const Admg& graph, Nodes nodes, const Cut& cut = {});

// Owned edges, as they come out of a projection. hub_origin[k] is the hub, the hidden node (n_hubs + node) or the
// bidirected pair (n_hubs + n + index of the pair in ascending order) whose children facet k holds.
struct Edges {
  std::vector<Node> tails;
  std::vector<Node> heads;
  std::vector<Node> first;
  std::vector<Node> second;
  std::vector<std::int64_t> latent_offsets{0};
  std::vector<Node> latent_children;
  std::vector<Node> latent_origin;
};

enum class Facets {
  kPairs,   // what a hidden node confounds becomes bidirected pairs (Verma & Pearl 1990)
  kShared,  // what a hidden node confounds stays one latent (Evans 2016)
};

// The latent projection onto `observed`, in the node numbers of `graph`: an edge v -> w where a directed path leads
// from v to w through hidden nodes only; v and w confounded where a hidden node or a latent reaches both so. Hubs
// stay shared latents in both modes. A hidden node with a hidden parent reaches no more than that parent, and a
// latent that reaches fewer than two observed nodes confounds nothing: neither leaves a facet.
// Time: one search through hidden nodes per observed node with a hidden child, hidden node, and latent.
Edges latent_projection(const Admg& graph, Nodes observed, Facets facets);

}  // namespace mdcm
