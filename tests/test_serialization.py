import copy
import dataclasses
import functools
import json
import pickle

import jax
import numpy as np
import pytest
from flax import nnx

import flows


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "flow.npz"
    flows.save(path, flows.maf(2, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0)))
    return path


def test_the_file_says_what_it_holds(path):
    with np.load(path) as file:
        header = json.loads(str(file["recipe"]))
    assert header["version"] == flows.__version__
    assert header["flow"]["class"] == "flows.distributions.Flow"


def test_fitted_and_conditioned_flows_are_saved(tmp_path):
    flow = flows.maf(2, num_layers=1, context_size=1, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(300, 2))
    fitted = flows.fit(
        flow, x, context=x[:, :1], key=jax.random.key(0), max_epochs=1, progress=False
    ).flow
    bound = fitted.condition(x[:5, :1])
    flows.save(tmp_path / "a", bound)
    np.testing.assert_array_equal(flows.load(tmp_path / "a").log_prob(x[:5]), bound.log_prob(x[:5]))


def test_float64_is_kept(tmp_path):
    with jax.enable_x64(True):
        flow = flows.maf(2, rngs=nnx.Rngs(0))
        flows.save(tmp_path / "a", flow)
        jax.tree.map(np.testing.assert_array_equal, flow, flows.load(tmp_path / "a"))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_files_are_refused(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match="is damaged or was not written by"):
        flows.load(path)


def test_flipped_bits_are_noticed(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        flows.load(path)


def test_foreign_files_are_refused(tmp_path):
    np.savez(tmp_path / "foreign.npz", a=np.ones(3))
    (tmp_path / "text").write_text("hello")
    np.savez(tmp_path / "near.npz", recipe=np.array('{"format": "other"}'))
    for name in ("foreign.npz", "text", "near.npz"):
        with pytest.raises(ValueError, match=r"not written by flows\.save"):
            flows.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        flows.load(tmp_path / "absent")


def _edit(path, edit):
    with np.load(path) as file:
        entries = {name: file[name] for name in file.files}
    header = json.loads(str(entries["recipe"]))
    edit(header, entries)
    entries["recipe"] = np.array(json.dumps(header))
    with path.open("wb") as file:
        np.savez(file, **entries)


def test_newer_formats_missing_arrays_and_unknown_classes_are_refused(path):
    _edit(path, lambda header, entries: header.update(format_version=99))
    with pytest.raises(ValueError, match="newer format"):
        flows.load(path)
    for damaged in (None, "2", 0):
        _edit(path, lambda header, entries, v=damaged: header.update(format_version=v))
        with pytest.raises(ValueError, match="damaged: its format_version is"):
            flows.load(path)
    _edit(path, lambda header, entries: header.update(format_version=1))
    with pytest.raises(ValueError, match="an older format, before the first release"):
        flows.load(path)
    _edit(path, lambda header, entries: header.update(format_version=2))
    _edit(path, lambda header, entries: entries.pop(sorted(entries)[0]))
    with pytest.raises(ValueError, match="1 differ"):
        flows.load(path)
    _edit(path, lambda header, entries: header["flow"].update({"class": "os.system"}))
    with pytest.raises(ValueError, match=r"os\.system is not an nnx\.Module"):
        flows.load(path)
    _edit(path, lambda header, entries: header["flow"].update({"class": "mine.Flow"}))
    with pytest.raises(ValueError, match="import mine first"):
        flows.load(path)


class Shifted(flows.bijectors.Bijector):
    """A user's own bijector: its arguments are recorded, so it is saved."""

    def __init__(self, event_size: int, by: float):
        super().__init__(event_size)
        self.by = by

    def _forward_and_log_det(self, x, context):
        return x + self.by, np.zeros(x.shape[:-1])

    def _inverse_and_log_det(self, y, context):
        return y - self.by, np.zeros(y.shape[:-1])


class Forgetful(Shifted):
    def __init__(self, event_size: int, amount: float):
        super().__init__(event_size, amount)


class PassesOn(Shifted):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class Positional(Shifted):
    def __init__(self, event_size, by, /):
        super().__init__(event_size, by)


class Changes(Shifted):
    """Empties the list that it is given."""

    def __init__(self, values):
        super().__init__(len(values), values[0])
        if isinstance(values, list):
            values.clear()


@dataclasses.dataclass
class Unhashable:
    def __call__(self):
        return 0.5


@pytest.mark.parametrize(
    "argument",
    [
        {"function": "os.system"},
        {"function": "jax._src.nn.functions.relu"},
        {"function": "jax.numpy.load"},
        {"partial": {"function": "jax.nn.relu"}, "positional": {"list": []}, "named": {}},
        {"type": "subprocess.Popen"},
        {"object": 1},
    ],
)
def test_a_file_names_no_foreign_code(path, argument):
    _edit(path, lambda header, entries: header["flow"]["named"].update(base=argument))
    with pytest.raises(ValueError, match="does not fit this version"):
        flows.load(path)


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    ensemble = jax.vmap(lambda key: flows.maf(2, rngs=nnx.Rngs(key)))(
        jax.random.split(jax.random.key(0), 3)
    )
    half = jax.tree.map(lambda a: a.astype("bfloat16"), flows.maf(2, rngs=nnx.Rngs(0)))

    class Local(Shifted):
        pass

    local = flows.Flow(flows.StandardNormal(2), Local(2, 0.5))
    for flow, match in [
        (ensemble, "Save the members of an ensemble one by one"),
        (half, "has dtype bfloat16"),
        (local, "could not be loaded again"),
    ]:
        with pytest.raises(TypeError, match=match):
            flows.save(tmp_path / "a", flow)
    assert not list(tmp_path.iterdir())


def test_a_flow_altered_after_its_construction_is_not_saved(tmp_path):
    def make():
        return flows.maf(2, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0))

    relu, no_bias = make(), make()
    relu.bijector.layers.bijectors[0].bijector.conditioner.activation = "relu"
    no_bias.bijector.layers.bijectors[0].bijector.conditioner.layers[0].bias = None
    for flow, match in [
        (relu, "conditioner/activation is 'relu', and its constructor makes it 'silu'"),
        (no_bias, "bias is None, and its constructor makes it a Param"),
    ]:
        with pytest.raises(TypeError, match=match):
            flows.save(tmp_path / "a", flow)
    assert not list(tmp_path.iterdir())


