#include "worlds.hpp"

#include <algorithm>
#include <numeric>
#include <unordered_map>

#include "subgraph.hpp"

namespace mdcm {
namespace {

std::size_t at(std::int32_t v) { return static_cast<std::size_t>(v); }

class UnionFind {
 public:
  explicit UnionFind(std::size_t n) : leader_(n) { std::iota(leader_.begin(), leader_.end(), 0); }

  std::int32_t find(std::int32_t v) {
    while (leader_[at(v)] != v) v = leader_[at(v)] = leader_[at(leader_[at(v)])];
    return v;
  }
  void unite(std::int32_t a, std::int32_t b) { leader_[at(find(a))] = find(b); }

 private:
  std::vector<std::int32_t> leader_;
};

}  // namespace

Symbols::Symbols(Node n, const std::vector<Question::Value>& values) : nodes_(at(n)), levels_(at(n), Question::kFree) {
  std::iota(nodes_.begin(), nodes_.end(), 0);
  for (const Question::Value& value : values) {
    nodes_.push_back(value.node);
    levels_.push_back(value.level);
  }
}

Symbol Symbols::fresh(Node v) {
  nodes_.push_back(v);
  levels_.push_back(Question::kFree);
  return static_cast<Symbol>(nodes_.size()) - 1;
}

Copies::Copies(const Admg& graph, const Question& question, Symbols& symbols, bool given_only)
    : graph_(graph),
      question_(question),
      symbols_(symbols),
      states_(question.worlds.size(), std::vector<std::int32_t>(at(graph.size()), kUnseen)),
      taken_(at(graph.size()), false),
      has_atoms_(at(graph.size()), false),
      atom_worlds_(question.atoms.size(), -1),
      atom_copies_(question.atoms.size(), -1) {
  mark_needed(given_only);
  for (const Node v : graph.topological_order()) copy_in_worlds(v);
}

// Origin of the value of v in a world: the world in which it is not set, or the setting.
std::pair<std::int32_t, const Question::Setting*> Copies::resolve(std::int32_t world, Node v) {
  for (;;) {
    const std::int32_t code = state(world, v);
    if (code >= kUnseen) return {world, nullptr};
    const Question::Setting& setting = question_.worlds[at(world)][at(-2 - code)];
    if (setting.symbol >= 0) return {world, &setting};
    world = setting.world;
  }
}

// Marks the ancestors of the events in every world (lines 2 and 3 of ID, Shpitser & Pearl 2006). An event of a variable
// that is set in its world is an equality of values (lines 2 and 3 of ID*, Shpitser & Pearl 2007).
void Copies::mark_needed(bool given_only) {
  const auto take = [&](Symbol s) {
    if (s < graph_.size()) taken_[at(s)] = true;
  };
  for (std::size_t w = 0; w < question_.worlds.size(); ++w) {
    for (std::size_t k = 0; k < question_.worlds[w].size(); ++k) {
      const Question::Setting& setting = question_.worlds[w][k];
      states_[w][at(setting.node)] = -2 - static_cast<std::int32_t>(k);
      if (setting.symbol >= 0) take(setting.symbol);
    }
  }
  std::vector<std::pair<std::int32_t, Node>> open;
  const auto reach = [&](std::int32_t world, Node v) {
    if (state(world, v) != kUnseen) return;
    state(world, v) = kNeeded;
    open.emplace_back(world, v);
  };
  for (std::size_t i = 0; i < question_.atoms.size(); ++i) {
    const Question::Atom& atom = question_.atoms[i];
    if (given_only && !atom.given) continue;
    take(atom.symbol);
    const Node v = symbols_.node(atom.symbol);
    const auto [world, setting] = resolve(atom.world, v);
    if (setting != nullptr) {
      require_equal(atom.symbol, setting->symbol);
      continue;
    }
    has_atoms_[at(v)] = true;
    atom_worlds_[i] = world;
    reach(world, v);
  }
  while (!open.empty()) {
    const auto [world, v] = open.back();
    open.pop_back();
    for (const Node p : graph_.parents(v)) {
      const auto [source, setting] = resolve(world, p);
      if (setting == nullptr) reach(source, p);
    }
  }
}

// Makes the copies of v, whose parents have been copied: line 4 of ID* (make-cg, Shpitser & Pearl 2007).
void Copies::copy_in_worlds(Node v) {
  const std::size_t first = nodes_.size();
  for (std::int32_t world = 0; world < static_cast<std::int32_t>(states_.size()); ++world) {
    if (state(world, v) != kNeeded) continue;
    for (const Node p : graph_.parents(v)) {
      const auto [source, setting] = resolve(world, p);
      if (setting != nullptr) {
        parents_.push_back({setting->symbol, -1});
      } else {
        const std::int32_t copy = state(source, p);
        parents_.push_back({values_[at(copy)], copy});
      }
    }
    const auto row = parents_.begin() + static_cast<std::ptrdiff_t>(parent_offsets_.back());
    const auto is_same = [&](std::size_t other) {
      return std::equal(row, parents_.end(), parents_.begin() + static_cast<std::ptrdiff_t>(parent_offsets_[other]),
                        [](const Source& a, const Source& b) { return a.symbol == b.symbol; });
    };
    std::size_t copy = first;
    while (copy < nodes_.size() && !is_same(copy)) ++copy;
    state(world, v) = static_cast<std::int32_t>(copy);
    if (copy < nodes_.size()) {
      for (auto p = row; p != parents_.end(); ++p) {
        if (p->copy >= 0) merged_parents_.emplace_back(static_cast<std::int32_t>(copy), p->copy);
      }
      parents_.resize(parent_offsets_.back());
      continue;
    }
    nodes_.push_back(v);
    values_.push_back(-1);
    is_given_.push_back(false);
    is_asked_.push_back(false);
    parent_offsets_.push_back(parents_.size());
  }
  if (first == nodes_.size()) return;
  if (has_atoms_[at(v)]) attach_events(v, first);
  for (std::size_t copy = first; copy < nodes_.size(); ++copy) {
    if (values_[copy] >= 0) continue;
    values_[copy] = taken_[at(v)] ? symbols_.fresh(v) : v;
    taken_[at(v)] = true;
  }
}

// Gives every copy of v the value of its events.
void Copies::attach_events(Node v, std::size_t first) {
  std::vector<std::vector<Symbol>> events(nodes_.size() - first);
  for (std::size_t i = 0; i < question_.atoms.size(); ++i) {
    const Question::Atom& atom = question_.atoms[i];
    if (atom_worlds_[i] < 0 || symbols_.node(atom.symbol) != v) continue;
    const std::int32_t copy = state(atom_worlds_[i], v);
    atom_copies_[i] = copy;
    is_asked_[at(copy)] = true;
    if (atom.given) is_given_[at(copy)] = true;
    events[at(copy) - first].push_back(atom.symbol);
  }
  for (std::size_t k = 0; k < events.size(); ++k) {
    if (events[k].empty()) continue;
    // prefer a constant to a free value
    const auto constant =
        std::find_if(events[k].begin(), events[k].end(), [&](Symbol s) { return symbols_.is_constant(s); });
    const Symbol value = constant == events[k].end() ? events[k][0] : *constant;
    values_[first + k] = value;
    for (const Symbol other : events[k]) require_equal(value, other);
  }
}

// Two different constants make the event impossible (line 5 of ID*, Shpitser & Pearl 2007).
void Copies::require_equal(Symbol first, Symbol second) {
  if (first == second) return;
  if (symbols_.is_constant(first) && symbols_.is_constant(second)) {
    if (!contradiction_) contradiction_ = {first, second};
  } else {
    equalities_.emplace_back(first, second);
  }
}

// Union-find over parents that are not given, shared latents and copies of the same node.
std::vector<std::int32_t> Copies::dependence_labels() const {
  UnionFind groups(size());
  std::vector<std::int32_t> copy_of(at(graph_.size()), -1);
  std::unordered_map<Node, std::int32_t> hub_copy;
  for (std::int32_t c = 0; c < static_cast<std::int32_t>(size()); ++c) {
    for (std::size_t k = parent_offsets_[at(c)]; k < parent_offsets_[at(c) + 1]; ++k) {
      const std::int32_t parent = parents_[k].copy;
      if (parent >= 0 && !is_given_[at(parent)]) groups.unite(c, parent);
    }
    const Node v = nodes_[at(c)];
    if (copy_of[at(v)] >= 0) groups.unite(c, copy_of[at(v)]);
    copy_of[at(v)] = c;
    for (const Node w : graph_.siblings(v)) {
      if (copy_of[at(w)] >= 0) groups.unite(c, copy_of[at(w)]);
    }
    for (const Node hub : graph_.hubs(v)) groups.unite(c, hub_copy.try_emplace(hub, c).first->second);
  }
  for (const auto& [child, parent] : merged_parents_) {
    if (!is_given_[at(parent)]) groups.unite(child, parent);
  }
  std::vector<std::int32_t> label(size());
  for (std::int32_t c = 0; c < static_cast<std::int32_t>(size()); ++c) label[at(c)] = groups.find(c);
  return label;
}

// Line 6 of ID* (Shpitser & Pearl 2007): the c-components of the copies; line 8 is a conflict.
std::optional<Conflict> Copies::factorise(const std::vector<bool>& keep, CFactors& factors) const {
  // the last kept copy of each node
  std::vector<std::int32_t> copy_of(at(graph_.size()), -1);
  std::vector<Node> kept;
  for (std::size_t c = 0; c < size(); ++c) {
    if (!keep[c]) continue;
    const Node v = nodes_[c];
    if (copy_of[at(v)] < 0) kept.push_back(v);
    copy_of[at(v)] = static_cast<std::int32_t>(c);
    if (!is_asked_[c]) factors.summed.push_back(values_[c]);
  }
  std::vector<std::uint32_t> seen(at(graph_.size()), 0);
  std::vector<Symbol> symbol_of(at(graph_.size()), -1);
  std::vector<bool> done(at(graph_.size()), false);
  Subgraph inside(graph_);
  inside.restrict_to(kept);
  std::uint32_t epoch = 0;
  std::vector<Node> part;
  for (const Node root : kept) {
    if (done[at(root)]) continue;
    inside.c_component_of(root, part);
    for (const Node v : part) done[at(v)] = true;
    inside.sort_topologically(part);
    ++epoch;
    std::optional<Conflict> conflict;
    const auto set_conflict = [&](Node v, Symbol first, Symbol second) {
      if (conflict) return;
      conflict.emplace();
      conflict->variable = v;
      conflict->first = first;
      conflict->second = second;
    };
    const auto assign = [&](Node v, Symbol s) {
      if (seen[at(v)] == epoch) {
        if (symbol_of[at(v)] != s) set_conflict(v, symbol_of[at(v)], s);
        return;
      }
      seen[at(v)] = epoch;
      symbol_of[at(v)] = s;
      factors.scope.push_back({v, s});
    };
    // copies of a node have consecutive numbers, so that the last leads to the others
    const auto for_each_copy = [&](Node v, auto&& visit) {
      for (std::int32_t c = copy_of[at(v)]; c >= 0 && nodes_[at(c)] == v; --c) {
        if (keep[at(c)]) visit(c);
      }
    };
    for (const Node v : part) {
      int count = 0;
      for_each_copy(v, [&](std::int32_t) { ++count; });
      if (count > 1) set_conflict(v, values_[at(copy_of[at(v)])], -1);
      assign(v, values_[at(copy_of[at(v)])]);
    }
    const std::size_t members = part.size();
    for (const Node v : part) {
      for_each_copy(v, [&](std::int32_t c) {
        const Nodes parents = graph_.parents(v);
        for (std::size_t k = 0; k < parents.size(); ++k) {
          assign(parents[k], parents_[parent_offsets_[at(c)] + k].symbol);
        }
      });
    }
    if (conflict) {
      for (const Node v : part) {
        for_each_copy(v, [&](std::int32_t c) {
          Conflict::Member member{values_[at(c)], {}};
          for (std::size_t k = parent_offsets_[at(c)]; k < parent_offsets_[at(c) + 1]; ++k) {
            member.parents.push_back(parents_[k].symbol);
          }
          conflict->members.push_back(std::move(member));
        });
      }
      return conflict;
    }
    factors.sizes.push_back(members);
    factors.offsets.push_back(factors.scope.size());
  }
  return std::nullopt;
}

}  // namespace mdcm
