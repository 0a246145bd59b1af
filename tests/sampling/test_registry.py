import pytest

from sb3_rfm.sampling.interpolants import Interpolant, Linear, VPCosine
from sb3_rfm.sampling.registry import Registry, require, require_float, require_int


@pytest.fixture
def registry() -> Registry[Interpolant]:
    return Registry("interpolant", {"straight": Linear, "curved": VPCosine})


def test_resolves_a_name_and_passes_an_object_through(registry):
    own = Linear()
    assert registry.resolve("curved", Interpolant) == VPCosine()
    assert registry.resolve(own, Interpolant) is own


@pytest.mark.parametrize("name", ["curve", "", "CURVED"])
def test_an_unknown_name_is_told_what_is_allowed(registry, name):
    with pytest.raises(ValueError, match=f"interpolant.*curved, straight.*{name!r}"):
        registry.resolve(name, Interpolant)


@pytest.mark.parametrize("piece", [None, 3, Linear, ["curved"]])
def test_an_object_of_another_class_is_a_type_error(registry, piece):
    with pytest.raises(TypeError, match=r"interpolant.*curved, straight.*Interpolant; got"):
        registry.resolve(piece, Interpolant)


def test_require_names_argument_value_and_what_is_allowed():
    require(True, "eta", 1, "anything")
    with pytest.raises(ValueError, match=r"eta must satisfy: small; got 'big'"):
        require(False, "eta", "big", "small")


def test_require_int():
    require_int("k", 2, minimum=2)
    with pytest.raises(ValueError, match=r"k .*at least 2; got 1"):
        require_int("k", 1, minimum=2)
    for wrong in (2.0, True, "2", None):
        with pytest.raises(TypeError, match="k must be an int"):
            require_int("k", wrong)


def test_require_float():
    for right in (0, 0.5, 1):
        require_float("p", right, 0.0, 1.0)
    for wrong in (-0.1, 1.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="p must satisfy"):
            require_float("p", wrong, 0.0, 1.0)
    with pytest.raises(ValueError, match="finite"):
        require_float("p", float("inf"))
    for wrong in (True, "0.5", None):
        with pytest.raises(TypeError, match="p must be a number"):
            require_float("p", wrong)
