"""PyTorch's compiler ahead of time: one package of native code a graph, for this kind of processor alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES, Arrays, Callables, Graph, Macs, Runtime, Signature
from kdc.quiet import quiet

MACHINE = "machine.json"
"""What the code was compiled for, and the MACs of its graphs."""


@RUNTIMES.register("inductor")
class Inductor(Runtime):
    """`torch.export` and AOTInductor with weights frozen into the code: dynamic shapes, nothing compiled when it loads.

    Packages (`.pt2`) are native code: they run on processors with the same instructions and the same torch, and kdc
    loads those that it compiled itself (`kdc.trust`).
    """

    precisions: ClassVar[frozenset[str]] = frozenset({"fp32", "bf16"})
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

        from kdc.export.modules import export_program
        from kdc.trust import seal

        dtype = torch.bfloat16 if plan.default == "bf16" else torch.float32
        counted = {}
        for graph in graphs:
            module = graph.module if dtype == torch.float32 else copy.deepcopy(graph.module).to(dtype)
            program = export_program(Graph(graph.signature, module, graph.sample), dtype=dtype)
            macs = _macs(program.module(), graph, dtype)
            counted[graph.signature.name] = {"macs": macs, "shapes": _shapes(graph.sample)}
            with quiet(), torch.no_grad(), config.patch({"freezing": True}):
                aoti_compile_and_package(program, package_path=str(_package(folder, graph.signature)))
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

    def macs(self, folder: Path, signatures: Sequence[Signature], feeds: Mapping[str, Arrays]) -> Macs:
        """Counted in the program before it was compiled, on the inputs that it was traced with: native code cannot say.

        ValueError for `feeds` of other shapes.
        """
        counted = json.loads((folder / MACHINE).read_text(encoding="utf-8"))["macs"]
        for name, arrays in feeds.items():
            if counted[name]["shapes"] != _shapes(arrays):
                raise ValueError(f"{name} was counted for {counted[name]['shapes']}, not for {_shapes(arrays)}")
        return Macs(total=sum(counted[signature.name]["macs"] for signature in signatures))


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


def _macs(module: Any, graph: Graph, dtype: Any) -> int:
    from kdc.export.torch_eager import count_macs

    return count_macs(lambda: module(*_inputs(graph.sample, graph.signature, dtype)))
