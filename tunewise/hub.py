"""The Hugging Face hub: whether it answers, what lies there under a name, fetching it, and what it refuses, in words.

A name is OWNER/NAME, or OWNER/NAME@REVISION for a branch, a tag or a commit. What was fetched lies in the cache of
huggingface_hub (HF_HOME), and is taken from there where the hub does not answer.
"""

import errno
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from ssl import SSLError
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from huggingface_hub import HfApi, constants, get_token, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as ClientError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from tunewise.errors import UserError, nearest

logger = logging.getLogger(__name__)

Kind = Literal["model", "dataset"]
NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
SECONDS_TO_ANSWER = 5.0
SECONDS_FOR_A_LISTING = 30.0
WORTH_TELLING = 10_000_000
"""Bytes; a download of more is announced."""
LOGIN = "hf auth login"
FAILURES = (OSError, RuntimeError, HFValidationError, ClientError)
"""What clients of the hub raise: errors of HTTP are OSErrors or those of httpx, of whichever huggingface_hub has, those
of its storage RuntimeErrors."""


class Refused(UserError):
    """The hub does not give what was asked for; the message goes on behind "cannot load ...: "."""


@dataclass(frozen=True)
class Repository:
    """What lies on the hub under a name, or of that in the cache."""

    name: str
    revision: str
    """A branch, a tag or a commit; "" is the main branch."""
    files: Mapping[str, int]
    """Path -> bytes of everything that is there."""
    commit: str
    cached: Path | None = None
    """Where the files lie, if the hub was not asked for them."""

    @property
    def full_name(self) -> str:
        """As a user writes it."""
        return at_revision(self.name, self.revision)

    def fetch(self, wanted: Sequence[str]) -> Path:
        """The folder in which these files lie; those that the cache lacks are downloaded. Refused as in `look_up`."""
        if self.cached is not None:
            if lacking := [file for file in wanted if file not in self.files]:
                raise Refused(f"{why_not_asked()}; {lacking[0]} was not downloaded before", "try again with a network")
            return self.cached
        here = {file: folder for file in wanted if (folder := self._folder_of(file)) is not None}
        if here and len(here) == len(wanted):
            return next(iter(here.values()))
        n_bytes = sum(self.files[file] for file in wanted if file not in here)
        if n_bytes > WORTH_TELLING:
            logger.info("downloading %s: %.1f MB, kept in %s", self.full_name, n_bytes / 1e6, constants.HF_HUB_CACHE)
        exactly = [re.sub(r"([*?[])", r"[\1]", file) for file in wanted]
        try:
            with bars(shown=n_bytes > WORTH_TELLING):
                return Path(snapshot_download(self.name, revision=self.revision or None, allow_patterns=exactly))
        except FAILURES as error:
            raise refusal(self.name, self.revision, error) from error

    def _folder_of(self, file: str) -> Path | None:
        """The folder of the commit in the cache, where the revision is known there as this commit and has the file."""
        found = try_to_load_from_cache(self.name, file, revision=self.revision or None)
        folder = Path(found).parents[file.count("/")] if isinstance(found, str) else None
        return folder if folder is not None and folder.name == self.commit else None


def look_up(name: str) -> Repository:
    """What the hub has under OWNER/NAME or OWNER/NAME@REVISION; what the cache has of it where the hub gives nothing.

    Raises Refused for a name or a revision that is not there, a gated or private repository, and where neither the hub
    answers nor the cache has any of it.
    """
    repository, _, revision = name.partition("@")
    cached = _in_the_cache(repository, revision)
    if not answers():
        if cached is None:
            told = "HF_HUB_OFFLINE is set, and it" if constants.is_offline_mode() else f"{why_not_asked()}, and it"
            raise Refused(f"{told} was not downloaded before", _OTHERWISE)
        return cached
    try:
        info = HfApi().model_info(
            repository, revision=revision or None, files_metadata=True, timeout=SECONDS_FOR_A_LISTING
        )
    except FAILURES as error:
        refused = refusal(repository, revision, error)
        if cached is None or isinstance(error, RevisionNotFoundError):
            raise refused from error
        logger.warning("%s is taken as it was downloaded before: %s", name, refused.message)
        return cached
    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return Repository(repository, revision, files, info.sha or "")


@cache
def answers() -> bool:
    """Whether the hub is to be asked and answers within seconds, tried once: its clients try each file for long."""
    if constants.is_offline_mode():
        return False
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=SECONDS_TO_ANSWER).close()
    except HTTPError:
        return True
    except OSError as error:
        if isinstance(error, URLError) and isinstance(error.reason, SSLError):
            return True  # whose certificates the hub's own client may know better
        logger.info("%s does not answer (%s): only what was downloaded before is there", constants.ENDPOINT, error)
        return False
    return True


