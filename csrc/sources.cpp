#include "sources.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace mdcm {
namespace {

std::size_t at(Node v) { return static_cast<std::size_t>(v); }

std::vector<Node> sorted_unique(std::vector<Node> nodes) {
  std::sort(nodes.begin(), nodes.end());
  nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
  return nodes;
}

// The latent projection onto `known` of the graph under do(targets), with the indices of `known` as nodes.
std::unique_ptr<Admg> project_mutilated(const Admg& graph, const std::vector<Node>& known, const DatasetGroup& group) {
  Edges cut;
  for (Node v = 0; v < graph.size(); ++v) {
    if (group.is_target(v)) continue;
    for (const Node p : graph.parents(v)) {
      cut.tails.push_back(p);
      cut.heads.push_back(v);
    }
    for (const Node w : graph.siblings(v)) {
      if (w < v || group.is_target(w)) continue;
      cut.first.push_back(v);
      cut.second.push_back(w);
    }
  }
  for (Node hub = 0; hub < graph.num_hubs(); ++hub) {
    std::vector<Node> left;
    for (const Node v : graph.hub_children(hub)) {
      if (!group.is_target(v)) left.push_back(v);
    }
    if (left.size() < 2) continue;
    cut.latent_children.insert(cut.latent_children.end(), left.begin(), left.end());
    cut.latent_offsets.push_back(static_cast<std::int64_t>(cut.latent_children.size()));
  }
  const auto view = [](const Edges& e) {
    return EdgeView{e.tails, e.heads, e.first, e.second, e.latent_offsets, e.latent_children};
  };
  const Admg mutilated(graph.size(), view(cut));
  Edges edges = latent_projection(mutilated, known, Facets::kShared);
  std::vector<Node> index(at(graph.size()), -1);
  for (std::size_t k = 0; k < known.size(); ++k) index[at(known[k])] = static_cast<Node>(k);
  for (auto* nodes : {&edges.tails, &edges.heads, &edges.first, &edges.second, &edges.latent_children}) {
    for (Node& v : *nodes) v = index[at(v)];
  }
  return std::make_unique<Admg>(static_cast<Node>(known.size()), view(edges));
}

}  // namespace

DataSource::DataSource(const Admg& graph, const DatasetGroup& group, std::int32_t number)
    : whole_(&graph), group_(&group), number_(number) {
  bool complete = true;
  for (Node v = 0; v < graph.size() && complete; ++v) complete = group.observes(v) || group.is_target(v);
  if (!complete) {
    for (Node v = 0; v < graph.size(); ++v) {
      if (group.observes(v) || group.is_target(v)) known_.push_back(v);
    }
    local_.assign(at(graph.size()), -1);
    for (std::size_t k = 0; k < known_.size(); ++k) local_[at(known_[k])] = static_cast<Node>(k);
    projected_ = project_mutilated(graph, known_, group);
  }
  is_target_.assign(at(this->graph().size()), false);
  for (const Node v : group.targets) is_target_[at(local(v))] = true;
  sub_ = std::make_unique<Subgraph>(this->graph());
  symbol_of_.assign(at(this->graph().size()), -1);
}

// The c-components of the ancestors of `nodes` under do(targets): lines 2 and 4 of ID (Shpitser & Pearl 2006).
void DataSource::prepare(Nodes nodes) {
  const Admg& g = graph();
  std::vector<Node> free;
  free.reserve(at(g.size()));
  for (const Node v : g.topological_order()) {
    if (!is_target_[at(v)]) free.push_back(v);
  }
  std::vector<Node> asked;
  for (const Node v : nodes) {
    if (local(v) >= 0) asked.push_back(local(v));
  }
  sub_->restrict_to(free);
  const std::vector<Node> above = sub_->ancestors(asked);
  sub_->restrict_to(above);
  label_.assign(at(g.size()), -1);
  parts_.clear();
  for (const Node root : above) {
    if (label_[at(root)] >= 0) continue;
    parts_.push_back(sub_->c_component_of(root));
    for (const Node v : parts_.back()) label_[at(v)] = static_cast<std::int32_t>(parts_.size()) - 1;
  }
  seen_.assign(at(g.size()), 0);
  search_ = 0;
}

