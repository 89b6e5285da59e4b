"""What `fae explore` computes, without its page: turns, uploads, drawing, reconstruction, patches."""

from __future__ import annotations

import io
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core.errors import DataError, FAEError
from fae_core.protocols import SamplingStep
from fae_eval.explore import uploads
from fae_eval.explore.drawing import STATES, Order, conditions, draw, noise_between
from fae_eval.explore.latents import between_pictures, enlarged, rebuild, rebuilt_pictures
from fae_eval.explore.models import Models, choices_of
from fae_eval.explore.patches import Tokens, similarities, similarity_pictures
from fae_eval.explore.turns import Done, Stopped, Turns, Work
from fae_eval.explore.uploads import as_batch, as_pictures, cut, drawn_picture, read_picture


class Brightness:
    """A generator of three classes: class k ends at brightness k / 2, after steps from the noise in equal parts."""

    config = SimpleNamespace(classes=3)
    class_names = ("dark", "grey", "bright")

    def __init__(self, spec) -> None:
        self.spec = spec

    def sample(self, condition, *, noise=None, random=None, steps: int = 20, guidance: float = 1.0, observe=None):
        start = random.normal(self.spec.shape, "noise") if noise is None else noise
        end = (condition.float() / 2 - 0.5)[:, None, None, None].expand_as(start) * guidance
        for step in range(steps + 1):
            z = torch.lerp(start, end, step / steps)
            if observe is not None:
                observe(SamplingStep(step / steps, f"step {step}", z))
        return z


@pytest.fixture
def generator(fae):
    return Brightness(fae.spec)


