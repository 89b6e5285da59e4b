"""Steps in parallel: each waits for what it reads, and after a failure the others still end and are recorded."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from fae_core.cli import demo
from fae_core.cli.main import main
from fae_core.errors import FAEError
from fae_core.files import require_new_folder
from fae_core.plugins import load_plugins
from fae_core.recipes import jobs
from fae_core.recipes.jobs import needs
from fae_core.recipes.recipe import load_recipe, run_recipe
from fae_core.recipes.step import run_step


def test_a_step_needs_the_earlier_ones_whose_results_it_names() -> None:
    commands = {
        "features": "encode --data images --out run/features",
        "a-0": "train diffusion --latents run/features --out run/a-0",
        "a-1": "train diffusion --latents run/other --set data.path=run/features/shards --out run/a-1",
        "b": "train diffusion --latents elsewhere --out run/b",
        "curve-0": "eval convergence --generator run/a-0 --out run/results/a-0.json",
        "curve-1": "eval convergence --generator run/a-1 --out=run/results/a-1.json",
        "compare": "eval compare A=run/results/a-*.json --out run/compared.json",
        "first": "eval compare A=run/results/*-0.json --out run/first.json",
        "report": "eval report run --out run/report.html",
    }
    found = needs({name: command.split() for name, command in commands.items()})
    assert {name: sorted(wanted) for name, wanted in found.items()} == {
        "features": [],
        "a-0": ["features"],
        "a-1": ["features"],
        "b": [],
        "curve-0": ["a-0"],
        "curve-1": ["a-1"],
        "compare": ["curve-0", "curve-1"],
        "first": ["curve-0"],
        "report": ["a-0", "a-1", "b", "compare", "curve-0", "curve-1", "features", "first"],
    }


@pytest.mark.parametrize("out", ["run[1]", "runs/lr=0.1", "[ab]=c/[!x]"])
@pytest.mark.parametrize(
    "word",
    [
        *("{out}/a", "{out}/a/train", "{out}/a[:4]", "{out}/a/all.npz[-9::2]", "--data={out}/a[1:]"),
        *("weak={out}/a", "--set=weak={out}/a", "{here}/{out}/a", "./there/../{out}/a", "A={here}/{out}/*[:2]"),
    ],
)
def test_a_path_is_found_however_it_is_written_and_whatever_signs_it_has(word: str, out: str) -> None:
    read = word.format(out=out, here=Path.cwd())
    commands = {"a": ["x", "--out", f"{out}/a"], "b": ["x", "--out", f"other/{out}/b"], "c": ["x", read, "--out", "c"]}
    assert needs(commands)["c"] == {"a"}
    commands["a"] = ["x", "--out", f"{Path.cwd()}/elsewhere/../{out}/a"]
    assert needs(commands)["c"] == {"a"}


def test_in_the_demo_two_steps_can_always_run_at_once() -> None:
    recipe = load_recipe(Path(demo.__file__).parents[1] / "recipes" / "demo.yaml")
    wanted = needs({step.name: recipe.command(step, Path("run")) for step in recipe.steps})
    assert wanted["autoencoder"] == wanted["pixel-noise"] == {"crops", "features"}  # stage Ib sees these alone
    assert wanted["encode"] == {"crops", "features", "autoencoder"}  # latents do not wait for a pixel decoder
    assert wanted["tokenizer"] == {"crops", "features", "autoencoder", "pixel-noise"}
    assert wanted["diffusion"] == wanted["flow"] == {"encode"}
    assert wanted["samples-diffusion"] == {"diffusion", "tokenizer"}
    assert wanted["samples-flow"] == {"flow", "tokenizer"}
    assert wanted["reconstruct"] == {"crops", "tokenizer"}
    assert wanted["report"] == wanted.keys() - {"report"}


def test_the_demo_runs_one_step_at_a_time_on_one_core() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert demo._jobs_that_fit() == 1
    finally:
        os.sched_setaffinity(0, cores)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    folder = tmp_path / "photos" / "grey"
    folder.mkdir(parents=True)
    Image.linear_gradient("L").resize((60, 50)).convert("RGB").save(folder / "a.png")
    return folder.parent


def written(tmp_path: Path, photo: Path, second: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "title: At once\nsteps:\n"
        f'  - {{name: first, run: "crops {photo} --out {{out}}/first --count 2 --size 16"}}\n'
        f'  - {{name: second, run: "crops {second} --out {{out}}/second --count 2 --size 16"}}\n'
        f'  - {{name: third, run: "crops {{out}}/second/train --out {{out}}/third --count 3 --size 8"}}\n'
    )
    return path


@pytest.mark.slow
def test_steps_at_once_do_what_one_after_the_other_does(photo: Path, tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, photo, str(photo)))
    one, many = tmp_path / "one", tmp_path / "many"
    run_recipe(recipe, one)
    record = run_recipe(recipe, many, jobs=3)
    assert sorted(entry["name"] for entry in record) == ["first", "second", "third"]
    assert record[-1]["name"] == "third"  # it reads the second's
    assert json.loads((many / "steps.json").read_text())["steps"] == record
    pictures = [path.relative_to(one) for path in sorted(one.rglob("*.png"))]
    assert len(pictures) == 7
    assert all((many / path).read_bytes() == (one / path).read_bytes() for path in pictures)


@pytest.mark.slow
def test_a_failure_is_named_and_the_rest_is_kept_for_resume(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(FAEError, match=r"step second ended with status 2: error: .*nowhere.*logs/second\.log"):
        run_recipe(load_recipe(written(tmp_path, photo, str(tmp_path / "nowhere"))), out, jobs=2)
    stored = json.loads((out / "steps.json").read_text())["steps"]
    assert [entry["name"] for entry in stored] == ["first"]  # what ran beside it was waited for
    (out / "first" / "marker").touch()
    record = run_recipe(load_recipe(written(tmp_path, photo, str(photo))), out, jobs=2, resume=True)
    assert sorted(entry["name"] for entry in record) == ["first", "second", "third"]
    assert (out / "first" / "marker").is_file()


@pytest.mark.slow
def test_what_running_steps_told_last_is_shown(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_TELL_SECONDS", 0.0)
    run_recipe(load_recipe(written(tmp_path, photo, str(photo))), tmp_path / "run", jobs=2)
    lines = capsys.readouterr().err.splitlines()
    assert any(re.match(r"first, \d+ s(: .*)?; second, \d+ s", line) for line in lines)


COMMANDS = """
import os
import shutil
import signal
import sys
import time
import typer
from contextlib import suppress

