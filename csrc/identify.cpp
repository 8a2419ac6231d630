#include "identify.hpp"

#include <algorithm>
#include <utility>

namespace mdcm {
namespace {

constexpr std::size_t kMostCombinations = std::size_t{1} << 20;

std::size_t at(std::int32_t v) { return static_cast<std::size_t>(v); }

// Place of a target in its group, or -1.
std::ptrdiff_t target_place(const DatasetGroup& group, Node v) {
  const auto place = std::lower_bound(group.targets.begin(), group.targets.end(), v);
  return place == group.targets.end() || *place != v ? -1 : place - group.targets.begin();
}

}  // namespace

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
    // factors that are connected with no outcome are the same in P(outcomes, given) and in P(given)
    const std::vector<std::int32_t> label = copies.dependent();
    std::vector<bool> has_outcome(copies.size(), false);
    const auto copy_of = [&](std::size_t i) { return copies.atom_copies()[i]; };
    for (std::size_t i = 0; i < question.atoms.size(); ++i) {
      // an outcome that is given as well is no question, or one of two values being equal
      if (question.atoms[i].given || copy_of(i) < 0 || copies.is_given(copy_of(i))) continue;
      has_outcome[at(label[at(copy_of(i))])] = true;
    }
    for (std::size_t c = 0; c < copies.size(); ++c) keep[c] = has_outcome[at(label[c])];
    const std::vector<std::int32_t> given_label = given->dependent();
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

// Data sets that intervene as the question does show the answer as it stands.
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
    if (!same || !seen || !covering(settings, {number})) continue;
    direct_ = number;
    return true;
  }
  return false;
}

bool Identification::factorise(const Copies& copies, const std::vector<bool>& keep, Part& part, bool all) {
  part.equalities = copies.equalities();
  if (auto conflict = copies.factorise(keep, part.factors)) {
    failures_.push_back({{}, {}, std::move(conflict)});
    verdict_ = Verdict::kNo;
    return false;
  }
  return find_sources(part, all);
}

bool Identification::find_sources(Part& part, bool all) {
  if (nodes_.empty()) {
    // the nodes of the denominator are among those of the numerator, which has none where its factors are in conflict
    for (std::size_t k = 0; k < part.factors.count(); ++k) {
      for (const auto& member : part.factors.members(k)) nodes_.push_back(member.node);
    }
  }
  prepared_.resize(sources_.size(), false);
  bool found_all = true;
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
      if (auto chosen = covering(parents, candidates)) {
        part.several[k] = std::move(*chosen);
        continue;
      }
    }
    Failure& failure = failures_.emplace_back();
    failure.obstacles = obstacles;
    for (const auto& member : part.factors.members(k)) failure.factor.push_back(member.node);
    std::sort(failure.factor.begin(), failure.factor.end());
    verdict_ = Verdict::kNo;
    found_all = false;
    if (!all) return false;
  }
  return found_all;
}

// As the source itself does, and whether it sets the values that are needed.
Obstacle Identification::examine(std::size_t source, const Part& part, std::size_t factor) {
  if (!prepared_[source]) sources_[source].prepare(nodes_);
  prepared_[source] = true;
  const auto members = part.factors.members(factor);
  const auto arguments = part.factors.arguments(factor);
  Obstacle obstacle = sources_[source].examine(members, arguments);
  if (obstacle.kind != Obstacle::Kind::kNone || groups_[source].targets.empty()) return obstacle;
  const auto parents = arguments.subspan(members.size());
  if (covering(parents, {static_cast<std::int32_t>(source)})) return obstacle;
  obstacle.kind = Obstacle::Kind::kValues;
  for (const auto& parent : parents) {
    if (groups_[source].is_target(parent.node)) obstacle.nodes.push_back(parent.node);
  }
  std::sort(obstacle.nodes.begin(), obstacle.nodes.end());
  return obstacle;
}

// Which candidates together set every combination of values that the parents need; nothing if they do not.
std::optional<std::vector<std::int32_t>> Identification::covering(std::span<const CFactors::Argument> parents,
                                                                  const std::vector<std::int32_t>& candidates) const {
  struct Need {
    Node node;
    std::int32_t level;
    std::int32_t domain;  // number of levels to go through; 0 where only a box of every value serves
  };
  std::vector<Need> needs;
  std::size_t combinations = 1;
  for (const auto& parent : parents) {
    std::int32_t domain = -1;
    for (const std::int32_t s : candidates) {
      const std::ptrdiff_t place = target_place(groups_[at(s)], parent.node);
      if (place >= 0) domain = std::max(domain, groups_[at(s)].domain[static_cast<std::size_t>(place)]);
    }
    if (domain < 0) continue;
    const std::int32_t level = symbols_.level(parent.symbol);
    const bool every = level == Question::kFree && domain > 0;
    needs.push_back({parent.node, level, every ? domain : 0});
    if (every) combinations *= at(domain);
    if (combinations > kMostCombinations) return std::nullopt;
  }
  if (needs.empty()) return std::vector{candidates[0]};
  std::vector<std::int32_t> levels(needs.size());
  const auto holds = [&](const DatasetGroup& group, const DatasetGroup::Box& box) {
    for (std::size_t k = 0; k < needs.size(); ++k) {
      const std::ptrdiff_t place = target_place(group, needs[k].node);
      if (place < 0) continue;
      const auto& set = box.levels[static_cast<std::size_t>(place)];
      if (!set.empty() && std::find(set.begin(), set.end(), levels[k]) == set.end()) return false;
    }
    return true;
  };
  std::vector<std::int32_t> chosen;
  for (std::size_t code = 0; code < combinations; ++code) {
    std::size_t rest = code;
    for (std::size_t k = 0; k < needs.size(); ++k) {
      levels[k] = needs[k].level;
      if (needs[k].domain == 0) continue;
      levels[k] = static_cast<std::int32_t>(rest % at(needs[k].domain));
      rest /= at(needs[k].domain);
    }
    const auto has_box = [&](std::int32_t s) {
      const DatasetGroup& group = groups_[at(s)];
      return std::any_of(group.boxes.begin(), group.boxes.end(),
                         [&](const DatasetGroup::Box& box) { return holds(group, box); });
    };
    if (std::any_of(chosen.begin(), chosen.end(), has_box)) continue;
    const auto source = std::find_if(candidates.begin(), candidates.end(), has_box);
    if (source == candidates.end()) return std::nullopt;
    chosen.push_back(*source);
  }
  return chosen;
}

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
