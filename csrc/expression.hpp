// Estimands: expressions over the distributions of the data.

#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <unordered_set>
#include <vector>

#include "admg.hpp"

namespace mdcm {

// A value that a node takes in an expression. 0..n-1 are the values of the nodes; a query with several values of the
// same node has additional symbols.
using Symbol = std::int32_t;

// A directed acyclic graph of terms, operands first; equal subexpressions share a term. Its size is polynomial in that
// of the graph, although the size of the tree that it represents need not be.
struct Expression {
  enum class Kind : std::uint8_t {
    kProbability,  // P(symbols | given) under do(set), in the data of `source`; the same at all values of its other
                   // targets
    kProduct,      // of the operands; 1 without operands
    kQuotient,     // first operand divided by the second
    kSum,          // of the operand over symbols
    kAny,          // the operand, which is the same at all values of symbols
    kCases,        // the first operand whose source, at the same index in `given`, has the values that it needs
    kEqual,        // 1 where the two symbols are equal, 0 elsewhere
  };
  struct Term {
    Kind kind;
    std::int32_t source = -1;
    std::vector<Symbol> symbols;
    std::vector<Symbol> given;
    std::vector<Symbol> set;
    std::vector<std::int32_t> operands;

    bool operator==(const Term&) const = default;
  };
  std::vector<Term> terms;  // the last term is the expression
};

// An expression that is too large to read or to estimate.
class ExpressionTooLarge : public std::length_error {
 public:
  ExpressionTooLarge() : std::length_error("the estimand mentions more than four million variables") {}
};

// Builds an expression, shares equal terms, and simplifies: distributions that sum to 1 vanish, equal factors cancel.
// Throws ExpressionTooLarge.
class ExpressionBuilder {
 public:
  // `nodes` holds the node of every symbol, `position` the position of every node in a topological order.
  ExpressionBuilder(Nodes nodes, Nodes position)
      : nodes_(nodes), position_(position), known_(16, Hash{&terms_}, Equal{&terms_}) {}
  ExpressionBuilder(const ExpressionBuilder&) = delete;
  ExpressionBuilder& operator=(const ExpressionBuilder&) = delete;

  std::int32_t probability(std::int32_t source, std::vector<Symbol> symbols, std::vector<Symbol> given,
                           std::vector<Symbol> set);
  std::int32_t product(const std::vector<std::int32_t>& factors);
  std::int32_t quotient(std::int32_t top, std::int32_t bottom);
  std::int32_t sum(std::vector<Symbol> symbols, std::int32_t operand);
  std::int32_t any(std::vector<Symbol> symbols, std::int32_t source, std::int32_t operand);
  std::int32_t cases(std::vector<std::int32_t> sources, std::vector<std::int32_t> operands);
  std::int32_t equal(Symbol first, Symbol second);

  // Symbols that a term is a function of, ascending.
  const std::vector<Symbol>& free_symbols(std::int32_t number);

  // The term `last` and the terms that it uses.
  Expression take(std::int32_t last);

 private:
  // terms are looked up by content, without a copy
  struct Hash {
    const std::vector<Expression::Term>* terms;
    std::size_t operator()(std::int32_t number) const;
  };
  struct Equal {
    const std::vector<Expression::Term>* terms;
    bool operator()(std::int32_t a, std::int32_t b) const;
  };

  const Expression::Term& term(std::int32_t number) const { return terms_[static_cast<std::size_t>(number)]; }
  std::vector<std::int32_t> factors_of(std::int32_t number) const;
  std::int32_t add(Expression::Term term);

  Nodes nodes_;
  Nodes position_;
  std::vector<Expression::Term> terms_;
  std::size_t mentions_ = 0;  // symbols in all terms together
  std::unordered_set<std::int32_t, Hash, Equal> known_;
  std::vector<std::vector<Symbol>> free_;  // of the first terms, computed on request
};

}  // namespace mdcm
