#include "identify.hpp"

#include <algorithm>
#include <utility>

namespace mdcm {
namespace {

constexpr std::size_t kMostCombinations = std::size_t{1} << 20;

std::size_t at(std::int32_t v) { return static_cast<std::size_t>(v); }

// Index of a target in its group, or -1.
std::ptrdiff_t target_index(const DatasetGroup& group, Node v) {
  const auto target = std::lower_bound(group.targets.begin(), group.targets.end(), v);
  return target == group.targets.end() || *target != v ? -1 : target - group.targets.begin();
}

}  // namespace

// IDC* of Shpitser & Pearl (2007): line 1 is kImpossible, line 3 the answer 0; instead of line 4, factors that are not
// connected with an outcome are left out of numerator and denominator; line 5 is the quotient.
Identification::Identification(const Admg& graph, const std::vector<DatasetGroup>& groups, const Question& question,
                               bool all)
    : graph_(graph), groups_(groups), question_(question), symbols_(graph.size(), question.values) {
  if (find_direct()) return;
  const bool conditional =
      std::any_of(question.atoms.begin(), question.atoms.end(), [](const auto& atom) { return atom.given; });
  const Copies copies(graph, question, symbols_, false);
  std::optional<Copies> given;
  std::vector<bool> keep(copies.size(), true);
  std::vector<bool> keep_given;
  if (conditional) {
    given.emplace(graph, question, symbols_, true);
    if (given->contradiction()) {
      verdict_ = Verdict::kImpossible;
      return;
    }
    // factors that are not connected with an outcome cancel between P(outcomes, given) and P(given)
    const std::vector<std::int32_t> label = copies.dependence_labels();
    std::vector<bool> has_outcome(copies.size(), false);
    const auto copy_of = [&](std::size_t i) { return copies.atom_copies()[i]; };
    for (std::size_t i = 0; i < question.atoms.size(); ++i) {
      // an outcome that is also given is known, or an equality of two values
      if (question.atoms[i].given || copy_of(i) < 0 || copies.is_given(copy_of(i))) continue;
      has_outcome[at(label[at(copy_of(i))])] = true;
    }
    for (std::size_t c = 0; c < copies.size(); ++c) keep[c] = has_outcome[at(label[c])];
    const std::vector<std::int32_t> given_label = given->dependence_labels();
    std::vector<bool> is_near(given->size(), false);
    for (std::size_t i = 0; i < question.atoms.size(); ++i) {
      const std::int32_t copy = given->atom_copies()[i];
      if (copy >= 0 && copy_of(i) >= 0 && keep[at(copy_of(i))]) is_near[at(given_label[at(copy)])] = true;
    }
    for (std::size_t c = 0; c < given->size(); ++c) keep_given.push_back(is_near[at(given_label[c])]);
  }
  if (copies.contradiction()) {
    zero_ = copies.contradiction();
    return;
  }
  sources_.reserve(groups.size());
  for (std::size_t g = 0; g < groups.size(); ++g) {
    sources_.emplace_back(graph, groups[g], static_cast<std::int32_t>(g));
  }
  if (!factorise(copies, keep, numerator_, all) && (!all || failures_.back().conflict)) return;
  if (std::find(keep_given.begin(), keep_given.end(), true) == keep_given.end()) return;
  denominator_.emplace();
  factorise(*given, keep_given, *denominator_, all);
}

// A group with the targets of a question in a single world contains the answer (gID, Lee, Correa & Bareinboim 2019).
bool Identification::find_direct() {
  if (question_.worlds.size() != 1) return false;
  std::vector<CFactors::Argument> settings;
  for (const Question::Setting& setting : question_.worlds[0]) settings.push_back({setting.node, setting.symbol});
  std::sort(settings.begin(), settings.end(), [](const auto& a, const auto& b) { return a.node < b.node; });
  std::vector<Node> asked;
  for (const Question::Atom& atom : question_.atoms) asked.push_back(symbols_.node(atom.symbol));
  std::sort(asked.begin(), asked.end());
  if (std::adjacent_find(asked.begin(), asked.end()) != asked.end()) return false;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const DatasetGroup& group = groups_[g];
    const bool same = std::equal(settings.begin(), settings.end(), group.targets.begin(), group.targets.end(),
                                 [](const auto& a, Node b) { return a.node == b; });
    const bool seen =
        std::all_of(asked.begin(), asked.end(), [&](Node v) { return group.observes(v) && !group.is_target(v); });
    const auto number = static_cast<std::int32_t>(g);
    if (!same || !seen || !choose_covering(settings, {number})) continue;
    direct_ = number;
    return true;
  }
  return false;
}

