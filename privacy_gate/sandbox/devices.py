"""Where torch modules and their batches are. Runs model code: in the sandbox's child and in shadow workers only.

What goes to a GPU comes back to the CPU as float32 or as it was. Gradients of probes are taken on the CPU in any case,
of the candidate as of its shadows. This code is tested with devices that need no GPU; it was not measured on one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def repeatable(device: str) -> torch.device:
    """The device, told to give the same sums each time: deterministic algorithms where there are any, no TF32."""
    import torch

    if device == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(device)


def placed(module: Any, device: str) -> Any:
    """The module with its weights on the device; it is changed, not copied. An exported graph names devices inside."""
    target = repeatable(device)
    module = module.to(target)
    graph = getattr(module, "graph", None)
    if graph is None or not hasattr(module, "recompile"):
        return module
    for node in graph.nodes:
        if node.kwargs.get("device") is not None:
            node.update_kwarg("device", target)
    module.recompile()
    return module


def elsewhere(module: Any) -> bool:
    """Whether some of its weights are not on the CPU."""
    return any(weight.device.type != "cpu" for weight in (*module.parameters(), *module.buffers()))