std::vector<Node> DataSource::local_nodes(std::span<const CFactors::Argument> members) const {
  std::vector<Node> nodes;
  nodes.reserve(members.size());
  for (const auto& member : members) nodes.push_back(local(member.node));
  return nodes;
}

// Ancestors of the factor in the graph over its c-component, in time linear in the result.
std::vector<Node> DataSource::ancestors_in_component(Nodes factor) {
  ++search_;
  const std::int32_t part = label_[at(factor[0])];
  std::vector<Node> reached;
  const auto reach = [&](Node v) {
    if (label_[at(v)] != part || seen_[at(v)] == search_) return;
    seen_[at(v)] = search_;
    reached.push_back(v);
  };
  for (const Node v : factor) reach(v);
  for (std::size_t i = 0; i < reached.size(); ++i) {
    for (const Node p : graph().parents(reached[i])) reach(p);
  }
  return reached;
}

// Lines 5 to 7 of ID (Shpitser & Pearl 2006) for a c-factor: line 6 if it is a c-component, otherwise line 7 by
// Identify (Tian & Pearl 2002), whose failure is the hedge of line 5.
Obstacle DataSource::examine(std::span<const CFactors::Argument> members,
                             std::span<const CFactors::Argument> arguments) {
  Obstacle obstacle;
  for (const auto& member : members) {
    const Node v = local(member.node);
    if (v >= 0 && is_target(v)) obstacle.nodes.push_back(member.node);
  }
  if (!obstacle.nodes.empty()) {
    obstacle.kind = Obstacle::Kind::kInside;
    obstacle.nodes = sorted_unique(std::move(obstacle.nodes));
    return obstacle;
  }
  for (const auto& argument : arguments) {
    if (local(argument.node) < 0) obstacle.nodes.push_back(argument.node);
  }
  if (!obstacle.nodes.empty()) {
    obstacle.kind = Obstacle::Kind::kColumns;
    obstacle.nodes = sorted_unique(std::move(obstacle.nodes));
    return obstacle;
  }
  const std::vector<Node>& whole = parts_[at(label_[at(local(members[0].node))])];
  if (whole.size() == members.size()) return obstacle;
  const std::vector<Node> factor = local_nodes(members);
  const std::vector<Node> up = ancestors_in_component(factor);
  if (up.size() == factor.size()) return obstacle;
  std::vector<Node> stuck;
  if (up.size() == whole.size()) {
    stuck = whole;
  } else {
    if (sub_->is_identifiable(factor, up, stuck)) return obstacle;
  }
  obstacle.kind = Obstacle::Kind::kHedge;
  for (const Node v : stuck) obstacle.nodes.push_back(global(v));
  obstacle.nodes = sorted_unique(std::move(obstacle.nodes));
  return obstacle;
}

Symbol DataSource::symbol(Node v) const { return symbol_of_[at(v)] >= 0 ? symbol_of_[at(v)] : global(v); }

std::vector<Symbol> DataSource::symbols(Nodes nodes) const {
  std::vector<Symbol> result;
  for (const Node v : nodes) result.push_back(symbol(v));
  return result;
}

