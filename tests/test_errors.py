import pickle

import pyro
import pyro.distributions as dist
import pytest
from pyro import poutine

from pyrogen import errors
from pyrogen.errors import ShapeError

BUILTIN = {
    errors.ShapeError: ValueError,
    errors.SupportError: ValueError,
    errors.DtypeError: TypeError,
    errors.DeviceError: RuntimeError,
    errors.DataError: OSError,
    errors.RecipeError: ValueError,
    errors.OutputError: OSError,
    errors.SettingsError: ValueError,
    errors.NotNormalizedError: RuntimeError,
    errors.InverseError: NotImplementedError,
    errors.NonFiniteError: FloatingPointError,
    errors.ModelError: ValueError,
    errors.ProcessError: RuntimeError,
    errors.ExtraError: ImportError,
    errors.Interrupted: KeyboardInterrupt,
}


def test_every_error_of_the_module_is_listed_here():
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    assert kinds == {errors.PyrogenError, *BUILTIN}


@pytest.mark.parametrize("kind", BUILTIN, ids=lambda kind: kind.__name__)
def test_an_error_says_what_came_what_is_needed_and_what_to_try(kind):
    error = kind(got="5 columns", need="4", fix="x[:, :4]")
    assert str(error) == "got 5 columns; need 4; try x[:, :4]"
    assert (error.got, error.need, error.fix) == ("5 columns", "4", "x[:, :4]")


@pytest.mark.parametrize(("kind", "builtin"), BUILTIN.items(), ids=lambda kind: kind.__name__)
def test_an_error_is_caught_as_the_builtin_and_as_ours(kind, builtin):
    for caught in (builtin, errors.PyrogenError):
        with pytest.raises(caught, match="need 4"):
            raise kind(got="5 columns", need="4", fix="x[:, :4]")


@pytest.mark.parametrize("kind", BUILTIN, ids=lambda kind: kind.__name__)
def test_an_error_survives_the_way_out_of_a_worker_process(kind):
    error = pickle.loads(pickle.dumps(kind(got="5 columns", need="4", fix="x[:, :4]")))
    assert type(error) is kind
    assert str(error) == "got 5 columns; need 4; try x[:, :4]"


def test_an_error_cannot_be_raised_without_a_remedy():
    with pytest.raises(TypeError, match="fix"):
        errors.ShapeError(got="5 columns", need="4")  # type: ignore[call-arg]


def test_an_error_raised_inside_a_traced_program_keeps_its_words():
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))
        raise ShapeError(got="three", need="two", fix="one less")

    with pytest.raises(ShapeError, match="got three; need two; try one less"):
        poutine.trace(model).get_trace()
