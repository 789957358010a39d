"""Everything that talks to the Hub: reading repositories, making them, writing to them; and its failures in words."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cardiff.errors import UserError
from cardiff.training.checkpoint import CHECKSUMS, listed_files, step_of

TIMEOUT = 120.0
"""Seconds without a byte after which a connection counts as lost."""
WAITS = (2.0, 10.0, 30.0)
"""Seconds before each new attempt at a commit; within one the client repeats single requests by itself."""
OPENING = 15.0
"""The same while a training run waits to begin."""
TRANSIENT = (408, 409, 412, 425, 429, 500, 502, 503, 504)
"""Statuses that another attempt may get rid of."""
OURS = ["unet/*", "classifier/*", "scheduler/*", "model_index.json", "pipeline_class_conditional.py", "run.json"]
OURS += ["samples.png", "schedule.png"]
"""What a push replaces: a file that the new model does not have would belong to other weights."""


class HubError(UserError):
    """The Hub, or the way to it, did not do as asked."""


def download(model: str, names: list[str], revision: str | None = None) -> Path:
    """The snapshot of a Hub repository with the files of these names, which should never be code or pickles.

    Raises:
        UserError: It cannot be a repository.
        HubError: It cannot be read.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if model.startswith((".", "/")) or model.count("/") > 1:
        raise UserError(f"There is no folder {model}.")
    try:
        with _patience():
            return Path(snapshot_download(model, revision=revision, allow_patterns=names))
    except (HFValidationError, LocalEntryNotFoundError, OSError, *_hub_errors()) as error:
        raise HubError(
            f"{model} is neither a folder nor a Hub repository that can be read: {explain(error)}"
        ) from error


def download_checkpoint(repository: str) -> Path:
    """The newest checkpoint in a Hub repository, as a folder; its files are those that a checkpoint may have.

    Raises:
        HubError: The repository cannot be read.
        UserError: It holds no checkpoint, or a damaged one.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        with _patience():
            names = HfApi().list_repo_files(repository)
    except (HFValidationError, OSError, *_hub_errors()) as error:
        raise HubError(f"--resume_from {repository} cannot be read: {explain(error)}") from error
    steps = sorted(m[1] for m in (re.fullmatch(rf"(step-\d{{8,}})/{CHECKSUMS}", name) for name in names) if m)
    if not steps:
        raise UserError(
            f"--resume_from {repository} holds no checkpoint: name the repository that --hub_resume_id pushed to."
        )
    checkpoint = download(repository, [f"{steps[-1]}/{CHECKSUMS}"]) / steps[-1]
    try:
        files = [f"{steps[-1]}/{name}" for name in listed_files(checkpoint)]
    except ValueError as error:
        raise UserError(f"--resume_from {repository}: {steps[-1]} is damaged ({error}).") from error
    return download(repository, [f"{steps[-1]}/{CHECKSUMS}", *files]) / steps[-1]


def check_access() -> None:
    """Refuse to promise an upload that cannot be, as far as this machine can tell.

    Raises:
        UserError: There is no token, or the Hub is not to be asked.
    """
    from huggingface_hub import constants, get_token

    if constants.is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be pushed: unset it, or publish.py later.")
    if get_token() is None:
        raise UserError("There is no token for the Hub: run `hf auth login`, or set HF_TOKEN, and try again.")


def open_repository(repository: str, private: bool, revision: str | None = None, patient: bool = True) -> str:
    """Make a repository and a branch if there are none, and return its full name.

    Args:
        patient: Try several times, and give the Hub time to answer.

    Raises:
        UserError: It is public and was asked to be private.
        HubError: It could not be made.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="cardiff")

    def make() -> str:
        # Created private, not made private afterwards; None leaves it to the owner's own default.
        name = api.create_repo(repository, private=private or None, exist_ok=True).repo_id
        if private and not api.repo_info(name).private:
            raise UserError(f"{name} exists and is public: make it private in its settings, or name another.")
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        return name

    return _attempt(make, repository) if patient else _attempt(make, repository, waits=(), timeout=OPENING)


