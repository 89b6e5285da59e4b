"""Comparisons over seeds: hand-computed means and noise, what is as good as what and when, and what does not fit."""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path

import pytest

from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, UnknownName
from fae_eval import Result, write_report
from fae_eval.studies.comparison import (
    Group,
    compare,
    higher_is_better,
    parse_groups,
    pooled_deviation,
    read_group,
)
from fae_eval.studies.comparison_chart import comparison_chart


def curve(*values: float, steps: tuple[int, ...] = (100, 200)) -> Result:
    rows = [[f"step {s}", s, s / 10, 50, v] for s, v in zip(steps, values, strict=True)]
    return Result("convergence", "Curve", {"columns": ["", "step", "seconds", "images", "FD-x"], "rows": rows})


def single(value: float) -> Result:
    rows = [["original features", 10, 0.9], ["rebuilt features", 10, value]]
    return Result("probe", "Probe", {"columns": ["", "images", "top-1"], "rows": rows})


def test_noise_is_the_pooled_deviation_of_a_run() -> None:
    """Squared deviations 2, 2 and 8 (the pairs differ by 2, 2 and 4) over one degree of freedom each."""
    assert pooled_deviation([[1.0, 3.0], [5.0, 7.0], [0.0, 4.0], [9.0]]) == pytest.approx(math.sqrt((2 + 2 + 8) / 3))
    assert pooled_deviation([[1.0], [2.0]]) is None


def test_curves_are_compared_at_their_end_and_raced() -> None:
    fae = read_group("FAE", [curve(30.0, 10.0), curve(32.0, 12.0)])
    vae = read_group("VAE", [curve(60.0, 40.0), curve(66.0, 42.0)])
    result = compare([fae, vae], column="FD-x")
    noise = math.sqrt((2 + 2) / 2)
    assert result.table["rows"] == [
        ["FAE", 2, 11.0, pytest.approx(math.sqrt(2)), None, None],
        ["VAE", 2, 41.0, pytest.approx(math.sqrt(2)), 30.0, pytest.approx(30 / noise)],
    ]
    assert "FAE is as good as the best of VAE (41) after 100 steps." in result.notes
    assert not any("times the noise apart" in note for note in result.notes)
    back = compare([vae, fae], column="FD-x")
    assert "VAE is as good as the best of FAE (11) at none of its measured steps." in back.notes


def test_small_differences_are_marked_and_direction_counts() -> None:
    groups = [Group("a", (), ((0.50,), (0.60,))), Group("b", (), ((0.58,), (0.62,)))]
    notes = compare(groups, column="top-1", lower_is_better=False).notes
    assert "Less than 5 times the noise apart from a: b." in notes
    assert "Higher is better; the best mean is that of b." in notes


def generated(distance: float, recall: float) -> Result:
    columns = ["", "images", "FDr-x", "FD-x", "FDr", "FD-y@64", "precision", "recall"]
    return Result("generation", "G", {"columns": columns, "rows": [["a", 9, 1.0, 2.0, 1.0, distance, 0.5, recall]]})


def rebuilt(name: str, **values: float) -> Result:
    """As `fae reconstruct` writes it."""
    return Result("reconstruction", "R", {"columns": ["", name], "rows": [[k, v] for k, v in values.items()]})


def test_what_is_compared_by_default_and_which_way_is_better() -> None:
    """Of a record of generation the last column is recall, and of a reconstruction the first row PSNR."""
    groups, column = parse_groups({"a": [generated(30.0, 0.4)], "b": [generated(20.0, 0.3)]}, None, None)
    assert column == "FD-y@64" and [group.mean for group in groups] == [30.0, 20.0]
    assert "Lower is better; the best mean is that of b." in compare(groups, column=column).notes
    groups, column = parse_groups({"a": [generated(30.0, 0.4)], "b": [generated(20.0, 0.3)]}, "recall", None)
    assert "Higher is better; the best mean is that of a." in compare(groups, column=column).notes
    both = {
        "a": [rebuilt("FAE", **{"PSNR [dB]": 25.0, "SSIM": 0.7, "rFID": 0.6})],
        "b": [rebuilt("ConvVAE", **{"PSNR [dB]": 27.0, "SSIM": 0.8, "rFID": 0.9})],
    }
    groups, column = parse_groups(both, None, None)
    assert column == "rFID" and [group.mean for group in groups] == [0.6, 0.9]
    groups, column = parse_groups(both, "PSNR [dB]", None)
    assert "Higher is better; the best mean is that of b." in compare(groups, column=column).notes
    plain = {name: [rebuilt("FAE", **{"PSNR [dB]": value, "L1": 0.1})] for name, value in (("a", 25.0), ("b", 27.0))}
    assert parse_groups(plain, None, None)[1] == "PSNR [dB]"


