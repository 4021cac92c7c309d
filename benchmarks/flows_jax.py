"""FlowJAX as a contestant of benchmarks/flows.py: a step, and a batch of draws, is one compiled call."""

from __future__ import annotations

from typing import Any

from flows_peers import BINS, BOUND, HIDDEN, RATE, WIDTH, Contestant


class Compiled(Contestant):
    """A JAX flow behind torch's tensors; both are on the CPU, and a call ends when its result is there."""

    counts = False  # its operations are not ATen's

    def __init__(self, flow: Any) -> None:
        import equinox as eqx
        import jax
        import jax.numpy as jnp
        import jax.random as jr
        import optax
        import torch
        from paramax import NonTrainable, unwrap

        self.weights, static = eqx.partition(
            flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, NonTrainable)
        )
        adam = optax.adam(RATE)
        self.state = adam.init(self.weights)
        self.parameters = [torch.empty(p.shape) for p in jax.tree.leaves(self.weights)]
        self.keys = jr.key(0)

        @eqx.filter_jit
        def update(weights: Any, state: Any, x: Any) -> Any:
            gradient = eqx.filter_grad(lambda w: -unwrap(eqx.combine(w, static)).log_prob(x).mean())(weights)
            change, state = adam.update(gradient, state, weights)
            return eqx.apply_updates(weights, change), state

        density = eqx.filter_jit(lambda weights, x: unwrap(eqx.combine(weights, static)).log_prob(x))
        draws = eqx.filter_jit(lambda weights, key, n: unwrap(eqx.combine(weights, static)).sample(key, (n,)))

        def step(x: Any) -> None:
            self.weights, self.state = jax.block_until_ready(update(self.weights, self.state, jnp.asarray(x.numpy())))

        def sample(n: int) -> Any:
            self.keys, key = jr.split(self.keys)
            return jax.block_until_ready(draws(self.weights, key, n))

        self.step = step
        self.sample = sample
        self.log_prob = lambda x: torch.tensor(jax.device_get(density(self.weights, jnp.asarray(x.numpy()))))


def flowjax(task: str) -> Contestant:
    """Its own flows of the same sizes; between layers it permutes, and its couplings take halves."""
    import jax.numpy as jnp
    import jax.random as jr
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow, masked_autoregressive_flow

    make = masked_autoregressive_flow if task == "nsf-ar5" else coupling_flow
    sizes = {"flow_layers": 8 if task == "realnvp-8" else 5, "nn_width": HIDDEN[0], "nn_depth": len(HIDDEN)}
    spline = None if task == "realnvp-8" else RationalQuadraticSpline(knots=BINS, interval=BOUND)
    return Compiled(make(jr.key(0), base_dist=Normal(jnp.zeros(WIDTH)), transformer=spline, **sizes))
