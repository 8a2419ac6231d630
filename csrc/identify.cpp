#include "identify.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <tuple>
#include <utility>

namespace mdcm {
namespace {

using Kind = Expression::Kind;
using Term = Expression::Term;

std::size_t at(Node v) { return static_cast<std::size_t>(v); }

// Subsets of the nodes as marks that are cleared by a new epoch, and searches inside them.
class Subgraph {
 public:
  explicit Subgraph(const Admg& graph)
      : graph_(graph), inside_(at(graph.size()), 0), seen_(at(graph.size()), 0), used_(at(graph.num_hubs()), 0) {}

  void restrict_to(Nodes set) {
    ++epoch_;
    for (const Node v : set) inside_[at(v)] = epoch_;
  }

  // Ancestors of `nodes` in the graph over the set, in topological order.
  std::vector<Node> ancestors(Nodes nodes) {
    ++search_;
    std::vector<Node> found;
    const auto reach = [&](Node v) {
      if (inside_[at(v)] != epoch_ || seen_[at(v)] == search_) return;
      seen_[at(v)] = search_;
      found.push_back(v);
    };
    for (const Node v : nodes) reach(v);
    for (std::size_t i = 0; i < found.size(); ++i) {
      for (const Node p : graph_.parents(found[i])) reach(p);
    }
    sort(found);
    return found;
  }

  // The c-components of the graph over the set, each in topological order, by their first members.
  std::vector<std::vector<Node>> parts(Nodes set) {
    restrict_to(set);
    ++search_;
    std::vector<std::vector<Node>> found;
    for (const Node root : set) {
      if (seen_[at(root)] != search_) found.push_back(part_from(root));
    }
    return found;
  }

  // The c-component of the graph over the set that holds `root`, in topological order.
  std::vector<Node> part_of(Node root) {
    ++search_;
    return part_from(root);
  }

  void sort(std::vector<Node>& nodes) const {
    const Nodes position = graph_.positions();
    std::sort(nodes.begin(), nodes.end(), [&](Node a, Node b) { return position[at(a)] < position[at(b)]; });
  }

 private:
  std::vector<Node> part_from(Node root) {
    std::vector<Node> part;
    const auto reach = [&](Node v) {
      if (inside_[at(v)] != epoch_ || seen_[at(v)] == search_) return;
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
    sort(part);
    return part;
  }

  const Admg& graph_;
  std::vector<std::uint32_t> inside_;
  std::vector<std::uint32_t> seen_;
  std::vector<std::uint32_t> used_;
  std::uint32_t epoch_ = 0;
  std::uint32_t search_ = 0;
};

// Builds an expression; equal terms are shared.
class Builder {
 public:
  std::int32_t probability(std::vector<Node> nodes, std::vector<Node> given) {
    std::sort(nodes.begin(), nodes.end());
    std::sort(given.begin(), given.end());
    return add({Kind::kProbability, std::move(nodes), std::move(given), {}});
  }

  std::int32_t product(const std::vector<std::int32_t>& factors) {
    std::vector<std::int32_t> operands;
    for (const std::int32_t factor : factors) {
      const Term& term = terms_[static_cast<std::size_t>(factor)];
      if (term.kind == Kind::kProduct) {
        operands.insert(operands.end(), term.operands.begin(), term.operands.end());
      } else {
        operands.push_back(factor);
      }
    }
    if (operands.size() == 1) return operands[0];
    return add({Kind::kProduct, {}, {}, std::move(operands)});
  }

  std::int32_t quotient(std::int32_t top, std::int32_t bottom) { return add({Kind::kQuotient, {}, {}, {top, bottom}}); }

