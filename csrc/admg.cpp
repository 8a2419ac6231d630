#include "admg.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

namespace mdcm {
namespace {

const char* describe(GraphFault::Kind kind) {
  switch (kind) {
    case GraphFault::Kind::kCycle:
      return "the directed edges have a cycle";
    case GraphFault::Kind::kSelfLoop:
      return "an edge joins a node to itself";
    case GraphFault::Kind::kUnknownNode:
      return "a node number is out of range";
    case GraphFault::Kind::kRepeatedPair:
      return "a bidirected edge is given twice";
    case GraphFault::Kind::kTooLarge:
      return "the graph has more than 2^26 nodes or 2^31 edge ends";
  }
  return "not a mixed graph";
}

// A priority queue of distinct integers below n with operations in O(log_64 n): a bitset with a summary bit per word on
// each level above it. At feasible sizes this is a small constant, which keeps the construction linear.
class MinSet {
 public:
  explicit MinSet(std::size_t n) {
    do {
      n = (n + 63) / 64;
      levels_.emplace_back(n, 0);
    } while (n > 1);
  }

  bool empty() const { return levels_.back()[0] == 0; }

  void insert(std::size_t i) {
    for (auto& level : levels_) {
      level[i / 64] |= std::uint64_t{1} << (i % 64);
      i /= 64;
    }
  }

  std::size_t pop() {
    std::size_t i = 0;
    for (std::size_t k = levels_.size(); k-- > 0;) {
      i = 64 * i + static_cast<std::size_t>(std::countr_zero(levels_[k][i]));
    }
    std::size_t at = i;
    for (auto& level : levels_) {
      level[at / 64] &= ~(std::uint64_t{1} << (at % 64));
      if (level[at / 64] != 0) break;
      at /= 64;
    }
    return i;
  }

 private:
  std::vector<std::vector<std::uint64_t>> levels_;
};

// Throws GraphFault for an end out of range or an edge from a node to itself.
void check_ends(Node n, Nodes a, Nodes b) {
  if (a.size() != b.size()) throw std::invalid_argument("the two ends of the edges differ in number");
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] < 0 || a[i] >= n || b[i] < 0 || b[i] >= n) {
      throw GraphFault(GraphFault::Kind::kUnknownNode, {a[i], b[i]}, i);
    }
    if (a[i] == b[i]) throw GraphFault(GraphFault::Kind::kSelfLoop, {a[i]}, i);
  }
}

// Counting sort of the far ends of edges by their near end: n + 1 offsets and the values.
struct Buckets {
  std::vector<std::uint32_t> offsets;
  std::vector<Node> values;

  Buckets(Node n, Nodes near, Nodes far) : offsets(static_cast<std::size_t>(n) + 1, 0), values(near.size()) {
    for (const Node v : near) ++offsets[static_cast<std::size_t>(v) + 1];
    std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
    std::vector<std::uint32_t> next(offsets.begin(), offsets.end() - 1);
    for (std::size_t i = 0; i < near.size(); ++i) values[next[static_cast<std::size_t>(near[i])]++] = far[i];
  }

  Nodes row(Node v) const {
    const auto at = static_cast<std::size_t>(v);
    return {values.data() + offsets[at], offsets[at + 1] - offsets[at]};
  }
};

// Whether edges are sorted by near end and then far end, without repetition.
bool strictly_ascending(Nodes near, Nodes far) {
  for (std::size_t i = 1; i < near.size(); ++i) {
    if (near[i] < near[i - 1] || (near[i] == near[i - 1] && far[i] <= far[i - 1])) return false;
  }
  return true;
}

// Edges sorted by near end and then far end, without repetition: two counting sorts, unless the input is sorted.
struct SortedEdges {
  std::vector<Node> near;
  std::vector<Node> far;
  bool repeated = false;

