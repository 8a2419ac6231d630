#include "subgraph.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace mdcm {
namespace {

std::size_t at(Node v) { return static_cast<std::size_t>(v); }

}  // namespace

Subgraph::Subgraph(const Admg& graph)
    : graph_(graph), inside_(at(graph.size()), 0), seen_(at(graph.size()), 0), used_(at(graph.num_hubs()), 0) {}

void Subgraph::restrict_to(Nodes set) {
  ++epoch_;
  for (const Node v : set) inside_[at(v)] = epoch_;
}

std::vector<Node> Subgraph::ancestors(Nodes nodes) {
  ++search_;
  std::vector<Node> reached;
  const auto reach = [&](Node v) {
    if (!inside(v) || seen_[at(v)] == search_) return;
    seen_[at(v)] = search_;
    reached.push_back(v);
  };
  for (const Node v : nodes) reach(v);
  for (std::size_t i = 0; i < reached.size(); ++i) {
    for (const Node p : graph_.parents(reached[i])) reach(p);
  }
  return reached;
}

std::vector<Node> Subgraph::c_component_of(Node root) {
  std::vector<Node> part;
  c_component_of(root, part);
  return part;
}

void Subgraph::c_component_of(Node root, std::vector<Node>& part) {
  ++search_;
  part.clear();
  const auto reach = [&](Node v) {
    if (!inside(v) || seen_[at(v)] == search_) return;
    seen_[at(v)] = search_;
    part.push_back(v);
  };
  reach(root);
  for (std::size_t i = 0; i < part.size(); ++i) {
    for (const Node w : graph_.siblings(part[i])) reach(w);
    for (const Node hub : graph_.hubs(part[i])) {
      if (used_[at(hub)] == search_) continue;
      used_[at(hub)] = search_;
      for (const Node w : graph_.hub_children(hub)) reach(w);
    }
  }
}

void Subgraph::sort_topologically(std::vector<Node>& nodes) const {
  const Nodes position = graph_.positions();
  std::sort(nodes.begin(), nodes.end(), [&](Node a, Node b) { return position[at(a)] < position[at(b)]; });
}

// Identify(C, T, Q) of Tian & Pearl (2002) as a loop, with C = factor, T = part and A = current.
bool Subgraph::is_identifiable(Nodes factor, Nodes from, std::vector<Node>& stuck) {
  std::vector<Node> current(from.begin(), from.end());
  std::vector<Node> part;
  for (;;) {
    // case iii: go on with the c-component of the factor in the graph over A
    restrict_to(current);
    c_component_of(factor[0], part);
    if (part.size() == factor.size()) return true;
    // A: the ancestors of the factor in the graph over T
    restrict_to(part);
    current = ancestors(factor);
    // case i: A = C
    if (current.size() == factor.size()) return true;
    // case ii: A = T
    if (current.size() == part.size()) {
      stuck = std::move(current);
      return false;
    }
  }
}

}  // namespace mdcm
