"""What each family costs in each direction, beside FlowJAX and zuko, alternating in one run.

    python benchmarks/families.py [--cases NAME ...] [--show]

Needs the extra `bench`. Adds to results/families.json prints the table of docs/benchmarks.md. All
networks have two hidden layers of H ReLU units, all splines eight pieces.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tables
from flax import nnx
from peers import Compiled, flowjax_calls, ours, zuko_calls
from timing import about, alternate
from tqdm import tqdm

import flows
from flows.bijectors import Inverted, MixtureOfLogistics

RESULT = tables.RESULTS / "families.json"
LAYERS, BATCH = 5, 1000
LONGEST_S = {"sample": 30.0, "sample gradient": 2.0}  # expected to take longer: left out


def our(make: Callable[..., flows.Flow], size: int, width: int, layers: int = LAYERS) -> flows.Flow:
    """One of our flows."""
    return make(
        size, num_layers=layers, hidden_sizes=(width, width), activation="relu", rngs=nnx.Rngs(0)
    )


def of_flowjax(kind: str, size: int, width: int, splines: bool) -> Any:
    """One of FlowJAX's flows."""
    from flowjax import flows as fj
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal

    return getattr(fj, kind)(
        jax.random.key(0), base_dist=Normal(jnp.zeros(size)), flow_layers=LAYERS,
        nn_width=width, nn_depth=2,
        transformer=RationalQuadraticSpline(knots=8, interval=5) if splines else None,
    )  # fmt: skip


def of_zuko(name: str, size: int, width: int, **options: Any) -> Any:
    """One of zuko's flows."""
    import zuko

    make = getattr(zuko.flows, name)
    return make(size, transforms=LAYERS, hidden_features=(width, width), **options)


def nsf_autoregressive(size: int, **options: Any) -> flows.Flow:
    """The spline flow of autoregressive layers."""
    return flows.nsf(size, autoregressive=True, **options)


def gaussianization(
    size: int, *, hidden_sizes: tuple[int, ...], activation: str, **options: Any
) -> flows.Flow:
    """It has no networks."""
    return flows.gaussianization(size, **options)


def logistics(size: int, **options: Any) -> flows.Flow:
    """A MAF of mixtures of logistics, with the direction of the density in closed form."""
    return flows.maf(size, transformer=Inverted(MixtureOfLogistics(8)), **options)


COUPLING, AUTOREGRESSIVE = "coupling_flow", "masked_autoregressive_flow"
# Name: ours, FlowJAX's (kind, splines), zuko's (name, options), (D, H).
CASES: dict[str, tuple] = {
    "affine coupling": (flows.real_nvp, (COUPLING, False), ("NICE", {}), (8, 128)),
    "spline coupling": (flows.nsf, (COUPLING, True), ("NSF", {"passes": 2}), (8, 128)),
    "affine MAF": (flows.maf, (AUTOREGRESSIVE, False), ("MAF", {}), (8, 128)),
    "spline MAF": (nsf_autoregressive, (AUTOREGRESSIVE, True), ("NSF", {}), (8, 128)),
    "circular coupling": (flows.ncsf, None, ("NCSF", {"passes": 2}), (8, 128)),
    "logistics MAF": (logistics, None, None, (8, 128)),
    "gaussianization": (gaussianization, None, ("GF", {}), (8, 128)),
    "spline MAF, wide": (nsf_autoregressive, (AUTOREGRESSIVE, True), ("NSF", {}), (64, 512)),
}


def _expected_s(name: str, library: str, times: dict[str, dict]) -> float:
    """What a draw of others takes at most: where they invert, a pass for each coordinate."""
    passes = CASES[name][3][0] if "MAF" in name else 1
    return passes * times["log_prob"][library]["median_ms"] / 1e3 if times else 0.0


def measure(name: str) -> dict:
    """Times one family."""
    make, flowjax, zuko, (size, width) = CASES[name]
    x = np.random.default_rng(1).uniform(-3, 3, size=(BATCH, size)).astype(np.float32)
    calls = {"flows": ours(our(make, size, width), BATCH, x)}
    if flowjax is not None:
        kind, splines = flowjax
        calls["FlowJAX"] = flowjax_calls(of_flowjax(kind, size, width, splines), BATCH, x)
    if zuko is not None:
        kind, options = zuko
        calls["zuko"] = zuko_calls(of_zuko(kind, size, width, **options), BATCH, x)
    times: dict[str, dict] = {}
    for kind in tables.KINDS:
        times[kind] = alternate({
            lib: c[kind]
            for lib, c in calls.items()
            if lib == "flows" or _expected_s(name, lib, times) < LONGEST_S.get(kind, np.inf)
        })  # fmt: skip
    return {
        "family": name, "D": size, "H": width, "layers": LAYERS, "batch": BATCH, **times,
        "compile s": {
            lib: {kind: call.compile_s for kind, call in c.items() if isinstance(call, Compiled)}
            for lib, c in calls.items()
        },
        "compile gradient of 20 layers s": ours(
            our(make, size, width, layers=20), BATCH, x, only=("gradient",)
        )["gradient"].compile_s,
    }  # fmt: skip


def main() -> None:
    """Measures, writes the JSON, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--show", action="store_true", help="only print the stored result")
    options = parser.parse_args()
    if not options.show:
        rows = tables.load("families")["rows"] if RESULT.exists() else []
        for name in tqdm(options.cases):
            rows = [row for row in rows if row["family"] != name] + [measure(name)]
            RESULT.write_text(json.dumps(about() | {"rows": rows}, indent=1) + "\n")
    print(tables.of_families(tables.load("families")["rows"]))


if __name__ == "__main__":
    main()
