"""The YAML of `dataset`: what the rows mean, and one section a source they can come from."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, PositiveInt, create_model, model_validator

from kdc.data.augment import AugmentConfig
from kdc.data.base import SOURCES, Source
from kdc.registry import Component

Fraction = Annotated[float, Field(gt=0, lt=1)]


class DatasetConfig(Component):
    """A named data set. Its sources stand beside these fields, each under its own name (`hub: {...}`, `files: {...}`).

    `columns` maps a role (`text`, `text_pair`, `image`, `label`) to the column that plays it; an unmapped role is
    played by the column of its own name. `labels` are the names in order, or raw value -> name; none: as found in
    train, sorted.
    `limit` samples so many rows of every split. `validation` and `test` are the shares held out of train where the
    source has no such split. `metric` is the primary one; none: the task's first.
    `unlabelled` names files or folders of rows that the student learns from in the place of train, by the teacher's
    answers alone (relative to `data_dir`); `keep_labelled` adds train to them. `augment` makes new ones of them.
    """

    # So that labels may be written as the numbers they are in the data.
    model_config = ConfigDict(coerce_numbers_to_str=True)

    name: str
    task: str
    columns: dict[str, str] = Field(default_factory=dict)
    labels: Annotated[list[str] | dict[str, str], Field(min_length=2)] | None = None
    metric: str | None = None
    limit: PositiveInt | None = None
    validation: Fraction = 0.1
    test: Fraction = 0.1
    max_length: PositiveInt = 128
    image_size: PositiveInt | None = None
    unlabelled: str | Annotated[list[str], Field(min_length=1)] | None = None
    keep_labelled: bool = False
    augment: AugmentConfig | None = None

    @model_validator(mode="after")
    def _has_source_and_train(self) -> "DatasetConfig":
        if not self.sources():
            raise ValueError(f"no source says where the rows come from; give one of {', '.join(sorted(SOURCES))}")
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together leave nothing to train on")
        if self.keep_labelled and self.unlabelled is None:
            raise ValueError("keep_labelled adds the rows of train to unlabelled ones; name these by unlabelled")
        return self

    def sources(self) -> dict[str, Source]:
        """The sources that this data set has, by name."""
        return {name: source for name in sorted(SOURCES) if (source := getattr(self, name, None)) is not None}


def dataset_config_model() -> type[DatasetConfig]:
    """`DatasetConfig` with a field for every registered source, those of plugins among them."""
    fields: dict[str, Any] = {name: (source | None, None) for name, source in SOURCES.items()}
    return create_model("DatasetConfig", __base__=DatasetConfig, **fields)