@pytest.mark.parametrize(
    ("column", "higher"),
    [
        *((name, True) for name in ("precision", "recall", "coverage", "IS", "IS-efficientnet-lite2", "SSIM", "top-5")),
        *((name, True) for name in ("test accuracy", "CLIP score", "image to text R@1", "feature cosine")),
        *(
            (name, False)
            for name in ("FID", "FD-efficientnet-lite2@128", "FDr", "sFID", "KD-x", "LPIPS", "feature MSE")
        ),
        *((name, False) for name in ("unexplained variance", "rFID", "rFD-x", "FDr-x", "KID", "L1", "seconds")),
        *((name, None) for name in ("loss", "ISO", "recalls", "images", "FIDs", "std over runs")),
    ],
)
def test_names_say_which_way_is_better(column: str, higher: bool | None) -> None:
    if higher is not None:
        assert higher_is_better(column) is higher
        return
    with pytest.raises(FAEError, match="--higher-is-better or --lower-is-better"):
        compare([Group("a", (), ((1.0,),)), Group("b", (), ((2.0,),))], column=column)


def test_values_that_do_not_belong_together_are_named() -> None:
    """The same content from another path is the same reference."""

    def of(images: int, source: str, content: str) -> Result:
        made = table(["a", images, 2.0])
        made.provenance["reference"] = {"source": source, "hash": content}
        return made

    def warned(*records: Result) -> list[str]:
        groups, column = parse_groups({str(at): [record] for at, record in enumerate(records)}, None, None)
        return compare(groups, column=column).warnings

    assert warned(of(9, "train", "aa"), of(9, "copy/train", "aa")) == []
    fewer, other = (
        warned(of(9, "train", "aa"), of(60, "train", "aa")),
        warned(of(9, "train", "aa"), of(9, "test", "bb")),
    )
    assert len(fewer) == 1 and "different numbers of images (9, 60)" in fewer[0]
    assert len(other) == 1 and "different references: train (aa), test (bb)" in other[0]


def test_single_values_come_from_a_named_row() -> None:
    group = read_group("c32", [single(0.7), single(0.8)], "top-1", "rebuilt features")
    assert group.last == [0.7, 0.8] and group.steps == ()
    assert statistics.fmean(read_group("c32", [single(0.7)]).last) == 0.9  # the first row
    with pytest.raises(UnknownName, match="row of 'Probe'"):
        read_group("c32", [single(0.7)], "top-1", "latents")
    with pytest.raises(UnknownName, match="column of 'Probe'"):
        read_group("c32", [single(0.7)], "top-5")


def test_the_checkpoint_of_an_interruption_is_not_compared() -> None:
    group = read_group("x", [curve(9.0, 5.0, 2.0, steps=(26, 100, 200)), curve(6.0, 4.0)])
    assert (group.steps, group.runs) == ((100, 200), ((5.0, 2.0), (6.0, 4.0)))


def test_names_under_a_chart_do_not_run_into_each_other() -> None:
    names = ["32, a quarter of the steps", "32, four times the steps", "16", "x" * 40]
    drawn = comparison_chart([Group(name, (), ((1.0,), (2.0,))) for name in names], title="t", y_label="top-1")
    lines = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="middle">([^<]+)</text>', drawn)
    assert " ".join(text for _, _, text in lines).replace("x x", "xx") == " ".join(names)
    assert max(len(text) for _, _, text in lines) <= 486 / len(names) / 6.5  # the chart's width, and a letter's
    assert max(float(y) for _, y, _ in lines) < float(re.search(r'height="(\d+)"', drawn)[1])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(FAEError, match="at different steps"):
        read_group("x", [curve(1.0, 2.0), curve(1.0, 2.0, steps=(100, 300))])
    with pytest.raises(FAEError, match="at least two groups"):
        compare([Group("a", (), ((1.0,),))], column="x")
    with pytest.raises(FAEError, match="no number in every row"):
        read_group("x", [curve(1.0, None)], "FD-x")  # type: ignore[arg-type]


