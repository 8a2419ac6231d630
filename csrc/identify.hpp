// Identification of observational, interventional and counterfactual distributions from observational and experimental
// data, with an estimand or the obstacles.

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

// Decides whether a question is identifiable, and writes its estimand on request.
//
// The question becomes a sum over a product of c-factors of copies of variables in their worlds (ID* and IDC* of
// Shpitser & Pearl 2007; ctfID and ctfIDC of Correa, Lee & Bareinboim 2021; in a single world ID and IDC of Shpitser &
// Pearl 2006), and every c-factor must be a function of the distribution of some group of data sets (gID of Lee, Correa
// & Bareinboim 2019), at the values that are set. Sound; complete if every group observes all nodes and sets all values
// (the same papers, and Huang & Valtorta 2006). No recursion. A decision takes O(n (n + edges)) per group and world at
// worst, most often O(n + edges).
class Identification {
 public:
  // A c-factor that no data determine.
  struct Failure {
    std::vector<Node> factor;         // ascending; empty if there is a conflict
    std::vector<Obstacle> obstacles;  // by group
    std::optional<Conflict> conflict;
  };
  enum class Verdict : std::uint8_t {
    kYes,
    kNo,
    kImpossible,  // the conditions contradict each other
  };

  // The arguments must outlive the object. With `all` every failure is reported, otherwise the first.
  Identification(const Admg& graph, const std::vector<DatasetGroup>& groups, const Question& question,
                 bool all = false);

  Verdict verdict() const { return verdict_; }
  const std::vector<Failure>& failures() const { return failures_; }
  const Symbols& symbols() const { return symbols_; }
  // Requires the verdict kYes.
  Expression express();

 private:
  struct Part {
    CFactors factors;
    std::vector<std::int32_t> sources;                         // of every factor; -1 if it needs several
    std::map<std::size_t, std::vector<std::int32_t>> several;  // the sources of such a factor
    std::vector<std::pair<Symbol, Symbol>> equalities;
  };

  bool find_direct();
  bool factorise(const Copies& copies, const std::vector<bool>& keep, Part& part, bool all);
  bool find_sources(Part& part, bool all);
  Obstacle examine(std::size_t source, const Part& part, std::size_t factor);
  std::optional<std::vector<std::int32_t>> choose_covering(std::span<const CFactors::Argument> parents,
                                                           const std::vector<std::int32_t>& candidates) const;
  std::int32_t express(const Part& part, ExpressionBuilder& builder);

  const Admg& graph_;
  const std::vector<DatasetGroup>& groups_;
  const Question& question_;
  Symbols symbols_;
  std::vector<DataSource> sources_;
  std::vector<bool> prepared_;  // by source
  std::vector<Node> nodes_;     // of all factors
  Verdict verdict_ = Verdict::kYes;
  std::optional<std::int32_t> direct_;             // the group whose distribution contains the answer
  std::optional<std::pair<Symbol, Symbol>> zero_;  // if set, the answer is 0, because these values differ
  Part numerator_;
  std::optional<Part> denominator_;
  std::vector<Failure> failures_;
};

}  // namespace mdcm