class WithObjects(Shifted):
    """Keeps what it makes itself, of no equality."""

    def __init__(self, event_size: int, by: float):
        super().__init__(event_size, by)
        self.function = lambda x: x
        self.object = object()


def test_what_the_constructor_makes_anew_is_no_alteration(tmp_path):
    flow = flows.Flow(flows.StandardNormal(2), WithObjects(2, 0.5))
    flows.save(tmp_path / "a", flow)
    assert flows.load(tmp_path / "a").bijector.by == 0.5
    normal = flows.Flow(flows.DiagonalNormal(2), flows.bijectors.Reverse(2))
    normal.base.loc = flows.bijectors.Buffer(normal.base.loc[...])
    with pytest.raises(TypeError, match="base/loc is a Buffer, and its constructor makes it a Par"):
        flows.save(tmp_path / "b", normal)


def test_a_result_is_refused_with_the_way_out(tmp_path, path):
    x = np.random.default_rng(0).normal(size=(300, 2))
    fitted = flows.fit(flows.load(path), x, key=jax.random.key(0), max_epochs=1, progress=False)
    with pytest.raises(TypeError, match=r"got a FitResult: pass result\.flow"):
        flows.save(tmp_path / "b", fitted)


def test_stacks_of_any_bijector_are_saved(tmp_path):
    stack = flows.bijectors.Stack(
        lambda rngs: flows.bijectors.Chain(
            [
                flows.bijectors.Coupling(2, rngs=rngs),
                flows.bijectors.TriangularAffine(np.zeros(2), np.eye(2)),
            ]
        ),
        3,
        rngs=nnx.Rngs(0),
    )
    flow = flows.Flow(flows.StandardNormal(2), stack)
    flows.save(tmp_path / "a", flow)
    jax.tree.map(np.testing.assert_array_equal, flow, flows.load(tmp_path / "a"))


def test_own_bijectors(tmp_path):
    half = np.float32(0.5)
    for own in (
        Shifted(2, 0.5), Forgetful(2, amount=0.5), PassesOn(2, by=0.5), Shifted(2, half),
        Positional(2, 0.5), Changes([0.5, 1.0]),
    ):  # fmt: skip
        flows.save(tmp_path / "a", flows.Flow(flows.StandardNormal(2), own))
        loaded = flows.load(tmp_path / "a").bijector
        assert (type(loaded), loaded.by) == (type(own), 0.5)
    assert copy.deepcopy(own).recipe is pickle.loads(pickle.dumps(own)).recipe is own.recipe
    assert Shifted(2, 1).recipe is not Shifted(2, 1.0).recipe
    closure = Shifted(2, by=lambda: 0.5)
    with pytest.raises(TypeError, match=r"flow\.bijector\.by cannot be saved: it is <function"):
        flows.save(tmp_path / "b", flows.Flow(flows.StandardNormal(2), closure))
    for by, what in [(jax.random.key(0), "a random key"), (Unhashable(), "a Unhashable")]:
        with pytest.raises(TypeError, match=rf"by cannot be saved: it is {what}"):
            flows.save(tmp_path / "b", flows.Flow(flows.StandardNormal(2), Shifted(2, by)))
    with pytest.raises(TypeError, match=r"flow\.bijector\.by cannot be saved: it is a dict"):
        flows.save(tmp_path / "b", flows.Flow(flows.StandardNormal(2), Shifted(2, by={})))
    assert not (tmp_path / "b").exists()
    with pytest.raises(TypeError, match="flow must be a"):
        flows.save(tmp_path / "b", "flow")


def test_a_network_of_own_parts_comes_back_equal(tmp_path):
    def make():
        embed = functools.partial(flows.conditioners.MLP, hidden_sizes=(8,), activation=jax.nn.relu)
        return flows.maf(2, num_layers=2, context_size=1, embed=embed, rngs=nnx.Rngs(0))

    flow = make()
    assert jax.tree.structure(flow) == jax.tree.structure(make())  # compiled once
    flows.save(tmp_path / "a", flow)
    loaded = flows.load(tmp_path / "a")
    assert jax.tree.structure(flow) == jax.tree.structure(loaded)
    jax.tree.map(np.testing.assert_array_equal, flow, loaded)


@dataclasses.dataclass(eq=False)
class Generated(flows.bijectors.Bijector):
    """Its constructor is written by a decorator, and records nothing."""

    by: float

    def __post_init__(self):
        flows.bijectors.Bijector.__init__(self, 2)

    _forward_and_log_det = Shifted._forward_and_log_det
    _inverse_and_log_det = Shifted._inverse_and_log_det


def test_what_was_not_recorded_works_and_is_not_saved(tmp_path):
    for bijector in (
        Generated(0.5),
        flows.bijectors.Stack(lambda rngs: Generated(0.5), 1, rngs=nnx.Rngs(0)),
    ):
        flow = flows.Flow(flows.StandardNormal(2), bijector)
        np.testing.assert_allclose(flow.bijector.forward(np.ones(2)), 1.5)
        with pytest.raises(TypeError, match="is a Generated, which was not made by an __init__"):
            flows.save(tmp_path / "a", flow)
