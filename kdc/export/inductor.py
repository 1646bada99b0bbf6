"""PyTorch's compiler ahead of time: one package of native code a graph, for this kind of processor alone."""

from __future__ import annotations

import json
import math
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES, Arrays, Callables, Executed, Graph, Runtime, Signature
from kdc.quiet import quiet

MACHINE = "machine.json"
"""What the code was compiled for, and the MACs of its graphs."""
INTEGER_KERNEL = r"aoti_torch_cpu__q(?:linear|conv\w*)_pointwise\w*\("
"""How compiled code calls what computes in integers."""


@RUNTIMES.register("inductor")
class Inductor(Runtime):
    """`torch.export` and AOTInductor with weights frozen into the code: dynamic shapes, nothing compiled when it loads.

    Packages (`.pt2`) are native code: they run on processors with the same instructions and the same torch, and kdc
    loads those that it compiled itself (`kdc.trust`).
    """

    precisions: ClassVar[frozenset[str]] = frozenset({"fp32", "bf16", "int8", "int8_static"})
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    name: Literal["inductor"] = "inductor"

    def unusable(self) -> str | None:
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            found = get_cpp_compiler()
        except InvalidCxxCompiler as error:
            return f"torch finds no C++ compiler ({str(error).splitlines()[0]}); install g++"
        return None if shutil.which(found) else f"there is no C++ compiler '{found}'; install g++"

    def machine(self) -> dict[str, Any]:
        from kdc.machine import cpu

        return {"cpu": cpu().model, "flags": cpu().flags}

    def lower(self, graphs: Sequence[Graph], plan: PrecisionPlan, folder: Path) -> None:
        import copy

        import torch
        from torch._inductor import aoti_compile_and_package, config

        from kdc.export.integer_modules import with_integers
        from kdc.export.modules import export_program
        from kdc.trust import seal

        dtype = torch.bfloat16 if plan.default == "bf16" else torch.float32
        counted = {}
        for graph in graphs:
            module = graph.module if dtype == torch.float32 else copy.deepcopy(graph.module).to(dtype)
            if plan.modules:
                module = with_integers(module, plan, graph.prefix)
            program = export_program(Graph(graph.signature, module, graph.sample), dtype=dtype)
            # rounding may add to a module what is no part of its work, so MACs are those of the model in float
            counts = export_program(graph, dtype=dtype) if plan.modules else program
            macs, package = _macs(counts.module(), graph, dtype), _package(folder, graph.signature)
            with quiet(), torch.no_grad(), config.patch({"freezing": True}):
                aoti_compile_and_package(program, package_path=str(package))
            int8 = _integer_macs(module, graph, package) if plan.modules else 0
            counted[graph.signature.name] = {"macs": macs, "int8": int8, "shapes": _shapes(graph.sample)}
        noted = {"torch": torch.__version__, **self.machine(), "dtype": plan.default, "macs": counted}
        (folder / MACHINE).write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")
        seal(folder, [MACHINE, *(_package(folder, graph.signature).name for graph in graphs)])

    def load(self, folder: Path, signatures: Sequence[Signature], *, threads: int | None = None) -> Callables:
        import torch
        from torch._inductor import aoti_load_package

        from kdc.trust import check_seal

        check_seal(folder, [MACHINE, *(_package(folder, signature).name for signature in signatures)])
        made = json.loads((folder / MACHINE).read_text(encoding="utf-8"))
        here = {"torch": torch.__version__, **self.machine()}
        if other := next((key for key in here if made[key] != here[key]), None):
            raise KdcError(
                f"{folder} was compiled for another machine: {other} was {made[other]}, here it is {here[other]}",
                "compile it here: kdc run runtime=inductor; onnxruntime's files run on any",
            )
        if threads is not None:
            torch.set_num_threads(threads)
        dtype = torch.bfloat16 if made["dtype"] == "bf16" else torch.float32
        with quiet():
            return {
                signature.name: _callable(aoti_load_package(str(_package(folder, signature))), signature, dtype)
                for signature in signatures
            }

    def executed(self, folder: Path, signatures: Sequence[Signature], feeds: Mapping[str, Arrays]) -> Executed:
        """Counted in the program before it was compiled, on the inputs that it was traced with: native code cannot say.

        ValueError for `feeds` of other shapes.
        """
        counted = json.loads((folder / MACHINE).read_text(encoding="utf-8"))["macs"]
        for name, arrays in feeds.items():
            if counted[name]["shapes"] != _shapes(arrays):
                raise ValueError(f"{name} was counted for {counted[name]['shapes']}, not for {_shapes(arrays)}")
        macs, int8 = (sum(counted[signature.name][kind] for signature in signatures) for kind in ("macs", "int8"))
        return Executed(macs=macs, int8=int8)


def _package(folder: Path, signature: Signature) -> Path:
    return folder / f"{signature.name}.pt2"


def _shapes(arrays: Arrays) -> dict[str, list[int]]:
    return {name: list(array.shape) for name, array in sorted(arrays.items())}


def _inputs(arrays: Arrays, signature: Signature, dtype: Any) -> list[Any]:
    import numpy as np
    import torch

    tensors = [torch.from_numpy(np.ascontiguousarray(arrays[port.name])) for port in signature.inputs]
    return [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]


def _callable(package: Any, signature: Signature, dtype: Any) -> Any:
    import torch

    def call(arrays: Arrays) -> Arrays:
        with torch.inference_mode():
            values = package(*_inputs(arrays, signature, dtype))
        return {
            port.name: (value.float() if value.is_floating_point() else value).numpy()
            for port, value in zip(signature.outputs, values, strict=True)
        }

    return call


def _integer_macs(module: Any, graph: Graph, package: Path) -> int:
    """MACs of the calls of integer kernels that the compiler made, in the code that it compiled.

    It melts a planned module into one or leaves it in float, and does not say which: all of them, or none are counted.
    """
    import torch

    from kdc.export.integer_modules import IntegerModule

    macs: list[int] = []

    def count(part: Any, inputs: Any, output: Any) -> None:
        macs.append(output.numel() * math.prod(part.integers.shape[1:]) // (2 if part.padded else 1))

    hooks = [part.register_forward_hook(count) for part in module.modules() if isinstance(part, IntegerModule)]
    try:
        with torch.no_grad():
            module(*_inputs(graph.sample, graph.signature, torch.float32))
    finally:
        for hook in hooks:
            hook.remove()
    with zipfile.ZipFile(package) as files:
        code = [files.read(name).decode() for name in files.namelist() if name.endswith(".cpp")]
    calls = sum(len(re.findall(INTEGER_KERNEL, text)) for text in code)
    return sum(macs) if calls >= len(macs) else 0


def _macs(module: Any, graph: Graph, dtype: Any) -> int:
    from kdc.export.torch_eager import count_macs

    return count_macs(lambda: module(*_inputs(graph.sample, graph.signature, dtype)))
