"""A fit in each mode of `compile` is the eager one, to the bit or, by inductor, but for roundings."""

from __future__ import annotations

import pyro
import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyrogen.errors import SettingsError
from pyrogen.inference import ELBO, Warmup, fit
from pyrogen.inference.compiling import Lowered, _unfuse
from pyrogen.models import VAE, BernoulliPixels, StandardNormal
from pyrogen.nn import MLP
from tests.lowered import OBJECTIVES, eagerly, rows, step_of
from tests.zoo import small


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(False):
        yield


@pytest.mark.parametrize("objective", ["elbo-schedule", "dreg"])
def test_fit_by_graph_is_fit_by_eager(objective):
    runs = {}
    for mode in ("eager", "graph", "auto"):
        vae = small("vae")
        result = fit(
            vae,
            rows(30),
            objective=OBJECTIVES[objective],
            epochs=3,
            batch_size=7,
            clip=0.5,
            average=0.9,
            schedule=Warmup(9),
            validation=rows(8),
            compile=mode,
            progress=False,
        )
        history = {key: value for key, value in result.history.items() if key != "seconds"}
        runs[mode] = history, [p.detach().clone() for p in vae.parameters()]
        assert result.settings["compile"] in (("eager", "graph") if mode == "auto" else (mode,))
        reason = result.settings["compile_reason"]
        assert "the fastest of eager" in reason if mode == "auto" else reason == "asked for"
    for mode in ("graph", "auto"):
        assert runs[mode][0] == runs["eager"][0]
        assert all(torch.equal(a, b) for a, b in zip(runs[mode][1], runs["eager"][1], strict=True))


def test_each_shape_of_the_rows_has_a_graph():
    x = rows(7)
    step = step_of(small("vae"), x, ELBO())
    lowered = Lowered(step)
    for n in (7, 2, 7, 2):
        (expected, *_), _ = eagerly(step, x[:n], 1)
        torch.manual_seed(1)
        assert torch.equal(lowered(x[:n], 1), expected)
    assert len(lowered._runs) == 2 and not lowered.reasons


def test_a_cuda_graph_without_cuda_falls_back_to_the_graph():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.warns(UserWarning, match="falls back to 'graph': no CUDA device"):
        result = fit(small("vae"), rows(30), epochs=1, compile="cudagraph", progress=False)
    assert result.settings["compile"] == "graph"
    assert result.settings["compile_reason"].startswith("no CUDA device")


def test_an_unknown_mode_is_refused():
    with pytest.raises(SettingsError, match="compile"):
        fit(small("vae"), rows(30), compile="fast", progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_inductor_draws_the_same_noise_and_rounds_otherwise(objective):
    runs = []
    for mode in ("eager", "inductor"):
        vae = small("vae")
        result = fit(
            vae,
            rows(30),
            objective=OBJECTIVES[objective],
            epochs=3,
            batch_size=7,
            optimizer=lambda p: torch.optim.SGD(p, 0.1),
            compile=mode,
            progress=False,
        )
        assert result.settings["compile"] == mode
        runs.append((torch.tensor(result.history["train"]), [p.detach() for p in vae.parameters()]))
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_inductor_moves_the_buffers_of_networks_as_eager_does():
    def plain(parameters):  # Adam would make steps of what should be 0 and is rounded
        return torch.optim.SGD(parameters, 0.1)

    trained = []
    for mode in ("eager", "inductor"):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.ReLU(), nn.Linear(6, 4))
        vae = VAE(encoder, MLP(2, 5, 4), BernoulliPixels(4), StandardNormal(2))
        result = fit(vae, rows(30), epochs=2, batch_size=10, optimizer=plain, compile=mode, progress=False)
        assert result.settings["compile"] == mode
        trained.append(vae.state_dict())
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)
    assert trained[1]["encoder.1.num_batches_tracked"] >= 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_is_added_after_its_product_where_that_rounds_no_more(dtype):
    x, weight, bias = (torch.randn(size, dtype=dtype) for size in ((3, 4), (4, 5), (5,)))
    graph = make_fx(torch.addmm)(bias, x, weight)
    _unfuse(graph)
    products = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert products == (["aten.mm.default", "aten.add.Tensor"] if dtype == torch.float32 else ["aten.addmm.default"])
    torch.testing.assert_close(graph(bias, x, weight), torch.addmm(bias, x, weight))
