"""Downloads from the Hub, uploads to it, and messages for what can go wrong: no other module connects to it."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cardiff.errors import UserError
from cardiff.integrity import CHECKSUMS, listed_files, read_json
from cardiff.layout import shipped_models
from cardiff.training.checkpoint import step_of

TIMEOUT = 120.0
"""Seconds without a byte after which a connection is given up."""
WAITS = (2.0, 10.0, 30.0)
"""Seconds before each retry of a commit; within a commit, huggingface_hub retries single requests by itself."""
OPENING_TIMEOUT = 15.0
"""The timeout in seconds while a training run waits to start."""
TRANSIENT = (408, 409, 412, 425, 429, 500, 502, 503, 504)
"""HTTP statuses after which a retry may succeed."""
REPLACED = ["unet/*", "classifier/*", "scheduler/*", "model_index.json", "pipeline_class_conditional.py", "run.json"]
REPLACED += ["samples.png", "schedule.png", CHECKSUMS]
"""What a push deletes if the new model does not have it, since it belongs to other weights."""


class HubError(UserError):
    """A request to the Hub failed."""


def download(model: str, names: list[str], revision: str | None = None) -> Path:
    """Download files of a Hub repository, and return the local folder that holds them.

    Args:
        model: OWNER/NAME, or NAME.
        names: Files or patterns, as of `snapshot_download`; they should match neither code nor pickles.
        revision: Branch, tag or commit; the main branch by default.

    Raises:
        UserError: `model` is a path that does not exist.
        HubError: The repository cannot be read.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if model.startswith((".", "/")) or model.count("/") > 1:
        raise UserError(f"{model} is not a folder: name the folder of a model, or a Hub repository.")
    try:
        with _with_timeout():
            return Path(snapshot_download(model, revision=revision, allow_patterns=names))
    except (HFValidationError, LocalEntryNotFoundError, OSError, *_hub_errors()) as error:
        # Who gives a bare name means most likely a model that ships.
        shipped = "" if "/" in model else f" The models that ship are {', '.join(shipped_models())}."
        raise HubError(
            f"{model} is neither a folder nor a Hub repository that can be read: {explain(error)}{shipped}"
        ) from error


def download_checkpoint(repository: str) -> Path:
    """Download the newest checkpoint of a Hub repository, and return its local folder.

    Only the files that its checksums list are downloaded, all of which must be files of a checkpoint.

    Raises:
        HubError: The repository cannot be read.
        UserError: The repository contains no checkpoint, or a damaged one.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        with _with_timeout():
            names = HfApi().list_repo_files(repository)
    except (HFValidationError, OSError, *_hub_errors()) as error:
        raise HubError(f"--resume_from {repository} cannot be read: {explain(error)}") from error
    steps = sorted(m[1] for m in (re.fullmatch(rf"(step-\d{{8,}})/{CHECKSUMS}", name) for name in names) if m)
    if not steps:
        raise UserError(
            f"--resume_from {repository} contains no checkpoint: name the repository that --hub_resume_id pushed to."
        )
    checkpoint = download(repository, [f"{steps[-1]}/{CHECKSUMS}"]) / steps[-1]
    try:
        files = [f"{steps[-1]}/{name}" for name in listed_files(checkpoint)]
    except ValueError as error:
        raise UserError(f"--resume_from {repository}: {steps[-1]} is damaged ({error}).") from error
    return download(repository, [f"{steps[-1]}/{CHECKSUMS}", *files]) / steps[-1]


def check_access() -> None:
    """Check what an upload needs on this machine; nothing is requested from the Hub.

    Raises:
        UserError: There is no token, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants, get_token

    if constants.is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be pushed: unset it, or run publish.py later.")
    if get_token() is None:
        raise UserError("There is no token for the Hub: run `hf auth login` or set HF_TOKEN.")


def open_repository(repository: str, private: bool, revision: str | None = None, retry: bool = True) -> str:
    """Create a repository and a branch unless they exist, and return the repository's full name, OWNER/NAME.

    Args:
        repository: NAME or OWNER/NAME.
        private: Create it as a private one, and refuse a public one that exists.
        revision: The branch, or None for the main one.
        retry: Retry after failures that may pass, with the usual timeout; otherwise try once, with a short one.

    Raises:
        UserError: The repository exists and is public, although `private` is set.
        HubError: The repository could not be created.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="cardiff")

    def make() -> str:
        # Created private, not made private afterwards; None leaves it to the owner's own default.
        name = api.create_repo(repository, private=private or None, exist_ok=True).repo_id
        if private and not api.repo_info(name).private:
            raise UserError(
                f"{name} exists and is public: make it private in its settings, or name another repository."
            )
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        return name

    return _attempt(make, repository) if retry else _attempt(make, repository, waits=(), timeout=OPENING_TIMEOUT)


def head_of(repository: str, revision: str | None = None) -> str | None:
    """The newest commit of a branch, for a push that must not overwrite a later one.

    None if there is no such branch, or the repository's name has no owner yet.

    Raises:
        HubError: The Hub cannot be asked.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    def ask() -> str:
        try:
            return HfApi(library_name="cardiff").repo_info(repository, revision=revision).sha or ""
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return ""

    return (_attempt(ask, repository) or None) if "/" in repository else None


@dataclass
class Order:
    """Which of two pushes counts, if another one came in between."""

    parent: str | None
    """The newest commit when the push was prepared, as of `head_of`."""
    step: int | None
    """Of the model that is pushed."""
    yields: bool = False
    """Whether it gives up when a model of a later step was pushed meanwhile; otherwise the last one counts."""

    def moved(self, repository: str, head: str | None, step: int | None) -> None:
        """Take another commit for the parent.

        Raises:
            HubError: The push has to give up.
        """
        if self.yields and step is not None and self.step is not None and step > self.step:
            raise HubError(
                f"{repository}: step {step} was pushed meanwhile, later than step {self.step} of this upload, and was "
                "left as it is."
            )
        self.parent = head