app = typer.Typer()

@app.command()
def end(status: int) -> None:
    raise typer.Exit(status)

@app.command()
def leave(why: str, out: str = "") -> None:
    sys.exit(int(why) if why.isdigit() else why)

@app.command()
def tell() -> None:
    print(os.getpid(), repr(sys.stdin.read()))

@app.command()
def vanish(status: int) -> None:
    os._exit(status)

@app.command()
def clear(folder: str, out: str = "") -> None:
    shutil.rmtree(folder)
    time.sleep(0.5)

@app.command()
def kill(step: str, folder: str, out: str = "") -> None:
    while f'"{step}"' not in open(f"{folder}/steps.json").read():
        time.sleep(0.01)
    number = int(open(f"{folder}/logs/{step}.log").read().split()[0])
    os.kill(number, signal.SIGKILL)
    with suppress(FileNotFoundError):  # its end has been noticed
        while open(f"/proc/{number}/stat").read().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)

def count(number: int) -> int:
    return number
"""


@pytest.fixture
def others_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands of somebody else's package, installed for this process and for those that it starts."""
    (tmp_path / "theirs.py").write_text(COMMANDS)
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fae.commands]\ntheirs = theirs:app\ncount = theirs:count\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    load_plugins.cache_clear()
    yield
    load_plugins.cache_clear()


