"""`fae eval probe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fae_core.cli.options import BatchSize, Data, Device, Overwrite, Seed, Survey, images_there, path_there
from fae_eval.cli.options import FeatureTokenizer, Limit, ResultFile, finish, require_used, result_path


def probe(
    tokenizer: FeatureTokenizer,
    images: Data,
    train: Annotated[
        bool, typer.Option("--train", help="Train a linear probe instead of using the backbone's own head.")
    ] = False,
    test_images: Annotated[
        str | None,
        typer.Option(
            "--test-images", callback=images_there, help="With --train: test on these; default: a held-out quarter."
        ),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option("--pool", help="How a transformer's head pools: token, avg, ...; default: the network's own way."),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option(
            "--head",
            callback=path_there,
            help="A linear head published for DINOv2 (.pth, .safetensors); images as DINOv2 prepares them.",
        ),
    ] = None,
    cls: Annotated[
        Literal["original", "mean"] | None,
        typer.Option(
            "--cls",
            help="With --head: class token of the 'original' image (default), or 'mean' of the (rebuilt) patches.",
        ),
    ] = None,
    survey: Survey = None,
    limit: Limit = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    device: Device = None,
    out: ResultFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Accuracy of the backbone's own classifier on original and rebuilt features, or with --train of a linear probe.

    Example: fae eval probe --model runs/imagenet/tokenizer --data imagenet/val
    --head dinov2_vitg14_reg4_linear_head.pth
    """
    from fae_core.images.spread import evenly_spread
    from fae_core.progress import progress
    from fae_eval.data.files import labels_of, open_image_files
    from fae_eval.studies.probe_plan import open_probe_images, require_pooling

    require_used(train, "is for a probe with --train", test_images=test_images)
    require_used(not train, "is for a probe without --train", pool=pool, head=head, cls=cls)
    require_used(head is not None, "is about the class token of a --head, which is not given", cls=cls)
    path = result_path(out, "probe-trained" if train else "probe", overwrite)
    options: dict[str, Any] = {"batch_size": batch_size, "device": device, "progress": progress}
    if train:
        chosen = open_probe_images(images, test_images, survey=survey, limit=limit)
        from fae_eval.studies.probe import trained_probe

        result = trained_probe(tokenizer, chosen.source, test_images=chosen.test, seed=seed, **options)
    else:
        require_pooling(pool, head)
        source = evenly_spread(open_image_files(images, survey), limit)
        labels_of(source)
        from fae_eval.studies.probe import zero_shot_probe

        result = zero_shot_probe(tokenizer, source, pool=pool, head=head, cls=cls or "original", **options)
    finish(result, path)
