#include "modularity.hpp"

#include <algorithm>
#include <limits>

namespace mdcm {
namespace {

// A reached node is entered from itself (a member of S), from a parent p >= 0, or from a sibling s, stored as ~s.
constexpr Node kItself = std::numeric_limits<Node>::min();

}  // namespace

ModularityClosure::ModularityClosure(const Admg& graph)
    : graph_(graph),
      target_at_(index(graph.size()), 0),
      closed_at_(index(graph.size()), 0),
      parent_at_(index(graph.size()), 0),
      reached_at_(index(graph.size()), 0),
      hub_at_(index(graph.num_hubs()), 0),
      child_(index(graph.size()), 0),
      from_(index(graph.size()), 0) {}

Nodes ModularityClosure::run(Nodes set, Nodes targets) {
  ++epoch_;
  closed_.clear();
  last_position_ = -1;
  const Nodes position = graph_.positions();
  for (const Node v : targets) target_at_[index(v)] = epoch_;
  for (const Node v : set) {
    if (target_at_[index(v)] == epoch_) continue;
    last_position_ = std::max(last_position_, position[index(v)]);
    close(v);
  }
  num_given_ = closed_.size();
  for (std::size_t i = 0; i < closed_.size(); ++i) {
    const Node v = closed_[i];
    for (const Node p : graph_.parents(v)) {
      if (target_at_[index(p)] == epoch_ || parent_at_[index(p)] == epoch_) continue;
      parent_at_[index(p)] = epoch_;
      child_[index(p)] = v;
      if (reached_at_[index(p)] == epoch_) close(p);
    }
    reach(v, kItself);
    for (const Node s : graph_.siblings(v)) reach(s, ~v);
    for (const Node hub : graph_.hubs(v)) {
      if (hub_at_[index(hub)] == epoch_) continue;
      hub_at_[index(hub)] = epoch_;
      for (const Node s : graph_.hub_children(hub)) reach(s, ~v);
    }
  }
  return closed_;
}

void ModularityClosure::close(Node v) {
  if (closed_at_[index(v)] == epoch_) return;
  closed_at_[index(v)] = epoch_;
  closed_.push_back(v);
}

// Visits the descendants of `source` that precede the last member of the set: later ones are ancestors of nothing
// in S.
void ModularityClosure::reach(Node source, Node came_from) {
  const Nodes position = graph_.positions();
  const auto visit = [&](Node v, Node from) {
    if (reached_at_[index(v)] == epoch_ || target_at_[index(v)] == epoch_) return;
    if (position[index(v)] > last_position_) return;
    reached_at_[index(v)] = epoch_;
    from_[index(v)] = from;
    if (parent_at_[index(v)] == epoch_) close(v);
    open_.push_back(v);
  };
  visit(source, came_from);
  while (!open_.empty()) {
    const Node v = open_.back();
    open_.pop_back();
    for (const Node c : graph_.children(v)) visit(c, v);
  }
}

Witness ModularityClosure::witness(Node q) const {
  Witness result;
  result.path = {child_[index(q)], q};
  for (Node v = q;;) {
    const Node from = from_[index(v)];
    if (from < 0) {
      result.path.push_back(~from);
      result.ends_bidirected = true;
      return result;
    }
    result.path.push_back(from);
    if (contains(from)) return result;
    v = from;
  }
}

}  // namespace mdcm
