"""Loads the images, undecoded, as a `datasets` data set: from the Hub, from files or from Stanford Cars."""

import hashlib
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets.exceptions import DatasetsError
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

from cardiff.config.sections import DataConfig
from cardiff.data.builders import only_splits, open_builder
from cardiff.data.folders import load_image_folder, read_image_folder
from cardiff.data.stanford_cars import load_stanford_cars
from cardiff.errors import UserError, did_you_mean, disk_sentence
from cardiff.layout import find_data

MOST_CLASSES = 100_000
"""Integer labels that span more than this are not accepted as class numbers."""


def load_source(config: DataConfig, conditional: bool = False) -> datasets.Dataset | datasets.IterableDataset:
    """Opens the data set of a data section, with its images undecoded.

    Args:
        config: The data section. With `config.streaming` the result is an `IterableDataset`.
        conditional: Whether labels are needed.

    Returns:
        The data set with the image column as `Image(decode=False)`, the label column as a ClassLabel, if it can be
        converted, and the box column if `config.crop_to_box`. Class names come from the ClassLabel, the sorted
        strings, or the integers from `config.first_label` to the largest, which are then counted from 0.

    Raises:
        UserError: The data or a required column cannot be found or used.
    """
    dataset = _load(config, conditional)
    if isinstance(dataset, datasets.Dataset) and len(dataset) == 0:
        raise empty_error(config)
    features = dataset.features
    if features is None:  # a stream of a format without a schema
        features = dataset._resolve_features().features
    columns = [config.image_column]
    _require_column(config, "image_column", features)
    if not _can_hold_images(features[config.image_column]):
        raise UserError(
            f"data.image_column {config.image_column!r} of {config.path} contains {features[config.image_column]}: "
            "give a column of images, image bytes or paths."
        )

    # Boxes are half-open pixel coordinates of the upright image.
    if config.crop_to_box:
        _require_column(config, "box_column", features)
        columns.append(config.box_column)

    if conditional:
        _require_column(config, "label_column", features)
    if config.label_column in features:
        labelled, problem = _with_classes(dataset, features[config.label_column], config)
        if labelled is not None:
            dataset = labelled
            columns.append(config.label_column)
        if conditional and problem is not None:
            raise UserError(f"data.label_column {config.label_column!r} of {config.path} {problem}.")

    dataset = dataset.select_columns(columns).cast_column(config.image_column, datasets.Image(decode=False))
    if config.streaming and isinstance(dataset, datasets.Dataset):
        dataset = dataset.to_iterable_dataset()
    return dataset


