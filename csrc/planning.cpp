#include "planning.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "separation.hpp"

namespace mdcm {
namespace {

std::size_t at(Node v) { return static_cast<std::size_t>(v); }

}  // namespace

std::vector<Node> paper_set(const Admg& graph, Nodes set) {
  std::vector<Node> inside(set.begin(), set.end());
  std::vector<bool> is_inside(at(graph.size()), false);
  for (const Node v : inside) is_inside[at(v)] = true;
  std::vector<Node> outside;
  for (;;) {
    outside.clear();
    std::vector<bool> seen = is_inside;
    for (const Node v : inside) {
      for (const Node p : graph.parents(v)) {
        if (seen[at(p)]) continue;
        seen[at(p)] = true;
        outside.push_back(p);
      }
    }
    if (outside.empty() || rule2(graph, inside, outside, {}, {})) break;
    for (const Node p : outside) is_inside[at(p)] = true;
    inside.insert(inside.end(), outside.begin(), outside.end());
  }
  std::vector<Node> added(inside.begin() + static_cast<std::ptrdiff_t>(set.size()), inside.end());
  std::sort(added.begin(), added.end());
  return added;
}

// The h-nodes that must be trained before an h-node, recomputed on every call.
class HGraph::Needs {
 public:
  explicit Needs(const HGraph& h) : h_(h), closure_(h.graph_), seen_at_(at(h.size()), 0) {}

  const std::vector<Node>& operator()(Node h) {
    needed_.clear();
    if (h_.training(h) != Training::kAdversarial) return needed_;
    ++epoch_;
    seen_at_[at(h)] = epoch_;
    if (h_.method_ == Method::kPaper) {
      add_paper_needs(h);
    } else if (h_.plain_ || h_.fits(h).empty()) {
      // an h-node without fits is untrainable, which is reported once the partition is final
      closure_.run(h_.members(h), {});
      add_hnodes_of(closure_.added());
    } else {
      for (const PlannedFit& fit : h_.fits(h)) {
        closure_.run(fit.variables, h_.groups_[static_cast<std::size_t>(fit.groups[0])].targets);
        add_hnodes_of(closure_.added());
      }
    }
    return needed_;
  }

 private:
  // Adds the h-nodes of some nodes, each once.
  void add_hnodes_of(Nodes nodes) {
    for (const Node v : nodes) {
      const Node needed = h_.hnodes_.label[at(v)];
      auto& seen = seen_at_[at(needed)];
      if (seen == epoch_) continue;
      seen = epoch_;
      // pre-trained mechanisms are available from the start
      if (h_.training(needed) != Training::kGiven) needed_.push_back(needed);
    }
  }

  // Rahman & Kocaoglu (2024): the sets of Algorithm 2 and the edges of Def. 4.3.
  void add_paper_needs(Node h) {
    const Nodes members = h_.members(h);
    add_hnodes_of(paper_set(h_.graph_, members));
    // Def. 4.3: test the parents in each other h-node
    std::vector<std::pair<Node, Node>> parents;
    for (const Node v : members) {
      for (const Node p : h_.graph_.parents(v)) parents.emplace_back(h_.hnodes_.label[at(p)], p);
    }
    std::sort(parents.begin(), parents.end());
    parents.erase(std::unique(parents.begin(), parents.end()), parents.end());
    std::vector<Node> joint;
    for (std::size_t i = 0; i < parents.size();) {
      const Node source = parents[i].first;
      joint.clear();
      for (; i < parents.size() && parents[i].first == source; ++i) joint.push_back(parents[i].second);
      if (seen_at_[at(source)] != epoch_ && !rule2(h_.graph_, members, joint, {}, {})) add_hnodes_of(joint);
    }
  }

  const HGraph& h_;
  ModularityClosure closure_;
  std::vector<std::uint32_t> seen_at_;
  std::uint32_t epoch_ = 0;
  std::vector<Node> needed_;
};

// Rahman & Kocaoglu (2024), Algorithm 1: contract strongly connected h-nodes until the h-graph is acyclic.
HGraph::HGraph(const Admg& graph, Components initial, std::vector<Training> training, std::vector<DatasetGroup> groups,
               Method method)
    : graph_(graph),
      hnodes_(std::move(initial)),
      parts_(hnodes_, graph.topological_order()),
      training_(std::move(training)),
      groups_(std::move(groups)),
      method_(method),
      plain_(method == Method::kPaper ||
             (groups_.size() == 1 && groups_[0].targets.empty() && groups_[0].columns.empty())) {
  if (training_.size() != at(hnodes_.count)) throw std::invalid_argument("one way of training per part is needed");
  // four times the maximal number of needs of an h-node, which amortises recomputing those that are dropped
  const std::size_t budget = 4 * at(graph.size());
  for (;;) {
    ++rounds_;
    choose_fits();
    const Components merged = strongly_connected(size(), Needs(*this), budget);
    if (merged.count == size()) {
      number_hnodes(merged);
      return;
    }
    // only adversarial h-nodes have needs, so all h-nodes on a cycle are adversarial
    std::vector<Training> next(at(merged.count), Training::kAdversarial);
    for (Node h = 0; h < size(); ++h) next[at(merged.label[at(h)])] = training_[at(h)];
    for (Node& label : hnodes_.label) label = merged.label[at(label)];
    hnodes_.count = merged.count;
    training_ = std::move(next);
    parts_ = Parts(hnodes_, graph_.topological_order());
  }
}

void HGraph::choose_fits() {
  if (plain_) return;
  FitChooser chooser(graph_, groups_);
  all_untrained_ = chooser.choose(hnodes_, parts_, training_);
  fits_.clear();
  for (Node h = 0; h < size(); ++h) fits_.push_back(chooser.fits(h));
}

// Numbers the h-nodes by level; `order` is a topological order of the h-graph.
void HGraph::number_hnodes(const Components& order) {
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
  std::vector<Training> training(at(size()));
  std::vector<std::vector<PlannedFit>> fits(plain_ ? 0 : at(size()));
  level_.resize(at(size()));
  for (Node k = 0; k < size(); ++k) {
    const Node h = sequence[at(k)];
    number[at(h)] = k;
    training[at(k)] = training_[at(h)];
    level_[at(k)] = level[at(h)];
    if (!plain_) fits[at(k)] = std::move(fits_[at(h)]);
  }
  for (Node& label : hnodes_.label) label = number[at(label)];
  for (Untrained& untrained : all_untrained_) {
    untrained.hnode = number[at(untrained.hnode)];
    if (untrained_.hnode < 0 || untrained.hnode < untrained_.hnode) untrained_ = untrained;
  }
  training_ = std::move(training);
  fits_ = std::move(fits);
  parts_ = Parts(hnodes_, graph_.topological_order());
}

std::vector<std::pair<Node, Node>> HGraph::edges() const {
  std::vector<std::pair<Node, Node>> result;
  Needs needs(*this);
  for (Node h = 0; h < size(); ++h) {
    for (const Node needed : needs(h)) result.emplace_back(needed, h);
  }
  std::sort(result.begin(), result.end());
  return result;
}

}  // namespace mdcm
