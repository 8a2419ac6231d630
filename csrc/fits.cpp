#include "fits.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

namespace mdcm {
namespace {

constexpr std::size_t kMostCombinations = std::size_t{1} << 20;
// a smaller A is not worth it for fewer than one in so many rows
constexpr std::int64_t kWorthwhileRows = 10;

std::vector<Node> sorted(std::vector<Node> nodes) {
  std::sort(nodes.begin(), nodes.end());
  return nodes;
}

bool is_subset(const std::vector<Node>& small, const std::vector<Node>& large) {
  return std::includes(large.begin(), large.end(), small.begin(), small.end());
}

}  // namespace

bool DatasetGroup::is_target(Node v) const { return std::binary_search(targets.begin(), targets.end(), v); }

bool DatasetGroup::covers(Nodes some_targets) const {
  std::vector<std::size_t> finite;
  std::vector<const Box*> left;
  for (const Box& box : boxes) left.push_back(&box);
  for (const Node v : some_targets) {
    const auto place = std::lower_bound(targets.begin(), targets.end(), v);
    const auto k = static_cast<std::size_t>(place - targets.begin());
    if (domain[k] > 0) {
      finite.push_back(k);
    } else {
      std::erase_if(left, [&](const Box* box) { return !box->levels[k].empty(); });
    }
  }
  const auto covers_all = [&](const Box* box) {
    return std::all_of(finite.begin(), finite.end(), [&](std::size_t k) { return box->levels[k].empty(); });
  };
  if (std::any_of(left.begin(), left.end(), covers_all)) return true;
  std::size_t combinations = 1;
  for (const std::size_t k : finite) {
    combinations *= static_cast<std::size_t>(domain[k]);
    if (combinations > kMostCombinations) return false;
  }
  for (std::size_t code = 0; code < combinations; ++code) {
    const auto holds = [&](const Box* box) {
      std::size_t rest = code;
      for (const std::size_t k : finite) {
        const auto level = static_cast<std::int32_t>(rest % static_cast<std::size_t>(domain[k]));
        rest /= static_cast<std::size_t>(domain[k]);
        const auto& set = box->levels[k];
        if (!set.empty() && std::find(set.begin(), set.end(), level) == set.end()) return false;
      }
      return true;
    };
    if (std::none_of(left.begin(), left.end(), holds)) return false;
  }
  return true;
}

FitChooser::FitChooser(const Admg& graph, const std::vector<DatasetGroup>& groups)
    : graph_(graph),
      groups_(groups),
      closure_(graph),
      components_(c_components(graph)),
      component_parts_(components_, graph.topological_order()),
      subgraph_(graph),
      mark_(at(graph.size()), 0) {}

std::vector<Untrained> FitChooser::choose(const Components& hnodes, const Parts& parts,
                                          const std::vector<Training>& training) {
  hnodes_ = &hnodes;
  parts_ = &parts;
  training_ = &training;
  fits_.assign(at(parts.count()), {});
  shown_.assign(at(parts.count()), {});
  for (Node h = 0; h < parts.count(); ++h) {
    if (training[at(h)] == Training::kLikelihood) likelihood_fits(h);
  }
  // what one group shows under do() can be what another fit stands on, so all that can be shown is found first
  bool changed = std::any_of(groups_.begin(), groups_.end(), [](const DatasetGroup& g) { return !g.targets.empty(); });
  while (changed) {
    changed = false;
    for (Node h = 0; h < parts.count(); ++h) {
      if (training[at(h)] != Training::kAdversarial) continue;
      for (const Candidate& candidate : candidates(h)) {
        if (candidate.lack.kind == Lack::Kind::kNothing && !candidate.whole) changed |= show(h, candidate);
      }
    }
  }
  std::vector<Untrained> untrained;
  for (Node h = 0; h < parts.count(); ++h) {
    if (training[at(h)] == Training::kGiven) continue;
    std::vector<Candidate> found;
    if (training[at(h)] == Training::kAdversarial) {
      found = candidates(h);
      select(h, found);
    }
    const auto is_whole = [&](const PlannedFit& fit) { return fit.variables.size() == parts[h].size(); };
    if (std::none_of(fits_[at(h)].begin(), fits_[at(h)].end(), is_whole)) untrained.push_back({h, lacks(h, found)});
  }
  return untrained;
}

std::vector<Lack> FitChooser::lacks(Node h, const std::vector<Candidate>& found) {
  const Nodes members = (*parts_)[h];
  std::vector<Lack> result(groups_.size());
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const DatasetGroup& group = groups_[g];
    const auto candidate = std::find_if(found.begin(), found.end(), [&](const Candidate& c) {
      return c.whole && c.group == static_cast<std::int32_t>(g);
    });
    std::vector<Node> inside;
    std::copy_if(members.begin(), members.end(), std::back_inserter(inside),
                 [&](Node v) { return group.is_target(v); });
    if (!inside.empty()) {
      result[g] = {Lack::Kind::kInside, sorted(std::move(inside))};
    } else if (candidate != found.end() && candidate->lack.kind != Lack::Kind::kNothing) {
      result[g] = candidate->lack;
    } else {
      std::vector<Node> set(members.begin(), members.end());
      if (candidate != found.end()) set.insert(set.end(), candidate->ancestors.begin(), candidate->ancestors.end());
      Around around = look_around(group, set);
      result[g] = around.unseen.empty() ? Lack{Lack::Kind::kValues, std::move(around.set_parents)}
                                        : Lack{Lack::Kind::kColumns, std::move(around.unseen)};
    }
  }
  return result;
}

