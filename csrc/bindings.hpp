// Parts of the Python module that have a file of their own.

#pragma once

#include <pybind11/pybind11.h>

namespace mdcm {

void bind_strata(pybind11::module_& m);

}  // namespace mdcm
