"""The step that loads the splits, and what models need to know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from kdc import distributed
from kdc.data.config import DatasetConfig
from kdc.data.examples import Splits
from kdc.data.load import DataReport, data_identity, load_splits
from kdc.data.transfer import transfer_identity, transfer_rows
from kdc.models.spec import TeacherConfig
from kdc.stages.base import MODEL, Data, Step, Transfer, World, note, packages, summary
from kdc.stages.training import checkpoint_identity
from kdc.store import Published
from kdc.tasks.base import TASKS


def data_step(config: DatasetConfig, data_dir: Path | None, seed: int, keep: Sequence[str] = ()) -> Step | None:
    """The splits in the store, with columns to `keep`; None where their source cannot be told without reading it."""
    from kdc.data.saved import save_splits

    identity = data_identity(config, data_dir)
    if identity is None:
        return None

    def build(folder: Path, scratch: Path) -> None:
        splits, report = load_splits(config, data_dir=data_dir, seed=seed, keep=keep)
        save_splits(splits, folder)
        note(folder, report=asdict(report))

    parts = {"dataset": config, "source": identity, "seed": seed}
    return Step("data", {**parts, "keep": list(keep)} if keep else parts, build)


def loaded(
    config: DatasetConfig, data_dir: Path | None, seed: int, keep: Sequence[str], world: World
) -> tuple[Splits, DataReport, Published | None]:
    """The splits, what is to say of them, and their stage if they have one. Of several processes rank 0 alone loads."""
    step = data_step(config, data_dir, seed, keep)
    if step is not None:
        published = world.run(step)
        return *read_data(published), published
    first = distributed.rank() == 0
    read = load_splits(config, data_dir=data_dir, seed=seed, keep=keep) if first else None
    return *distributed.broadcast(read), None


def read_data(published: Published) -> tuple[Splits, DataReport]:
    from kdc.data.saved import read_splits

    return read_splits(published.path), DataReport(**summary(published)["report"])


def transfer_step(
    config: DatasetConfig,
    data: Data,
    data_dir: Path | None,
    seed: int,
    source: TeacherConfig,
    teacher: Published,
    world: World,
) -> Step:
    """The rows that students learn from where they are not those of train: `train` of the splits in its folder.

    The teacher's tokenizer says how a word is masked, the checkpoint that it started from which words may stand there.
    """
    replaces = config.augment is not None and config.augment.replace > 0
    parts = {
        "transfer": transfer_identity(config, data_dir),
        "splits": dict(data.fingerprints),
        "seed": seed,
        "teacher": teacher.key if config.augment is not None else None,
        "masked_lm": checkpoint_identity(source, "teacher", data.task)[0] if replaces else None,
        "packages": packages("torch", "transformers", "tokenizers") if replaces else {},
    }

    def build(folder: Path, scratch: Path) -> None:
        from kdc.data.saved import save_splits
        from kdc.models.masked_lm import load_masked_lm

        encoder = data.task.encoder.load(teacher.path / MODEL)
        with world.screen.bar("make the transfer set", "rows") as advance:
            rows, notes = transfer_rows(
                config, data.splits, data_dir=data_dir, seed=seed,
                mask_token=getattr(encoder, "mask_token", None),
                candidates=load_masked_lm(str(source.path), source.revision) if replaces else None,
                advance=lambda done, total: advance(done, total, ""),
            )  # fmt: skip
        save_splits({"train": rows}, folder)
        note(folder, notes=notes)

    return Step("transfer", parts, build)


def read_transfer(published: Published, data: Data) -> Data:
    """`data` with the rows of a transfer step; a dry run may be before they are made."""
    from kdc.data.saved import CONTENTS, read_splits

    made = (published.path / CONTENTS).exists()
    return replace(data, transfer=Transfer(published.key, read_splits(published.path)["train"] if made else None))


def described(config: DatasetConfig, splits: Splits) -> Data:
    """The splits with what models need to know of them; refuses those that the task cannot learn from."""
    task = TASKS[config.task]()
    metric = config.metric or next(iter(task.metrics))
    task.check(splits, metric)
    fingerprints = {split: examples.fingerprint for split, examples in splits.items()}
    return Data(task, splits, metric, config.max_length, config.image_size, fingerprints=fingerprints)
