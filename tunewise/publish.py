"""Sending an adapter or a model to the Hugging Face hub: what would leave this machine, and whether it came back.

What is sent is the folder as it was saved, which for an adapter is peft's layout where peft has one, and a README.md.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from tunewise import files, hub
from tunewise.adapter_folders import CARD, OF_A_RUN, PEFT_CONFIG, base_named, card_of, find_adapter
from tunewise.errors import UserError
from tunewise.models.found import INDEX
from tunewise.models.on_disk import UNSAFE_WEIGHTS
from tunewise.report.arms import read_arms
from tunewise.report.card import card_text
from tunewise.report.decision import decide
from tunewise.report.plain_card import adapter_card, model_card
from tunewise.run.adapter_base import base_of_adapter, logits_of_adapter, logits_of_model
from tunewise.run.record import METRICS, is_done, mapping
from tunewise.training.proofs import failed_proofs

README = "README.md"
HERE = "FOLDER_OF_THIS_CARD"
PROBE = "probe.safetensors"
READ = (CARD, PEFT_CONFIG, INDEX, files.MANIFEST)
"""Files that say how the tensors beside them are read."""
OF_THIS_MACHINE = re.compile(r"(?:/[\w.@+~-]+){2,}")


@dataclass(frozen=True)
class Parcel:
    """What is to be sent, and to where. Nothing has left this machine."""

    folder: Path
    kind: Literal["adapter", "model"]
    repository: str
    revision: str
    """The branch, which is made where it is not there; "" is the main one."""
    private: bool
    there: Literal["", "public", "private"]
    """What the repository is, if it is there already."""
    removed: tuple[str, ...]
    """Files on the branch that belong to what lies there now, and would be read with what is sent."""
    user: str
    """Whose token it is."""
    card: str
    """README.md, as it is sent."""
    paths: tuple[str, ...]
    """The other files, relative to the folder."""
    told: tuple[str, ...]
    """What a user wants to know before it is sent."""

    @property
    def sizes(self) -> dict[str, int]:
        """File -> bytes, of all that is sent."""
        return {README: len(self.card.encode()), **{path: (self.folder / path).stat().st_size for path in self.paths}}

    @property
    def name(self) -> str:
        """As it is loaded again."""
        return hub.at_revision(self.repository, self.revision)


def push(
    folder: str | Path, repository: str, *, private: bool = False, revision: str = "", model: str | None = None
) -> dict[str, Any]:
    """`tunewise adapter push`: send the adapter of a run, an adapter folder or a model folder to OWNER/NAME, at once.

    Returns what `send` does. `pack` says beforehand what would be sent.
    """
    return send(pack(folder, repository, private=private, revision=revision), model)


def pack(folder: str | Path, repository: str, *, private: bool = False, revision: str = "") -> Parcel:
    """What would be sent of `folder`. Of the hub it asks whose the token is, and whether the repository is public.

    Raises UserError for a folder that holds neither adapter nor model, for a damaged adapter, for weights in a pickle,
    for a name that is no OWNER/NAME, without a token or an answer of the hub, and where a private repository was asked
    for and is public.
    """
    folder = Path(folder)
    is_model = (folder / "config.json").is_file() and not any((folder / name).is_file() for name in (CARD, PEFT_CONFIG))
    place = folder if is_model else find_adapter(folder)
    if not is_model:
        card_of(place)
        if (place / files.MANIFEST).is_file():
            files.verify(place)
    _refuse_name(repository)
    inside = [path.relative_to(place) for path in sorted(place.rglob("*")) if path.is_file()]
    shown = [path.as_posix() for path in inside if not any(part.startswith(".") for part in path.parts)]
    if unsafe := [path for path in shown if path.endswith(UNSAFE_WEIGHTS)]:
        raise UserError(f"{place} holds {unsafe[0]}, a pickle, which nobody should have to load", "take it out first")
    card = _card(place, repository, is_model).replace(HERE, hub.at_revision(repository, revision))
    user = _user()
    paths = tuple(path for path in shown if path != README)
    there, old = _there(repository, revision)
    if private and there == "public":  # a repository that is there keeps its visibility, whatever is asked for
        told = f"{repository} is there already, and everybody can read it"
        raise UserError(told, "leave --private out, or choose another name")
    return Parcel(
        folder=place, kind="model" if is_model else "adapter", repository=repository, revision=revision,
        private=private, there=there, removed=tuple(path for path in old if path not in paths), user=user, card=card,
        paths=paths, told=_told(place, paths, card, is_model),
    )  # fmt: skip


def send(parcel: Parcel, model: str | None = None) -> dict[str, Any]:
    """Make the repository where it is not there, put all files on its branch in one commit, and load them back.

    `model` is the base where the adapter names none that is to be had. Returns the address, the commit, what was sent,
    and the proof: every file came back with the same sha-256, and on the same rows what was fetched says what the
    folder here says, logit for logit. Raises UserError for what the hub refuses.
    """
    api = HfApi()
    operations = [
        CommitOperationAdd(README, parcel.card.encode()),
        *(CommitOperationAdd(path, parcel.folder / path) for path in parcel.paths),
        *map(CommitOperationDelete, parcel.removed),
    ]
    try:
        api.create_repo(parcel.repository, private=parcel.private or None, exist_ok=True)
        if parcel.revision:
            api.create_branch(parcel.repository, branch=parcel.revision, exist_ok=True)
        message, branch = f"Upload {parcel.kind} with tunewise", parcel.revision or None
        with hub.bars(shown=True):
            done = api.create_commit(parcel.repository, operations, revision=branch, commit_message=message)
    except (*hub.FAILURES, ValueError) as error:
        raise _not_sent(parcel, error) from error
    return {
        "address": hub.address(parcel.repository) + (f"/tree/{parcel.revision}" if parcel.revision else ""),
        "commit": done.oid,
        "name": parcel.name,
        "files": parcel.sizes,
        "bytes": sum(parcel.sizes.values()),
        "proof": _came_back(parcel, done.oid, model),
    }


def _came_back(parcel: Parcel, commit: str, model: str | None) -> dict[str, Any]:
    name = hub.at_revision(parcel.repository, commit)
    fetched = hub.look_up(name).fetch(list(parcel.sizes))
    changed = [path for path in parcel.paths if files.sha256(fetched / path) != files.sha256(parcel.folder / path)]
    if files.read_text(fetched / README) != parcel.card:
        changed.append(README)
    if parcel.kind == "adapter":
        base = base_of_adapter(parcel.folder, model)
        here, there = (logits_of_adapter(find_adapter(place), base) for place in (parcel.folder, name))
    else:
        here, there = (logits_of_model(place) for place in (str(parcel.folder), name))
    distance = float((here - there).abs().max())
    return {"files_changed": changed, "logits_differ_by": distance, "passed": not changed and torch.equal(here, there)}


def _card(place: Path, repository: str, is_model: bool) -> str:
    """The card that lies there; of a finished run the one that `tunewise report --card` writes; or a short one."""
    if (place / README).is_file():
        return files.read_text(place / README)
    run = place.parent
    if place.name == OF_A_RUN and is_done(run):
        arms = read_arms(run)
        return card_text(arms, decide(arms))
    return (model_card if is_model else adapter_card)(place, repository.partition("/")[2])


def _told(place: Path, paths: tuple[str, ...], card: str, is_model: bool) -> tuple[str, ...]:
    told = []
    if failed := _failed_proofs(place):
        told.append(f"proofs of its run failed: {', '.join(failed)}; until they are understood, trust it not")
    if PROBE in paths:
        told.append(f"{PROBE} holds a few rows of the data as token ids, by which a reload is proved")
    texts = {path: files.read_text(place / path) for path in paths if path.endswith(".json") and "token" not in path}
    for path, text in {README: card, **texts}.items():
        if here := next((found for found in OF_THIS_MACHINE.findall(text) if Path(found).exists()), ""):
            told.append(f"{path} names a path of this machine: {here}")
    base = "" if is_model else base_named(card_of(place))
    if base and (Path(base).exists() or Path(base).is_absolute()):
        told.append(f"its base {base} is a folder here: who loads it has to name a base of their own")
    return tuple(told)


def _failed_proofs(place: Path) -> list[str]:
    """Of the run that made the adapter in `place`, where that is the folder of a finished one."""
    run = place.parent
    if place.name != OF_A_RUN or not is_done(run):
        return []
    return failed_proofs(mapping(run / METRICS).get("proofs") or {})


def _refuse_name(repository: str) -> None:
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(
            f"{repository!r} is no name for a repository", "OWNER/NAME, of letters, digits, - _ and ."
        ) from error
    if "/" not in repository:
        raise UserError(f"{repository!r} names no owner", f"OWNER/{repository}, where OWNER is you or an organisation")


def _user() -> str:
    """Whose the token is; UserError where there is none, or the hub does not take it or does not answer."""
    if not hub.answers():
        raise UserError(f"nothing can be sent: {hub.why_not_asked()}", "try again with a network")
    login = f"{hub.LOGIN}, or HF_TOKEN=... in the environment; tokens: {constants.ENDPOINT}/settings/tokens"
    if get_token() is None:
        raise UserError("nothing can be sent: there is no token of the hub on this machine", login)
    try:
        return str(HfApi().whoami()["name"])
    except hub.FAILURES as error:
        raise UserError("nothing can be sent: the hub does not take the token", login) from error


def _there(repository: str, revision: str) -> tuple[Literal["", "public", "private"], list[str]]:
    """What the repository is, and the files on its branch by which an adapter or a model is read; ("", []) if new."""
    api = HfApi()
    try:
        try:
            info = api.model_info(repository, revision=revision or None)
        except RevisionNotFoundError:  # the branch will begin at the main one
            info = api.model_info(repository)
    except RepositoryNotFoundError:
        return "", []
    except hub.FAILURES as error:
        refused = hub.refusal(repository, revision, error)
        raise UserError(f"nothing can be sent to {repository}: {refused.message}", refused.hint) from error
    files_there = [file.rfilename for file in info.siblings or ()]
    # what lies in a folder of its own there is read by nobody who loads what lies beside it
    read = [path for path in files_there if ("/" not in path and path.endswith(".safetensors")) or path in READ]
    return "private" if info.private else "public", read


def _not_sent(parcel: Parcel, error: Exception) -> UserError:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status in (401, 403):
        owner = parcel.repository.partition("/")[0]
        return UserError(
            f"{parcel.user} may not write to {parcel.repository}",
            f"a token with the right to write, and an OWNER that is you or an organisation of yours, not {owner}",
        )
    reason = " ".join(str(error).split())[:300]
    again = "send it again: what is there is not sent twice"
    hint = f"mend what stands between the --- of {parcel.folder / README}" if "metadata" in reason else again
    return UserError(f"{parcel.repository} was not sent whole: {reason}", hint)