FitChooser::Around FitChooser::look_around(const DatasetGroup& group, Nodes set) {
  Around around;
  ++epoch_;
  for (const Node v : set) {
    mark_[at(v)] = epoch_;
    if (!group.observes(v)) around.unseen.push_back(v);
  }
  for (const Node v : set) {
    for (const Node p : graph_.parents(v)) {
      if (mark_[at(p)] == epoch_) continue;
      mark_[at(p)] = epoch_;
      if (group.is_target(p)) {
        around.set_parents.push_back(p);
      } else if (!group.observes(p)) {
        around.unseen.push_back(p);
      }
    }
  }
  std::sort(around.unseen.begin(), around.unseen.end());
  std::sort(around.set_parents.begin(), around.set_parents.end());
  return around;
}

// The likelihood of the data splits into one term per c-component, read off observed values. Members that are not
// observed, or whose parents are not, are summed out along with their descendants: what is left is the c-factor of
// an ancestral part of the c-component.
void FitChooser::likelihood_fits(Node h) {
  struct Pool {
    std::vector<Node> variables;
    std::vector<std::int32_t> groups;
    bool whole = false;
    bool everywhere = false;
    bool partial = false;
  };
  const Nodes members = (*parts_)[h];
  const Nodes position = graph_.positions();
  const Node last = position[at(members[members.size() - 1])];
  std::vector<Pool> pools;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const DatasetGroup& group = groups_[g];
    const auto known = [&](Node v) { return group.is_target(v) || group.observes(v); };
    ++epoch_;
    std::vector<Node> open;
    const auto lose = [&](Node v) {
      if (mark_[at(v)] == epoch_ || group.is_target(v) || position[at(v)] > last) return;
      mark_[at(v)] = epoch_;
      open.push_back(v);
    };
    bool inside = false;
    for (const Node v : members) {
      if (group.is_target(v)) {
        inside = true;
        continue;
      }
      const Nodes up = graph_.parents(v);
      if (!group.observes(v) || !std::all_of(up.begin(), up.end(), known)) lose(v);
    }
    while (!open.empty()) {
      const Node v = open.back();
      open.pop_back();
      for (const Node c : graph_.children(v)) lose(c);
    }
    std::vector<Node> kept;
    std::size_t free = 0;
    for (const Node v : members) {
      if (group.is_target(v)) continue;
      ++free;
      if (mark_[at(v)] != epoch_) kept.push_back(v);
    }
    if (kept.empty()) continue;
    const bool whole = !inside && kept.size() == members.size();
    auto pool = std::find_if(pools.begin(), pools.end(), [&](const Pool& p) { return p.variables == kept; });
    if (pool == pools.end()) {
      pools.push_back({kept, {}, whole, false, kept.size() < free});
      pool = pools.end() - 1;
    }
    pool->groups.push_back(static_cast<std::int32_t>(g));
    if (group.covers(look_around(group, kept).set_parents)) pool->everywhere = true;
  }
  std::stable_sort(pools.begin(), pools.end(), [](const Pool& a, const Pool& b) { return a.whole && !b.whole; });
  for (Pool& pool : pools) {
    if (pool.whole && !pool.everywhere) continue;
    if (!pool.whole) shown_[at(h)].push_back({sorted(pool.variables), pool.groups, pool.everywhere, pool.partial});
    fits_[at(h)].push_back({std::move(pool.variables), std::move(pool.groups)});
  }
}

