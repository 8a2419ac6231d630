// The immutable mixed graph: directed edges, bidirected edges and shared latents over the nodes 0..n-1.
//
// A row of the adjacency array holds a node's parents, children and siblings contiguously, so that a search that leaves
// a node in every direction reads contiguous memory. A latent with a list of children is stored as a hub and never
// expanded into a clique of bidirected edges, so that memory is linear in the input.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

namespace mdcm {

using Node = std::int32_t;
using Nodes = std::span<const Node>;

// Input that is not an ADMG. `nodes` holds the evidence (a cycle, the two ends of an edge, a single node), `index` its
// position in the input list.
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

// A mutilation as a view, without a copy of the graph: edges into `into` (directed and bidirected) and edges out of
// `out_of` are absent. do(I) is {I, {}}; the second cut of rule 2 is {{}, Z}.
struct Cut {
  Nodes into;
  Nodes out_of;
};

// Per-node marks of a search under a cut. Construction takes O(n) time and a byte per node.
class Marks {
 public:
  enum Bit : std::uint8_t {
    kNoInto = 1,   // edges into the node are cut
    kNoOutOf = 2,  // edges out of the node are cut
    kGiven = 4,    // conditioned on
    kTarget = 8,   // end of the search
    kTail = 16,    // visited, arriving from a child (or as a start)
    kHead = 32,    // visited, arriving at an arrowhead
    kWithin = 64,  // member of a set that the caller defines
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
  // An empty graph with this number of nodes takes about two gigabytes.
  static constexpr Node kMostNodes = Node{1} << 26;

  // Builds and validates in O(n + edges). A repeated directed edge counts once; a repeated bidirected pair is an error,
  // because it would be two latents. Throws GraphFault; a cycle is listed by its nodes, each the parent of the next and
  // the last of the first, starting at its smallest node.
  Admg(Node n, const EdgeView& edges);

  Node size() const { return n_; }
  std::size_t num_directed() const { return num_directed_; }
  std::size_t num_bidirected() const { return num_bidirected_; }
  Node num_hubs() const { return static_cast<Node>(hub_offsets_.size()) - 1; }

  // Rows are in ascending order. O(1), no allocation.
  Nodes parents(Node v) const { return row(v, 0); }
  Nodes children(Node v) const { return row(v, 1); }
  Nodes siblings(Node v) const { return row(v, 2); }  // by bidirected edges only, not by hubs
  Nodes hubs(Node v) const { return slice(node_hubs_, node_hub_offsets_, v); }
  Nodes hub_children(Node hub) const { return slice(hub_children_, hub_offsets_, hub); }

  // The topological order of Kahn (1962), smallest available node first, and its inverse. O(1).
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
  void sort_topologically();
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

// Calls visit(w) for each w that shares a latent with v, a pair or a hub; w may repeat, and may be v for hubs.
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

// Edges with storage, the result of a projection. latent_origin[k] is the hub, the hidden node (n_hubs + node) or the
// bidirected pair (n_hubs + n + index of the pair in ascending order) that confounds the children of facet k.
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
  kPairs,   // a hidden node is replaced by bidirected pairs of what it confounds (Verma & Pearl 1990)
  kShared,  // a hidden node becomes a shared latent of what it confounds (Evans 2016)
};

// The latent projection onto `observed` (Verma & Pearl 1990; Evans 2016), in the node numbers of `graph`: an edge
// v -> w if a directed path leads from v to w through hidden nodes only; v and w are confounded if a hidden node or a
// latent reaches both through hidden nodes only. Hubs stay shared latents in both modes. A hidden node with a hidden
// parent reaches no more than that parent, and a latent that reaches fewer than two observed nodes confounds nothing:
// neither has a facet.
// Time: a search through hidden nodes per observed node with a hidden child, hidden node, and latent.
Edges latent_projection(const Admg& graph, Nodes observed, Facets facets);

}  // namespace mdcm
