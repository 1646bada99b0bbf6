"""PyTorch in eager mode, in 32 or 16 bits, on the CPU or a GPU: the runtime that ratios are held against."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES, Arrays, Callables, Executed, Graph, Runtime, Signature
from kdc.quiet import quiet

if TYPE_CHECKING:
    from torch import nn


@RUNTIMES.register("torch")
class TorchEager(Runtime):
    """Models of `transformers` ship as its own folders (safetensors); others as `torch.export` programs (`.pt2`)."""

    precisions: ClassVar[frozenset[str]] = frozenset({"fp32", "bf16", "fp16"})
    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    name: Literal["torch"] = "torch"
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def processor(self) -> Literal["cpu", "cuda"]:
        return self.device

    def unusable(self) -> str | None:
        if self.device == "cpu":
            return None
        import torch

        return None if torch.cuda.is_available() else "device=cuda, but torch sees no GPU here; use device=cpu"

    def lower(self, graphs: Sequence[Graph], plan: PrecisionPlan, folder: Path) -> None:
        import torch

        from kdc.export.modules import export_program

        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(plan.default, torch.float32)
        if (model := _pretrained(graphs)) and not plan.rewrites:
            shipped = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
            shipped.save_pretrained(folder)
            return
        for graph in graphs:
            module = copy.deepcopy(graph.module).to(dtype)
            program = export_program(Graph(graph.signature, module, graph.sample), dtype=dtype)
            torch.export.save(program, folder / f"{graph.signature.name}.pt2")

    def load(self, folder: Path, signatures: Sequence[Signature], *, threads: int | None = None) -> Callables:
        import torch

        from kdc.export.modules import call_on_arrays

        if problem := self.unusable():
            raise KdcError(f"runtime torch: {problem}")
        if threads is not None:
            torch.set_num_threads(threads)
        if self.device == "cuda":
            # Else cuDNN rounds what convolutions and LSTMs of 32 bits read to 10 bits of fraction (TF32).
            torch.backends.cudnn.allow_tf32 = False
        modules = _load_modules(folder, signatures, self.device)
        return {signature.name: call_on_arrays(module, signature) for signature, module in modules}

    def executed(self, folder: Path, signatures: Sequence[Signature], feeds: Mapping[str, Arrays]) -> Executed:
        """As counted by torch's own FLOP counter, two FLOPs a MAC; it knows attention and LSTMs in plain form only."""
        callables = self.load(folder, signatures)
        return Executed(macs=sum(count_macs(partial(callables[name], arrays)) for name, arrays in feeds.items()))


def count_macs(call: Callable[[], Any]) -> int:
    """Of everything that `call` computes in torch."""
    from torch.backends import cudnn, mkldnn
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with (
        quiet(), sdpa_kernel(SDPBackend.MATH), mkldnn.flags(enabled=False), cudnn.flags(enabled=False),
        FlopCounterMode(display=False) as counter,
    ):  # fmt: skip
        call()
    return counter.get_total_flops() // 2


def _pretrained(graphs: Sequence[Graph]) -> Any:
    """The one `transformers` model behind all graphs, if its own `forward` is all that they run and its config tells
    its shapes."""
    from kdc.export.modules import SelectOutputs
    from kdc.models.shapes import differing, shared

    models = [graph.module.model for graph in graphs if isinstance(graph.module, SelectOutputs)]
    if len(models) < len(graphs) or not type(models[0]).__module__.startswith("transformers."):
        return None
    plain = all(model is models[0] for model in models) and not differing(models[0]) and not shared(models[0])
    return models[0] if plain else None


def _load_modules(folder: Path, signatures: Sequence[Signature], device: str) -> list[tuple[Signature, nn.Module]]:
    import torch

    from kdc.export.modules import SelectOutputs

    if (folder / f"{signatures[0].name}.pt2").exists():
        # A .pt2 is a program and may hold pickled objects; nothing proves who wrote it. Load those of people you trust.
        programs = [(s, torch.export.load(folder / f"{s.name}.pt2")) for s in signatures]
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            programs = [(signature, move_to_device_pass(program, device)) for signature, program in programs]
        return [(signature, program.module()) for signature, program in programs]
    import transformers

    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    found = getattr(transformers, architecture, None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise KdcError(f"{folder / 'config.json'}: transformers has no model '{architecture}'", "export it again")
    model = found.from_pretrained(folder, dtype="auto", use_safetensors=True).eval().to(device)
    return [(signature, SelectOutputs(model, signature)) for signature in signatures]
