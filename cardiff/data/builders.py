"""Opens data sets of the Hub, of its cache or of files through `datasets`, only the splits that are asked for."""

import copy
import glob
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
from datasets.naming import camelcase_to_snakecase
from datasets.packaged_modules.cache.cache import Cache
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder

from cardiff.config.sections import DataConfig

logger = logging.getLogger(__name__)
_COMMIT = re.compile("[0-9a-f]{40}")


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the warnings of `datasets`."""
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)


def open_builder(config: DataConfig, data_files: str | list[str] | None) -> datasets.DatasetBuilder:
    """The builder of the data set, or, if the Hub cannot be reached, of its copy in the cache.

    Raises:
        ConnectionError: The Hub cannot be reached, and no copy of the splits is known to come from it.
        ValueError, OSError, DatasetsError: `datasets` cannot open the data set.
    """
    try:
        with _without_warnings():  # about a cached copy, which may still be refused below
            builder = datasets.load_dataset_builder(
                config.path, name=config.name, data_files=data_files, revision=config.revision
            )
    except ValueError as error:
        # Raised without the Hub if there is no complete copy, although there may be one of the splits.
        if not str(error).startswith("Couldn't find cache for"):
            raise
        return _latest_copy([] if data_files else _cached_splits(config), config)
    if isinstance(builder, Cache):
        return _latest_copy([builder] if data_files else [builder, *_cached_splits(config)], config)
    return builder


def _latest_copy(copies: list[Cache], config: DataConfig) -> Cache:
    """The most recent of the cached copies that are known to come from the Hub.

    Raises:
        ConnectionError: There is none; `datasets` raises the same error if the cache has no copy at all.
        ValueError: They are of several configurations, and none is chosen.
    """
    copies = [cached for cached in copies if _is_from_hub(cached, config)]
    if not copies:
        raise ConnectionError(f"No cached copy of {config.path} is known to come from the Hub.")
    names = sorted({cached.info.config_name for cached in copies})
    if len(names) > 1:
        raise ValueError(f"the cache has copies of several configurations; set data.name to one of {names}")
    logger.warning("The Hub cannot be reached: using the copy of %s in the cache of `datasets`.", config.path)
    return max(copies, key=lambda cached: os.stat(cached.cache_dir).st_mtime_ns)


def _is_from_hub(cached: Cache, config: DataConfig) -> bool:
    """Whether a copy that was found by name is known to come from that repository, and revision, on the Hub.

    If there is neither a folder nor a connection to the Hub, `datasets` uses whatever it last cached under the name,
    even the copy of a folder that has been removed. The copy of owner/name is in a folder owner___name/…/COMMIT, with
    "name" in its record; the copy of a folder has a digest instead of a commit, and the folder's name in both places.
    """
    owner, _, name = config.path.rpartition("/")
    if not owner or cached.info.dataset_name != camelcase_to_snakecase(name) or not _COMMIT.fullmatch(cached.hash):
        return False
    return cached.hash.startswith(config.revision or "")


def only_splits(builder: datasets.DatasetBuilder, split: str) -> datasets.DatasetBuilder:
    """A builder that fetches and prepares only the files of the splits that `split`, such as train[:90%], names.

    `datasets` would fetch the files of all splits. The copy of some splits is kept beside that of all, in a folder
    CONFIGURATION-splits=NAMES, which `datasets` never takes for a complete one. `builder` itself is returned if all
    splits are named, if only a complete copy is in the cache, or if there are no files per split; and for folders of
    images, whose classes are those of all splits.

    Raises:
        ValueError: `split` cannot be parsed, or names a split that does not exist.
    """
    data_files, names = builder.config.data_files, _split_names(split)
    if not isinstance(data_files, datasets.data_files.DataFilesDict) or names == {"all"}:
        return builder
    unknown = sorted(names - set(data_files))
    if unknown:
        raise ValueError(f'Unknown split "{unknown[0]}". Should be one of {list(data_files)}.')
    if names == set(data_files) or isinstance(builder, FolderBasedBuilder):
        return builder
    part = type(builder)(
        dataset_name=builder.dataset_name,
        config_name=builder.config.name,
        config_id=f"{builder.config_id}-splits={','.join(sorted(names))}",
        hash=builder.hash,
        base_path=builder.base_path,
        info=_info_of_splits(builder.info, names),
        repo_id=builder.repo_id,
        data_files=datasets.data_files.DataFilesDict({name: data_files[name] for name in data_files if name in names}),
    )
    return builder if _is_prepared(builder) and not _is_prepared(part) else part


def _split_names(split: str) -> set[str]:
    """The names in an expression such as train[:90%]+test."""
    return {part.splitname for part in datasets.ReadInstruction.from_spec(split)._relative_instructions}


def _info_of_splits(info: datasets.DatasetInfo, names: set[str]) -> datasets.DatasetInfo:
    """What is recorded of a data set (features, number of images), for some of its splits."""
    info = copy.deepcopy(info)
    info.size_in_bytes = None  # of all splits: it would be compared with the free disk space
    recorded = info.splits or {}
    info.splits = None  # without a record, the number of images is not checked
    if names <= set(recorded):
        info.splits = datasets.SplitDict({name: recorded[name] for name in recorded if name in names})
    return info


def _is_prepared(builder: datasets.DatasetBuilder) -> bool:
    """Whether the cache has the copy that the builder would make."""
    return os.path.exists(os.path.join(builder.cache_dir, datasets.config.DATASET_INFO_FILENAME))


def _cached_splits(config: DataConfig) -> list[Cache]:
    """The copies made by `only_splits` that contain the splits of `config`, from the Hub or not."""
    owner, _, name = config.path.rpartition("/")
    folder = Path(datasets.config.HF_DATASETS_CACHE).expanduser() / f"{owner}___{camelcase_to_snakecase(name)}"
    configuration = glob.escape(config.name) if config.name else "*"
    # CONFIGURATION-splits=NAMES/VERSION/COMMIT/dataset_info.json
    files = folder.glob(f"{configuration}-splits=*/*/*/{datasets.config.DATASET_INFO_FILENAME}")
    copies = [
        Cache(dataset_name=name, repo_id=config.path, config_name=configuration, version=version, hash=digest)
        for configuration, version, digest in (file.parts[-4:-1] for file in files)
    ]
    return [cached for cached in copies if _split_names(config.split) <= set(cached.info.splits or {})]