std::vector<FitChooser::Candidate> FitChooser::candidates(Node h) {
  const Nodes members = (*parts_)[h];
  std::vector<Candidate> found;
  for (std::int32_t g = 0; g < static_cast<std::int32_t>(groups_.size()); ++g) {
    const DatasetGroup& group = groups_[static_cast<std::size_t>(g)];
    std::vector<Node> kept;
    std::copy_if(members.begin(), members.end(), std::back_inserter(kept), [&](Node v) { return !group.is_target(v); });
    if (kept.empty()) continue;
    const bool whole = kept.size() == members.size();
    Candidate all = evaluate(h, g, kept, whole);
    const bool serves = all.lack.kind == Lack::Kind::kNothing;
    if (serves || whole) found.push_back(std::move(all));
    if (serves || whole) continue;
    // under do() the latents of the targets are gone, and what is left may fall apart
    const auto pieces = bidirected_parts(kept);
    if (pieces.size() < 2) continue;
    for (const auto& piece : pieces) {
      Candidate part = evaluate(h, g, piece, false);
      part.partial = part.variables.size() < kept.size();
      if (part.lack.kind == Lack::Kind::kNothing) found.push_back(std::move(part));
    }
  }
  return found;
}

FitChooser::Candidate FitChooser::evaluate(Node h, std::int32_t g, Nodes variables, bool whole) {
  const DatasetGroup& group = groups_[static_cast<std::size_t>(g)];
  const Nodes position = graph_.positions();
  Candidate candidate;
  candidate.group = g;
  candidate.whole = whole;
  const Nodes closed = closure_.run(variables, group.targets);
  // members of the same h-node that are forced are trained at the same time, not before
  for (const Node v : closed) {
    (hnodes_->label[at(v)] == h ? candidate.variables : candidate.ancestors).push_back(v);
  }
  std::sort(candidate.variables.begin(), candidate.variables.end(),
            [&](Node a, Node b) { return position[at(a)] < position[at(b)]; });
  std::sort(candidate.ancestors.begin(), candidate.ancestors.end());
  Around around = look_around(group, closed);
  if (!around.unseen.empty()) {
    candidate.lack = {Lack::Kind::kColumns, std::move(around.unseen)};
    return candidate;
  }
  candidate.everywhere = group.covers(around.set_parents);
  // without an intervention every c-component of A is identifiable from its own c-component, because P(V) shows
  // Q[S] and what precedes it
  if (group.targets.empty()) return candidate;
  for (const auto& factor : bidirected_parts(candidate.ancestors)) {
    const Standing found = standing(factor, g);
    if (found == Standing::kIndirectly) candidate.indirect = true;
    if (found != Standing::kNo) continue;
    // A larger A would not help: what surrounds a factor that is not identifiable, a bidirected-connected set of its
    // ancestors, holds a target, or the closure would have taken all of it.
    candidate.lack = {Lack::Kind::kFactor, factor};
    break;
  }
  return candidate;
}

FitChooser::Standing FitChooser::standing(Nodes factor, std::int32_t group) {
  const auto h = at(hnodes_->label[at(factor[0])]);
  if ((*training_)[h] == Training::kGiven) return Standing::kDetermined;
  std::vector<Node> stuck;
  if (subgraph_.is_identifiable(factor, component_parts_[components_.label[at(factor[0])]], stuck)) {
    return Standing::kDetermined;
  }
  Standing best = Standing::kNo;
  for (const Shown& shown : shown_[h]) {
    const bool known_here =
        shown.everywhere || std::find(shown.groups.begin(), shown.groups.end(), group) != shown.groups.end();
    if (!known_here || (shown.partial && best == Standing::kIndirectly)) continue;
    if (!std::includes(shown.set.begin(), shown.set.end(), factor.begin(), factor.end())) continue;
    if (!subgraph_.is_identifiable(factor, shown.set, stuck)) continue;
    if (!shown.partial) return Standing::kDetermined;
    best = Standing::kIndirectly;
  }
  return best;
}