// Lines 6 to 9 of ID* (Shpitser & Pearl 2007), with c-factors in place of line 9.
bool Identification::factorise(const Copies& copies, const std::vector<bool>& keep, Part& part, bool all) {
  part.equalities = copies.equalities();
  if (auto conflict = copies.factorise(keep, part.factors)) {
    failures_.push_back({{}, {}, std::move(conflict)});
    verdict_ = Verdict::kNo;
    return false;
  }
  return find_sources(part, all);
}

// gID (Lee, Correa & Bareinboim 2019): for every c-factor the first group that determines it, or several groups that
// determine it at all values together.
bool Identification::find_sources(Part& part, bool all) {
  if (nodes_.empty()) {
    // the nodes of the denominator are among those of the numerator, which has none if its factors are in conflict
    for (std::size_t k = 0; k < part.factors.count(); ++k) {
      for (const auto& member : part.factors.members(k)) nodes_.push_back(member.node);
    }
  }
  prepared_.resize(sources_.size(), false);
  bool complete = true;
  part.sources.reserve(part.factors.count());
  std::vector<std::int32_t> candidates;
  std::vector<Obstacle> obstacles;
  for (std::size_t k = 0; k < part.factors.count(); ++k) {
    candidates.clear();
    obstacles.clear();
    std::int32_t single = -1;
    for (std::size_t s = 0; s < sources_.size() && single < 0; ++s) {
      obstacles.push_back(examine(s, part, k));
      const Obstacle::Kind kind = obstacles.back().kind;
      if (kind == Obstacle::Kind::kNone) single = static_cast<std::int32_t>(s);
      if (kind == Obstacle::Kind::kValues) candidates.push_back(static_cast<std::int32_t>(s));
    }
    part.sources.push_back(single);
    if (single >= 0) continue;
    if (candidates.size() > 1) {
      const auto parents = part.factors.arguments(k).subspan(part.factors.sizes[k]);
      if (auto chosen = choose_covering(parents, candidates)) {
        part.several[k] = std::move(*chosen);
        continue;
      }
    }
    Failure& failure = failures_.emplace_back();
    failure.obstacles = obstacles;
    for (const auto& member : part.factors.members(k)) failure.factor.push_back(member.node);
    std::sort(failure.factor.begin(), failure.factor.end());
    verdict_ = Verdict::kNo;
    complete = false;
    if (!all) return false;
  }
  return complete;
}

// The obstacle in the source; if there is none, whether the group sets the required values.
Obstacle Identification::examine(std::size_t source, const Part& part, std::size_t factor) {
  if (!prepared_[source]) sources_[source].prepare(nodes_);
  prepared_[source] = true;
  const auto members = part.factors.members(factor);
  const auto arguments = part.factors.arguments(factor);
  Obstacle obstacle = sources_[source].examine(members, arguments);
  if (obstacle.kind != Obstacle::Kind::kNone || groups_[source].targets.empty()) return obstacle;
  const auto parents = arguments.subspan(members.size());
  if (choose_covering(parents, {static_cast<std::int32_t>(source)})) return obstacle;
  obstacle.kind = Obstacle::Kind::kValues;
  for (const auto& parent : parents) {
    if (groups_[source].is_target(parent.node)) obstacle.nodes.push_back(parent.node);
  }
  std::sort(obstacle.nodes.begin(), obstacle.nodes.end());
  return obstacle;
}

