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
        world.add([0.0])

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


def test_ranks_that_were_started_differently_all_say_in_what(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        world.require_same({"the seed": 1, "the text": "a" * 100})
        said = []
        for facts in (
            {"the seed": world.rank, "the text": 1},
            {f"name {world.rank}": 1},
            dict.fromkeys("ab"[: world.rank + 1]),
        ):
            try:
                world.require_same(facts)
            except DistributedError as error:
                said.append(str(error))
        return said

    for rank, answer in enumerate(ranks(2, work, tmp_path)):
        first, *others = answer["result"]
        assert first == (
            f"rank {rank} of 2 stops before the first step, because the ranks were started with different values of "
            "the seed; start all of them with the same command, data and tokenizer"
        )
        assert len(others) == 2
        assert all("the script or its version" in line for line in others)


def test_a_rank_that_dies_takes_the_others_with_it_in_one_sentence(tmp_path: Path) -> None:
    def work(world: World) -> Any:
        world.add([0.0])
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