// The c-components of the graph over `set` alone, each ascending.
std::vector<std::vector<Node>> FitChooser::bidirected_parts(Nodes set) {
  std::vector<std::vector<Node>> parts;
  ++epoch_;
  subgraph_.restrict_to(set);
  for (const Node root : set) {
    if (mark_[at(root)] == epoch_) continue;
    parts.push_back(sorted(subgraph_.part_of(root)));
    for (const Node v : parts.back()) mark_[at(v)] = epoch_;
  }
  return parts;
}

bool FitChooser::show(Node h, const Candidate& candidate) {
  const auto set = sorted(candidate.variables);
  for (const Shown& shown : shown_[at(h)]) {
    if (shown.set == set && shown.groups[0] == candidate.group) return false;
  }
  shown_[at(h)].push_back({set, {candidate.group}, candidate.everywhere, candidate.partial});
  return true;
}

void FitChooser::select(Node h, const std::vector<Candidate>& found) {
  std::vector<const Candidate*> whole;
  std::map<std::vector<Node>, std::vector<const Candidate*>> others;
  for (const Candidate& candidate : found) {
    if (candidate.lack.kind != Lack::Kind::kNothing) continue;
    if (candidate.whole) {
      whole.push_back(&candidate);
      continue;
    }
    auto& pool = others[candidate.variables];
    // two pieces may grow into the same set
    if (pool.empty() || pool.back()->group != candidate.group) pool.push_back(&candidate);
  }
  select_bucket(h, whole, true);
  std::vector<const std::vector<const Candidate*>*> in_order;
  for (const auto& [variables, pool] : others) in_order.push_back(&pool);
  std::stable_sort(in_order.begin(), in_order.end(),
                   [](const auto* a, const auto* b) { return a->front()->group < b->front()->group; });
  for (const auto* pool : in_order) select_bucket(h, *pool, false);
}

// Chooses among groups that show the same c-factor. If none shows it at all values, each A is a fit of its own.
void FitChooser::select_bucket(Node h, const std::vector<const Candidate*>& pool, bool need_cover) {
  struct Bucket {
    const Candidate* first;
    std::int64_t rows;
  };
  const auto add = [&](const Candidate& chosen, bool direct_only) {
    PlannedFit fit{chosen.variables, {}};
    for (const Candidate* other : pool) {
      if (other->ancestors == chosen.ancestors && !(direct_only && other->indirect)) fit.groups.push_back(other->group);
    }
    fits_[at(h)].push_back(std::move(fit));
  };
  std::vector<const Candidate*> serving;
  std::copy_if(pool.begin(), pool.end(), std::back_inserter(serving), [](const Candidate* c) { return c->everywhere; });
  if (serving.empty()) {
    if (need_cover) return;
    std::vector<const Candidate*> taken;
    for (const Candidate* candidate : pool) {
      const auto same = [&](const Candidate* other) { return other->ancestors == candidate->ancestors; };
      if (std::any_of(taken.begin(), taken.end(), same)) continue;
      taken.push_back(candidate);
      add(*candidate, false);
    }
    return;
  }
  const bool direct = std::any_of(serving.begin(), serving.end(), [](const Candidate* c) { return !c->indirect; });
  if (direct) std::erase_if(serving, [](const Candidate* c) { return c->indirect; });
  const bool rows_known =
      std::all_of(serving.begin(), serving.end(), [&](const Candidate* c) { return rows_of(c->group) >= 0; });
  std::vector<Bucket> buckets;
  std::int64_t most = 0;
  for (const Candidate* candidate : serving) {
    const std::int64_t rows = rows_known ? rows_of(candidate->group) : 0;
    most = std::max(most, rows);
    const auto same = [&](const Bucket& bucket) { return bucket.first->ancestors == candidate->ancestors; };
    const auto bucket = std::find_if(buckets.begin(), buckets.end(), same);
    if (bucket == buckets.end()) {
      buckets.push_back({candidate, rows});
    } else {
      bucket->rows += rows;
    }
  }
  std::erase_if(buckets, [&](const Bucket& bucket) { return kWorthwhileRows * bucket.rows < most; });
  const Bucket* best = nullptr;
  for (const Bucket& bucket : buckets) {
    const auto smaller = [&](const Bucket& other) {
      return other.first->ancestors.size() < bucket.first->ancestors.size() &&
             is_subset(other.first->ancestors, bucket.first->ancestors);
    };
    if (std::any_of(buckets.begin(), buckets.end(), smaller)) continue;
    if (best == nullptr || bucket.rows > best->rows) best = &bucket;
  }
  add(*best->first, direct);
}

}  // namespace mdcm
