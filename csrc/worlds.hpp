// Counterfactual questions as products of c-factors over copies of variables in several worlds; equal copies are merged
// (Shpitser & Pearl 2007; Correa, Lee & Bareinboim 2021).

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "admg.hpp"
#include "components.hpp"
#include "expression.hpp"

namespace mdcm {

// Events in worlds, some of them given. P(y | do(x), z) has a single world, that of do(x).
struct Question {
  static constexpr std::int32_t kFree = -1;     // stands for every level
  static constexpr std::int32_t kForeign = -2;  // a value that is not a known level
  // A value of a node: a constant with a level, or free.
  struct Value {
    Node node;
    std::int32_t level;
  };
  // In a world, `node` is set to a symbol, or to its value in another world.
  struct Setting {
    Node node;
    Symbol symbol;       // -1 for its value in another world
    std::int32_t world;  // that world
  };
  // The event that the node of the symbol has the symbol's value in a world.
  struct Atom {
    Symbol symbol;
    std::int32_t world;
    bool given;
  };
  std::vector<Value> values;  // of the symbols n, n + 1, ...; those below n are free
  std::vector<std::vector<Setting>> worlds;
  std::vector<Atom> atoms;
};

// Nodes and levels of all symbols; grows if a node needs another symbol.
class Symbols {
 public:
  Symbols(Node n, const std::vector<Question::Value>& values);

  Node node(Symbol s) const { return nodes_[static_cast<std::size_t>(s)]; }
  std::int32_t level(Symbol s) const { return levels_[static_cast<std::size_t>(s)]; }
  bool is_constant(Symbol s) const { return level(s) != Question::kFree; }
  const std::vector<Node>& nodes() const { return nodes_; }
  Symbol fresh(Node v);

 private:
  std::vector<Node> nodes_;
  std::vector<std::int32_t> levels_;
};

// A counterfactual factor that is not a c-factor (Shpitser & Pearl 2007, ID*, line 8): `variable` has two values among
// its members and their parents, or two copies if second is -1.
struct Conflict {
  struct Member {
    Symbol value;
    std::vector<Symbol> parents;
  };
  std::vector<Member> members;
  Node variable = -1;
  Symbol first = -1;
  Symbol second = -1;
};

// C-factors Q[C](c, pa(C)), with the symbol of every argument. The arguments of factor k are
// scope[offsets[k] .. offsets[k + 1]]: sizes[k] members in topological order, then the parents outside.
struct CFactors {
  struct Argument {
    Node node;
    Symbol symbol;
  };
  std::vector<std::size_t> offsets{0};
  std::vector<std::size_t> sizes;
  std::vector<Argument> scope;
  std::vector<Symbol> summed;  // in topological order

  std::size_t count() const { return sizes.size(); }
  std::span<const Argument> arguments(std::size_t k) const {
    return {scope.data() + offsets[k], offsets[k + 1] - offsets[k]};
  }
  std::span<const Argument> members(std::size_t k) const { return {scope.data() + offsets[k], sizes[k]}; }
};

// The counterfactual graph of a question (make-cg of Shpitser & Pearl 2007): copies of the variables in its events and
// of their ancestors, each with the values of its parents. Copies of a node in two worlds are merged if the values of
// their parents are the same.
class Copies {
 public:
  // With `given_only`, only the given events count. O(worlds (n + edges)).
  Copies(const Admg& graph, const Question& question, Symbols& symbols, bool given_only);

  // Two different constants that must be equal: the event is impossible.
  const std::optional<std::pair<Symbol, Symbol>>& contradiction() const { return contradiction_; }
  // Pairs of values of the same variable that must be equal.
  const std::vector<std::pair<Symbol, Symbol>>& equalities() const { return equalities_; }
  // The copy of each atom; -1 if the atom is trivially true or was left out.
  const std::vector<std::int32_t>& atom_copies() const { return atom_copies_; }
  std::size_t size() const { return nodes_.size(); }
  bool is_given(std::int32_t copy) const { return is_given_[static_cast<std::size_t>(copy)]; }

  // A label per copy, equal for copies that depend on each other given the given copies, which block their children.
  std::vector<std::int32_t> dependence_labels() const;

  // The kept copies as c-factors, or the conflict. All copies with the same dependence label must be kept or none.
  std::optional<Conflict> factorise(const std::vector<bool>& keep, CFactors& factors) const;

 private:
  static constexpr std::int32_t kUnseen = -1;
  static constexpr std::int32_t kNeeded = INT32_MAX;
  struct Source {
    Symbol symbol;
    std::int32_t copy;  // -1 for a setting
  };

  std::int32_t& state(std::int32_t world, Node v) {
    return states_[static_cast<std::size_t>(world)][static_cast<std::size_t>(v)];
  }
  std::pair<std::int32_t, const Question::Setting*> resolve(std::int32_t world, Node v);
  void mark_needed(bool given_only);
  void copy_in_worlds(Node v);
  void attach_events(Node v, std::size_t first);
  void require_equal(Symbol first, Symbol second);

  const Admg& graph_;
  const Question& question_;
  Symbols& symbols_;
  std::vector<std::vector<std::int32_t>> states_;
  std::vector<bool> taken_;      // nodes whose symbol is in use
  std::vector<bool> has_atoms_;  // nodes
  std::vector<std::int32_t> atom_worlds_;
  std::optional<std::pair<Symbol, Symbol>> contradiction_;
  std::vector<std::pair<Symbol, Symbol>> equalities_;
  std::vector<std::int32_t> atom_copies_;
  // by copy
  std::vector<Node> nodes_;
  std::vector<Symbol> values_;
  std::vector<bool> is_given_;
  std::vector<bool> is_asked_;
  std::vector<std::size_t> parent_offsets_{0};
  std::vector<Source> parents_;
  // pairs (copy, parent) of copies that were merged into another
  std::vector<std::pair<std::int32_t, std::int32_t>> merged_parents_;
};

}  // namespace mdcm
