import pytest

from pyrogen.data import load, names
from pyrogen.errors import DataError, SettingsError


def test_every_name_loads_or_says_which_file_is_missing(tmp_path):
    for name in names():
        try:
            assert load(name, root=tmp_path).name == name
        except DataError as error:
            assert str(tmp_path) in str(error) and (".npz" in str(error) or ".csv" in str(error))


@pytest.mark.parametrize(
    ("typo", "meant"), [("digit", "digits"), ("MNIST", "mnist"), ("binarized_mnist", "binarized-mnist")]
)
def test_an_unknown_name_gets_the_nearest_known_one(typo, meant):
    with pytest.raises(DataError, match=f"got data set '{typo}'; need one of .*; try '{meant}'$"):
        load(typo)


def test_an_unknown_option_gets_the_nearest_known_one():
    with pytest.raises(SettingsError, match="option 'binarise' of data set 'digits'; need one of binarize; try 'bin"):
        load("digits", binarise=True)
    with pytest.raises(SettingsError, match="option 'binarize' of data set 'mnist'; need no options"):
        load("mnist", binarize=True)


def test_an_option_of_the_wrong_type_is_refused():
    with pytest.raises(SettingsError, match="binarize='yes'"):
        load("digits", binarize="yes")
