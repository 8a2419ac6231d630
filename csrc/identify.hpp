// Identification of observational, interventional and counterfactual distributions from observational and
// experimental data, with an estimand or the reason why there is none.

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "admg.hpp"
#include "expression.hpp"
#include "fits.hpp"
#include "sources.hpp"
#include "worlds.hpp"

namespace mdcm {

// Decides a question, and writes its estimand when asked.
//
// The question becomes a product of c-factors over copies of variables in their worlds (ctfID and ctfIDC; with one
// world these are ID and IDC), and every c-factor must be a function of the distribution of some group of data sets
// (gID), at the values that were set. Sound; complete where every group observes all nodes and sets all values
// (Shpitser & Pearl 2006, 2007; Huang & Valtorta 2006; Lee, Correa & Bareinboim 2019; Correa, Lee & Bareinboim 2021).
// No recursion. A decision takes O(n (n + edges)) per group and world at worst, most often O(n + edges).
class Identification {
 public:
  // A c-factor that no data show.
  struct Failure {
    std::vector<Node> factor;         // ascending; empty if there is a conflict
    std::vector<Obstacle> obstacles;  // by group
    std::optional<Conflict> conflict;
  };
  enum class Verdict : std::uint8_t {
    kYes,
    kNo,
    kImpossible,  // what is given contradicts itself
  };

  // All must outlive the object. With `all` every failure is found, otherwise the first.
  Identification(const Admg& graph, const std::vector<DatasetGroup>& groups, const Question& question,
                 bool all = false);

  Verdict verdict() const { return verdict_; }
  const std::vector<Failure>& failures() const { return failures_; }
  const Symbols& symbols() const { return symbols_; }
  // Only after kYes.
  Expression express();

 private:
  struct Part {
    CFactors factors;
    std::vector<std::int32_t> sources;                         // of every factor; -1 where it takes several
    std::map<std::size_t, std::vector<std::int32_t>> several;  // by factor
    std::vector<std::pair<Symbol, Symbol>> equalities;
  };

  bool find_direct();
  bool factorise(const Copies& copies, const std::vector<bool>& keep, Part& part, bool all);
  bool find_sources(Part& part, bool all);
  Obstacle examine(std::size_t source, const Part& part, std::size_t factor);
  std::optional<std::vector<std::int32_t>> covering(std::span<const CFactors::Argument> parents,
                                                    const std::vector<std::int32_t>& candidates) const;
  std::int32_t express(const Part& part, ExpressionBuilder& builder);

  const Admg& graph_;
  const std::vector<DatasetGroup>& groups_;
  const Question& question_;
  Symbols symbols_;
  std::vector<DataSource> sources_;
  std::vector<bool> prepared_;  // sources that have been asked for a factor
  std::vector<Node> nodes_;     // of all factors
  Verdict verdict_ = Verdict::kYes;
  std::optional<std::int32_t> direct_;             // the group that shows the answer as it stands
  std::optional<std::pair<Symbol, Symbol>> zero_;  // the answer is 0, because these two are not equal
  Part numerator_;
  std::optional<Part> denominator_;
  std::vector<Failure> failures_;
};

}  // namespace mdcm
