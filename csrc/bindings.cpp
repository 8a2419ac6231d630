// The Python module mdcm._core: its parts, and exceptions with their evidence.

#include "bindings.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "admg.hpp"
#include "identify.hpp"

namespace py = pybind11;

namespace mdcm {
namespace {

const char* name_of(GraphFault::Kind kind) {
  switch (kind) {
    case GraphFault::Kind::kCycle:
      return "cycle";
    case GraphFault::Kind::kSelfLoop:
      return "self-loop";
    case GraphFault::Kind::kUnknownNode:
      return "unknown node";
    case GraphFault::Kind::kRepeatedPair:
      return "repeated pair";
    case GraphFault::Kind::kTooLarge:
      return "too large";
  }
  return "fault";
}

}  // namespace
}  // namespace mdcm

PYBIND11_MODULE(_core, m) {
  m.doc() = "Compiled graph algorithms and planning over integer nodes.";

  // raised with (kind, nodes, index) as its arguments
  static py::handle too_large =
      py::exception<mdcm::ExpressionTooLarge>(m, "ExpressionTooLarge", PyExc_ValueError).release();
  py::register_exception_translator([](std::exception_ptr raised) {
    try {
      if (raised) std::rethrow_exception(raised);
    } catch (const mdcm::ExpressionTooLarge& error) {
      PyErr_SetString(too_large.ptr(), error.what());
    }
  });
  static py::handle fault = py::exception<mdcm::GraphFault>(m, "GraphFault", PyExc_ValueError).release();
  py::register_exception_translator([](std::exception_ptr raised) {
    try {
      if (raised) std::rethrow_exception(raised);
    } catch (const mdcm::GraphFault& error) {
      const py::tuple evidence = py::make_tuple(mdcm::name_of(error.kind()), error.nodes(), error.index());
      PyErr_SetObject(fault.ptr(), evidence.ptr());
    }
  });

  mdcm::bind_graph(m);
  mdcm::bind_planning(m);
  mdcm::bind_identification(m);
  mdcm::bind_strata(m);
}