// Candidates that together set every combination of values that the parents require, chosen greedily; nullopt if the
// candidates do not.
std::optional<std::vector<std::int32_t>> Identification::choose_covering(
    std::span<const CFactors::Argument> parents, const std::vector<std::int32_t>& candidates) const {
  struct Requirement {
    Node node;
    std::int32_t level;
    std::int32_t domain;  // number of levels to enumerate; 0 if only a box with every value suffices
  };
  std::vector<Requirement> required;
  std::size_t combinations = 1;
  for (const auto& parent : parents) {
    std::int32_t domain = -1;
    for (const std::int32_t s : candidates) {
      const std::ptrdiff_t index = target_index(groups_[at(s)], parent.node);
      if (index >= 0) domain = std::max(domain, groups_[at(s)].domain[static_cast<std::size_t>(index)]);
    }
    if (domain < 0) continue;
    const std::int32_t level = symbols_.level(parent.symbol);
    const bool every = level == Question::kFree && domain > 0;
    required.push_back({parent.node, level, every ? domain : 0});
    if (every) combinations *= at(domain);
    if (combinations > kMostCombinations) return std::nullopt;
  }
  if (required.empty()) return std::vector{candidates[0]};
  std::vector<std::int32_t> levels(required.size());
  const auto contains_levels = [&](const DatasetGroup& group, const DatasetGroup::Box& box) {
    for (std::size_t k = 0; k < required.size(); ++k) {
      const std::ptrdiff_t index = target_index(group, required[k].node);
      if (index < 0) continue;
      const auto& set = box.levels[static_cast<std::size_t>(index)];
      if (!set.empty() && std::find(set.begin(), set.end(), levels[k]) == set.end()) return false;
    }
    return true;
  };
  std::vector<std::int32_t> chosen;
  for (std::size_t code = 0; code < combinations; ++code) {
    std::size_t rest = code;
    for (std::size_t k = 0; k < required.size(); ++k) {
      levels[k] = required[k].level;
      if (required[k].domain == 0) continue;
      levels[k] = static_cast<std::int32_t>(rest % at(required[k].domain));
      rest /= at(required[k].domain);
    }
    const auto has_box = [&](std::int32_t s) {
      const DatasetGroup& group = groups_[at(s)];
      return std::any_of(group.boxes.begin(), group.boxes.end(),
                         [&](const DatasetGroup::Box& box) { return contains_levels(group, box); });
    };
    if (std::any_of(chosen.begin(), chosen.end(), has_box)) continue;
    const auto source = std::find_if(candidates.begin(), candidates.end(), has_box);
    if (source == candidates.end()) return std::nullopt;
    chosen.push_back(*source);
  }
  return chosen;
}

// The answer of IDC* (Shpitser & Pearl 2007), line 5: P(outcomes, given) / P(given).
Expression Identification::express() {
  ExpressionBuilder builder(symbols_.nodes(), graph_.positions());
  if (direct_) {
    std::vector<Symbol> asked;
    std::vector<Symbol> given;
    std::vector<Symbol> set;
    for (const Question::Setting& setting : question_.worlds[0]) set.push_back(setting.symbol);
    for (const Question::Atom& atom : question_.atoms) (atom.given ? given : asked).push_back(atom.symbol);
    return builder.take(builder.probability(*direct_, std::move(asked), std::move(given), std::move(set)));
  }
  if (zero_) return builder.take(builder.equal(zero_->first, zero_->second));
  std::int32_t result = express(numerator_, builder);
  if (denominator_) result = builder.quotient(result, express(*denominator_, builder));
  return builder.take(result);
}

// Line 6 of ID* (Shpitser & Pearl 2007): a sum over the product of c-factors.
std::int32_t Identification::express(const Part& part, ExpressionBuilder& builder) {
  std::vector<std::int32_t> terms;
  for (std::size_t k = 0; k < part.factors.count(); ++k) {
    const auto several = part.several.find(k);
    const std::vector<std::int32_t> sources =
        several == part.several.end() ? std::vector{part.sources[k]} : several->second;
    std::vector<std::int32_t> cases;
    for (const std::int32_t s : sources) {
      cases.push_back(sources_[at(s)].express(part.factors.members(k), part.factors.arguments(k), builder));
    }
    terms.push_back(builder.cases(sources, std::move(cases)));
  }
  for (const auto& [first, second] : part.equalities) terms.push_back(builder.equal(first, second));
  return builder.sum(part.factors.summed, builder.product(terms));
}

}  // namespace mdcm