// Identify of Tian & Pearl (2002) as a loop: every round takes the ancestors of the factor, then its c-component in
// them.
std::int32_t DataSource::express(std::span<const CFactors::Argument> members,
                                 std::span<const CFactors::Argument> arguments, ExpressionBuilder& builder) {
  for (const auto& argument : arguments) symbol_of_[at(local(argument.node))] = argument.symbol;
  std::vector<Node> factor = local_nodes(members);
  sub_->sort_topologically(factor);
  const auto without = [](const std::vector<Node>& large, std::vector<Node> small) {
    std::vector<Node> rest;
    std::sort(small.begin(), small.end());
    for (const Node v : large) {
      if (!std::binary_search(small.begin(), small.end(), v)) rest.push_back(v);
    }
    return rest;
  };
  std::int32_t result = -1;
  if (parts_[at(label_[at(factor[0])])].size() == factor.size()) {
    result = factor_from_joint(factor, builder);
  } else {
    // the ancestors of this factor alone give a shorter expression than the ancestors of all factors
    std::vector<Node> free;
    for (const Node v : graph().topological_order()) {
      if (!is_target_[at(v)]) free.push_back(v);
    }
    sub_->restrict_to(free);
    sub_->restrict_to(sub_->ancestors(factor));
    std::vector<Node> current = sub_->c_component_of(factor[0]);
    sub_->sort_topologically(current);
    // the expression for Q[current]; -1 at first, when it is a c-component of an ancestral set
    std::int32_t q = -1;
    for (;;) {
      if (q < 0) q = factor_from_joint(current, builder);
      sub_->restrict_to(current);
      std::vector<Node> up = sub_->ancestors(factor);
      sub_->sort_topologically(up);
      const std::int32_t marginal = builder.sum(symbols(without(current, up)), q);
      if (up.size() == factor.size()) {
        result = marginal;
        break;
      }
      sub_->restrict_to(up);
      std::vector<Node> part = sub_->c_component_of(factor[0]);
      sub_->sort_topologically(part);
      q = part.size() < up.size() ? factor_from_quotients(part, up, marginal, builder) : marginal;
      current = std::move(part);
    }
    // the expression is constant in symbols that are not arguments of the factor
    std::vector<Symbol> extra = builder.free_symbols(result);
    for (const auto& argument : arguments) std::erase(extra, argument.symbol);
    result = builder.any(std::move(extra), number_, result);
  }
  for (const auto& argument : arguments) symbol_of_[at(local(argument.node))] = -1;
  return result;
}

// Q[part] for a c-component of an ancestral set: the product of P(v | predecessors) of line 6 of ID (Shpitser & Pearl
// 2006). The predecessors are reduced to T, the c-component of v among them and v, and the parents of T, which separate
// v from the rest (Tian & Pearl 2002).
std::int32_t DataSource::factor_from_joint(Nodes part, ExpressionBuilder& builder) {
  std::vector<std::int32_t> factors;
  sub_->restrict_to({});
  for (std::size_t i = 0; i < part.size(); ++i) {
    sub_->add(part[i]);
    std::vector<Symbol> given;
    std::vector<Symbol> set;
    const std::vector<Node> around = sub_->c_component_of(part[i]);
    for (const Node w : around) {
      if (w != part[i]) given.push_back(symbol(w));
      for (const Node p : graph().parents(w)) {
        if (p != part[i]) (is_target(p) ? set : given).push_back(symbol(p));
      }
    }
    factors.push_back(builder.probability(number_, {symbol(part[i])}, std::move(given), std::move(set)));
  }
  return builder.product(factors);
}

// Q[part] from Q[set], of which it is a c-component (Tian & Pearl 2002): the product over its members of Q[the set up
// to the member] / Q[the set before it], where consecutive members cancel.
std::int32_t DataSource::factor_from_quotients(Nodes part, Nodes set, std::int32_t q,
                                               ExpressionBuilder& builder) const {
  std::vector<std::int32_t> factors;
  const auto up_to = [&](std::size_t from) { return builder.sum(symbols(set.subspan(from)), q); };
  std::size_t next = 0;
  for (std::size_t i = 0; i < set.size() && next < part.size(); ++i) {
    if (set[i] != part[next]) continue;
    const std::size_t first = i;
    while (i < set.size() && next < part.size() && set[i] == part[next]) {
      ++i;
      ++next;
    }
    // the denominator of the first member is Q of the empty set, which is 1
    factors.push_back(first == 0 ? up_to(i) : builder.quotient(up_to(i), up_to(first)));
  }
  return builder.product(factors);
}

}  // namespace mdcm