def noisy(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def test_turns_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    turns, order, threads = Turns(), [], []

    def wait(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(5):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            while len(turns._waiting) < number + 2:  # until it has asked
                pass
        assert order == []
    for thread in threads:
        thread.join()
    assert order == list(range(5))


def test_a_short_job_is_done_while_a_long_one_goes_on() -> None:
    """The long job passes its turn on at every step; it would never end by itself."""
    work, ends = Work(), threading.Event()

    def long(tell) -> str:
        step = 0
        while not ends.is_set():
            tell(step := step + 1)
        return "long"

    running = work.run("long", long)
    assert next(running) == 1
    assert [item.result for item in work.run("short", lambda tell: "short") if isinstance(item, Done)] == ["short"]
    assert work.now(lambda: 3) == 3
    ends.set()
    *_, last = running
    assert last.result == "long"


def test_a_stopped_job_ends_at_its_next_step_and_others_go_on() -> None:
    work = Work()

    def endless(tell) -> None:
        while True:
            tell("step")

    running, other = work.run(("me", "sample"), endless), work.run(("you", "sample"), endless)
    assert next(running) == next(other) == "step"
    work.stop(("me", "sample"))
    with pytest.raises(Stopped):
        list(running)
    assert next(other) == "step"
    work.leave("you")
    with pytest.raises(Stopped):
        list(other)
    assert not work._running
    work.stop("nothing")


def test_a_job_that_fails_raises_where_it_is_waited_for_and_gives_its_turn_back() -> None:
    work = Work()

    def failing(tell) -> None:
        tell(1)
        raise FAEError("no such class")

    with pytest.raises(FAEError, match="no such class"):
        list(work.run("key", failing))
    assert work.now(lambda: 1) == 1


def test_a_visitor_who_begins_again_ends_what_he_had_begun() -> None:
    work = Work()

    def endless(tell) -> None:
        while True:
            tell("step")

    first = work.run("key", endless)
    next(first)
    second = work.run("key", lambda tell: "done")
    assert next(second).result == "done"
    with pytest.raises(Stopped):
        list(first)


def test_uploads_are_read_as_data_sets_are(fae, tmp_path) -> None:
    """Turned upright, transparent pixels on white, the centre cut; a path and its bytes give the same."""
    picture = Image.new("RGBA", (40, 20), (255, 0, 0, 255))
    picture.paste((0, 0, 255, 0), (10, 0, 30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    read = read_picture(tmp_path / "a.png", fae).read
    assert read.shape == (16, 16, 3) and read.dtype == np.uint8
    assert read[8, 8].tolist() == [255, 255, 255]
    assert np.array_equal(read, read_picture((tmp_path / "a.png").read_bytes(), fae).read)
    assert np.array_equal(as_pictures(as_batch([read]))[0], read)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no image", "not an image in a known format"), (b"", "not an image"), ("huge", "at most 65535 a side")],
)
def test_uploads_that_readers_refuse_are_refused_by_name(fae, content, said: str) -> None:
    if content == "huge":
        file = io.BytesIO()
        Image.new("1", (70_000, 1)).save(file, "PNG")
        content = file.getvalue()
    with pytest.raises(DataError, match=said) as error:
        read_picture(content, fae, "holiday.png")
    assert "holiday.png" in str(error.value)


def test_uploads_are_limited_before_they_are_decoded(fae, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(uploads, "MOST_BYTES", 3)
    (tmp_path / "a.png").write_bytes(b"four")
    with pytest.raises(DataError, match=r"a\.png has 4 bytes; at most 3"):
        read_picture(tmp_path / "a.png", fae, "a.png")


def test_drawing_shows_the_states_from_noise_to_picture(fae, generator) -> None:
    told = []
    drawn = draw(generator, fae, Order(("bright", "dark"), seed=3, steps=40), told.append)
    assert len(drawn.pictures) == 2 and drawn.pictures[0].shape == (16, 16, 3)
    assert drawn.pictures[0].min() == 255 and drawn.pictures[1].max() == 0
    assert [name for name, _ in drawn.states] == [f"step {5 * i}" for i in range(STATES + 1)]
    assert np.array_equal(drawn.states[-1][1], drawn.pictures)
    assert len(told) == 41 and told[0].done == 0 and told[-1].done == 1
    noise = noise_between(fae.spec.shape, 3, 4, 2)[:1]
    assert np.array_equal(drawn.states[0][1][0], as_pictures(fae.decode(noise))[0])
    again = draw(generator, fae, Order(("bright",), seed=3, steps=40))
    assert np.array_equal(again.states[1][1][0], drawn.states[1][1][0])


def test_what_ends_a_drawing_is_raised(fae, generator) -> None:
    def end(way) -> None:
        if way.done > 0.3:
            raise Stopped

    with pytest.raises(Stopped):
        draw(generator, fae, Order(("dark",)), end)


def test_choices_are_what_sample_takes(generator) -> None:
    choices = choices_of(generator)
    assert choices.classes == ("dark", "grey", "bright") and choices.guidance == 1 and not choices.text
    assert choices.methods == () and choices.steps == 20
    assert conditions(choices, "", 4) == ("dark", "grey", "bright", "dark")
    assert conditions(choices, "grey", 2) == ("grey", "grey")
    assert Order(("grey",), method="euler", guidance=2.0).options(choices) == {"guidance": 2.0}
    assert Order(("grey",)).options(choices) == {}


def test_classes_with_one_name_are_told_apart(fae, generator) -> None:
    """ImageNet has two cranes and two maillots."""
    generator.class_names = ("crane", "heron", "crane")
    choices = choices_of(generator)
    assert choices.classes == ("crane (0)", "heron", "crane (2)")
    assert Order(conditions(choices, "", 3)).condition(choices).tolist() == [0, 1, 2]
    assert draw(generator, fae, Order(("crane (2)",))).pictures[0].mean() > 200


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"conditions": ()}, "number of pictures"),
        ({"conditions": ("dark",) * 17}, "between 1 and 16"),
        ({"conditions": ("dark",), "seed": -(2**70)}, "seed"),
        ({"conditions": ("dark",), "steps": 0}, "number of steps"),
        ({"conditions": ("dark",), "steps": 10**9}, "between 1 and 1000"),
        ({"conditions": ("dark",), "guidance": float("nan")}, "guidance scale"),
        ({"conditions": ("dark",), "guidance": 1e9}, "guidance scale"),
        ({"conditions": ("x" * 1001,)}, "at most 1000 letters"),
        ({"conditions": ("cat",)}, "no class 'cat'"),
    ],
)
def test_orders_out_of_range_are_refused(fae, generator, fields, said: str) -> None:
    with pytest.raises(FAEError, match=said):
        draw(generator, fae, Order(**fields))