def why_not_asked() -> str:
    """Why nothing but the cache is there."""
    return "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else f"{constants.ENDPOINT} does not answer"


def why_refused(name: str, revision: str, kind: Kind) -> Refused | None:
    """What the hub has against giving this away, where its client did not say so; None for nothing."""
    api = HfApi()
    try:
        api.repo_info(name, revision=revision or None, repo_type=kind, timeout=SECONDS_FOR_A_LISTING)
        api.auth_check(name, repo_type=kind)
    except FAILURES as error:
        return refusal(name, revision, error, kind)
    return None


@contextmanager
def bars(*, shown: bool) -> Iterator[None]:
    """Bars of huggingface_hub inside only on a terminal, where they are `shown`: it draws them into files too."""
    if (shown and sys.stderr.isatty()) or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def folder_in_the_cache(name: str, revision: str, kind: Kind = "model") -> Path | None:
    """Where what was fetched last at this revision lies, a folder by the name of its commit; None for nothing."""
    try:
        found = snapshot_download(
            name, repo_type=kind, revision=revision or None, allow_patterns=[], local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(found)


def is_name(text: str) -> bool:
    """Whether a text that is no path here can be a repository's: OWNER/NAME, and no OWNER that is a folder here."""
    return NAME.fullmatch(text) is not None and not Path(text.partition("@")[0]).parent.is_dir()


def apart(name: str) -> tuple[str, str]:
    """A base's name on the hub, and its revision; a folder, and a name without a revision, as they are."""
    plain, _, revision = name.partition("@")
    is_revision = re.fullmatch(r"[\w.-]+(/[\w.-]+)?@[\w./-]+", name) is not None and not Path(name).exists()
    return (plain, revision) if is_revision else (name, "")


def at_revision(name: str, revision: str) -> str:
    """A name and a revision, where there is one, as a user writes both."""
    return f"{name}@{revision}" if revision else name


def address(name: str, kind: Kind = "model") -> str:
    """The page of a repository."""
    return f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"


def refusal(name: str, revision: str, error: Exception, kind: Kind = "model") -> Refused:
    """What the hub refused, in words; to be raised."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, GatedRepoError):
        ask = f"ask for access at {address(name, kind)}"
        return Refused(
            "it is gated: its owner decides who may have it", ask if get_token() else f"{ask}, then: {LOGIN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return Refused(f"the hub has it, but no revision {revision!r}", f"it has {_revisions_of(name, kind)}")
    if isinstance(error, RepositoryNotFoundError):
        close = _nearest(name, kind)
        told = "the hub has no repository of that name, or it is a private one of others"
        hint = f"did you mean {close}?" if close else "check the name."
        return Refused(told, hint if get_token() else f"{hint} For a private repository: {LOGIN}")
    if status in (401, 403):
        return Refused(f"the hub does not take the token ({status})", LOGIN)
    if isinstance(error, HFValidationError):
        return Refused("it is no name that the hub could have", "a name on the hub is OWNER/NAME")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        hint = f"it is kept in {constants.HF_HUB_CACHE}, and HF_HOME names another place"
        return Refused(f"it cannot be kept on this machine: {error.strerror}", hint)
    reason = " ".join(str(error).split()) or type(error).__name__
    return Refused(f"the hub does not give it ({reason[:200]})", "try again later, or give a folder")


_OTHERWISE = "check the name and the network, or give a folder: hf download NAME --local-dir FOLDER"


def _in_the_cache(name: str, revision: str) -> Repository | None:
    folder = folder_in_the_cache(name, revision)
    if folder is None:
        return None
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return Repository(name, revision, files, folder.name, folder)


def _nearest(name: str, kind: Kind) -> str:
    """The repository of the same owner that was most likely meant; "" where there is none, or the hub tells none."""
    api = HfApi()
    listing = api.list_datasets if kind == "dataset" else api.list_models
    try:
        names = [each.id for each in listing(author=name.partition("/")[0], limit=200) if each.id != name]
        return nearest(name, names)
    except FAILURES:
        return ""


def _revisions_of(name: str, kind: Kind) -> str:
    try:
        refs = HfApi().list_repo_refs(name, repo_type=kind)
    except FAILURES:
        return "others"
    return ", ".join(ref.name for ref in (*refs.branches, *refs.tags)[:8])