def source_fingerprint(config: DataConfig, dataset: datasets.Dataset) -> str:
    """A digest of the data behind `dataset`, the same in every process, which changes if the files do.

    `datasets` provides a digest of the rows (and of the modification times of the files that it read). For pictures
    that are only referred to by path, their size and modification time are added.

    Args:
        config: The data section that `dataset` was loaded with.
        dataset: The result of `load_source`.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{dataset._fingerprint} {config.split}".encode())
    images = dataset.select_columns([config.image_column]).with_format("arrow")[:][config.image_column]
    without_bytes = images.filter(pc.is_null(pc.struct_field(images, "bytes")))
    for path in pc.struct_field(without_bytes, "path").to_pylist():
        # A missing picture is reported when it is decoded, where data.on_error applies.
        if path is not None and os.path.exists(path):
            stat = os.stat(path)
            digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def empty_error(config: DataConfig) -> UserError:
    """The error for a split without images."""
    return UserError(f"data.split {config.split!r} of {config.path} is empty: choose a split that has images.")


def _refuse_other_files(folder: Path, files: list[str]) -> None:
    """Refuse files outside the folder, which `datasets` would read instead of the folder's.

    Raises:
        UserError: A file is outside the folder.
    """
    for file in files:
        if Path(file).is_absolute() and not Path(os.path.normpath(file)).is_relative_to(folder.absolute()):
            raise UserError(
                f"data.data_files {file} is not in the folder data.path {folder}: omit one of them; to read files "
                "alone, set data.path to their format, such as parquet."
            )


def _load(config: DataConfig, conditional: bool) -> datasets.Dataset | datasets.IterableDataset:
    path, data_files = Path(config.path), config.data_files
    if data_files is not None:
        data_files = find_data(data_files) if isinstance(data_files, str) else list(map(find_data, data_files))
    is_format = config.path in _PACKAGED_DATASETS_MODULES
    if not config.path:
        raise UserError("data.path is empty: give a folder, a data set on the Hub or a format.")
    if is_format and not config.data_files:
        hint = f"; for the folder of that name, give ./{config.path}" if path.is_dir() else ""
        raise UserError(
            f"data.data_files must give the files to read when data.path is a format ({config.path}){hint}."
        )
    if not is_format:
        if path.is_file():
            raise UserError(
                f"data.path {config.path} is a file: set data.path to its format, such as parquet, "
                "and data.data_files to the file."
            )
        # "owner/name" and "name" may be on the Hub; anything else can only be a path.
        if not path.exists() and (path.is_absolute() or config.path[0] in ".~" or len(path.parts) > 2):
            raise UserError(f"data.path {config.path} does not exist: correct the folder's name.")
        if (path / "devkit").is_dir() and any(path.glob("cars_*")):
            return load_stanford_cars(path, config.split)
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            return _load_saved(config)
        if path.is_dir() and data_files:
            _refuse_other_files(path, [data_files] if isinstance(data_files, str) else data_files)
        elif path.is_dir():
            folder = read_image_folder(path)
            if not folder.has_metadata and not folder.has_only_data:
                return load_image_folder(folder, config.split, conditional)
            if folder.pictures and not folder.splits:
                data_files = "**"  # otherwise `datasets` would take "train" in a picture's name for a split
    try:
        builder = open_builder(config, data_files)
        if config.streaming:
            return builder.as_streaming_dataset(split=config.split)
        builder = only_splits(builder, config.split)
        builder.download_and_prepare()
        return builder.as_dataset(split=config.split)
    except datasets.data_files.EmptyDatasetError as error:
        raise UserError(
            f"data.path {config.path} has no images or data files: add some or correct the path."
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"data.path {config.path} is not a local folder and the Hub cannot be reached: correct the path, or "
            "connect to the Internet to download the data set (a copy in the cache of `datasets` is used only if it "
            "is known to come from the Hub)."
        ) from error
    # Arrow's and the Hub's own errors derive from these; their first line states the problem.
    except (ValueError, OSError, DatasetsError) as error:
        disk = disk_sentence(error) or disk_sentence(error.__cause__)
        if disk is not None:
            raise UserError(f"data.path {config.path} cannot be loaded: {disk}") from error
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        if reason.startswith(("Unknown split", "Bad split")):
            choices = reason.partition(". ")[2].rstrip(".")
            raise UserError(f"data.split {config.split!r} is not a split of {config.path}: {choices}.") from error
        if "corresponds to no data" in reason:
            raise empty_error(config) from error
        files = f" with data.data_files {config.data_files}" if config.data_files else ""
        raise UserError(f"data.path {config.path}{files} cannot be loaded: {reason}") from error


def _load_saved(config: DataConfig) -> datasets.Dataset:
    """A folder written by `save_to_disk`: one split, or a dictionary of them."""
    try:
        saved = datasets.load_from_disk(config.path)
    except IndexError as error:  # raised by `datasets` for a data set saved without rows
        raise empty_error(config) from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"data.path {config.path} cannot be loaded ({reason}): save it to disk again.") from error
    if isinstance(saved, datasets.DatasetDict):
        splits = saved
    else:
        # A data set created in memory has no split name, and is accepted as any split.
        splits = {str(saved.split or config.split): saved}
    if config.split not in splits:
        raise UserError(f"data.split {config.split!r} is not a split of {config.path}: it has {sorted(splits)}.")
    return splits[config.split]


def _with_classes(
    dataset: datasets.Dataset | datasets.IterableDataset, feature: Any, config: DataConfig
) -> tuple[datasets.Dataset | datasets.IterableDataset | None, str | None]:
    """The data set with its label column as a ClassLabel, or None if that is impossible; and the problem, or None.

    Only the label column is replaced: `class_encode_column` and `cast_column` would copy every image on the disk.
    """
    no_numbers = f"contains no integers: set data.first_label: 0 instead of {config.first_label}"
    if isinstance(feature, datasets.ClassLabel):
        return dataset, no_numbers if config.first_label else None
    if isinstance(dataset, datasets.IterableDataset):
        return None, f"contains {feature}: a stream needs a ClassLabel"
    labels = dataset.select_columns([config.label_column]).with_format("arrow")[:][config.label_column]  # (N,)
    if pa.types.is_string_view(labels.type):
        labels = labels.cast(pa.string())
    problem = None
    if pa.types.is_integer(labels.type):
        largest = pc.max(labels).as_py() or 0
        if largest - config.first_label >= MOST_CLASSES:
            return None, (
                f"contains integers up to {largest}, which is too large for class numbers: number the classes from 0, "
                "or use their names as text"
            )
        lowest = pc.min(labels.filter(pc.greater_equal(labels, config.first_label))).as_py()
        if config.first_label == 0 and lowest:
            problem = (
                f"contains {lowest} to {largest}, but classes are counted from 0: set data.first_label to the number "
                f"of the first class, such as {lowest}, or choose a split with all classes"
            )
        names = [str(number) for number in range(config.first_label, max(largest, config.first_label) + 1)]
        numbers = pc.subtract(labels.cast(pa.int64()), config.first_label)
    elif pa.types.is_string(labels.type) or pa.types.is_large_string(labels.type):
        names = sorted(labels.unique().drop_null().to_pylist())
        numbers = pc.index_in(labels, pa.array(names, labels.type)).cast(pa.int64())
        problem = no_numbers if config.first_label else None
    else:
        return None, f"contains {feature}: it must contain an integer, a string or a ClassLabel for each image"
    without = dataset.remove_columns(config.label_column)
    feature = datasets.ClassLabel(names=names)
    return without.add_column(config.label_column, numbers.to_pylist(), feature=feature), problem


def _require_column(config: DataConfig, field: str, features: datasets.Features) -> None:
    wanted = getattr(config, field)
    if wanted not in features:
        hint = did_you_mean(wanted, features, f"set data.{field} to one of them.")
        raise UserError(
            f"data.{field} {wanted!r} is not a column of {config.path}, which has {list(features)}: {hint}"
        )


def _can_hold_images(feature: Any) -> bool:
    if isinstance(feature, datasets.Value):
        return feature.dtype in ("string", "large_string", "binary", "large_binary")
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})