def push_model(folder: Path, repository: str, message: str, revision: str | None = None) -> str:
    """Make a folder the model of a repository, in one commit, and return its address.

    Raises:
        HubError: It could not be pushed.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="cardiff")

    def push() -> str:
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            delete_patterns=OURS,
        )
        return f"{api.endpoint}/{repository}" + (f"/tree/{revision}" if revision else "")

    return _attempt(push, repository)


def push_checkpoint(checkpoint: Path, repository: str) -> str:
    """Make a whole checkpoint the only one of a repository, in one commit, and return its address.

    Raises:
        HubError: It could not be pushed.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="cardiff")

    def push() -> str:
        there = {name.split("/")[0] for name in api.list_repo_files(repository) if name.startswith("step-")}
        operations = [CommitOperationDelete(f"{old}/", is_folder=True) for old in there - {checkpoint.name}]
        for name in (CHECKSUMS, *listed_files(checkpoint)):
            operations.append(CommitOperationAdd(f"{checkpoint.name}/{name}", str(checkpoint / name)))
        api.create_commit(repository, operations, commit_message=f"Checkpoint of step {step_of(checkpoint)}")
        return f"{api.endpoint}/{repository}"

    return _attempt(push, repository)


def _attempt(
    action: Callable[[], str], repository: str, waits: Sequence[float] | None = None, timeout: float | None = None
) -> str:
    """Try an action until it succeeds, fails for good, or the attempts are used up."""
    failures: tuple[type[Exception], ...] = (OSError, RuntimeError, *_hub_errors())
    for wait in (*(WAITS if waits is None else waits), None):
        try:
            with _patience(timeout):
                return action()
        except failures as error:
            if wait is None or not _transient(error):
                raise HubError(f"{repository}: {explain(error)}") from error
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def _patience(timeout: float | None = None) -> Iterator[None]:
    """The Hub's client waits for ever by default; within this it gives a silent connection up."""
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def patient() -> httpx2.Client:
        client = default_client_factory()
        client.timeout = httpx2.Timeout(timeout or TIMEOUT)
        return client

    set_client_factory(patient)
    try:
        yield
    finally:
        set_client_factory(default_client_factory)


def _hub_errors() -> tuple[type[Exception], ...]:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError, httpx2.HTTPError


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error; the client wraps those of large files."""
    responses = [getattr(cause, "response", None) for cause in _causes(error)]
    return next((response.status_code for response in responses if response is not None), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _broken(error: BaseException) -> Exception | None:
    """The failure of the connection behind an error, if it is one."""
    import httpx2

    return next((cause for cause in _causes(error) if isinstance(cause, httpx2.TransportError)), None)


def _transient(error: Exception) -> bool:
    status = _status(error)
    return status in TRANSIENT if status is not None else _broken(error) is not None


def explain(error: Exception) -> str:
    """What went wrong with the Hub and what to do about it; never a token, an address of this machine, or a path."""
    import httpx2
    from huggingface_hub.errors import (
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status, broken = _status(error), _broken(error)
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in _causes(error)):
        return "it is not in the cache, and HF_HUB_OFFLINE is set."
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision (404)."
    if isinstance(error, RemoteEntryNotFoundError):
        return "a file is missing there (404)."
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no such repository, or the token may not see it ({status}): check the name, `hf auth login`."
    if status == 401:
        return "the Hub does not accept the token (401): log in anew with `hf auth login`, or set HF_TOKEN."
    if status == 403:
        return "the token may not do this (403): use one with write access, or another repository."
    if status in (409, 412):
        return f"somebody else is changing it ({status})."
    if status == 429:
        return "the Hub is rate limiting (429)."
    if status is not None:
        return f"the Hub answers with an error ({status})."
    if isinstance(broken, httpx2.TimeoutException):
        return "the Hub does not answer in time."
    if broken is not None:
        return f"the Hub cannot be reached, or the connection broke ({type(broken).__name__})."
    return " ".join(str(error).split())
