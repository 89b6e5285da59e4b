"""`fae eval ...`: each command's help has an example, files are not overwritten, mistakes raise one-line errors."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch
from typer.testing import CliRunner

from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, FolderInUse, OutputExists
from fae_core.files import hold
from fae_core.latent_store import write_store
from fae_eval import Result
from fae_eval.cli import app
from fae_eval.cli.measure import named_samples
from fae_eval.cli.pictures import choose_images, queries_of
from fae_eval.results import FLOOR
from fae_eval.studies.comparison import higher_is_better

COMMANDS = (
    "generation",
    "convergence",
    "frechet",
    "guidance-search",
    "reconstruction",
    "clip-score",
    "retrieval",
    "similarity",
    "matching",
    "pca",
    "probe",
    "report",
    "pack",
    "coco",
)
NOT_COMPARED = {"", "images", "mean token of", "dimensions"}  # names, counts and sizes in tables


@pytest.fixture
def run(monkeypatch, extractor, fae, tmp_path):
    """Runs a command with the tiny extractor and tokenizer in place of loaded ones; mistakes are raised as they are."""
    monkeypatch.setenv("FAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fae_eval.studies.generation.load_extractor", lambda *_, **__: extractor)
    monkeypatch.setattr("fae_eval.studies.reconstruction.load_extractor", lambda *_, **__: extractor)
    monkeypatch.setattr("fae_core.load_tokenizer", lambda *_, **__: fae, raising=False)
    monkeypatch.setattr("fae_core.models.stored.found_on_hub", lambda _: True)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object) -> str:
        outcome = CliRunner().invoke(app, [str(a) for a in arguments])
        if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
            raise outcome.exception
        assert outcome.exit_code == 0, outcome.output
        return outcome.output

    return invoke


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command):
    assert "Example: fae eval" in CliRunner().invoke(app, [command, "--help"]).output


def test_every_command_writes_a_record_and_the_report_shows_them_all(run, photographs, tmp_path):
    real, made, out = photographs("real"), photographs("made", seed=1), tmp_path / "demo" / "results"
    said = run("generation", "--samples", f"flow={made}", "--reference", real, "--floor", made, "--out", out,
               "--metrics", "fid,sfid,is,pr,dc,kid")  # fmt: skip
    assert f"wrote {out / 'generation.json'}" in said
    assert f"next: fae eval report {tmp_path / 'demo'}" in said
    run("frechet", "--samples", made, "--reference", real, "--out", out)
    run("reconstruction", "--model", "test/colours", "--data", real, "--out", out)
    for command in ("similarity", "matching", "pca"):
        run(command, "--model", "test/colours", "--data", real, "--out", out)
    run("probe", "--model", "test/colours", "--data", real, "--out", out)
    run("probe", "--train", "--model", "test/colours", "--data", real, "--out", out)
    records = [Result.load(path) for path in out.glob("*.json")]
    for column in {column for record in records for column in record.columns} - NOT_COMPARED:
        higher_is_better(column)  # is known, so that `fae eval compare` names the best variant
    kinds = {record.kind for record in records}
    assert kinds == {"generation", "reconstruction", "similarity", "matching", "pca", "probe"}
    assert "report.html" in run("report", tmp_path / "demo")
    page = (tmp_path / "demo" / "report.html").read_text()
    for title in ("Patch similarity", "Patch matching", "Principal components", "Zero-shot probe", "FD-pixels"):
        assert title in page
    run("report", tmp_path / "demo", "--title", "Once more")  # a report is replaced, somebody's own page is not
    assert "Once more" in (tmp_path / "demo" / "report.html").read_text()
    (tmp_path / "demo" / "report.html").write_text("my own analysis")
    with pytest.raises(OutputExists):
        run("report", tmp_path / "demo")
    assert (tmp_path / "demo" / "report.html").read_text() == "my own analysis"


def test_stores_of_latents_are_points_of_a_convergence(run, fae, photographs, tmp_path) -> None:
    for step in (10, 20):
        images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        write_store(tmp_path / f"latents-{step}", fae.spec, fae.encode(images))
    samples = [word for step in (10, 20) for word in ("--samples", f"{step}={tmp_path}/latents-{step}")]
    arguments = ("convergence", *samples, "--reference", photographs("real"), "--out", tmp_path / "c.json")
    with pytest.raises(FAEError, match="--decoder"):
        run(*arguments)
    run(*arguments, "--decoder", "test/colours")
    assert [row[1] for row in Result.load(tmp_path / "c.json").rows] == [10, 20]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--test-images", "{real}"), "--test-images is for a probe with --train"),
        (("--train", "--pool", "avg"), "--pool is for a probe without --train"),
        (("--train", "--cls", "mean"), "--cls is for a probe without --train"),
        (("--cls", "mean"), "--cls is about the class token of a --head"),
    ],
)
def test_options_that_a_probe_would_not_look_at_are_refused(run, photographs, options, complaint) -> None:
    real = photographs("real")
    with pytest.raises(FAEError, match=complaint):
        run("probe", "--model", "test/colours", "--data", real, *(option.format(real=real) for option in options))


@pytest.mark.parametrize(
    ("command", "options"),
    [
        *(("generation", option) for option in ("--count 8", "--guidance 2", "--labels equal", "--prompts p.txt")),
        *(("convergence", option) for option in ("--count 8", "--guidance 2", "--labels equal", "--seed 0")),
        ("frechet", "--count 8"),
    ],
)
def test_options_of_drawing_are_refused_where_nothing_is_drawn(run, photographs, tmp_path, command, options) -> None:
    real = photographs("real", count=3)
    (tmp_path / "p.txt").write_text("a dog")
    samples = f"1={real}" if command == "convergence" else real
    with pytest.raises(FAEError, match=f"^{options.split()[0]} is for samples that a generator draws"):
        run(command, "--samples", samples, "--reference", real, *options.split())


def test_a_seed_is_that_of_drawing_or_of_kid(run, photographs) -> None:
    real = photographs("real", count=6)
    arguments = ("generation", "--samples", real, "--reference", real, "--seed", "3", "--metrics")
    with pytest.raises(FAEError, match="--seed is for --generator, or for --metrics kid"):
        run(*arguments, "fid")
    run(*arguments, "kid")


def test_mutual_matches_are_marked_as_not_the_papers(run, photographs, tmp_path):
    out = tmp_path / "demo" / "results"
    arguments = ("matching", "--model", "test/colours", "--data", photographs("real"), "--out", out)
    run(*arguments)
    usual = json.loads((out / "matching.json").read_text())
    assert not usual["warnings"] and "normalised per channel, a choice" in usual["figures"][0]["caption"]
    assert {"select": "random", "seed": 0, "latent_scale": "normalised"}.items() <= usual["provenance"].items()
    run(*arguments, "--select", "mutual", "--latent-scale", "raw", "--overwrite")
    mutual = json.loads((out / "matching.json").read_text())
    assert "flatter" in mutual["warnings"][0] and "Not the paper's" in mutual["figures"][0]["caption"]
    assert mutual["provenance"]["latent_scale"] == "raw"
    run("report", tmp_path / "demo")
    assert "flatter every space" in (tmp_path / "demo" / "report.html").read_text()
    said = " ".join(CliRunner().invoke(app, ["matching", "--help"]).output.replace("│", " ").split())
    assert "a choice of ours" in said and "not the paper's" in said


def test_records_are_not_overwritten_unasked(run, photographs, tmp_path):
    real = photographs("real")
    arguments = ("frechet", "--samples", real, "--reference", real, "--out", tmp_path / "r.json")
    run(*arguments)
    with pytest.raises(OutputExists):
        run(*arguments)
    run(*arguments, "--overwrite")


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("generation --samples {real} --reference {real} --out results", "results/generation.json"),
        ("frechet --samples {real} --reference {real} --out r.json --overwrite", "r.json"),
        ("similarity --model test/colours --data {real} --out results", "results/similarity.png"),
        ("probe --model test/colours --data {real} --out results", "results/probe.json"),
        ("pack --samples {real} --out s.npz", "s.npz"),
        ("curves A={real} --out c.svg", "c.svg"),
        ("report {real} --out report.html", "report.html"),
    ],
)
def test_of_two_commands_that_write_a_file_the_second_is_refused_at_once(run, photographs, tmp_path, command, file):
    """Its result would replace the first one's, or be lost after all the work."""
    command = f"eval {command}".format(real=photographs("real")).split()
    with ThreadPoolExecutor(1) as other, ExitStack() as held:
        other.submit(held.enter_context, hold(tmp_path / file)).result()
        with pytest.raises(FolderInUse, match=f"{file} is in use by process"):
            invoke(command)
        other.submit(held.close).result()
    assert [path.name for path in tmp_path.iterdir()] == ["real"]


