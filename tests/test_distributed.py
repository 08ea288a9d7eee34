"""Several processes: how they find each other, add up, and end together."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from nanochat.distributed import DistributedError, World, start, world_of_environment
from tests.training_support import ranks


def test_without_torchrun_there_is_one_process() -> None:
    assert world_of_environment({}) == World(0, 0, 1)
    with start() as world:
        assert world.first
        assert world.add([1.5, 2.0]) == [1.5, 2.0]
        assert world.all_or_none(lambda: 7) == 7


def test_the_environment_of_torchrun() -> None:
    assert world_of_environment({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}) == World(3, 1, 4)


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "0"},
        {"RANK": "4", "LOCAL_RANK": "0", "WORLD_SIZE": "4"},
        {"RANK": "x", "LOCAL_RANK": "0", "WORLD_SIZE": "4"},
        {"RANK": "0", "LOCAL_RANK": "-1", "WORLD_SIZE": "4"},
    ],
)
def test_half_an_environment_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(DistributedError, match="torchrun sets RANK, LOCAL_RANK, WORLD_SIZE"):
        world_of_environment(environment)


def test_ranks_add_up_and_fail_together(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        sums = world.add([float(world.rank), 1 / 3])
        world.barrier()

        def fails_on_one() -> None:
            if world.rank == 1:
                raise DistributedError.__base__("only here")  # type: ignore[misc]

        try:
            world.all_or_none(fails_on_one)
        except ValueError as error:
            return [sums, str(error)]
        return "nothing was raised"

    first, second = ranks(2, work, tmp_path)
    assert first["result"][0] == second["result"][0] == [1.0, 2 / 3]
    assert "1 other(s) failed" in first["result"][1]
    assert second["result"][1] == "only here"


def test_a_rank_that_dies_takes_the_others_with_it_in_one_sentence(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        world.barrier()
        if world.rank == 1:
            os._exit(9)
        begun = time.monotonic()
        try:
            world.add([1.0])
            world.add([1.0])
        except DistributedError as error:
            assert time.monotonic() - begun < 50
            raise error from None

    survivor, dead, other = ranks(3, work, tmp_path)
    assert dead is None
    for left in (survivor, other):
        assert "another rank has left or has not answered" in left["error"]
        assert "\n" not in left["error"]
