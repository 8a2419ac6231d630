#include "modularity.hpp"

#include <algorithm>
#include <limits>

namespace mdcm {
namespace {

// The predecessor of a reached node: itself (a member of S), a parent p >= 0, or a sibling s, stored as ~s.
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

// The least fixed point by a worklist: a node joins S once it is both a parent of S and a descendant of S or of a
// sibling of S (Rahman & Kocaoglu 2024, Def. 4.4; under do(), Def. D.1).
Nodes ModularityClosure::run(Nodes set, Nodes targets) {
  ++epoch_;
  closed_.clear();
  last_position_ = -1;
  const Nodes position = graph_.positions();
  for (const Node v : targets) target_at_[index(v)] = epoch_;
  for (const Node v : set) {
    if (target_at_[index(v)] == epoch_) continue;
    last_position_ = std::max(last_position_, position[index(v)]);
    add_to_closure(v);
  }
  num_given_ = closed_.size();
  for (std::size_t i = 0; i < closed_.size(); ++i) {
    const Node v = closed_[i];
    for (const Node p : graph_.parents(v)) {
      if (target_at_[index(p)] == epoch_ || parent_at_[index(p)] == epoch_) continue;
      parent_at_[index(p)] = epoch_;
      child_[index(p)] = v;
      if (reached_at_[index(p)] == epoch_) add_to_closure(p);
    }
    mark_descendants(v, kItself);
    for (const Node s : graph_.siblings(v)) mark_descendants(s, ~v);
    for (const Node hub : graph_.hubs(v)) {
      if (hub_at_[index(hub)] == epoch_) continue;
      hub_at_[index(hub)] = epoch_;
      for (const Node s : graph_.hub_children(hub)) mark_descendants(s, ~v);
    }
  }
  return closed_;
}

void ModularityClosure::add_to_closure(Node v) {
  if (closed_at_[index(v)] == epoch_) return;
  closed_at_[index(v)] = epoch_;
  closed_.push_back(v);
}

// Visits the descendants of `source` that precede the last member of the set in topological order; later nodes are not
// ancestors of S.
void ModularityClosure::mark_descendants(Node source, Node came_from) {
  const Nodes position = graph_.positions();
  const auto visit = [&](Node v, Node from) {
    if (reached_at_[index(v)] == epoch_ || target_at_[index(v)] == epoch_) return;
    if (position[index(v)] > last_position_) return;
    reached_at_[index(v)] = epoch_;
    from_[index(v)] = from;
    if (parent_at_[index(v)] == epoch_) add_to_closure(v);
    open_.push_back(v);
  };
  visit(source, came_from);
  while (!open_.empty()) {
    const Node v = open_.back();
    open_.pop_back();
    for (const Node c : graph_.children(v)) visit(c, v);
  }
}

// Follows the predecessors of q back to a member of S or a sibling of a member.
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