@pytest.mark.parametrize(
    ("command", "picture"),
    [("similarity", "similarity.png"), ("reconstruction", "reconstruction.png"), ("compare", "comparison.svg")],
)
def test_pictures_beside_a_record_are_not_overwritten_unasked(run, photographs, tmp_path, command, picture) -> None:
    out = tmp_path / "results"
    out.mkdir()
    (out / picture).write_text("mine")
    for name in ("a", "b"):
        Result("generation", name, {"columns": ["", "FID"], "rows": [[name, 2.5]]}).save(tmp_path / f"{name}.json")
    arguments = (f"A={tmp_path}/a.json", f"B={tmp_path}/b.json")
    if command != "compare":
        arguments = ("--model", "test/colours", "--data", photographs("real"))
    with pytest.raises(OutputExists, match=picture):
        run(command, *arguments, "--out", out)
    assert (out / picture).read_text() == "mine"
    run(command, *arguments, "--out", out, "--overwrite")


def test_reconstructions_of_images_that_cannot_be_read_are_left_out(run, photographs, tmp_path) -> None:
    real = photographs("real", count=3)
    (real / "red" / "broken.png").write_bytes(b"no image")
    run("reconstruction", "--model", "test/colours", "--data", real, "--out", tmp_path / "r.json")
    images = Result.load(tmp_path / "r.json").provenance["images"]
    assert images["count"] == 3 and images["source"] == str(real)


