"""The report: everything found is shown, nothing is fetched, damage is named, and a real browser draws it."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image

from fae_core.errors import DataError, InvalidFile
from fae_eval import Result, write_report
from fae_eval.report.paper import REFERENCE


def picture(path, color=(200, 40, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 32), color).save(path)


@pytest.fixture
def demo(tmp_path):
    """A folder of runs as `fae demo` leaves it, in miniature."""
    root = tmp_path / "demo"
    for name in ("autoencoder", "diffusion"):
        (root / name).mkdir(parents=True)
        (root / name / "config.yaml").write_text(f"name: {name}\nsecret: <script>alert(1)</script>\n")
        rows = [{"step": s, "seconds": s / 10, "loss": 1 / s, "kl": 2.0, "learning_rate": 0.1} for s in range(1, 60)]
        (root / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 60, "lo')
    for name in ("samples-diffusion", "samples-flow"):
        picture(root / name / "grid.png")
        (root / name / "samples.json").write_text(json.dumps({"job": {"count": 4, "seed": 0}, "labels": [0, 1]}))
    steps = [{"name": "autoencoder", "command": "fae train autoencoder", "seconds": 6.0}]
    (root / "steps.json").write_text(json.dumps({"title": "A demo", "steps": steps}))
    results = root / "results"
    picture(results / "rec.png")
    picture(results / "sim.png")
    Result(
        "reconstruction", "Rebuilt", {"columns": ["", "PSNR [dB]"], "rows": [["x", 26.61]]}, [{"path": "rec.png"}]
    ).save(results / "a.json")
    Result("similarity", "Maps", None, [{"path": "sim.png", "caption": "cosine"}]).save(results / "b.json")
    Result(
        "generation",
        "Distance",
        {
            "columns": ["", "images", "FD-x"],
            "rows": [["diffusion", 4, 12.5], ["real vs real (floor)", 4, float("nan")]],
        },
        warnings=["only four images"],
        provenance={"command": "fae eval", "machine": "m"},
    ).save(results / "c.json")
    return root


def test_everything_is_on_the_page_in_order_and_nothing_is_fetched(demo, tmp_path):
    page = write_report(
        [demo], tmp_path / "r.html", note="It shows this.\n\nIt does not show that.", paper=True
    ).read_text()
    order = [
        "A demo", "It does not show that.", "Reconstructions", "samples-diffusion", "samples-flow", "Maps", "<svg",
        "Numbers",
        "only four images", "the paper&#x27;s", "Settings", "How to reproduce", "fae train autoencoder",
    ]  # fmt: skip
    body = page[page.index("<h1>") :].replace("&#39;", "&#x27;")
    body = re.sub(r"<nav>.*?</nav>", "", body)
    positions = [body.index(part) for part in order]
    assert positions == sorted(positions)
    assert page.count("data:image/png;base64,") == 4
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)\w", re.sub(r"base64,[^\"]+", "", page))


def test_the_papers_numbers_stand_only_where_asked_for(demo, tmp_path):
    page = write_report([demo], tmp_path / "r.html").read_text()
    assert "SiT-XL" not in page and "PAE" not in page


def test_published_numbers_name_their_source_and_are_not_taken_for_measurements(demo, tmp_path):
    page = re.sub(r"<[^>]+>", "|", write_report([demo], tmp_path / "r.html", paper=True).read_text())
    page = re.sub(r"[|\s]*\|[|\s]*", "|", page)
    for row in (
        "STARFlow on FAE (DINOv2-g/14)|2.67|",
        "RAE (DiTDH-XL)|800|1.13|yes|arXiv:2510.11690",
        "RAEv2|80|1.06|not stated there|arXiv:2605.18324",
        "GAE (LightningDiT-XL)|80|1.82|none|arXiv:2603.10365",
        "GAE (LightningDiT-XL)|800|1.31|none|arXiv:2603.10365",
        "PAE (LightningDiT-XL)|80|1.27|",
        "PAE (LightningDiT-XL)|more|1.03|",
        "SiT-XL/2|1400|2.06|1.5|arXiv:2401.08740",
        "LightningDiT-XL on VA-VAE|800|1.35|6.7, interval|repository hustvl/LightningDiT",
        "REPA (SiT-XL/2)|800|1.42|yes|repository sihyun-yu/REPA",
        "RAEv2, 7 layers|80|1.65|none|raev2.github.io",
        "VFM-VAE (REG, SiT-XL/1)|640|1.62|none|arXiv:2510.18457",
        "STARFlow, 1.4 B|",
        "STARFlow on FAE|400|2.67|",
    ):
        assert row in page, row
    assert page.count("published, not measured here") == len(REFERENCE)


def test_a_single_run_has_a_report_of_its_own(demo, tmp_path):
    page = write_report([demo / "diffusion"], tmp_path / "r.html").read_text()
    assert "<svg" in page
    assert "autoencoder" not in page


def test_rows_named_after_steps_become_a_convergence_curve(tmp_path):
    rows = [[f"step-{step}", 10, 100.0 / step] for step in (3000, 1000, 2000)]
    Result("generation", "Over time", {"columns": ["", "images", "FD-x"], "rows": rows}).save(tmp_path / "r.json")
    page = write_report([tmp_path], tmp_path / "r.html").read_text()
    assert "FD-x over training" in page
    points = re.search(r'polyline points="([^"]+)"', page)[1].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights)  # falling values go down the page


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("generation", ["FAE, 64 epochs", "FAE, 80 epochs", "FAE, 800 epochs"]),
        ("generation", ["16 channels", "32 channels", "64 channels"]),
        ("generation", ["step-1000 2", "step-2000 2", "FAE step-3000", "step-" + "9" * 5000]),
        ("guidance-search", ["scale 1.1", "scale 1.2", "scale 1.3"]),
        ("comparison", ["seed 0", "seed 1", "seed 2"]),
    ],
)
def test_rows_that_only_end_in_a_number_are_no_curve(kind, names, tmp_path):
    rows = [[name, 10, 1.0 + number] for number, name in enumerate(names)]
    Result(kind, "Variants", {"columns": ["", "images", "FID"], "rows": rows}).save(tmp_path / "r.json")
    page = write_report([tmp_path], tmp_path / "r.html").read_text()
    assert names[0] in page and "over training" not in page and "<polyline" not in page


def cards(page):
    """(value, label, title) of each number at the top of a page."""
    found = re.findall(r'<div class="card"><b>([^<]*)</b><span>([^<]*)</span>(?:<span>([^<]*)</span>)?</div>', page)
    assert len(found) == page.count('class="card"')
    return found


def test_no_number_at_the_top_is_taken_for_that_of_another_record(tmp_path):
    for number, title in enumerate(("guided", "unguided")):
        rows = [[name, 10, value + number] for name, value in (("FAE", 1.25), ("shifted", 2.5))]
        rows += [["VAE", 10, 5.0]] if number else []
        table = {"columns": ["", "images", "FID"], "rows": rows}
        Result("generation", title, table).save(tmp_path / f"{title}.json")
    assert cards(write_report([tmp_path], tmp_path / "r.html").read_text()) == [
        ("1.250", "FID, FAE", "guided"),
        ("2.500", "FID, shifted", "guided"),
        ("2.250", "FID, FAE", "unguided"),
        ("3.500", "FID, shifted", "unguided"),
        ("5.000", "FID, VAE", ""),
    ]


def test_records_of_one_title_and_runs_of_one_name_are_told_apart(demo, tmp_path):
    for channels in (32, 64):
        result = Result("reconstruction", "Images through FAE", values={"PSNR [dB]": channels / 2}, notes=["n"])
        result.save(tmp_path / "t" / f"fae-{channels}" / "results" / "reconstruction.json")
    page = write_report([tmp_path / "t"], tmp_path / "r.html").read_text()
    titles = [f"Images through FAE (fae-{channels}/results/reconstruction.json)" for channels in (32, 64)]
    assert cards(page) == [("16.00", "PSNR [dB]", titles[0]), ("32.00", "PSNR [dB]", titles[1])]
    assert [title for title in re.findall("<h3>([^<]*)</h3>", page) if "FAE" in title] == titles
    shutil.copytree(demo, tmp_path / "other")
    roots = [tmp_path / "demo", tmp_path / "other"]
    page = write_report([root / "diffusion" for root in roots], tmp_path / "r.html").read_text()
    assert "diffusion (demo/diffusion)" in page and "diffusion (other/diffusion)" in page
    page = write_report(roots, tmp_path / "r.html").read_text()
    assert "samples-flow (demo/samples-flow)" in page and "samples-flow (other/samples-flow)" in page


def test_damage_is_named_and_the_rest_is_shown(demo, tmp_path):
    (demo / "results" / "rec.png").write_bytes(b"damaged")
    (demo / "results" / "d.json").write_text(
        '{"kind": "x", "title": "t", "table": {"columns": ["a"], "rows": [[1, 2]]}}'
    )
    (demo / "samples-flow" / "grid.png").unlink()
    page = write_report([demo], tmp_path / "r.html").read_text()
    for part in ("rec.png cannot be read", "one cell per column", "samples-flow has no grid.png", "samples-diffusion"):
        assert part in page


def test_a_strip_is_shown_column_by_column(tmp_path):
    strip = Image.new("RGB", (70, 40), "white")
    for number in range(3):
        strip.paste((80 * number, 0, 0), (10 + 20 * number, 0, 30 + 20 * number, 40))
    strip.save(tmp_path / "strip.png")
    figure = {"path": "strip.png", "columns": [[10, 30], [30, 50], [50, 70]]}
    Result("reconstruction", "R", None, [figure]).save(tmp_path / "r.json")
    page = write_report([tmp_path], tmp_path / "r.html").read_text()
    shown = [
        Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"data:image/webp;base64,([^\"]+)", page)
    ]
    assert [column.size for column in shown] == [(20, 40)] * 3
    middles = [column.convert("RGB").getpixel((10, 20))[0] for column in shown]
    assert max(abs(middle - 80 * number) for number, middle in enumerate(middles)) <= 4
    assert 'class="picture strip"' in page


def test_every_picture_can_be_enlarged_without_a_script(demo, tmp_path):
    page = write_report([demo], tmp_path / "r.html").read_text()
    assert page.count('<label><input type="checkbox" class="zoom"') == page.count("<img") == 4
    assert ".picture .zoom:checked + img" in page


def test_lines_with_the_same_values_are_drawn_once(tmp_path):
    (tmp_path / "run").mkdir()
    rows = [{"step": s, "loss": 1 / s, "mse": 1 / s, "kl": 0.5} for s in range(1, 5)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report([tmp_path / "run"], tmp_path / "r.html").read_text()
    assert page.count("<polyline") == 2
    assert "loss = mse" in page


def test_a_chart_shows_its_values_under_the_pointer(demo, tmp_path):
    page = write_report([demo / "diffusion"], tmp_path / "r.html").read_text()
    band = re.search(r'<g class="at">(?:(?!</g>).)*>step 20<(?:(?!</g>).)*</g>', page)[0]
    assert re.findall(r">([^<>]+)</text>", band) == ["step 20", "loss 0.05", "kl 2"]


def test_samples_without_a_scale_name_the_models_own(tmp_path):
    picture(tmp_path / "s" / "grid.png")
    (tmp_path / "s" / "samples.json").write_text('{"job": {"count": 4, "guidance": null}, "labels": [0]}')
    assert "guidance the model&#39;s own" in write_report([tmp_path], tmp_path / "r.html").read_text()


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no run, no samples and no result"):
        write_report([tmp_path], tmp_path / "r.html")
    with pytest.raises(DataError, match="does not exist"):
        write_report([tmp_path / "nowhere"], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_records_of_others_are_checked(tmp_path):
    for stored, says in (
        ({"title": "t"}, "kind and a title"),
        ({"kind": "k", "title": "t", "notes": "x"}, "wrong type"),
        ({"kind": "k", "title": "t", "figures": [{}]}, "needs a path"),
    ):
        (tmp_path / "r.json").write_text(json.dumps(stored))
        with pytest.raises(InvalidFile, match=says):
            Result.load(tmp_path / "r.json")


def test_records_keep_no_secrets(tmp_path):
    address = "https://me:password@host/val.parquet?signature=secret"
    result = Result("k", "t", warnings=[f"{address} is slow"], provenance={"command": f"fae eval --data {address}"})
    written = result.save(tmp_path / "r.json").read_text() + result.text()
    assert "host/val.parquet" in written
    assert "password" not in written
    assert "secret" not in written


def secret(path):
    """A picture that nobody asked to send, and the letters by which a page that holds it is known."""
    picture(path, (1, 2, 3))
    return base64.b64encode(path.read_bytes()).decode()


@pytest.mark.parametrize("kind", ["absolute", "above", "around", "link", "folder link", "grid link"])
def test_a_picture_from_elsewhere_is_never_shown(kind, tmp_path):
    letters = secret(tmp_path / "private" / "secret.png")
    results = tmp_path / "run" / "results"
    results.mkdir(parents=True)
    name = {"absolute": str(tmp_path / "private" / "secret.png"), "above": "../../private/secret.png"}.get(
        kind, "a.png"
    )
    if kind == "around":  # inside of the folder, by a way that leads out of it
        name = "../results/b.png"
        letters = secret(results / "b.png")
    if kind == "link":
        (results / "a.png").symlink_to(tmp_path / "private" / "secret.png")
    if kind == "folder link":
        (results / "sub").symlink_to(tmp_path / "private")
        name = "sub/secret.png"
    if kind == "grid link":
        (tmp_path / "run" / "s").mkdir()
        (tmp_path / "run" / "s" / "samples.json").write_text('{"labels": [0]}')
        (tmp_path / "run" / "s" / "grid.png").symlink_to(tmp_path / "private" / "secret.png")
        picture(results / "a.png")
    Result("reconstruction", "R", None, [{"path": name}]).save(results / "r.json")
    for given in (tmp_path / "run", results, results / "r.json"):
        if kind == "grid link" and given != tmp_path / "run":
            continue
        page = write_report([given], tmp_path / "r.html").read_text()
        assert letters not in page
        assert "is not shown: it is outside of" in page
        assert page.count("data:image") == (kind == "grid link")


def test_pictures_that_cost_too_much_or_are_none_are_named(tmp_path):
    names = ["bomb.png", "half.png", "text.png", "folder.png", "a\x00b.png", "n" * 5000, "none.png", ""]
    raw = io.BytesIO()
    Image.new("1", (8, 8)).save(raw, "PNG")
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + raw.getvalue()[24:29]
    whole = raw.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + raw.getvalue()[33:]
    (tmp_path / "bomb.png").write_bytes(whole)
    raw = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(raw, "PNG")
    (tmp_path / "half.png").write_bytes(raw.getvalue()[:900])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    picture(tmp_path / "good.png")
    figures = [{"path": name, "caption": ["odd", {"<b>": "?"}]} for name in [*names, "good.png"]]
    (tmp_path / "r.json").write_text(json.dumps({"kind": "reconstruction", "title": "<i>?", "figures": figures}))
    page = write_report([tmp_path], tmp_path / "r.html").read_text()
    assert page.count("data:image/png") == 1
    assert page.count('class="warning">The picture') == len(names)
    assert "<b>" not in page and "<i>?" not in page and "&lt;i&gt;?" in page


def test_tall_and_heavy_pictures_become_smaller(tmp_path):
    Image.new("RGB", (20, 30_000), (9, 9, 9)).save(tmp_path / "tall.png")
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "heavy.png")
    Image.new("RGB", (40, 20)).save(tmp_path / "small.tiff")
    for name in ("tall.png", "heavy.png", "small.tiff"):
        Result("reconstruction", name, None, [{"path": name}]).save(tmp_path / f"{name}.json")
    page = write_report([tmp_path], tmp_path / "r.html").read_text()
    assert page.count("data:image/webp") == 3
    assert 'width="11" height="16200"' in page


ODD = [None, True, -1, 10**400, 1e308, "", "\ud800", "<script>", [], [[]], {}, {"a": [1]}, "../x.png"]


def places(value, place=()):
    yield place
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*place, key))


def changed(value, place, odd):
    if not place:
        return odd
    value = json.loads(json.dumps(value))
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = odd
    return value


RECORD = {
    "kind": "convergence",
    "title": "T",
    "table": {"columns": ["", "step", "seconds", "FD-x"], "rows": [["a-1", 1, 1.0, 2.0], ["a-2", 2, 2.0, 1.0]]},
    "figures": [{"path": "p.png", "caption": "c", "columns": [[0, 8], [8, 16]]}],
    "notes": ["n"],
    "warnings": ["w"],
    "values": {"PSNR [dB]": 1.0},
    "provenance": {"command": "fae", "device": "cpu", "machine": "m", "versions": {"a": "1"}, "seed": 0},
}
SAMPLES = {"job": {"count": 4, "guidance": 1.0, "labels": "equal"}, "labels": [0], "provenance": {"seconds": 1.0}}
STEPS = {"title": "t", "steps": [{"name": "a", "command": "c", "seconds": 1.0}]}
JOURNAL = {"step": 2, "seconds": 1.0, "loss": 2.0}


@pytest.mark.parametrize(
    ("name", "good"),
    [("results/r.json", RECORD), ("s/samples.json", SAMPLES), ("steps.json", STEPS), ("run/metrics.jsonl", JOURNAL)],
)
def test_any_value_at_any_place_is_shown_or_named(name, good, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("training: {steps: 3}\n")
    picture(tmp_path / "s" / "grid.png")
    (tmp_path / "s" / "samples.json").write_text(json.dumps(SAMPLES))
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    for place in places(good):
        for odd in ODD if good is not RECORD else ():
            file.write_text(json.dumps(changed(good, place, odd)) + "\n" + (good is JOURNAL) * json.dumps(JOURNAL))
            assert "<script" not in write_report([tmp_path], tmp_path / "r.html").read_text()
        if good is RECORD:  # all of them side by side
            kinds = ("convergence", "generation", "reconstruction", "similarity")
            for number, (odd, kind) in enumerate(itertools.product(ODD, kinds)):
                record = changed({**good, "kind": kind}, place, odd)
                file.with_name(f"r{number}.json").write_text(json.dumps(record))
            assert "<script" not in write_report([tmp_path], tmp_path / "r.html").read_text()
    for raw in (b"", b"\xff\xfe\x00", b"\xef\xbb\xbf{}", b"[" * 100_000, b"\x00" * 99, b"7", b"{}"):
        file.write_bytes(raw)
        write_report([tmp_path], tmp_path / "r.html")


def test_runs_and_samples_that_did_not_finish_say_so(tmp_path):
    run, whole = tmp_path / "stopped", tmp_path / "whole"
    for folder, steps in ((run, 400), (whole, 60)):
        folder.mkdir()
        (folder / "config.yaml").write_text(f"training: {{steps: {steps}}}\n")
        (folder / "metrics.jsonl").write_text("".join(f'{{"step": {s}, "loss": {9 / s}}}\n' for s in range(10, 61, 10)))
    (run / "checkpoints" / "step-00000062").mkdir(parents=True)
    samples = tmp_path / "samples"
    for i in range(3):
        picture(samples / "images" / f"{i:06d}.png")
    (samples / "samples.json").write_text('{"job": {"count": 5}}')
    page = write_report([tmp_path], tmp_path / "r.html").read_text()
    assert "stopped: not finished: 62 of 400 steps" in page
    assert "samples is not finished: 3 of 5 images" in page
    assert "whole: not finished" not in page


def test_a_report_keeps_no_secrets(tmp_path):
    address = "https://me:password@host/val.parquet?signature=secret"
    record = {**RECORD, "notes": [address], "provenance": {"command": f"fae eval --data {address}"}}
    (tmp_path / "r.json").write_text(json.dumps(record))
    page = write_report([tmp_path], tmp_path / "r.html").read_text()
    assert "host/val.parquet" in page and "password" not in page and "signature=secret" not in page


def test_records_with_halves_of_characters_are_written_and_printed(tmp_path):
    result = Result("k", "half \ud800", {"columns": ["\udcff"], "rows": [["\ud800"]]}, notes=["\ud800"])
    assert result.text().encode()
    assert Result.load(result.save(tmp_path / "r.json")).title == "half ?"


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--virtual-time-budget=5000"]


@pytest.fixture
def browser():
    found = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    return found


def told_in(browser, page, width, expression):
    """What an expression about the page's document `d` gives in a window of some width, and the file shown for it.

    The page is in a frame: headless windows cannot be narrower than 500 pixels.
    """
    frame = page.with_name("frame.html")
    frame.write_text(
        f'<body style="margin:0;background:#f0f"><iframe src="{page.name}" '
        f'style="border:0;width:{width}px;height:2400px"></iframe>'
        "<script>onload = () => setTimeout(() => { const d = document.querySelector('iframe').contentDocument;"
        f"document.title = JSON.stringify({expression}) }}, 500)</script>"
    )
    dumped = subprocess.run(
        [browser, *FLAGS, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120
    )
    return json.loads(re.search(r"<title>(.*?)</title>", dumped.stdout)[1]), frame


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_an_enlarged_picture_fills_the_window(demo, tmp_path, width, browser):
    picture(demo / "results" / "strip.png")
    columns = {"path": "strip.png", "columns": [[0, 20], [20, 40]]}
    Result("reconstruction", "Strip", None, [columns]).save(demo / "results" / "strip.json")
    page = write_report([demo], tmp_path / "r.html")
    enlarged = "[...d.images].map(i => { i.previousSibling.click(); return i.getBoundingClientRect().width })"
    assert told_in(browser, page, width, enlarged)[0] == [width] * 6


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_a_real_browser_draws_it_without_sideways_scrolling(demo, tmp_path, width, browser):
    page = write_report([demo], tmp_path / "r.html", paper=True)
    drawn = "[...d.images].filter(i => i.complete && i.naturalWidth > 0).length"
    seen = f"[d.documentElement.scrollWidth, d.images.length, {drawn}]"
    (scroll, pictures, drawn), frame = told_in(browser, page, width, seen)
    assert scroll <= width
    assert pictures == drawn == 4
    shot = tmp_path / "shot.png"
    subprocess.run(
        [browser, *FLAGS, f"--window-size={max(width, 500)},1400", f"--screenshot={shot}", frame.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    colors = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colors, axis=0)) > 50