  // Factors P(v | ...) sum to one over v where no other factor mentions v; last nodes first, so that one makes way for
  // the one before it.
  std::int32_t sum(std::vector<Node> nodes, std::int32_t operand) {
    if (nodes.empty()) return operand;
    const Term whole = terms_[static_cast<std::size_t>(operand)];
    if (whole.kind == Kind::kSum) {
      nodes.insert(nodes.end(), whole.nodes.begin(), whole.nodes.end());
      return sum(std::move(nodes), whole.operands[0]);
    }
    std::vector<std::int32_t> factors = whole.kind == Kind::kProduct ? whole.operands : std::vector{operand};
    const auto is_simple = [&](std::int32_t f) { return term(f).kind == Kind::kProbability; };
    if (std::all_of(factors.begin(), factors.end(), is_simple)) {
      std::map<Node, int> mentions;
      std::map<Node, std::size_t> own;
      for (std::size_t k = 0; k < factors.size(); ++k) {
        for (const Node v : term(factors[k]).nodes) ++mentions[v];
        for (const Node v : term(factors[k]).given) ++mentions[v];
        if (term(factors[k]).nodes.size() == 1) own[term(factors[k]).nodes[0]] = k;
      }
      std::vector<bool> gone(factors.size(), false);
      std::vector<Node> kept;
      for (std::size_t i = nodes.size(); i-- > 0;) {
        const auto place = own.find(nodes[i]);
        if (mentions[nodes[i]] != 1 || place == own.end()) {
          kept.push_back(nodes[i]);
          continue;
        }
        gone[place->second] = true;
        for (const Node w : term(factors[place->second]).given) --mentions[w];
      }
      std::vector<std::int32_t> left;
      for (std::size_t k = 0; k < factors.size(); ++k) {
        if (!gone[k]) left.push_back(factors[k]);
      }
      factors = std::move(left);
      nodes = std::move(kept);
      operand = product(factors);
      if (nodes.empty()) return operand;
    }
    std::sort(nodes.begin(), nodes.end());
    return add({Kind::kSum, std::move(nodes), {}, {operand}});
  }

  const Term& term(std::int32_t number) const { return terms_[static_cast<std::size_t>(number)]; }

  // What `last` is made of, and nothing else.
  Expression take(std::int32_t last) {
    std::vector<bool> needed(terms_.size(), false);
    needed[static_cast<std::size_t>(last)] = true;
    for (std::size_t i = terms_.size(); i-- > 0;) {
      if (!needed[i]) continue;
      for (const std::int32_t operand : terms_[i].operands) needed[static_cast<std::size_t>(operand)] = true;
    }
    std::vector<std::int32_t> number(terms_.size(), -1);
    Expression result;
    for (std::size_t i = 0; i <= static_cast<std::size_t>(last); ++i) {
      if (!needed[i]) continue;
      number[i] = static_cast<std::int32_t>(result.terms.size());
      Term term = std::move(terms_[i]);
      for (std::int32_t& operand : term.operands) operand = number[static_cast<std::size_t>(operand)];
      result.terms.push_back(std::move(term));
    }
    return result;
  }

 private:
  struct Less {
    bool operator()(const Term& a, const Term& b) const {
      return std::tie(a.kind, a.operands, a.nodes, a.given) < std::tie(b.kind, b.operands, b.nodes, b.given);
    }
  };

  std::int32_t add(Term term) {
    const auto [place, is_new] = known_.try_emplace(term, static_cast<std::int32_t>(terms_.size()));
    if (is_new) terms_.push_back(std::move(term));
    return place->second;
  }

  std::vector<Term> terms_;
  std::map<Term, std::int32_t, Less> known_;
};

// Nodes of `large` that are not in `small`; both in topological order.
std::vector<Node> without(const std::vector<Node>& large, Nodes small, const Admg& graph) {
  const Nodes position = graph.positions();
  std::vector<Node> rest;
  std::set_difference(large.begin(), large.end(), small.begin(), small.end(), std::back_inserter(rest),
                      [&](Node a, Node b) { return position[at(a)] < position[at(b)]; });
  return rest;
}

class Identifier {
 public:
  Identifier(const Admg& graph, Nodes y, Nodes x) : graph_(graph), sub_(graph), y_(y.begin(), y.end()) {
    sub_.sort(y_);
    sub_.restrict_to(graph.topological_order());
    // what is no ancestor of y sums to one, and P(V) over an ancestral set is a marginal of P(V)
    above_ = sub_.ancestors(y_);
    x_.assign(x.begin(), x.end());
    sub_.sort(x_);
  }

