#include "expression.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <tuple>
#include <utility>

namespace mdcm {
namespace {

using Kind = Expression::Kind;
using Term = Expression::Term;

// the number of conditions is quadratic in the size of a c-component
constexpr std::size_t kMostMentions = std::size_t{1} << 22;

std::size_t at(std::int32_t v) { return static_cast<std::size_t>(v); }

bool contains(const std::vector<Symbol>& sorted, Symbol s) {
  return std::binary_search(sorted.begin(), sorted.end(), s);
}

std::vector<Symbol> sorted_unique(std::vector<Symbol> all) {
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

}  // namespace

std::size_t ExpressionBuilder::Hash::operator()(std::int32_t number) const {
  const Term& term = (*terms)[at(number)];
  auto hash = static_cast<std::size_t>(term.kind) + 31 * static_cast<std::size_t>(term.source + 1);
  const auto mix = [&](const std::vector<std::int32_t>& values) {
    for (const std::int32_t v : values) hash = (hash ^ static_cast<std::size_t>(v)) * 0x9E3779B97F4A7C15ULL;
    hash = (hash ^ (hash >> 29)) + values.size();
  };
  for (const auto* part : {&term.operands, &term.symbols, &term.given, &term.set}) mix(*part);
  return hash;
}

bool ExpressionBuilder::Equal::operator()(std::int32_t a, std::int32_t b) const {
  return (*terms)[at(a)] == (*terms)[at(b)];
}

std::int32_t ExpressionBuilder::probability(std::int32_t source, std::vector<Symbol> symbols, std::vector<Symbol> given,
                                            std::vector<Symbol> set) {
  return add({Kind::kProbability,
              source,
              sorted_unique(std::move(symbols)),
              sorted_unique(std::move(given)),
              sorted_unique(std::move(set)),
              {}});
}

std::vector<std::int32_t> ExpressionBuilder::factors_of(std::int32_t number) const {
  if (term(number).kind == Kind::kProduct) return term(number).operands;
  return {number};
}

std::int32_t ExpressionBuilder::product(const std::vector<std::int32_t>& factors) {
  std::vector<std::int32_t> operands;
  for (const std::int32_t factor : factors) {
    const auto inner = factors_of(factor);
    operands.insert(operands.end(), inner.begin(), inner.end());
  }
  if (operands.size() == 1) return operands[0];
  return add({Kind::kProduct, -1, {}, {}, {}, std::move(operands)});
}

// Cancels common factors.
std::int32_t ExpressionBuilder::quotient(std::int32_t top, std::int32_t bottom) {
  std::vector<std::int32_t> above = factors_of(top);
  std::vector<std::int32_t> below;
  for (const std::int32_t factor : factors_of(bottom)) {
    const auto same = std::find(above.begin(), above.end(), factor);
    if (same == above.end()) {
      below.push_back(factor);
    } else {
      above.erase(same);
    }
  }
  const std::int32_t numerator = product(above);
  if (below.empty()) return numerator;
  return add({Kind::kQuotient, -1, {}, {}, {}, {numerator, product(below)}});
}

// Sums out the last symbols first, because a symbol may become summable once a later symbol is gone: P(s, t | w)
// becomes P(t | w) if no other factor mentions s. Factors without the remaining symbols move out of the sum.
std::int32_t ExpressionBuilder::sum(std::vector<Symbol> symbols, std::int32_t operand) {
  if (symbols.empty()) return operand;
  if (term(operand).kind == Kind::kSum) {
    const auto& inner = term(operand).symbols;
    symbols.insert(symbols.end(), inner.begin(), inner.end());
    operand = term(operand).operands[0];
  }
  std::sort(symbols.begin(), symbols.end(), [&](Symbol a, Symbol b) {
    return std::tuple(position_[at(nodes_[at(a)])], a) < std::tuple(position_[at(nodes_[at(b)])], b);
  });
  std::vector<std::int32_t> factors = factors_of(operand);
  std::map<Symbol, int> mentions;
  std::map<Symbol, std::size_t> own;  // the factor that is a distribution of the symbol
  for (std::size_t k = 0; k < factors.size(); ++k) {
    for (const Symbol s : free_symbols(factors[k])) ++mentions[s];
    if (term(factors[k]).kind != Kind::kProbability) continue;
    for (const Symbol s : term(factors[k]).symbols) own[s] = k;
  }
  std::vector<bool> gone(factors.size(), false);
  std::vector<Symbol> kept;
  for (std::size_t i = symbols.size(); i-- > 0;) {
    const Symbol s = symbols[i];
    const auto distribution = own.find(s);
    if (mentions[s] != 1 || distribution == own.end()) {
      kept.push_back(s);
      continue;
    }
    const std::size_t k = distribution->second;
    const Term whole = term(factors[k]);
    std::vector<Symbol> rest = whole.symbols;
    std::erase(rest, s);
    if (rest.empty()) {
      gone[k] = true;
      for (const Symbol w : whole.given) --mentions[w];
      for (const Symbol w : whole.set) --mentions[w];
    } else {
      factors[k] = probability(whole.source, std::move(rest), whole.given, whole.set);
    }
  }
  std::vector<Symbol> bound = sorted_unique(kept);
  std::vector<std::int32_t> outside;
  std::vector<std::int32_t> inside;
  for (std::size_t k = 0; k < factors.size(); ++k) {
    if (gone[k]) continue;
    const auto& own_symbols = free_symbols(factors[k]);
    const bool is_inside =
        std::any_of(own_symbols.begin(), own_symbols.end(), [&](Symbol s) { return contains(bound, s); });
    (is_inside ? inside : outside).push_back(factors[k]);
  }
  if (kept.empty()) return product(outside);
  std::reverse(kept.begin(), kept.end());
  outside.push_back(add({Kind::kSum, -1, std::move(kept), {}, {}, {product(inside)}}));
  return product(outside);
}

std::int32_t ExpressionBuilder::any(std::vector<Symbol> symbols, std::int32_t source, std::int32_t operand) {
  if (symbols.empty()) return operand;
  return add({Kind::kAny, source, sorted_unique(std::move(symbols)), {}, {}, {operand}});
}

std::int32_t ExpressionBuilder::cases(std::vector<std::int32_t> sources, std::vector<std::int32_t> operands) {
  if (operands.size() == 1) return operands[0];
  return add({Kind::kCases, -1, {}, std::move(sources), {}, std::move(operands)});
}

std::int32_t ExpressionBuilder::equal(Symbol first, Symbol second) {
  return add({Kind::kEqual, -1, {std::min(first, second), std::max(first, second)}, {}, {}, {}});
}

const std::vector<Symbol>& ExpressionBuilder::free_symbols(std::int32_t number) {
  // operands precede the terms that use them
  for (std::size_t i = free_.size(); i <= at(number); ++i) {
    const Term& t = terms_[i];
    std::vector<Symbol> free;
    if (t.kind == Kind::kProbability || t.kind == Kind::kEqual) {
      free = t.symbols;
      free.insert(free.end(), t.given.begin(), t.given.end());
      free.insert(free.end(), t.set.begin(), t.set.end());
    }
    for (const std::int32_t operand : t.operands) {
      free.insert(free.end(), free_[at(operand)].begin(), free_[at(operand)].end());
    }
    free = sorted_unique(std::move(free));
    if (t.kind == Kind::kSum || t.kind == Kind::kAny) {
      const std::vector<Symbol> bound = sorted_unique(t.symbols);
      std::erase_if(free, [&](Symbol s) { return contains(bound, s); });
    }
    free_.push_back(std::move(free));
  }
  return free_[at(number)];
}

Expression ExpressionBuilder::take(std::int32_t last) {
  std::vector<bool> needed(terms_.size(), false);
  needed[at(last)] = true;
  for (std::size_t i = terms_.size(); i-- > 0;) {
    if (!needed[i]) continue;
    for (const std::int32_t operand : terms_[i].operands) needed[at(operand)] = true;
  }
  std::vector<std::int32_t> number(terms_.size(), -1);
  Expression result;
  for (std::size_t i = 0; i <= at(last); ++i) {
    if (!needed[i]) continue;
    number[i] = static_cast<std::int32_t>(result.terms.size());
    Term term = std::move(terms_[i]);
    for (std::int32_t& operand : term.operands) operand = number[at(operand)];
    result.terms.push_back(std::move(term));
  }
  return result;
}

// Returns the number of the equal term if there is one.
std::int32_t ExpressionBuilder::add(Term term) {
  mentions_ += term.symbols.size() + term.given.size() + term.set.size();
  if (mentions_ > kMostMentions) throw ExpressionTooLarge();
  const auto number = static_cast<std::int32_t>(terms_.size());
  terms_.push_back(std::move(term));
  const auto [entry, is_new] = known_.insert(number);
  if (!is_new) terms_.pop_back();
  return *entry;
}

}  // namespace mdcm