def push_model(folder: Path, repository: str, message: str, order: Order, revision: str | None = None) -> str:
    """Upload a folder as the model of a repository, in one commit, and return the repository's URL.

    Raises:
        HubError: The upload failed, or gave up for a later one.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(library_name="cardiff")

    def push() -> str:
        try:
            api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=revision,
                commit_message=message,
                delete_patterns=REPLACED,
                parent_commit=order.parent,
            )
        except HfHubHTTPError as error:
            if _status(error) == 412:
                head = api.repo_info(repository, revision=revision).sha
                order.moved(repository, head, _step_at(repository, head))
            raise
        return f"{api.endpoint}/{repository}" + (f"/tree/{revision}" if revision else "")

    return _attempt(push, repository)


def push_space(folder: Path, space: str, private: bool) -> str:
    """Create a Space unless it exists, upload a folder as its content in one commit, and return its URL.

    Raises:
        HubError: The upload failed.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="cardiff")

    def push() -> str:
        name = api.create_repo(
            space, repo_type="space", space_sdk="gradio", private=private or None, exist_ok=True
        ).repo_id
        api.upload_folder(repo_id=name, repo_type="space", folder_path=folder, commit_message="Space")
        return f"{api.endpoint}/spaces/{name}"

    return _attempt(push, space)


def _step_at(repository: str, commit: str | None) -> int | None:
    """The step of the model in a commit, or None if it does not say."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        step = read_json(Path(hf_hub_download(repository, "run.json", revision=commit))).get("step")
    except (RemoteEntryNotFoundError, UserError):
        return None
    return step if type(step) is int else None


def push_checkpoint(checkpoint: Path, repository: str, order: Order) -> str:
    """Upload a whole checkpoint in place of the others, in one commit, and return the repository's URL.

    Raises:
        HubError: The upload failed, or gave up for a later one.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(library_name="cardiff")

    def push() -> str:
        there = _checkpoints_in(api.list_repo_files(repository))
        operations = [CommitOperationDelete(f"{old}/", is_folder=True) for old in there - {checkpoint.name}]
        for name in (CHECKSUMS, *listed_files(checkpoint)):
            operations.append(CommitOperationAdd(f"{checkpoint.name}/{name}", str(checkpoint / name)))
        message = f"Checkpoint of step {step_of(checkpoint)}"
        try:
            api.create_commit(repository, operations, commit_message=message, parent_commit=order.parent)
        except HfHubHTTPError as error:
            if _status(error) == 412:
                now = api.repo_info(repository)
                found = _checkpoints_in(sibling.rfilename for sibling in now.siblings or [])
                order.moved(repository, now.sha, max((step_of(Path(name)) for name in found), default=None))
            raise
        return f"{api.endpoint}/{repository}"

    return _attempt(push, repository)


def _checkpoints_in(names: Iterable[str]) -> set[str]:
    """The folders of checkpoints among the files of a repository."""
    return {found[0] for found in (re.match(r"step-\d{8,}(?=/)", name) for name in names) if found}


def _attempt(
    action: Callable[[], str], repository: str, waits: Sequence[float] | None = None, timeout: float | None = None
) -> str:
    """Retry an action after failures that may pass, `waits` seconds apart."""
    failures: tuple[type[Exception], ...] = (OSError, RuntimeError, *_hub_errors())
    for wait in (*(WAITS if waits is None else waits), None):
        try:
            with _with_timeout(timeout):
                return action()
        except failures as error:
            if wait is None or not _transient(error):
                raise HubError(f"{repository}: {explain(error)}") from error
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def _with_timeout(timeout: float | None = None) -> Iterator[None]:
    """Within this, huggingface_hub has a timeout; by default it waits forever."""
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def client_with_timeout() -> httpx2.Client:
        client = default_client_factory()
        client.timeout = httpx2.Timeout(timeout or TIMEOUT)
        return client

    set_client_factory(client_with_timeout)
    try:
        yield
    finally:
        set_client_factory(default_client_factory)


def _hub_errors() -> tuple[type[Exception], ...]:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError, httpx2.HTTPError


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error, which huggingface_hub wraps for large files."""
    responses = [getattr(cause, "response", None) for cause in _causes(error)]
    return next((response.status_code for response in responses if response is not None), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _broken(error: BaseException) -> Exception | None:
    """The failure of the connection behind an error, or None."""
    import httpx2

    return next((cause for cause in _causes(error) if isinstance(cause, httpx2.TransportError)), None)


def _transient(error: Exception) -> bool:
    status = _status(error)
    return status in TRANSIENT if status is not None else _broken(error) is not None


def explain(error: Exception) -> str:
    """What went wrong and what to do about it, without tokens, local addresses and paths."""
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
        return "a file is missing from it (404)."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no such repository, or the token has no access to it ({status}): check the name, or run "
            "`hf auth login`."
        )
    if status == 401:
        return "the Hub does not accept the token (401): run `hf auth login` again, or set HF_TOKEN."
    if status == 403:
        return "the token lacks permission (403): use one with write access, or another repository."
    if status in (409, 412):
        return f"another commit to it is in progress ({status})."
    if status == 429:
        return "the Hub is rate limiting (429)."
    if status is not None:
        return f"the Hub returned an error ({status})."
    if isinstance(broken, httpx2.TimeoutException):
        return "the Hub did not answer in time."
    if broken is not None:
        return f"the Hub cannot be reached, or the connection was lost ({type(broken).__name__})."
    return " ".join(str(error).split())