  Identification run() {
    const std::vector<Node> free = without(above_, x_, graph_);
    sub_.restrict_to(free);
    const std::vector<Node> relevant = sub_.ancestors(y_);
    const auto wholes = sub_.parts(above_);
    std::vector<std::size_t> whole_of(at(graph_.size()), 0);
    for (std::size_t k = 0; k < wholes.size(); ++k) {
      for (const Node v : wholes[k]) whole_of[at(v)] = k;
    }
    std::vector<std::int32_t> factors;
    for (const auto& factor : sub_.parts(relevant)) {
      const auto found = c_factor(factor, wholes[whole_of[at(factor[0])]]);
      if (!found) {
        Hedge hedge{factor, stuck_};
        std::sort(hedge.inner.begin(), hedge.inner.end());
        std::sort(hedge.outer.begin(), hedge.outer.end());
        return {std::nullopt, std::move(hedge)};
      }
      factors.push_back(*found);
    }
    return {builder_.take(builder_.sum(without(relevant, y_, graph_), builder_.product(factors))), {}};
  }

 private:
  // Q[factor] from Q[whole], a c-component of the ancestral graph, or nothing, with the set that it got stuck in.
  // Tian's recursion as a loop: every round takes the ancestors of the factor, then their c-component around it.
  std::optional<std::int32_t> c_factor(const std::vector<Node>& factor, std::vector<Node> current) {
    // an expression for Q[current]; none while it is a c-component of an ancestral set, whose factors are simple
    std::optional<std::int32_t> q;
    for (;;) {
      sub_.restrict_to(current);
      const std::vector<Node> up = sub_.ancestors(factor);
      if (up.size() == current.size() && up.size() != factor.size()) {
        stuck_ = current;
        return std::nullopt;
      }
      if (up.size() == factor.size()) {
        const std::int32_t all = q ? *q : from_joint(current);
        return builder_.sum(without(current, factor, graph_), all);
      }
      const std::int32_t marginal = builder_.sum(without(current, up, graph_), q ? *q : from_joint(current));
      sub_.restrict_to(up);
      std::vector<Node> part = sub_.part_of(factor[0]);
      if (part.size() < up.size()) {
        q = from_quotients(part, up, marginal);
      } else {
        q = marginal;
      }
      current = std::move(part);
    }
  }

  // Q[part] for a c-component of an ancestral set: the product of P(v | what precedes v and matters), where T, the
  // c-component around v among what does not follow v, and the parents of T screen off the rest (Tian & Pearl 2002).
  std::int32_t from_joint(const std::vector<Node>& part) {
    const Nodes position = graph_.positions();
    std::vector<std::int32_t> factors;
    std::vector<Node> before;
    for (const Node v : part) {
      before.clear();
      for (const Node w : part) {
        if (position[at(w)] <= position[at(v)]) before.push_back(w);
      }
      sub_.restrict_to(before);
      const std::vector<Node> around = sub_.part_of(v);
      std::vector<Node> given(around.begin(), around.end());
      for (const Node w : around) {
        const Nodes up = graph_.parents(w);
        given.insert(given.end(), up.begin(), up.end());
      }
      std::sort(given.begin(), given.end());
      given.erase(std::unique(given.begin(), given.end()), given.end());
      std::erase(given, v);
      factors.push_back(builder_.probability({v}, std::move(given)));
    }
    return builder_.product(factors);
  }

  // Q[part] from Q[set], of which it is a c-component: the product over its members of Q of the set up to the member
  // by Q of the set before it.
  std::int32_t from_quotients(const std::vector<Node>& part, const std::vector<Node>& set, std::int32_t q) {
    std::vector<std::int32_t> factors;
    std::size_t next = 0;
    for (std::size_t i = 0; i < set.size() && next < part.size(); ++i) {
      if (set[i] != part[next]) continue;
      ++next;
      const auto after = [&](std::size_t from) {
        return std::vector<Node>(set.begin() + static_cast<std::ptrdiff_t>(from), set.end());
      };
      const std::int32_t top = builder_.sum(after(i + 1), q);
      // the first member's denominator is Q of nothing, which is one
      factors.push_back(i == 0 ? top : builder_.quotient(top, builder_.sum(after(i), q)));
    }
    return builder_.product(factors);
  }

  const Admg& graph_;
  Subgraph sub_;
  Builder builder_;
  std::vector<Node> y_;
  std::vector<Node> x_;
  std::vector<Node> above_;
  std::vector<Node> stuck_;
};

}  // namespace

Identification identify(const Admg& graph, Nodes y, Nodes x) { return Identifier(graph, y, x).run(); }

}  // namespace mdcm
