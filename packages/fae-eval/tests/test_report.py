"""The report: everything found is shown, nothing is fetched, damage is named, and a real browser draws it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from fae_core.errors import CheckpointError, DataError
from fae_eval import Result, write_report


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
        "A demo", "It does not show that.", "Reconstructions", "samples-diffusion", "samples-flow", "Maps", "<svg", "Numbers",
        "only four images", "the paper&#x27;s", "Settings", "How to reproduce", "fae train autoencoder",
    ]  # fmt: skip
    body = page[page.index("<h1>") :].replace("the paper's", "the paper&#x27;s")
    body = re.sub(r"<nav>.*?</nav>", "", body)
    positions = [body.index(part) for part in order]
    assert positions == sorted(positions)
    assert page.count("data:image/png;base64,") == 4
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)\w", re.sub(r"base64,[^\"]+", "", page))


def test_the_papers_numbers_stand_only_where_asked_for(demo, tmp_path):
    assert "SiT-XL" not in write_report([demo], tmp_path / "r.html").read_text()


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


def test_damage_is_named_and_the_rest_is_shown(demo, tmp_path):
    (demo / "results" / "rec.png").write_bytes(b"damaged")
    (demo / "results" / "d.json").write_text(
        '{"kind": "x", "title": "t", "table": {"columns": ["a"], "rows": [[1, 2]]}}'
    )
    (demo / "samples-flow" / "grid.png").unlink()
    page = write_report([demo], tmp_path / "r.html").read_text()
    for part in ("rec.png cannot be read", "one cell per column", "samples-flow has no grid.png", "samples-diffusion"):
        assert part in page


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
        with pytest.raises(CheckpointError, match=says):
            Result.load(tmp_path / "r.json")


def test_records_keep_no_secrets(tmp_path):
    address = "https://me:password@host/val.parquet?signature=secret"
    result = Result("k", "t", warnings=[f"{address} is slow"], provenance={"command": f"fae eval --data {address}"})
    written = result.save(tmp_path / "r.json").read_text() + result.text()
    assert "host/val.parquet" in written
    assert "password" not in written
    assert "secret" not in written


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_a_real_browser_draws_it_without_sideways_scrolling(demo, tmp_path, width):
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    page = write_report([demo], tmp_path / "r.html", paper=True)
    # The page in a frame of the wanted width: headless windows cannot be narrower than 500 pixels.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<body style="margin:0;background:#f0f"><iframe src="{page.name}" style="border:0;width:{width}px;height:2400px"></iframe>'
        "<script>onload = () => setTimeout(() => { const d = document.querySelector('iframe').contentDocument;"
        "document.title = d.documentElement.scrollWidth + ' ' + d.images.length + ' ' +"
        "[...d.images].filter(i => i.complete && i.naturalWidth > 0).length }, 500)</script>"
    )
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
    ]
    dumped = subprocess.run(
        [browser, *flags, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120
    )
    scroll, pictures, drawn = map(int, re.search(r"<title>(\d+) (\d+) (\d+)</title>", dumped.stdout).groups())
    assert scroll <= width
    assert pictures == drawn == 4
    shot = tmp_path / "shot.png"
    subprocess.run(
        [browser, *flags, f"--window-size={max(width, 500)},1400", f"--screenshot={shot}", frame.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    colors = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colors, axis=0)) > 50
