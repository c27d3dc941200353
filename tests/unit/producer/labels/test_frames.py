"""Labels of files with several pictures: they are about the one that the verdict named, or teach nothing."""

from __future__ import annotations

from pathlib import Path

from scanfleet.checks.check import load_check
from scanfleet.config.settings import load_settings
from scanfleet.db.engine import reading
from scanfleet.db.labels.labels import CurrentLabel, current_labels
from scanfleet.db.labels.unlabelled import recent_unlabelled
from scanfleet.db.scans.new_images import NewImage
from scanfleet.models.training.data.types import Example
from scanfleet.perceptual_hash import phash
from scanfleet.producer.labels.fetching import fetch_images
from scanfleet.storage.folder import FolderStore
from scanfleet.storage.open import OpenStores
from scanfleet.worker.evaluation.images import materialise
from scanfleet.worker.scoring.factory import question_of
from scanfleet.worker.training.snapshot import labelled_of, record_of
from tests.helpers.cli_call import scanfleet
from tests.rigs.worker_rig import png, rig
from tests.unit.worker.batch.test_frames import animation, frames, seed_where

CHOSEN = 2
SHOWN = ("label", "decision", "score", "margin", "scorer")


def labelled(tmp_path: Path, *, scored: bool) -> tuple[dict[str, CurrentLabel], str]:
    """Import labels of an animation and of a still; return them by name, and what the import printed."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "moving.png").write_bytes(animation(frames(4, seed=seed_where(CHOSEN))))
    (folder / "still.png").write_bytes(png(1))
    (folder / "labels.csv").write_text("uri,label\nmoving.png,overlay\nstill.png,none\n")
    with rig(tmp_path / "data", real_stores=True) as worker:
        if scored:
            listed = FolderStore(folder).list(str(folder))
            images = [NewImage(uri=info.uri, root=str(folder), etag=info.etag) for info in listed]
            worker.scan_listed([image for image in images if image.uri.endswith(".png")])
            worker.drain()
        said = scanfleet(
            "labels", "import", str(folder / "labels.csv"), "--check", "overlay", data_dir=tmp_path / "data"
        )
        assert said.returncode == 0, said.stderr
        with reading(worker.engine) as connection:
            return {Path(one.uri).name: one for one in current_labels(connection, "overlay")}, said.stdout


def test_a_label_given_for_a_verdict_teaches_the_picture_that_it_named(tmp_path: Path) -> None:
    labels, said = labelled(tmp_path, scored=True)
    assert "several pictures" not in said
    assert {name: one.frame for name, one in labels.items()} == {"moving.png": CHOSEN, "still.png": None}
    assert {name: sorted(one.shown or {}) for name, one in labels.items()} == {
        "moving.png": sorted([*SHOWN, "frame"]),
        "still.png": sorted(SHOWN),
    }
    pixels = frames(4, seed=seed_where(CHOSEN))[CHOSEN]
    examples, left_out = made(tmp_path, list(labels.values()))
    assert left_out == {}
    (moving,) = [one for one in examples if one.key == labels["moving.png"].content_sha256]
    assert moving.open(moving.path).tobytes() == pixels.tobytes()


def made(tmp_path: Path, labels: list[CurrentLabel]) -> tuple[list[Example], dict[str, int]]:
    """The examples of a training from these labels."""
    settings = load_settings(data_dir=tmp_path / "data")
    kept = labelled_of(record_of(one) for one in labels)
    question = question_of(load_check("overlay"))
    return materialise(settings, kept, tmp_path / "images", question, stores=OpenStores(settings))


def test_a_file_with_several_pictures_and_no_verdict_is_left_out(tmp_path: Path) -> None:
    labels, said = labelled(tmp_path, scored=False)
    assert "1  files with several pictures" in said
    examples, left_out = made(tmp_path, list(labels.values()))
    assert left_out == {"several_frames": 1}
    assert [one.key for one in examples] == [labels["still.png"].content_sha256]


def test_near_duplicates_are_found_by_the_picture_that_was_judged(tmp_path: Path) -> None:
    pictures = frames(3)
    (tmp_path / "a.png").write_bytes(animation(pictures))
    image, settings = NewImage(uri=str(tmp_path / "a.png"), root=str(tmp_path)), load_settings(data_dir=tmp_path)
    for frame, seen_as, several in ((2, 2, False), (None, 0, True)):
        (seen,) = fetch_images([image], settings, frame_of=lambda _, frame=frame: frame).seen.values()  # type: ignore[misc]
        assert (seen.phash, seen.several) == (phash(pictures[seen_as]), several)


def test_an_unlabelled_sample_names_the_picture_that_was_judged(tmp_path: Path) -> None:
    with rig(tmp_path) as worker:
        worker.scan({"mem://a.png": animation(frames(4, seed=seed_where(CHOSEN))), "mem://b.png": png(1)})
        worker.drain()
        with reading(worker.engine) as connection:
            sample = recent_unlabelled(connection, "overlay", limit=9, seed=0)
    assert {one.uri: one.frame for one in sample} == {"mem://a.png": CHOSEN, "mem://b.png": None}
