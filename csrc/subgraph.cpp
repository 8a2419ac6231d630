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
  std::vector<Node> found;
  const auto reach = [&](Node v) {
    if (!inside(v) || seen_[at(v)] == search_) return;
    seen_[at(v)] = search_;
    found.push_back(v);
  };
  for (const Node v : nodes) reach(v);
  for (std::size_t i = 0; i < found.size(); ++i) {
    for (const Node p : graph_.parents(found[i])) reach(p);
  }
  return found;
}

std::vector<Node> Subgraph::part_of(Node root) {
  std::vector<Node> part;
  part_of(root, part);
  return part;
}

void Subgraph::part_of(Node root, std::vector<Node>& part) {
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

void Subgraph::sort(std::vector<Node>& nodes) const {
  const Nodes position = graph_.positions();
  std::sort(nodes.begin(), nodes.end(), [&](Node a, Node b) { return position[at(a)] < position[at(b)]; });
}

bool Subgraph::is_identifiable(Nodes factor, Nodes from, std::vector<Node>& stuck) {
  std::vector<Node> current(from.begin(), from.end());
  std::vector<Node> part;
  for (;;) {
    restrict_to(current);
    part_of(factor[0], part);
    if (part.size() == factor.size()) return true;
    restrict_to(part);
    current = ancestors(factor);
    if (current.size() == factor.size()) return true;
    if (current.size() == part.size()) {
      stuck = std::move(current);
      return false;
    }
  }
}

}  // namespace mdcm
