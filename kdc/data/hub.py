"""Data sets of the Hugging Face hub, or a local folder laid out like one, through `datasets.load_dataset`.

Endpoint, proxies, token, caches and offline mode are those of the hub libraries (`HF_ENDPOINT`, `HF_HUB_OFFLINE`, ...).
Without a network a copy in a local cache serves; without that the error comes at once, not after many retries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from pydantic import Field

from kdc.data.base import SOURCES, Raw, RawTable, Source
from kdc.data.images import stack, to_array
from kdc.errors import KdcError, did_you_mean
from kdc.hub import unreachable

HIDDEN = "-1"
"""What the hub writes where labels are withheld."""


@SOURCES.register("hub")
class Hub(Source):
    """`path` is an id or a folder, `config` one of its configurations. `splits` says what it calls each split."""

    remote: ClassVar[bool] = True
    path: str
    config: str | None = None
    revision: str | None = None
    splits: dict[str, str] = Field(default_factory=dict)

    def load(self, data_dir: Path | None) -> Raw:
        if self._folder is not None:
            return Raw(self._read(str(self._folder)))
        if Path(self.path).expanduser().is_absolute() or self.path.count("/") > 1:
            raise KdcError(f"dataset.hub.path: there is no folder {self.path}", "ids of the hub look like owner/name")
        if why := unreachable():
            unchecked = f", revision {self.revision} unchecked" if self.revision else ""
            return Raw(self._from_cache(why), [f"{self.path} is a local copy{unchecked}: {why}"])
        return Raw(self._read(self.path))

    def paths(self) -> dict[str, str]:
        return {} if self._folder is None else {"dataset.hub.path": str(self._folder.absolute())}

    def identity(self, data_dir: Path | None) -> dict[str, Any] | None:
        return None if self._folder is None else super().identity(data_dir)

    @property
    def _folder(self) -> Path | None:
        folder = Path(self.path).expanduser()
        return folder if folder.is_dir() else None

    def _read(self, path: str) -> dict[str, RawTable]:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError

        # The cache of `datasets` knows a folder with a card by its name alone: another one, or this one with other
        # rows, would get the rows of the first. So a folder gets a cache of its own, and none of them a revision.
        folder = Path(path).is_dir()
        with TemporaryDirectory(prefix="kdc-") if folder else nullcontext() as cache:
            try:
                dataset = load_dataset(path, self.config, revision=None if folder else self.revision, cache_dir=cache)
            except (DatasetsError, OSError, ValueError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise KdcError(
                    f"{self.path} does not load: {reason}", "see dataset.hub.path, .config and .revision"
                ) from error
            return self._tables(dataset)

    def _tables(self, dataset: Any) -> dict[str, RawTable]:
        tables = {}
        for split in ("train", "validation", "test"):
            name = self.splits.get(split, split)
            if name in dataset:
                tables[split] = _table(dataset[name], f"{self.path} ({name})")
            elif split == "train" or split in self.splits:
                raise KdcError(
                    f"{self.path} has no split '{name}'",
                    f"dataset.hub.splits.{split}=NAME; {did_you_mean(name, dataset)}",
                )
        return tables

    def _from_cache(self, reason: str) -> dict[str, RawTable]:
        """From the cache of `datasets`, else from the hub's (what `hf download --repo-type dataset` fills)."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        with _offline():
            try:
                return self._read(self.path)
            except KdcError as error:
                if not isinstance(error.__cause__, ConnectionError):
                    raise
        try:
            snapshot = snapshot_download(self.path, repo_type="dataset", revision=self.revision, local_files_only=True)
        except LocalEntryNotFoundError:
            raise KdcError(
                f"cannot get the data set {self.path}: {reason}",
                "data_dir=FOLDER loads it from local files, a filled hub cache (HF_HOME) serves offline,"
                " `kdc list dataset` shows the embedded ones",
            ) from None
        return self._read(snapshot)


@contextmanager
def _offline() -> Iterator[None]:
    """`datasets` in offline mode: the way to its cache that does not retry first."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _table(split: Any, place: str) -> RawTable:
    from datasets import ClassLabel, Image

    columns: dict[str, Any] = dict(split[:])
    for name, feature in split.features.items():
        if isinstance(feature, ClassLabel):
            columns[name] = [None if v is None else HIDDEN if v < 0 else feature.names[v] for v in columns[name]]
        elif isinstance(feature, Image):
            columns[name] = stack([to_array(picture) for picture in columns[name]])
    return RawTable(columns, ((place, len(split)),))