def test_the_way_between_noises_keeps_their_size_and_ends_at_them() -> None:
    way = noise_between((64, 16, 16), 0, 1, 5)
    for end, seed in ((way[0], 0), (way[-1], 1)):
        assert torch.equal(end, noise_between((64, 16, 16), seed, 9, 2)[0])
    # Standard normal numbers: the mean of 16,384 squares is 1, with a standard error of 0.011.
    assert way.square().mean((1, 2, 3)).sub(1).abs().max() < 0.05
    assert torch.corrcoef(way.flatten(1))[0, 2] == pytest.approx(0.5**0.5, abs=0.05)


def test_a_tokenizer_that_keeps_a_picture_makes_no_errors(fae) -> None:
    """The tokenizer keeps the colours of 4 x 4 squares: of a picture of such squares nothing is lost."""
    squares = np.kron(noisy(0, 4), np.ones((4, 4, 1), np.uint8))
    kept = rebuild(fae, drawn_picture(squares, fae))
    assert np.array_equal(kept.painted, squares) and kept.pixel_errors.max() == 0
    assert kept.values["cosine of features"] == pytest.approx(1, abs=1e-6)
    assert kept.values["PSNR in dB"] == pytest.approx(100)
    lost = rebuild(fae, drawn_picture(noisy(1), fae))
    assert lost.values["PSNR in dB"] < 20 and lost.feature_errors.shape == (4, 4)
    difference = np.abs(lost.painted.astype(float) - lost.original).mean()
    assert lost.values["mean error of 256 levels"] == pytest.approx(difference, abs=1e-4)
    assert [title.split(",")[0] for title, _ in rebuilt_pictures(lost)] == [
        "picture",
        "reconstruction",
        "error of pixels",
        "error of features",
    ]


def test_a_reconstruction_is_compared_with_the_picture_itself(fae) -> None:
    """Not with one that was enlarged for the tokenizer and made smaller again, which is softer."""
    fae.read_size = (64, 64)
    kept = rebuild(fae, cut(Image.fromarray(noisy(1)), fae))
    assert np.array_equal(kept.original, noisy(1))
    difference = np.abs(kept.painted.astype(float) - noisy(1)).mean()
    assert kept.values["mean error of 256 levels"] == pytest.approx(difference, abs=1e-4)


def test_between_two_pictures_are_their_reconstructions_and_means(fae) -> None:
    dark, bright = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 200, np.uint8)
    way = between_pictures(fae, dark, bright, 5)
    assert [int(picture.mean()) for picture in way] == [0, 50, 100, 150, 200]


def test_a_clicked_patch_is_most_like_itself_and_finds_its_twin(fae) -> None:
    """The second picture is the first one turned around, so that the twin of a patch is at the opposite place."""
    first = np.kron(noisy(0, 4), np.ones((4, 4, 1), np.uint8))
    second = np.ascontiguousarray(first[::-1, ::-1])
    tokens = Tokens(fae)
    found = similarities(tokens.of(first), tokens.of(second), 0.3, 0.9)
    assert list(found) == ["features", "latents", "rebuilt features"]
    for one in found.values():
        assert one.query == (1, 3)
        assert one.own[1, 3] == pytest.approx(1, abs=1e-5) and one.own.argmax() == 7
        assert one.matches[0] == (2, 0) and len(one.matches) == 3
    assert len(similarity_pictures(first, second, found)) == 6
    alone = similarities(tokens.of(first), None, 1.0, 0.0)
    assert alone["features"].query == (3, 0) and alone["features"].matches == ()
    assert len(similarity_pictures(first, None, alone)) == 3
    with pytest.raises(FAEError, match="inside the picture"):
        similarities(tokens.of(first), None, 1.1, 0.0)


def test_tokens_of_a_picture_are_made_once(fae) -> None:
    tokens, picture = Tokens(fae), noisy(0)
    assert tokens.of(picture) is tokens.of(picture.copy())
    assert tokens.of(noisy(1)) is not tokens.of(picture)


def test_small_pictures_are_enlarged_in_squares() -> None:
    picture = noisy(0, 4)
    large = np.asarray(enlarged(picture, 32))
    assert np.array_equal(large, np.kron(picture, np.ones((8, 8, 1), np.uint8)))
    assert enlarged(np.zeros((20, 10, 3), np.uint8), 40).size == (20, 40)


def test_models_say_what_they_are(fae, generator) -> None:
    models = Models("toys", fae, {"brightness": generator}, "cpu")
    assert models.paints and models.sees
    assert models.facts() == "Latents 3x4x4 of test/colours, images 16x16; generators: brightness; on cpu"