def test_the_command_reads_records_draws_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for seed, (low, high) in enumerate([(10.0, 40.0), (12.0, 42.0)]):
        curve(30.0, low).save(tmp_path / "results" / f"fae-{seed}.json")
        curve(60.0, high).save(tmp_path / "results" / f"vae-{seed}.json")
    groups = [f"FAE={tmp_path}/results/fae-*.json", f"VAE & co={tmp_path}/results/vae-*.json"]
    out = tmp_path / "results" / "fae-vae.json"
    invoke(["eval", "compare", *groups, "--title", "Two <spaces>", "--out", str(out)])
    assert "VAE & co" in capsys.readouterr().out
    assert Result.load(out).table["rows"][1][4] == 30.0
    drawn = out.with_suffix(".svg").read_text()
    assert drawn.count("<polyline") == 2 and "Two &lt;spaces&gt;" in drawn and "VAE &amp; co (2 runs)" in drawn
    page = write_report([tmp_path / "results"], tmp_path / "report.html").read_text()
    assert "data:image/svg+xml" in page and "cannot be read" not in page
    with pytest.raises(FAEError, match="there is no record"):
        invoke(["eval", "compare", f"A={tmp_path}/none-*.json", "B=x"])
    with pytest.raises(FAEError, match="NAME=RECORDS"):
        invoke(["eval", "compare", "A", "B"])
    with pytest.raises(FAEError, match="two groups are named 'A'"):
        invoke(["eval", "compare", "A=x", "A=y"])


def test_the_folders_in_a_folder_are_variants(tmp_path: Path) -> None:
    for seed, (low, high) in enumerate([(10.0, 40.0), (12.0, 42.0)]):
        curve(30.0, low).save(tmp_path / "results" / "FAE [new]" / f"{seed}.json")
        curve(60.0, high).save(tmp_path / "results" / "VAE" / f"{seed}.json")
    (tmp_path / "results" / "empty").mkdir()
    out = tmp_path / "results" / "compared.json"
    invoke(["eval", "compare", str(tmp_path / "results"), "--out", str(out)])
    rows = Result.load(out).table["rows"]
    assert [row[:3] for row in rows] == [["FAE [new]", 2, 11.0], ["VAE", 2, 41.0]]


def test_single_values_are_drawn_as_dots(tmp_path: Path) -> None:
    for name, value in (("a-0", 0.5), ("a-1", 0.6), ("b-0", 0.7)):
        single(value).save(tmp_path / f"{name}.json")
    groups = [f"a={tmp_path}/a-*.json", f"b={tmp_path}/b-*.json"]
    options = ["--row", "rebuilt features", "--higher-is-better", "--out", str(tmp_path / "c.json")]
    invoke(["eval", "compare", *groups, *options])
    assert (tmp_path / "c.svg").read_text().count("<circle") == 3