  SortedEdges(Node n, Nodes a, Nodes b) {
    if (strictly_ascending(a, b)) {
      near.assign(a.begin(), a.end());
      far.assign(b.begin(), b.end());
      return;
    }
    const Buckets by_far(n, b, a);
    std::vector<Node> near_of(a.size());
    std::vector<Node> far_of(a.size());
    std::size_t k = 0;
    for (Node v = 0; v < n; ++v) {
      for (const Node u : by_far.row(v)) {
        near_of[k] = u;
        far_of[k++] = v;
      }
    }
    const Buckets by_near(n, near_of, far_of);
    near.reserve(a.size());
    far.reserve(a.size());
    for (Node v = 0; v < n; ++v) {
      Node last = -1;
      for (const Node w : by_near.row(v)) {
        if (w == last) {
          repeated = true;
          continue;
        }
        near.push_back(v);
        far.push_back(w);
        last = w;
      }
    }
  }
};

// Smallest index at which an unordered pair repeats an earlier one.
std::size_t find_second_occurrence(Node n, Nodes first, Nodes second) {
  std::vector<std::pair<std::int64_t, std::size_t>> keys(first.size());
  for (std::size_t i = 0; i < first.size(); ++i) {
    const auto [low, high] = std::minmax(first[i], second[i]);
    keys[i] = {static_cast<std::int64_t>(low) * n + high, i};
  }
  std::sort(keys.begin(), keys.end());
  std::size_t at = first.size();
  for (std::size_t i = 1; i < keys.size(); ++i) {
    if (keys[i].first == keys[i - 1].first) at = std::min(at, keys[i].second);
  }
  return at;
}

}  // namespace

GraphFault::GraphFault(Kind kind, std::vector<Node> nodes, std::size_t index)
    : std::invalid_argument(describe(kind)), kind_(kind), nodes_(std::move(nodes)), index_(index) {}

Marks::Marks(Node n, const Cut& cut) : bits_(static_cast<std::size_t>(n), 0) {
  for (const Node v : cut.into) set(v, kNoInto);
  for (const Node v : cut.out_of) set(v, kNoOutOf);
}

Admg::Admg(Node n, const EdgeView& edges) : n_(n) {
  if (n < 0) throw std::invalid_argument("the number of nodes is negative");
  if (n > kMostNodes) throw GraphFault(GraphFault::Kind::kTooLarge, {}, 0);
  const std::size_t ends = 2 * (edges.tails.size() + edges.first.size()) + edges.latent_children.size();
  if (ends > static_cast<std::size_t>(std::numeric_limits<Node>::max())) {
    throw GraphFault(GraphFault::Kind::kTooLarge, {}, 0);
  }
  check_ends(n, edges.tails, edges.heads);
  check_ends(n, edges.first, edges.second);
  build_rows(edges);
  build_hubs(edges);
  sort_topologically();
}

// Parents, children and siblings of every node by counting sort.
void Admg::build_rows(const EdgeView& edges) {
  const SortedEdges arcs(n_, edges.tails, edges.heads);
  num_directed_ = arcs.near.size();
  num_bidirected_ = edges.first.size();

  std::vector<Node> ends_a(edges.first.begin(), edges.first.end());
  ends_a.insert(ends_a.end(), edges.second.begin(), edges.second.end());
  std::vector<Node> ends_b(edges.second.begin(), edges.second.end());
  ends_b.insert(ends_b.end(), edges.first.begin(), edges.first.end());
  const SortedEdges pairs(n_, ends_a, ends_b);
  if (pairs.repeated) {
    const std::size_t at = find_second_occurrence(n_, edges.first, edges.second);
    throw GraphFault(GraphFault::Kind::kRepeatedPair, {edges.first[at], edges.second[at]}, at);
  }

  offsets_.assign(3 * static_cast<std::size_t>(n_) + 1, 0);
  const auto part = [](Node v, std::size_t which) { return 3 * static_cast<std::size_t>(v) + which; };
  for (std::size_t i = 0; i < arcs.near.size(); ++i) {
    ++offsets_[part(arcs.far[i], 0) + 1];
    ++offsets_[part(arcs.near[i], 1) + 1];
  }
  for (const Node v : pairs.near) ++offsets_[part(v, 2) + 1];
  std::partial_sum(offsets_.begin(), offsets_.end(), offsets_.begin());

  std::vector<std::uint32_t> next(offsets_.begin(), offsets_.end() - 1);
  adjacent_.resize(2 * arcs.near.size() + pairs.near.size());
  // the arcs are sorted by tail and then head, so that parents and children are in ascending order
  for (std::size_t i = 0; i < arcs.near.size(); ++i) {
    adjacent_[next[part(arcs.far[i], 0)]++] = arcs.near[i];
    adjacent_[next[part(arcs.near[i], 1)]++] = arcs.far[i];
  }
  for (std::size_t i = 0; i < pairs.near.size(); ++i) adjacent_[next[part(pairs.near[i], 2)]++] = pairs.far[i];
}

