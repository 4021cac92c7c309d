"""Several processes train as one does."""

from __future__ import annotations

import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from pyrogen.errors import DataError, ModelError, PyrogenError, SettingsError
from pyrogen.inference.parallel import Group, Ranks, processes
from pyrogen.inference.run_folder import check_training
from tests.together import CASES, NOISY, main, noisy

ROOT = Path(__file__).parents[1]


def environment(**more):
    theirs = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE")
    kept = {name: value for name, value in os.environ.items() if name not in theirs}
    fixed = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "GLOO_SOCKET_IFNAME": "lo",
        "MPLBACKEND": "Agg",
    }
    return kept | fixed | more


@contextmanager
def starting():
    """Start commands; none is left afterwards."""
    started = []

    def run(command, **more):
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *map(str, command)],
            env=environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    try:
        yield run
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def start():
    with starting() as run:
        yield run


def torchrun(start, command, *options, **more):
    """Carry a command out in two processes; gives its exit code, stdout and stderr."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options, "-m"]
    process = start([*launcher, *command], **more)
    try:
        out, err = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # its children are in sessions of their own, and it ends them
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=40)
        raise
    return process.returncode, out, err


def free_port():
    """A port that nobody has, and that no connection of somebody's takes meanwhile: those are numbered higher."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            port = random.SystemRandom().randrange(12000, 30000)
            probe.bind(("127.0.0.1", port))
            return str(port)