def test_curves_of_runs_share_an_axis(tmp_path: Path) -> None:
    for name, steps in (("short", 10), ("long", 400)):
        (tmp_path / name).mkdir()
        lines = [f'{{"step": {s}, "loss": {1 / s}}}\n' for s in range(1, steps + 1)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(lines))
    out, runs = tmp_path / "c.svg", [f"Ia={tmp_path}/short", f"Ib={tmp_path}/long"]
    invoke(["eval", "curves", *runs, "--title", "Loss", "--out", str(out)])
    drawn = out.read_text()
    lines = re.findall(r'<polyline points="([^"]*)"', drawn)
    assert [len(line.split()) for line in lines] == [10, 100]
    ends = {line.split()[-1].split(",")[0] for line in lines}
    assert len(ends) == 1 and "% of the run" in drawn
    with pytest.raises(UnknownName, match="kl"):
        invoke(["eval", "curves", *runs, "--value", "kl", "--out", str(tmp_path / "d.svg")])
    (tmp_path / "short" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.raises(FAEError, match="has 1 finite values of loss, and a curve needs two"):
        invoke(["eval", "curves", *runs, "--out", str(tmp_path / "d.svg")])


def table(*rows: list, columns: tuple[str, ...] = ("", "images", "FD-x")) -> Result:
    return Result("generation", "Samples", {"columns": list(columns), "rows": list(rows)})


def test_rows_meet_by_name_not_by_place() -> None:
    floor = ["real vs real (floor)", 9, 0.1]
    # One row beside the floor is what was measured, whatever its name and place.
    group = read_group("x", [table(["seed 0", 9, 1.0], floor), table(floor, ["seed 1", 9, 3.0])])
    assert group.last == [1.0, 3.0]
    records = [table(["a", 9, 1.0], ["b", 9, 5.0]), table(["b", 9, 6.0], ["a", 9, 2.0])]
    assert read_group("x", records).last == [1.0, 2.0]
    with pytest.raises(UnknownName, match="row of 'Samples'"):
        read_group("x", [records[0], table(["c", 9, 1.0], ["d", 9, 1.0])])
    with pytest.raises(FAEError, match="several rows"):
        read_group("x", [table(["a", 9, 1.0], ["a", 9, 2.0])])
    with pytest.raises(FAEError, match="several columns"):
        read_group("x", [table(["a", 1.0, 2.0], columns=("", "FD-x", "FD-x"))])


@pytest.mark.parametrize("cell", [None, True, "1", [1.0], float("nan"), float("inf"), 10**400, 1e308])
def test_a_cell_that_is_no_number_is_not_averaged(cell: object) -> None:
    with pytest.raises(FAEError, match=r"no number in every row|no column of numbers"):
        read_group("x", [table(["a", 9, cell])])
    with pytest.raises(FAEError, match="no number in every row"):
        read_group("x", [table(["a", cell, 2.0], columns=("", "step", "FD-x"))])


def test_journals_of_any_content_make_a_curve_or_one_line(tmp_path: Path) -> None:
    good = '{"step": 1, "loss": 2.0}\n{"step": 9, "loss": 1.0}\n'
    run, out = tmp_path / "run", tmp_path / "c.svg"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 0, "loss": NaN}\n' + good + '{"step": 12, "lo')  # cut off by a crash
    invoke(["eval", "curves", f"A={run}", "--out", str(out), "--overwrite"])
    assert len(re.search(r'<polyline points="([^"]*)"', out.read_text())[1].split()) == 2
    for line in ('{"step": "a", "loss": 1}', '{"step": 3, "loss": "x"}', "[1]", "7", "[" * 9999, '{"step": null}',
                 '"step"',
                 f'{{"step": 4, "loss": 1{"0" * 400}}}', "\ud800"):  # fmt: skip
        (run / "metrics.jsonl").write_bytes((line + "\n" + good).encode(errors="surrogatepass"))
        with pytest.raises(FAEError) as told:
            invoke(["eval", "curves", f"A={run}", "--out", str(out), "--overwrite"])
        assert "\n" not in str(told.value)
    (run / "metrics.jsonl").write_text('{"step": 0, "loss": 1}\n{"step": 0, "loss": 2}\n')
    with pytest.raises(FAEError, match="logged no step"):
        invoke(["eval", "curves", f"A={run}", "--out", str(out), "--overwrite"])


def test_means_are_related_to_the_floor_of_their_own_records() -> None:
    def at(*values: float, floor: float) -> Result:
        rows = [[f"step {s}", s, v / floor, v] for s, v in zip((100, 200), values, strict=True)]
        return Result("convergence", "Curve", {"columns": ["", "step", "FDr", "FD-x"], "rows": rows})

    near = read_group("near", [at(30.0, 12.0, floor=4.0), at(30.0, 24.0, floor=5.0)])
    far = read_group("far", [at(60.0, 36.0, floor=4.0)])
    assert near.floor == pytest.approx(4.5) and far.floor == pytest.approx(4.0)
    result = compare([near, far], column="FD-x")
    assert result.columns[2:4] == ["FDr", "FD-x"]
    assert [row[2:4] for row in result.rows] == [[pytest.approx(4.0), 18.0], [pytest.approx(9.0), 36.0]]
    assert any("that of real images, 4 to 4.5" in note for note in result.notes)
    assert "(real images: 4 to 4.5)" in comparison_chart([near, far], title="t", y_label="FD-x")
    # Another column has no floor, and without one of every group there is no column.
    assert read_group("seconds", [at(1.0, 2.0, floor=1.0)], "step").floor is None
    assert "FDr" not in compare([near, read_group("old", [curve(1.0, 2.0)])], column="FD-x").columns
