// Counterfactual questions as products of c-factors: copies of variables in several worlds, merged where they are the
// same variable (Shpitser & Pearl 2007; Correa, Lee & Bareinboim 2021).

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

// What is asked: events in worlds, some of them given. P(y | do(x), z) has one world, that of do(x).
struct Question {
  static constexpr std::int32_t kFree = -1;     // stands for every level
  static constexpr std::int32_t kForeign = -2;  // a value that is no known level
  // A value of a node: a constant by its level, or a free one.
  struct Value {
    Node node;
    std::int32_t level;
  };
  // In a world `node` is set to a symbol, or to what it is in another world.
  struct Setting {
    Node node;
    Symbol symbol;       // -1 if the value is that of another world
    std::int32_t world;  // that world
  };
  // The node of the symbol has the symbol's value in a world.
  struct Atom {
    Symbol symbol;
    std::int32_t world;
    bool given;
  };
  std::vector<Value> values;  // of the symbols n, n + 1, ...; those below n are free
  std::vector<std::vector<Setting>> worlds;
  std::vector<Atom> atoms;
};

// Nodes and values of all symbols; grows where a node needs one more.
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

// A counterfactual factor that is no c-factor: `variable` has two values among its members and their parents (or two
// copies, where second is -1).
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

// c-factors Q[C](c, pa(C)), with the symbol at which every argument is taken. Factor k holds
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

// The variables that a question is about and all that they depend on, each with the values of its parents. Copies of a
// node in two worlds are one where the values of the parents are the same.
class Copies {
 public:
  // With `given_only` the question is about what is given alone. O(worlds (n + edges)).
  Copies(const Admg& graph, const Question& question, Symbols& symbols, bool given_only);

  // Two constants that would have to be equal: the event is impossible.
  const std::optional<std::pair<Symbol, Symbol>>& contradiction() const { return contradiction_; }
  // Values of one variable: the event is their being equal.
  const std::vector<std::pair<Symbol, Symbol>>& equalities() const { return equalities_; }
  // Copies that hold events of a question, by atom; -1 where the atom is true by itself or was left out.
  const std::vector<std::int32_t>& atom_copies() const { return atom_copies_; }
  std::size_t size() const { return nodes_.size(); }
  bool is_given(std::int32_t copy) const { return is_given_[static_cast<std::size_t>(copy)]; }

  // Copies that depend on each other given what is given, by a label per copy: what is given passes nothing on to its
  // children.
  std::vector<std::int32_t> dependent() const;

  // The kept copies as c-factors, or why there are none. Whole labels of dependent() must be kept.
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
  void need(bool given_only);
  void copy_node(Node v);
  void attach_atoms(Node v, std::size_t first);
  void demand_equal(Symbol first, Symbol second);

  const Admg& graph_;
  const Question& question_;
  Symbols& symbols_;
  std::vector<std::vector<std::int32_t>> states_;
  std::vector<bool> taken_;      // nodes whose own symbol the question uses
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
  // parents of a copy that was merged into another one
  std::vector<std::pair<std::int32_t, std::int32_t>> further_parents_;
};

}  // namespace mdcm
