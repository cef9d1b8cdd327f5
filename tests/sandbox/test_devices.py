"""Modules on their way to a device and back. No GPU: the meta device takes the same path, and computes nothing."""

import numpy as np
import pytest

from privacy_gate.sandbox import models
from privacy_gate.sandbox.devices import elsewhere, placed, repeatable

torch = pytest.importorskip("torch")


class Net(torch.nn.Module):
    """Makes a tensor of its own, on the device of its input: an exported graph writes that device down."""

    def __init__(self):
        super().__init__()
        self.last = torch.nn.Linear(3, 2)

    def forward(self, rows):
        return self.last(rows) + torch.ones(2, device=rows.device)


def test_a_module_is_moved_with_its_buffers():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).eval()
    assert not elsewhere(net)
    assert placed(net, "meta") is net
    assert elsewhere(net)
    assert {weight.device.type for weight in (*net.parameters(), *net.buffers())} == {"meta"}
    assert net(torch.ones(5, 3, device="meta")).shape == (5, 4)


def test_an_exported_graph_is_moved_with_the_devices_inside():
    net = Net().eval()
    batch = torch.export.Dim("batch", min=2)
    graph = torch.export.export(net, (torch.ones(4, 3),), dynamic_shapes=({0: batch},)).module()
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    before = models.query(graph, x).values
    assert any(node.kwargs.get("device") == torch.device("cpu") for node in graph.graph.nodes)
    moved = placed(graph, "meta")
    assert moved(torch.ones(6, 3, device="meta")).shape == (6, 2)
    with pytest.raises(RuntimeError):
        moved(torch.ones(6, 3))  # a batch must be where the weights are
    # Back on the CPU, with weights again, it answers as before.
    home = placed(moved.to_empty(device="cpu"), "cpu")
    with torch.no_grad():
        home.load_state_dict({name: value.clone() for name, value in net.state_dict().items()})
    np.testing.assert_array_equal(models.query(home, x).values, before)


def test_a_device_that_is_asked_for_is_used(monkeypatch):
    """The meta device has no numbers to bring back: that it fails exactly there shows that all the rest ran on it."""
    net = torch.nn.Linear(3, 2).eval()
    x = np.zeros((4, 3), dtype=np.float32)
    seen = []
    net.register_forward_hook(lambda _, given, answer: seen.append((given[0].device.type, answer.device.type)))
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        models.query(net, x, device="meta")
    assert seen == [("meta", "meta")]


def test_the_cpu_needs_no_settings():
    before = torch.are_deterministic_algorithms_enabled()
    assert repeatable("cpu") == torch.device("cpu")
    assert torch.are_deterministic_algorithms_enabled() == before


def test_a_gpu_is_told_to_repeat_itself():
    flags = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
    matmul = torch.backends.cuda.matmul.allow_tf32
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        assert repeatable("cuda") == torch.device("cuda")  # naming one needs none
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32) == (False, False)
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn = torch.backends.cudnn
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = flags
        torch.backends.cuda.matmul.allow_tf32 = matmul
