"""Each engine sees a GPU of its own; without one nothing changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from engine.base import EngineError
from engine.config import EngineConfig
from engine.gpus import THREADS, VISIBLE, bound_threads, count_gpus, see_only
from server.config import Config, EnginesConfig
from server.front.launch import specs
from tests import ROOT


@pytest.mark.parametrize(
    ("visible", "index", "expected"),
    [
        (None, 0, "0"),
        (None, 1, "1"),
        ("2,5", 0, "2"),
        ("2, 5", 1, "5"),
        ("GPU-aa,GPU-bb", 1, "GPU-bb"),
    ],
)
def test_engine_sees_the_gpu_of_its_number(visible: str | None, index: int, expected: str) -> None:
    environment = {} if visible is None else {VISIBLE: visible}
    see_only(index, environment, lambda: 2)
    assert environment == {VISIBLE: expected}


def test_more_engines_than_gpus_is_an_error() -> None:
    environment: dict[str, str] = {}
    with pytest.raises(EngineError, match=r"no GPU for engine 2: CUDA shows 2; set engine.count"):
        see_only(2, environment, lambda: 2)
    assert not environment


def test_without_cuda_nothing_changes() -> None:
    environment: dict[str, str] = {}
    see_only(1, environment, lambda: 0)
    assert not environment


def test_machine_without_the_driver_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nothing/here")
    assert count_gpus() == 0


@pytest.mark.loopback
def test_counting_loads_nothing_into_this_process() -> None:
    code = (
        "import sys, engine.gpus as g; n = g.count_gpus(); "
        "assert n >= 0 and 'torch' not in sys.modules and 'ctypes' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), check=True)


def gpus(config: Config) -> list[int | None]:
    engines = [spec for spec in specs(config, Path("/tmp/x")) if spec.role == "engine"]
    return [msgspec.json.decode(spec.payload(1, ""), type=EngineConfig).gpu for spec in engines]


def test_several_engines_are_given_one_each_a_single_one_is_left_alone() -> None:
    assert gpus(Config(engine=EnginesConfig(count=3))) == [0, 1, 2]
    assert gpus(Config()) == [None]


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (2, "1"), (6, "3"), (64, "8")])
def test_torch_computes_on_half_of_the_cores_at_most(cores: int, threads: str) -> None:
    environment: dict[str, str] = {}
    bound_threads(environment, cores)
    assert environment == {THREADS: threads}


def test_number_of_threads_that_the_user_set_stays() -> None:
    environment = {THREADS: "12"}
    bound_threads(environment, 2)
    assert environment == {THREADS: "12"}


@pytest.mark.loopback
def test_bound_reaches_torch() -> None:
    pytest.importorskip("torch")
    code = (
        "import engine.gpus as g; g.bound_threads(cores=2); import torch; "
        "assert torch.get_num_threads() == 1, torch.get_num_threads()"
    )
    environment = {name: value for name, value in os.environ.items() if name != THREADS}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
