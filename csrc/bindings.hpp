// Parts of the Python module, each in a separate file.

#pragma once

#include <pybind11/pybind11.h>

namespace mdcm {

void bind_graph(pybind11::module_& m);
void bind_planning(pybind11::module_& m);
void bind_identification(pybind11::module_& m);
void bind_strata(pybind11::module_& m);

}  // namespace mdcm
