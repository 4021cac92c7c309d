import errno
import os

import pytest
import torch
from torch import nn

from pyrogen.errors import DataError, ModelError, OutputError
from pyrogen.inference.checkpoint import load_weights, save_weights, write_whole


class Tied(nn.Module):
    """Two names for one matrix, as an output layer tied to an embedding has."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Linear(3, 3, bias=False)
        self.output = nn.Linear(3, 3, bias=False)
        if tied:
            self.output.weight = self.embedding.weight
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("transposed", self.embedding.weight.detach().T)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, dtype=torch.float64))


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_weights_come_back_to_the_bit(tmp_path):
    one, other = network(), network()
    one[1].running_mean += 3
    sha256 = save_weights(one, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors", sha256=sha256)
    assert all(torch.equal(a, b) for a, b in zip(state(one).values(), state(other).values(), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_loading_keeps_the_parameters_that_an_optimiser_holds(tmp_path):
    one, other = network(), network()
    save_weights(one, tmp_path / "w")
    held = other[0].weight
    load_weights(other, tmp_path / "w")
    assert other[0].weight is held
    assert torch.equal(held, one[0].weight)


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    from safetensors.torch import load_file

    one, other = Tied(), Tied()
    save_weights(one, tmp_path / "w")
    assert set(load_file(tmp_path / "w")) == {"embedding.weight", "scale", "transposed"}
    load_weights(other, tmp_path / "w")
    assert torch.equal(other.output.weight, one.embedding.weight)
    assert other.output.weight is other.embedding.weight


def test_a_file_of_tied_weights_does_not_half_fill_an_untied_module(tmp_path):
    save_weights(Tied(), tmp_path / "w")
    with pytest.raises(DataError, match=r"without 'output\.weight'"):
        load_weights(Tied(tied=False), tmp_path / "w")


def wider() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3, dtype=torch.float64))


def longer() -> nn.Module:
    return nn.Sequential(*network(), nn.Linear(2, 2))


def single() -> nn.Module:
    return network().float()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (wider, r"'2\.(bias|weight)' is torch\.float64 of shape \(2,.*need torch\.float64 of shape \(3,"),
        (longer, r"without '3\.weight', '3\.bias'"),
        (lambda: network()[:2], r"with '2\.(bias|weight)'"),
        (single, r"need torch\.float32"),
    ],
    ids=["wider", "longer", "shorter", "single precision"],
)
def test_another_structure_is_refused_in_words_and_left_as_it_was(make, message, tmp_path):
    save_weights(network(), tmp_path / "w")
    module = make()
    before = state(module)
    with pytest.raises(DataError, match=message):
        load_weights(module, tmp_path / "w")
    assert all(torch.equal(before[name], tensor) for name, tensor in state(module).items())


def test_every_flipped_bit_is_noticed_where_the_checksum_is_known(tmp_path):
    sha256 = save_weights(network(), tmp_path / "w")
    content = (tmp_path / "w").read_bytes()
    for place in range(0, len(content), 37):
        (tmp_path / "w").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataError, match="need " + sha256):
            load_weights(network(), tmp_path / "w", sha256=sha256)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff" * 100, b"\x80\x04K\x01."], ids=["empty", "json", "ff", "pickle"]
)
def test_a_file_of_something_else_is_refused_without_a_checksum_too(content, tmp_path):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(DataError, match="no safetensors file"):
        load_weights(network(), tmp_path / "w")


def test_a_truncated_file_is_refused(tmp_path):
    save_weights(network(), tmp_path / "w")
    content = (tmp_path / "w").read_bytes()
    (tmp_path / "w").write_bytes(content[:-1])
    with pytest.raises(DataError, match="no safetensors file"):
        load_weights(network(), tmp_path / "w")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere, which cannot be read"):
        load_weights(network(), tmp_path / "nowhere")


def test_state_that_is_no_tensor_is_refused(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(ModelError, match="_extra_state"):
        save_weights(Extra(1, 1), tmp_path / "w")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        write_whole(tmp_path / "none" / "file", b"new")


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_litter(where, tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, where, full)
    with pytest.raises(OutputError, match="need free space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_left_does_not_stop_the_next(tmp_path):
    (tmp_path / ".file.part").write_bytes(b"half")
    write_whole(tmp_path / "file", b"whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