// Children of every hub, and hubs of every node.
void Admg::build_hubs(const EdgeView& edges) {
  const std::size_t num_hubs = edges.latent_offsets.empty() ? 0 : edges.latent_offsets.size() - 1;
  // the lists of children must tile the array, so that every entry belongs to a latent
  const std::int64_t first = edges.latent_offsets.empty() ? 0 : edges.latent_offsets.front();
  const std::int64_t last = edges.latent_offsets.empty() ? 0 : edges.latent_offsets.back();
  if (first != 0 || last != static_cast<std::int64_t>(edges.latent_children.size())) {
    throw std::invalid_argument("the offsets of the latents must begin at 0 and end at the number of their children");
  }
  hub_offsets_.assign(num_hubs + 1, 0);
  hub_children_.assign(edges.latent_children.begin(), edges.latent_children.end());
  std::vector<Node> owner(hub_children_.size());
  for (std::size_t k = 0; k < num_hubs; ++k) {
    const auto begin = edges.latent_offsets[k];
    const auto end = edges.latent_offsets[k + 1];
    if (begin < 0 || end < begin + 2 || end > static_cast<std::int64_t>(hub_children_.size())) {
      throw std::invalid_argument("a latent needs two or more children");
    }
    hub_offsets_[k + 1] = static_cast<std::uint32_t>(end);
    const auto from = hub_children_.begin() + begin;
    const auto to = hub_children_.begin() + end;
    std::sort(from, to);
    if (*from < 0 || *(to - 1) >= n_) throw GraphFault(GraphFault::Kind::kUnknownNode, {*from, *(to - 1)}, k);
    if (std::adjacent_find(from, to) != to) throw std::invalid_argument("a latent names a child twice");
    std::fill(owner.begin() + begin, owner.begin() + end, static_cast<Node>(k));
  }
  Buckets of_nodes(n_, hub_children_, owner);
  node_hub_offsets_ = std::move(of_nodes.offsets);
  node_hubs_ = std::move(of_nodes.values);
}

// Kahn (1962), taking the smallest available node first.
void Admg::sort_topologically() {
  const auto n = static_cast<std::size_t>(n_);
  std::vector<Node> open_parents(n);
  MinSet ready(n);
  for (Node v = 0; v < n_; ++v) {
    const auto count = static_cast<Node>(parents(v).size());
    open_parents[static_cast<std::size_t>(v)] = count;
    if (count == 0) ready.insert(static_cast<std::size_t>(v));
  }
  order_.reserve(n);
  position_.assign(n, 0);
  if (n == 0) return;
  while (!ready.empty()) {
    const auto v = static_cast<Node>(ready.pop());
    position_[static_cast<std::size_t>(v)] = static_cast<Node>(order_.size());
    order_.push_back(v);
    for (const Node child : children(v)) {
      if (--open_parents[static_cast<std::size_t>(child)] == 0) ready.insert(static_cast<std::size_t>(child));
    }
  }
  if (order_.size() < n) throw GraphFault(GraphFault::Kind::kCycle, find_cycle(open_parents), 0);
}

