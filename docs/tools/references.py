"""Names in code become links: `flows.fit` to its page here, `jax.Array` to JAX's documentation."""

import re
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor

NAME = re.compile(r"(flows|jax|optax|nnx|distrax)(\.\w+)+")
LINKED = {"a", "autoref", "pre", "h1", "h2", "h3", "h4", "h5", "h6"}

_FLAX = "https://flax.readthedocs.io/en/stable/api_reference/flax.nnx"
_OPTAX = "https://optax.readthedocs.io/en/latest/api"
_DISTRAX = "https://github.com/google-deepmind/distrax/blob/master/distrax/_src"
_JAX = "https://docs.jax.dev/en/latest/_autosummary"
ELSEWHERE = {
    "distrax.Bijector": f"{_DISTRAX}/bijectors/bijector.py",
    "distrax.Chain": f"{_DISTRAX}/bijectors/chain.py",
    "distrax.Distribution": f"{_DISTRAX}/distributions/distribution.py",
    "distrax.Inverse": f"{_DISTRAX}/bijectors/inverse.py",
    "distrax.Transformed": f"{_DISTRAX}/distributions/transformed.py",
    "nnx.Module": f"{_FLAX}/module.html",
    "nnx.Param": f"{_FLAX}/variables.html",
    "nnx.Rngs": f"{_FLAX}/rnglib.html",
    "nnx.split": f"{_FLAX}/graph.html",
    "optax.GradientTransformation": f"{_OPTAX}/transformations.html",
    "optax.adam": f"{_OPTAX}/optimizers.html",
    **{
        f"jax.{name}": f"{_JAX}/jax.{name}.html"
        for name in (
            "Array", "distributed.initialize", "grad", "jacobian", "jit", "make_mesh",
            "random.key", "sharding.Mesh", "vmap",
        )
    },
    # where Python says that they are
    "jax.jaxlib._jax.Array": f"{_JAX}/jax.Array.html",
    "jax._src.mesh.Mesh": f"{_JAX}/jax.sharding.Mesh.html",
    "optax._src.base.GradientTransformation": f"{_OPTAX}/transformations.html",
}  # fmt: skip


class _Linker(Treeprocessor):
    def run(self, root: Element) -> None:
        self._link(root)

    def _link(self, parent: Element) -> None:
        for place, child in enumerate(parent):
            if child.tag in LINKED:
                continue
            if child.tag == "code" and NAME.fullmatch(child.text or ""):
                link = Element("autoref", {"identifier": str(child.text), "optional": ""})
                link.tail, child.tail = child.tail, None
                parent[place] = link
                link.append(child)
            else:
                self._link(child)


class References(Extension):
    """Makes links of code that is a name. Where a name is not known it stays as it is."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.treeprocessors.register(_Linker(md), "references", 1)