def test_pack_writes_what_other_evaluators_read(run, photographs, tmp_path):
    real = photographs("real")
    run("pack", "--samples", real, "--out", tmp_path / "s.npz")
    run("frechet", "--samples", tmp_path / "s.npz", "--reference", real)
    with pytest.raises(OutputExists):
        run("pack", "--samples", real, "--out", tmp_path / "s.npz")
    with pytest.raises(FAEError, match=r"end in \.npz"):
        run("pack", "--samples", real, "--out", tmp_path / "s.zip")


def test_a_store_of_latents_is_decoded_wherever_images_are_measured(run, fae, photographs, tmp_path) -> None:
    """As reference, as floor, for a second extractor, and packed: the pixels are those of the samples."""
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    store, packed = write_store(tmp_path / "latents", fae.spec, fae.encode(images)).folder, tmp_path / "p.npz"
    for arguments in (("pack", "--samples", store, "--out", packed), ("frechet", "--samples", photographs("made"),
                      "--reference", store)):  # fmt: skip
        with pytest.raises(FAEError, match="holds latents; give a model folder that decodes them"):
            run(*arguments)
    run("pack", "--samples", store, "--decoder", "test/colours", "--out", packed)
    run("frechet", "--samples", packed, "--reference", store, "--floor", store, "--decoder", "test/colours",
        "--out", tmp_path / "r.json")  # fmt: skip
    facts = Result.load(tmp_path / "r.json").provenance
    assert len({facts[name]["hash"] for name in ("samples p", f"samples {FLOOR}", "reference")}) == 1


def test_samples_have_names():
    assert named_samples(["a=x/y", "x/y", "z/y"]) == {"a": "x/y", "y": "x/y", "y 2": "z/y"}
    given = ["x/samples-1.5", "x/samples-1.7/", "x/real.npz", "x/train.parquet[:9]", "shards-{0..3}.tar"]
    assert list(named_samples(given)) == ["samples-1.5", "samples-1.7", "real", "train", "shards-{0..3}"]


def test_default_images_are_one_of_each_class(photographs):
    from fae_core.images import open_images

    source = open_images(photographs("real"))
    assert [source.labels[i] for i in choose_images(source, None, 3)] == [0, 1, 2]
    assert len(set(choose_images(source, None, 7))) == 7
    first, second = choose_images(source, None, 2, same_class=True)
    assert source.labels[first] == source.labels[second]
    with pytest.raises(FAEError, match="between 0 and 23"):
        choose_images(source, "0,99", 2)
    with pytest.raises(FAEError, match="numbers"):
        choose_images(source, "a", 2)
    with pytest.raises(FAEError, match="Y,X"):
        queries_of(["0.5"], 2)
    assert queries_of(["0.1,0.2"], 2) == [(0.1, 0.2)] * 2