// Every node missing from Kahn's order has a parent that is missing too, so a walk up through such parents must return
// to a node that it has visited.
std::vector<Node> Admg::find_cycle(const std::vector<Node>& open_parents) const {
  const auto open = [&](Node v) { return open_parents[static_cast<std::size_t>(v)] > 0; };
  Node v = 0;
  while (!open(v)) ++v;
  std::vector<Node> step(open_parents.size(), -1);
  std::vector<Node> walk;
  while (step[static_cast<std::size_t>(v)] < 0) {
    step[static_cast<std::size_t>(v)] = static_cast<Node>(walk.size());
    walk.push_back(v);
    const Nodes up = parents(v);
    v = *std::find_if(up.begin(), up.end(), open);
  }
  std::vector<Node> cycle(walk.begin() + step[static_cast<std::size_t>(v)], walk.end());
  std::reverse(cycle.begin(), cycle.end());
  std::rotate(cycle.begin(), std::min_element(cycle.begin(), cycle.end()), cycle.end());
  return cycle;
}

// Breadth-first search against the arrows.
std::vector<Node> ancestors(const Admg& graph, Nodes nodes, const Cut& cut) {
  Marks marks(graph.size(), cut);
  std::vector<Node> reached;
  const auto reach = [&](Node v) {
    if (marks.has(v, Marks::kTail)) return;
    marks.set(v, Marks::kTail);
    reached.push_back(v);
  };
  for (const Node v : nodes) reach(v);
  for (std::size_t i = 0; i < reached.size(); ++i) {
    const Node v = reached[i];
    if (marks.has(v, Marks::kNoInto)) continue;
    for (const Node p : graph.parents(v)) {
      if (!marks.has(p, Marks::kNoOutOf)) reach(p);
    }
  }
  std::sort(reached.begin(), reached.end());
  return reached;
}

// Breadth-first search along the arrows.
std::vector<Node> descendants(const Admg& graph, Nodes nodes, const Cut& cut) {
  Marks marks(graph.size(), cut);
  std::vector<Node> reached;
  const auto reach = [&](Node v) {
    if (marks.has(v, Marks::kHead)) return;
    marks.set(v, Marks::kHead);
    reached.push_back(v);
  };
  for (const Node v : nodes) reach(v);
  for (std::size_t i = 0; i < reached.size(); ++i) {
    const Node v = reached[i];
    if (marks.has(v, Marks::kNoOutOf)) continue;
    for (const Node c : graph.children(v)) {
      if (!marks.has(c, Marks::kNoInto)) reach(c);
    }
  }
  std::sort(reached.begin(), reached.end());
  return reached;
}

namespace {

// Observed nodes that directed paths through hidden nodes reach. A new epoch per search replaces clearing.
class HiddenReach {
 public:
  HiddenReach(const Admg& graph, const std::vector<bool>& hidden)
      : graph_(graph), hidden_(hidden), seen_(static_cast<std::size_t>(graph.size()), 0) {}

  bool hidden(Node v) const { return hidden_[static_cast<std::size_t>(v)]; }

  void start() {
    ++epoch_;
    reached_.clear();
  }

  // Adds v if it is observed, otherwise every observed node that a path through hidden nodes reaches from it.
  void add(Node v) {
    visit(v);
    while (!open_.empty()) {
      const Node h = open_.back();
      open_.pop_back();
      for (const Node c : graph_.children(h)) visit(c);
    }
  }

  std::vector<Node>& sorted() {
    std::sort(reached_.begin(), reached_.end());
    return reached_;
  }

