#include "planning.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

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

// The h-nodes that an h-node needs, recomputed on every call.
class HGraph::Needs {
 public:
  explicit Needs(const HGraph& h) : h_(h), closure_(h.graph_), seen_at_(static_cast<std::size_t>(h.size()), 0) {}

  const std::vector<Node>& operator()(Node h) {
    found_.clear();
    if (!h_.is_adversarial(h)) return found_;
    ++epoch_;
    seen_at_[static_cast<std::size_t>(h)] = epoch_;
    closure_.run(h_.members(h), {});
    for (const Node v : closure_.added()) {
      const Node needed = h_.hnodes_.label[static_cast<std::size_t>(v)];
      auto& seen = seen_at_[static_cast<std::size_t>(needed)];
      if (seen == epoch_) continue;
      seen = epoch_;
      found_.push_back(needed);
    }
    return found_;
  }

 private:
  const HGraph& h_;
  ModularityClosure closure_;
  std::vector<std::uint32_t> seen_at_;
  std::uint32_t epoch_ = 0;
  std::vector<Node> found_;
};

HGraph::HGraph(const Admg& graph, std::span<const std::uint8_t> adversarial)
    : graph_(graph),
      hnodes_(c_components(graph)),
      parts_(hnodes_, graph.topological_order()),
      adversarial_(adversarial.begin(), adversarial.end()) {
  if (adversarial_.size() != static_cast<std::size_t>(hnodes_.count)) {
    throw std::invalid_argument("one objective per c-component is needed");
  }
  // four times what one h-node can need at most, so that dropping one h-node's needs was paid for by others'
  const std::size_t budget = 4 * static_cast<std::size_t>(graph.size());
  for (;;) {
    ++rounds_;
    const Components merged = strongly_connected(size(), Needs(*this), budget);
    if (merged.count == size()) {
      number(merged);
      return;
    }
    // only h-nodes that need something can lie on a cycle, so a contracted one is adversarial throughout
    std::vector<std::uint8_t> next(static_cast<std::size_t>(merged.count), 0);
    for (Node h = 0; h < size(); ++h) {
      next[static_cast<std::size_t>(merged.label[static_cast<std::size_t>(h)])] = is_adversarial(h) ? 1 : 0;
    }
    for (Node& label : hnodes_.label) label = merged.label[static_cast<std::size_t>(label)];
    hnodes_.count = merged.count;
    adversarial_ = std::move(next);
    parts_ = Parts(hnodes_, graph_.topological_order());
  }
}

// `order` numbers the h-nodes so that what an h-node needs comes before it.
void HGraph::number(const Components& order) {
  const auto at = [](Node h) { return static_cast<std::size_t>(h); };
  std::vector<Node> sequence(at(size()));
  for (Node h = 0; h < size(); ++h) sequence[at(order.label[at(h)])] = h;
  std::vector<Node> level(at(size()), 0);
  Needs needs(*this);
  for (const Node h : sequence) {
    for (const Node needed : needs(h)) level[at(h)] = std::max(level[at(h)], level[at(needed)] + 1);
  }
  const Nodes position = graph_.positions();
  std::sort(sequence.begin(), sequence.end(), [&](Node a, Node b) {
    if (level[at(a)] != level[at(b)]) return level[at(a)] < level[at(b)];
    return position[at(members(a)[0])] < position[at(members(b)[0])];
  });
  std::vector<Node> number(at(size()));
  std::vector<std::uint8_t> adversarial(at(size()));
  level_.resize(at(size()));
  for (Node k = 0; k < size(); ++k) {
    const Node h = sequence[at(k)];
    number[at(h)] = k;
    adversarial[at(k)] = adversarial_[at(h)];
    level_[at(k)] = level[at(h)];
  }
  for (Node& label : hnodes_.label) label = number[at(label)];
  adversarial_ = std::move(adversarial);
  parts_ = Parts(hnodes_, graph_.topological_order());
}

std::vector<std::pair<Node, Node>> HGraph::edges() const {
  std::vector<std::pair<Node, Node>> found;
  Needs needs(*this);
  for (Node h = 0; h < size(); ++h) {
    for (const Node needed : needs(h)) found.emplace_back(needed, h);
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace mdcm