def pair(start, folder, *cases, **more):
    """Two processes without anybody above them."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    command = ["-m", "tests.together", folder, *cases]
    return [start(command, **place, RANK=str(rank), LOCAL_RANK=str(rank), **more) for rank in range(2)]


def wait_for(*marks, processes):
    """Until the files are there; not if a process ends before."""
    while not all(mark.exists() for mark in marks):
        for process in processes:
            if process.poll() is not None:
                raise AssertionError(f"ended with {process.returncode}: {process.communicate()[1][-2000:]}")
        time.sleep(0.05)


def ended(process, seconds):
    """Exit code and stderr of a process that must end in time."""
    _, err = process.communicate(timeout=seconds)
    return process.returncode, err


def result(folder, case, rank=0):
    return torch.load(folder / f"{case}-{rank}.pt", weights_only=True)


def weights(folder, case, rank=0):
    return result(folder, case, rank)["state"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Threads(Group):
    """Processes that are threads of this one, and add through a list."""

    def __init__(self, rank, world, meeting):
        super().__init__(rank, world)
        self.barrier, self.table = meeting

    def _sum(self, flat):
        self.table[self.rank] = flat.clone()
        self.barrier.wait(20)
        flat.copy_(torch.stack([self.table[rank] for rank in range(self.world)]).sum(0))
        self.barrier.wait(20)


def in_threads(world, do):
    """What `do(ranks)` gives in each of several threads."""
    meeting, found = (threading.Barrier(world), {}), {}

    def one(rank):
        found[rank] = do(Threads(rank, world, meeting))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [found[rank] for rank in range(world)]


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 13])
@pytest.mark.parametrize("world", [2, 3])
def test_the_average_of_uneven_parts_is_the_mean_over_the_batch(rows, world):
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)

    def make():
        torch.manual_seed(0)
        return nn.ParameterDict({"w": torch.randn(3, 2), "b": torch.randn(2).double(), "never": torch.ones(1)})

    def loss(own, part):
        return ((part @ own["w"].double() + own["b"]) ** 4).sum(1).mean()

    def one(ranks):
        own, part = made[ranks.rank], ranks.share(x)
        bound = torch.zeros(())
        if len(part):
            bound = loss(own, part)
            bound.backward()
        mean = ranks.average_gradients(dict(own.items()), bound.detach(), len(part) / rows)
        return mean, own["w"].grad, own["b"].grad, own["never"].grad

    made = [make() for _ in range(world)]
    whole = make()
    expected = loss(whole, x)
    expected.backward()
    found = in_threads(world, one)
    for mean, w, b, never in found:
        torch.testing.assert_close(mean.double(), expected.detach(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(w, whole["w"].grad, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(b, whole["b"].grad, rtol=1e-12, atol=1e-12)
        assert never is None
        assert torch.equal(w, found[0][1]) and torch.equal(b, found[0][2]) and torch.equal(mean, found[0][0])


def test_a_gradient_that_only_one_process_has_counts_for_all():
    made = [nn.ParameterDict({"a": torch.zeros(2), "b": torch.zeros(2)}) for _ in range(2)]

    def one(ranks):
        own = made[ranks.rank]
        own["ab"[ranks.rank]].grad = torch.ones(2)
        ranks.average_gradients(dict(own.items()), torch.zeros(()), 0.5)
        return own["a"].grad, own["b"].grad

    for a, b in in_threads(2, one):
        assert torch.equal(a, torch.full((2,), 0.5)) and torch.equal(b, a)


def test_gradients_keep_the_layout_of_their_parameters():
    made = [nn.Parameter(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)) for _ in range(2)]

    def one(ranks):
        made[ranks.rank].grad = torch.arange(96.0).view(2, 3, 4, 4).to(memory_format=torch.channels_last)
        ranks.average_gradients({"w": made[ranks.rank]}, torch.zeros(()), 0.5)
        return made[ranks.rank].grad

    for grad in in_threads(2, one):
        assert grad.stride() == made[0].stride()
        assert torch.equal(grad, torch.arange(96.0).view(2, 3, 4, 4))


def test_a_nan_in_one_process_is_one_in_all():
    def one(ranks):
        w = nn.Parameter(torch.zeros(1))
        w.grad = torch.full((1,), math.nan if ranks.rank else 1.0)
        return ranks.average_gradients({"w": w}, torch.zeros(()), 0.5), w.grad

    assert all(bool(grad.isnan()) for _, grad in in_threads(2, one))


def test_the_parts_of_a_batch_are_all_of_it_in_turn():
    batch = torch.arange(11)
    for world in (1, 2, 3, 13):
        parts = [Group(rank, world).share(batch) for rank in range(world)]
        assert torch.equal(torch.cat(parts), batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_asks_nobody(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with processes("cpu") as ranks:
        assert type(ranks) is Ranks and (ranks.rank, ranks.world) == (0, 1)
        assert ranks.gather(3) == [3] and ranks.largest(1, 2) == [1, 2] and ranks.at_first(lambda: 4) == 4
        bound = torch.ones(())
        assert ranks.average_gradients({}, bound, 1.0) is bound and ranks.share(bound) is bound
        ranks.agree({"rows": 3})
        state = torch.get_rng_state()
        ranks.sow(0)
        assert torch.equal(torch.get_rng_state(), state)


def test_each_process_draws_from_a_seed_of_its_own():
    firsts = []
    with torch.random.fork_rng():
        for seed in (0, 1):
            for rank in range(4):
                torch.manual_seed(seed)
                Group(rank, 4).sow(seed)
                firsts.append(torch.randn(1000))
    correlation = torch.corrcoef(torch.stack(firsts)) - torch.eye(8)
    assert correlation.abs().max() < 5 / math.sqrt(1000)  # 28 pairs at 5 sigma: 2e-5


def test_what_the_processes_have_differently_is_named():
    class Other(Ranks):
        def gather(self, value):
            return [value, value | {"data": "others"}]

    with pytest.raises(ModelError, match="data = 'others' in process 1, 'rows' in process 0"):
        Other().agree({"seed": 0, "data": "rows"})


def test_a_batch_has_a_row_for_each_process():
    from pyrogen.inference.fit import _check_shares

    with pytest.raises(SettingsError, match="batches of 2 rows for 3 processes"):
        _check_shares(Group(0, 3), 100, 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The cases in two processes, and those without noise in this one."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    # the waits of gloo go by the wall clock, which a virtual machine may move: it is not what is tested here
    with starting() as start:
        processes = pair(start, two, *CASES, *NOISY, "heard", "disagreeing", TIMEOUT="1800")
        found = [ended(process, 200) for process in processes]
    if any(code for code, _ in found):
        raise AssertionError("\n".join(f"ended with {code}: {err[-2000:]}" for code, err in found))
    main(one, list(CASES))
    return one, two


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_as_one_does_on_the_same_batches(case, trained):
    one, two = trained
    close = {"rtol": 0, "atol": 1e-6 if case == "float32" else 1e-10}
    torch.testing.assert_close(weights(two, case), weights(one, case), **close)
    for name in ("train", "valid"):
        if name in result(one, case)["history"]:
            here, there = (result(folder, case)["history"][name] for folder in trained)
            torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", [*CASES, *NOISY])
def test_processes_end_equal_to_the_bit(case, trained):
    _, two = trained
    assert same(weights(two, case, 0), weights(two, case, 1))
    histories = [result(two, case, rank)["history"] for rank in range(2)]
    assert all(torch.equal(histories[0][name], histories[1][name]) for name in histories[0] if name != "seconds")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_noise_differs_between_processes_and_comes_again(trained):
    _, two = trained
    assert same(weights(two, "noisy"), weights(two, "again"))
    a, b = (torch.load(two / f"draws-{rank}.pt", weights_only=True) for rank in range(2))
    n = 200 * 15 * 2  # epochs, rows of a process, latents
    assert len(a) == len(b) == n
    # at the same place in both streams, and at the neighbours: 21 z-scores at 5 sigma, 1e-5
    for lag in range(-10, 11):
        here, there = a[max(lag, 0) : n + min(lag, 0)], b[max(-lag, 0) : n - max(lag, 0)]
        assert abs(float((here * there).mean())) * math.sqrt(len(here)) < 5


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_first_process_alone_writes_and_calls_back(trained):
    _, two = trained
    assert (two / "heard-0").read_text() == "".join(f"{epoch} " for epoch in range(1, 201))
    assert not (two / "heard-1").exists()
    run = str(two / "run")
    assert any(name.startswith(run) for name in (two / "opened-0").read_text().splitlines())
    assert not any(name.startswith(run) for name in (two / "opened-1").read_text().splitlines())
    assert not any(check_training(two / "run").values())


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_run_of_two_processes_does_not_go_on_with_one(trained):
    _, two = trained
    with pytest.raises(DataError, match="whose run has processes = 2; need processes = 1 to go on"):
        noisy(epochs=201, batch_size=10, folder=two / "run", resume=True)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_processes_with_rows_of_their_own_are_refused_in_all(trained):
    _, two = trained
    for rank in range(2):
        assert "ModelError: got data = " in (two / f"refused-{rank}").read_text()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_killed_processes_are_started_again_and_end_as_if_nothing_was(start, tmp_path):
    for name in ("calm", "wild"):
        (tmp_path / name).mkdir()
    kill = "1:7,0:23,1:31"
    for name, kills in {"calm": "", "wild": kill}.items():
        command = ["tests.together", tmp_path / name, "killed"]
        code, _, err = torchrun(start, command, "--max-restarts=3", "--monitor-interval=0.2", KILL=kills)
        assert code == 0, err
    assert len(list((tmp_path / "wild").glob("killed-?-*"))) == 3
    assert same(weights(tmp_path / "wild", "killed"), weights(tmp_path / "calm", "killed"))
    train = [result(tmp_path / name, "killed")["history"]["train"] for name in ("calm", "wild")]
    assert torch.equal(*train)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_stops_all_after_the_same_step(number, start, tmp_path):
    two = pair(start, tmp_path, "killed", SLOW="0.05")
    wait_for(tmp_path / "training-1", processes=two)
    two[1].send_signal(number)
    found = [ended(process, 60) for process in two]
    steps = [err.partition("after step ")[2].partition(";")[0] for _, err in found]
    assert [code for code, _ in found] == [128 + number] * 2, found
    assert steps[0] == steps[1] and int(steps[0]) > 0
    (tmp_path / "calm").mkdir()
    for folder in (tmp_path, tmp_path / "calm"):
        assert [ended(process, 60)[0] for process in pair(start, folder, "killed")] == [0, 0]
    assert same(weights(tmp_path, "killed"), weights(tmp_path / "calm", "killed"))


def without(victim, number, start, folder, timeout):
    """Exit code and stderr of a process whose other gets a signal while both train."""
    two = pair(start, folder, "killed", SLOW="0.05", TIMEOUT=timeout)
    wait_for(*(folder / f"training-{rank}" for rank in range(2)), processes=two)
    two[victim].send_signal(number)
    return ended(two[1 - victim], 100)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_gone_ends_the_other_in_words(victim, start, tmp_path):
    code, err = without(victim, signal.SIGKILL, start, tmp_path, "1800")
    assert code == 1 and "ProcessError: got no answer from another process" in err, err


@pytest.mark.nightly  # gloo waits by the wall clock, which a virtual machine may move
@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_stands_still_ends_the_other_in_words(victim, start, tmp_path):
    code, err = without(victim, signal.SIGSTOP, start, tmp_path, "15")
    assert code == 1 and "ProcessError: got no answer from another process" in err, err


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_torchrun_carries_out_a_recipe_once(start, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[model]\nname = "vae"\nlatent = 2\nhidden = [5]\n[data]\nname = "digits"\nbinarize = true\n'
        "[fit]\nepochs = 2\nbatch_size = 101\n[evaluate]\nparticles = 5\n"
    )
    command = ["pyrogen", "run", recipe, "--out", tmp_path / "run", "--device", "cpu"]
    code, out, err = torchrun(start, command)
    assert code == 0, err
    assert out.count("log p(x) >=") == 1 and err.count("evaluating") == 1
    assert {"result.json", "model.safetensors", "posterior.nc"} <= {path.name for path in (tmp_path / "run").iterdir()}
    code, out, err = torchrun(start, command)
    assert code != 0 and err.count("which exists and holds") == 2  # the first says it, the other repeats it
    code, out, err = torchrun(start, [*command, "--resume"])
    assert code == 0 and out.count("log p(x) >=") == 1 and "is finished" in err


def test_an_error_of_the_first_is_raised_in_all():
    class Second(Group):
        def told(self, value):
            return SettingsError(got="a", need="b", fix="c")

    with pytest.raises(PyrogenError, match="got a; need b"):
        Second(1, 2).at_first(lambda: pytest.fail("the second process did it"))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_recipe_for_fabric_runs(start, tmp_path):
    pytest.importorskip("lightning_fabric", reason="Lightning Fabric is not installed")
    text = (ROOT / "docs" / "parallel.md").read_text("utf-8")
    (block,) = [
        code for code in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if "Fabric" in code
    ]
    (tmp_path / "recipe.py").write_text(block)
    process = start([tmp_path / "recipe.py"])
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("processes equal: True") == 1