 private:
  void visit(Node v) {
    auto& seen = seen_[static_cast<std::size_t>(v)];
    if (seen == epoch_) return;
    seen = epoch_;
    (hidden(v) ? open_ : reached_).push_back(v);
  }

  const Admg& graph_;
  const std::vector<bool>& hidden_;
  std::vector<std::uint32_t> seen_;
  std::uint32_t epoch_ = 0;
  std::vector<Node> open_;
  std::vector<Node> reached_;
};

// A hidden node with c observed children has c (c - 1) / 2 pairs; 2^25 pairs take 256 MB, and more while being sorted.
constexpr std::size_t kMostPairs = std::size_t{1} << 25;

// Appends a shared latent with its children.
void add_facet(Edges& out, Nodes children, Node origin) {
  out.latent_children.insert(out.latent_children.end(), children.begin(), children.end());
  out.latent_offsets.push_back(static_cast<std::int64_t>(out.latent_children.size()));
  out.latent_origin.push_back(origin);
}

}  // namespace

Edges latent_projection(const Admg& graph, Nodes observed, Facets facets) {
  const Node n = graph.size();
  std::vector<bool> hidden(static_cast<std::size_t>(n), true);
  for (const Node v : observed) hidden[static_cast<std::size_t>(v)] = false;
  HiddenReach reach(graph, hidden);
  Edges out;

  // directed edges: paths through hidden nodes
  for (Node v = 0; v < n; ++v) {
    if (reach.hidden(v)) continue;
    const Nodes down = graph.children(v);
    if (std::none_of(down.begin(), down.end(), [&](Node c) { return reach.hidden(c); })) {
      out.heads.insert(out.heads.end(), down.begin(), down.end());
    } else {
      reach.start();
      for (const Node c : down) reach.add(c);
      const std::vector<Node>& heads = reach.sorted();
      out.heads.insert(out.heads.end(), heads.begin(), heads.end());
    }
    out.tails.resize(out.heads.size(), v);
  }

  // confounding by hubs, then by hidden nodes without a hidden parent, then by bidirected pairs
  const auto confound = [&](Node origin) {
    const auto& children = reach.sorted();
    const bool from_pair = origin >= graph.num_hubs() + n;
    if (facets == Facets::kShared && children.size() > (from_pair ? 2 : 1)) {
      add_facet(out, children, origin);
    } else {
      const std::size_t pairs = children.size() * (children.size() - (children.empty() ? 0 : 1)) / 2;
      if (out.first.size() + pairs > kMostPairs) throw GraphFault(GraphFault::Kind::kTooLarge, {}, 0);
      for (std::size_t i = 0; i < children.size(); ++i) {
        out.first.insert(out.first.end(), children.size() - i - 1, children[i]);
        out.second.insert(out.second.end(), children.begin() + static_cast<std::ptrdiff_t>(i) + 1, children.end());
      }
    }
  };
  for (Node hub = 0; hub < graph.num_hubs(); ++hub) {
    reach.start();
    for (const Node c : graph.hub_children(hub)) reach.add(c);
    if (reach.sorted().size() > 1) add_facet(out, reach.sorted(), hub);
  }
  for (Node h = 0; h < n; ++h) {
    if (!reach.hidden(h)) continue;
    const Nodes up = graph.parents(h);
    if (std::any_of(up.begin(), up.end(), [&](Node p) { return reach.hidden(p); })) continue;
    reach.start();
    reach.add(h);
    confound(graph.num_hubs() + h);
  }
  Node pair_index = 0;
  for (Node a = 0; a < n; ++a) {
    for (const Node b : graph.siblings(a)) {
      if (b < a) continue;
      reach.start();
      reach.add(a);
      reach.add(b);
      confound(graph.num_hubs() + n + pair_index++);
    }
  }
  SortedEdges pairs(n, out.first, out.second);
  out.first = std::move(pairs.near);
  out.second = std::move(pairs.far);
  return out;
}

}  // namespace mdcm
