"""`fae eval guidance-search` knows which generators of this repository guide in an interval of times."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, FolderInUse
from fae_core.files import hold
from fae_diffusion import LightningDiT, MMDiT, SiT
from fae_eval.cli import app
from fae_eval.studies.guidance_plan import GuidancePlan
from fae_flow import STARFlow


@pytest.mark.parametrize("generator", [SiT, LightningDiT, MMDiT])
def test_diffusion_models_are_guided_in_the_papers_interval(generator) -> None:
    assert GuidancePlan().times(generator) == (0.0, 0.7)


def test_a_flow_is_guided_everywhere() -> None:
    assert GuidancePlan().times(STARFlow) is None
    with pytest.raises(FAEError, match="has no interval of times"):
        GuidancePlan(interval=(0.0, 0.7)).times(STARFlow)


def test_mistakes_are_reported_before_anything_is_loaded(tmp_path) -> None:
    from typer.testing import CliRunner

    given = ["guidance-search", "--generator", "cifar10", "--decoder", "cifar10", "--reference", "none"]
    for more, reason in (
        (["--resume"], "--resume needs --out"),
        (["--interval", "0.7"], "takes LOW,HIGH"),
        (["--interval", "0.7,0.1"], "within"),
        (["--high", "1"], "2 to 1000"),
        (["--set", "guidance=2"], "what is searched"),
        (["--set", "stepz=2"], "unknown sampling option 'stepz'"),
        (["--sampling", "slow"], "sampling"),
    ):
        outcome = CliRunner().invoke(app, [*given, *more])
        assert isinstance(outcome.exception, FAEError) and reason in str(outcome.exception), outcome.exception
        assert "\n" not in str(outcome.exception)


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_a_record_that_another_command_writes_is_not_continued(option: str, tmp_path: Path) -> None:
    """Each of the two would save it after every scale, without what the other one has measured."""
    record = tmp_path / "search.json"
    given = ["--generator", "cifar10", "--decoder", "cifar10", "--reference", "none", "--out", str(record), option]
    with ThreadPoolExecutor(1) as other, ExitStack() as held:
        other.submit(held.enter_context, hold(record)).result()
        with pytest.raises(FolderInUse, match=r"search\.json is in use"):
            invoke(["eval", "guidance-search", *given])
        other.submit(held.close).result()