@pytest.mark.parametrize(
    ("command", "status"),
    [("theirs end 0", 0), ("theirs end 3", 3), ("theirs leave 0", 0), ("theirs leave 4", 4), ("count 5", 0)],
)
def test_a_command_ends_with_the_status_that_it_names(command: str, status: int, others_commands: None) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    assert stopped.value.code == status


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("last", "told"),
    [("theirs end 3", "step last ended with status 3"), ("theirs leave 'no such colour'", "no such colour")],
)
def test_a_step_is_done_where_its_command_ended_with_status_0(
    last: str, told: str, jobs: int, others_commands: None, tmp_path: Path
) -> None:
    steps = {"end": "theirs end 0", "leave": "theirs leave 0", "count": "count 5", "last": last}
    (tmp_path / "recipe.yaml").write_text(json.dumps({"steps": [{"name": n, "run": c} for n, c in steps.items()]}))
    with pytest.raises(FAEError, match=told):
        run_recipe(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out", jobs=jobs)
    done = json.loads((tmp_path / "out" / "steps.json").read_text())["steps"]
    assert [entry["name"] for entry in done] == ["end", "leave", "count"]


@pytest.mark.slow
def test_steps_at_once_share_processes_that_stay(others_commands: None, tmp_path: Path) -> None:
    steps = [{"name": str(number), "run": "theirs tell"} for number in range(6)]
    (tmp_path / "recipe.yaml").write_text(json.dumps({"steps": steps}))
    run_recipe(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out", jobs=2)
    told = [(tmp_path / "out" / "logs" / f"{number}.log").read_text().split() for number in range(6)]
    assert all(read == "''" for _, read in told)  # nothing that is meant for the process that runs them
    assert len({process for process, _ in told}) == 2


@pytest.mark.slow
def test_each_step_has_a_log_of_its_own(others_commands: None, tmp_path: Path) -> None:
    steps = [{"name": name, "run": "theirs leave 0"} for name in ("a/b", "a-b", "a%2Fb", "../a")]
    (tmp_path / "recipe.yaml").write_text(json.dumps({"steps": steps}))
    run_recipe(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out", jobs=2)
    logs = sorted(path.name for path in (tmp_path / "out" / "logs").iterdir())
    assert logs == ["..%2Fa.log", "a%252Fb.log", "a%2Fb.log", "a-b.log"]
    require_new_folder(tmp_path / "out", overwrite=True, kind="recipe")  # they are FAE's own


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_process_that_is_killed_while_it_waits_is_replaced(others_commands: None, tmp_path: Path) -> None:
    # The first one's process waits while the second step runs. The other two wait for that one, then need both.
    commands = {"first": "theirs tell", "second": f"theirs kill first {tmp_path}/out --out {{out}}/x"}
    commands |= {name: "theirs leave 0 --out {out}/x/" + name for name in ("third", "fourth")}
    (tmp_path / "recipe.yaml").write_text(json.dumps({"steps": [{"name": n, "run": c} for n, c in commands.items()]}))
    record = run_recipe(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out", jobs=2)
    assert len(record) == len(commands)


@pytest.mark.slow
def test_steps_go_on_where_somebody_removes_their_logs(
    others_commands: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_TELL_SECONDS", 0.0)
    logs = tmp_path / "out" / "logs"
    commands = {"first": f"theirs clear {logs} --out {{out}}/x", "second": "theirs leave 0 --out {out}/x/y"}
    (tmp_path / "recipe.yaml").write_text(json.dumps({"steps": [{"name": n, "run": c} for n, c in commands.items()]}))
    assert len(run_recipe(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out", jobs=2)) == 2
    assert [path.name for path in logs.iterdir()] == ["second.log"]


@pytest.mark.slow
@pytest.mark.parametrize("status", [0, 5])
def test_a_step_that_ends_its_process_has_not_ended(status: int, others_commands: None, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps({"steps": [{"name": "first", "run": f"theirs vanish {status}"}]}))
    with pytest.raises(FAEError, match=f"step first ended with status {status or 1}: it printed nothing"):
        run_recipe(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out", jobs=2)


def test_what_was_compiled_for_a_step_is_forgotten_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    compiled = []

    def backend(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        compiled.append(module)
        return module

    doubled = torch.compile(lambda x: 2 * x, backend=backend)
    for _ in range(2):
        doubled(torch.ones(2))
    assert len(compiled) == 1
    run_step(["--version"])
    doubled(torch.ones(2))
    assert len(compiled) == 2
