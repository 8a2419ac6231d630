"""Every shipped kernel compiled for an H100 without having one, and the resources that the compiled code needs.

The interpreter shows that a kernel computes the right thing; it has no registers, and no alignment, and knows arguments
that are one for numbers. Compiling needs no device, but a process in which Triton does not interpret: this file, run as
a program, is that process, and prints one line of JSON for each case.
"""

import importlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed: there is nothing to compile")

from mdcm.kernels import configs

# what the hardware has for one program
SHARED = 227 * 1024
# registers that do not fit, where widths are not multiples of four: bytes per thread
UNALIGNED_STACK = 128

MODULES = {
    "gumbel.fused": ["gumbel_st_bwd", "gumbel_st_fwd"],
    "noise.fused": ["seeded_uniform"],
    "critic.fused_layers": ["delta", "gp_norm_tangent", "lin_act", "top_reduce", "wgrad"],
}
POINTERS = {
    "active": "*i1",
    "offsets": "*i32",
    "seeds": "*i64",
    "sites": "*i64",
    "step": "*i64",
    "steps": "*i64",
    "variables": "*i32",
}
NUMBERS = {"eps", "penalty", "slope"}
SIZES = {
    *("batch", "count", "inputs", "pairs", "rows", "size", "tiles", "units", "width"),
    *("below_stride", "bias_stride", "columns_stride", "found_stride", "out_stride", "weight_stride", "x_stride"),
}
CONSTANTS = {
    "BETA_1": 0.5,
    "BETA_2": 0.9,
    "CHOSEN": True,
    "HARD": True,
    "ONE_SIDED": False,
    "PRECISION": "tf32",
    "SIGNED": True,
    "TOP": True,
    "VECTOR": 4,
    "WIDE": False,
}
PRECISE = ["delta", "gp_norm_tangent", "lin_act", "top_reduce", "wgrad"]


def cases():
    """Kernel, number of its configuration, constants that differ from the usual, and whether all sizes are one."""
    for name, shipped in configs.SHIPPED.items():
        last = len(shipped) - 1
        for place in range(len(shipped)):
            yield name, place, {}, False
        if name in PRECISE:
            yield name, 0, {"PRECISION": "ieee"}, False
            yield name, last, {"PRECISION": "tf32x3"}, False
            yield name, last, {"PRECISION": "bf16"}, False
        # numbers that are one become constants of the program
        yield name, 0, {"VECTOR": 1}, True
    yield "gp_norm_tangent", 3, {"PRECISION": "ieee"}, False
    yield "gp_norm_tangent", 3, {"VECTOR": 1}, False
    yield "lin_act", 1, {"PRECISION": "ieee"}, False
    yield "wgrad", 1, {"VECTOR": 1}, False
    yield "wgrad", 0, {"TOP": False}, False
    yield "wgrad", 1, {"TOP": False}, False
    yield "gumbel_st_fwd", 1, {"HARD": False, "WIDE": True}, False
    yield "gp_norm_tangent", 1, {"CHOSEN": False, "ONE_SIDED": True}, False


def compiled(name, place, constants, ones):
    """Stack in bytes per thread and shared memory in bytes per program."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    (module,) = (module for module, names in MODULES.items() if name in names)
    kernel = getattr(importlib.import_module(f"mdcm.kernels.{module}"), f"_{name}")
    config = configs.SHIPPED[name][place]
    fixed = {key: value for key, value in (CONSTANTS | constants | config.tile).items() if key in kernel.arg_names}
    signature = {}
    for argument in kernel.arg_names:
        if argument in fixed:
            signature[argument] = "constexpr"
        elif argument in NUMBERS:
            signature[argument] = "fp32"
        elif argument in SIZES:
            signature[argument] = "constexpr" if ones else "i32"
            if ones:
                fixed[argument] = 1
        else:
            signature[argument] = POINTERS.get(argument, "*fp32")
    aligned = {(place,): [["tt.divisibility", 16]] for place, kind in enumerate(signature.values()) if kind[0] == "*"}
    binary = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=aligned),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": config.fusion},
    )
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout).groups()
    return {"registers": int(registers), "stack": int(stack), "shared": binary.metadata.shared}


def main():
    """Compile every case."""
    for name, place, constants, ones in cases():
        found = compiled(name, place, constants, ones)
        print(json.dumps({"case": [name, place, constants, ones], **found}), flush=True)


@pytest.fixture(scope="module")
def usage(tmp_path_factory):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_is_shipped_with_at_most_four_configurations():
    assert sorted(configs.SHIPPED) == sorted(itertools.chain.from_iterable(MODULES.values()))
    assert all(1 <= len(shipped) <= 4 for shipped in configs.SHIPPED.values())


@pytest.mark.nightly
def test_compiled_code_keeps_to_the_recorded_resources(usage):
    compiled_cases = [found["case"] for found in usage]
    assert compiled_cases == [list(case) for case in cases()]
    over = []
    for found in usage:
        name, place, constants, ones = found["case"]
        config = configs.SHIPPED[name][place]
        unaligned = ones or constants.get("VECTOR") == 1
        stack = UNALIGNED_STACK if unaligned else config.stack
        shared = SHARED if unaligned else config.shared
        if found["stack"] > stack or found["shared"] > shared:
            over.append((found, stack, shared))
    assert not over


def test_recorded_limits_fit_the_device():
    for shipped in configs.SHIPPED.values():
        for config in shipped:
            # a number or two, never a tile
            assert config.stack <= 16
            assert 0 < config.shared <= SHARED


if __name__ == "__main__":
    main()
