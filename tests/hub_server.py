"""A Hugging Face hub on loopback: as much of its interface as huggingface_hub, transformers, datasets and peft ask for.

Repositories are kept in memory, a commit being all of its files. Large files lie in LFS: `resolve` sends a client on to
another host, as the real hub sends it to its CDN. What was asked is in `Hub.log`.
"""

import base64
import contextlib
import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.loopback import Loopback

TOKENS = {"hf_writer": ("writer", ("org",)), "hf_reader": ("reader", ())}
"""Token -> its user, and the organisations that the user may write to."""
IN_LFS = (".safetensors", ".bin", ".parquet")


class Asked(NamedTuple):
    """One request, and how it was answered."""

    method: str
    path: str
    status: int
    at: float
    """Seconds since the epoch."""


@dataclass
class Repository:
    """What a hub knows of one repository."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes | None], branch: str = "main") -> str:
        """Put `files` on a branch, beside those that are there, and take away what is None; returns the commit."""
        whole = {**self.commits.get(self.refs.get(branch, ""), {}), **files}
        whole = {path: data for path, data in whole.items() if data is not None}
        told = json.dumps([len(self.commits), sorted((name, _sha256(data)) for name, data in whole.items())])
        sha = hashlib.sha1(told.encode()).hexdigest()
        self.commits[sha], self.refs[branch] = whole, sha
        return sha


class Refusal(Exception):
    """An answer of the hub that is an error: its status, its X-Error-Code, and its words."""

    def __init__(
        self, status: int, code: str = "", message: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


class Hub(Loopback):
    """Use it as a context manager; `url` is what HF_ENDPOINT is to say."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.broken: set[str] = set()
        """Names at which the hub itself fails."""
        self.log: list[Asked] = []

    def __enter__(self) -> Self:
        outer = self

        class Handler(_Handler):
            hub = outer

        port = self.start(Handler)
        self.url, self.cdn = f"http://127.0.0.1:{port}", f"http://localhost:{port}/cdn"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def put(self, name: str, files: Mapping[str, bytes] | Path, kind: str = "models", **told: Any) -> str:
        """Commit files, or those of a folder, to a repository, which is made where it is not there yet."""
        if isinstance(files, Path):
            paths = (path for path in sorted(files.rglob("*")) if path.is_file())
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        branch = told.pop("branch", "main")
        self.stored |= {_sha256(data): data for path, data in files.items() if path.endswith(IN_LFS)}
        return self.repositories.setdefault((kind, name), Repository(**told)).commit(files, branch)

    def asked(self, since: float, until: float) -> list[str]:
        """Requests of that time: METHOD PATH."""
        return [f"{each.method} {each.path}" for each in self.log if since <= each.at <= until]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        with contextlib.suppress(ConnectionError):
            try:
                for method, pattern, answer in ROUTES:
                    if self.command in method.split() and (found := re.fullmatch(pattern, parts.path)):
                        answer(self, **{name: unquote(text) for name, text in found.groupdict("").items()})
                        return
                raise Refusal(404, message=f"no route for {self.command} {self.path}")
            except Refusal as error:
                headers = {"X-Error-Code": error.code} if error.code else {}
                headers |= {"X-Error-Message": error.message, **error.headers}
                self._send(error.status, {"error": error.message}, headers)

    def _send(self, status: int, body: object = b"", headers: Mapping[str, str] | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.hub.log.append(Asked(self.command, self.path, status, time.time()))
        self.send_response(status)
        told = {"content-type": "application/json", "content-length": str(len(raw)), **(headers or {})}
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    # who asks

    def _user(self) -> tuple[str, tuple[str, ...]] | None:
        told = self.headers.get("authorization", "").removeprefix("Bearer ")
        if told and told not in TOKENS:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        return TOKENS.get(told)

    def _may_write(self, name: str) -> bool:
        user = self._user()
        return user is not None and name.partition("/")[0] in (user[0], *user[1])

    def _writer_of(self, name: str) -> None:
        if self._user() is None:
            raise Refusal(401, message="Invalid username or password.")
        if not self._may_write(name):
            raise Refusal(403, message=f"You don't have the rights to create a model under {name.partition('/')[0]}")

    def _repository(self, kind: str, name: str) -> Repository:
        found = self.hub.repositories.get((kind, name))
        if found is None or (found.private and not self._may_write(name)):
            raise Refusal(404 if self._user() else 401, "RepoNotFound", "Repository not found")
        return found

    def _commit(self, kind: str, name: str, revision: str) -> tuple[Repository, str]:
        if name in self.hub.broken:
            raise Refusal(503, message="Service Unavailable")
        found = self._repository(kind, name)
        revision = revision or "main"
        sha = found.refs.get(revision, revision)
        if sha not in found.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found, sha

    # what is asked

    def home(self) -> None:
        self._send(200)

    def whoami(self) -> None:
        if (user := self._user()) is None:
            raise Refusal(401, message="Invalid username or password.")
        organisations = [{"name": name} for name in user[1]]
        self._send(200, {"type": "user", "name": user[0], "orgs": organisations, "auth": {"type": "access_token"}})

    def all_of(self, kind: str) -> None:
        every = self.hub.repositories.items()
        names = [name for (own, name), it in every if own == kind and (not it.private or self._may_write(name))]
        wanted = f"{self.query['author']}/" if "author" in self.query else ""
        self._send(200, [{"id": name} for name in names if name.startswith(wanted)])

    def info(self, kind: str, name: str, revision: str) -> None:
        found, sha = self._commit(kind, name, revision)
        siblings: list[dict[str, Any]] = [
            {"rfilename": path, **({"size": len(data), "blobId": _blob(data)} if "blobs" in self.query else {})}
            for path, data in found.commits[sha].items()
        ]
        gated = "manual" if found.gated else False
        told = {"id": name, "sha": sha, "private": found.private, "gated": gated, "tags": [], "siblings": siblings}
        self._send(200, told)

    def auth_check(self, kind: str, name: str) -> None:
        if self._repository(kind, name).gated and not self._may_write(name):
            raise Refusal(403 if self._user() else 401, "GatedRepo", "Access to it is restricted")
        self._send(200, {})

    def refs(self, kind: str, name: str) -> None:
        refs = self._repository(kind, name).refs.items()
        branches = [{"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": sha} for ref, sha in refs]
        self._send(200, {"branches": branches, "tags": [], "converts": []})

    def tree(self, kind: str, name: str, revision: str, folder: str) -> None:
        found, sha = self._commit(kind, name, revision)
        inside = {
            path: data for path, data in found.commits[sha].items() if path.startswith(f"{folder}/" if folder else "")
        }
        if folder and not inside:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist", {"X-Repo-Commit": sha})
        entries = {path: _entry(path, data) for path, data in inside.items()}
        for path in inside:
            for parent in list(Path(path).parents)[:-1]:
                entries.setdefault(str(parent), {"type": "directory", "path": str(parent), "oid": "0" * 40, "size": 0})
        if self.query.get("recursive", "").lower() != "true":
            depth = folder.count("/") + 1 if folder else 0
            entries = {path: each for path, each in entries.items() if path.count("/") == depth}
        self._send(200, [each for path, each in entries.items() if path != folder])

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        found, sha = self._commit(kind, name, revision)
        wanted = parse_qs(self.body.decode()).get("paths", [])
        self._send(200, [_entry(path, found.commits[sha][path]) for path in wanted if path in found.commits[sha]])

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        kind = kind.strip("/") or "models"
        found, sha = self._commit(kind, name, revision)
        if found.gated and not self._may_write(name):
            asker = "Access to it is restricted" if self._user() else "You must be authenticated"
            raise Refusal(403 if self._user() else 401, "GatedRepo", asker, {"X-Repo-Commit": sha})
        if path not in found.commits[sha]:
            raise Refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        data = found.commits[sha][path]
        if not path.endswith(IN_LFS):
            self._send_file(data, {"X-Repo-Commit": sha, "ETag": f'"{_blob(data)}"'})
            return
        linked = {"X-Linked-Etag": f'"{_sha256(data)}"', "X-Linked-Size": str(len(data))}
        self._send(302, b"", {"X-Repo-Commit": sha, "Location": f"{self.hub.cdn}/{_sha256(data)}", **linked})

    def cdn(self, oid: str) -> None:
        if "authorization" in self.headers:
            raise Refusal(400, message="a token was sent on to another host")
        self._send_file(self.hub.stored[oid], {"ETag": f'"{oid}"'})

    def _send_file(self, data: bytes, headers: Mapping[str, str]) -> None:
        told = {"content-type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", "")):
            start, end = int(asked[1]), int(asked[2] or len(data) - 1)
            told["Content-Range"] = f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
            self._send(206, data[start : end + 1], told)
        else:
            self._send(200, data, told)

    # what is written

    def create(self) -> None:
        asked = json.loads(self.body)
        owner, kind = asked.get("organization") or (self._user() or ("",))[0], f"{asked.get('type', 'model')}s"
        name = f"{owner}/{asked['name']}"
        self._writer_of(name)
        if (kind, name) in self.hub.repositories:
            self._send(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
            return
        made = self.hub.repositories[kind, name] = Repository(private=asked.get("visibility") == "private")
        made.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self._send(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def branch(self, kind: str, name: str, branch: str) -> None:
        self._writer_of(name)
        found = self._repository(kind, name)
        if branch in found.refs:
            raise Refusal(409, message=f"Reference {branch} exists")
        found.refs[branch] = found.refs["main"]
        self._send(200, {})

    def validate_yaml(self) -> None:
        found = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.S)
        told = yaml.safe_load(found[1]) if found else {}
        errors = [
            {"message": f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.'}
            for base in ([told["base_model"]] if "base_model" in told else [])
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base)
        ]
        self._send(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self._writer_of(name)
        found, sha = self._commit(kind, name, revision)
        modes = [
            {
                "path": path,
                "uploadMode": "lfs" if path.endswith(IN_LFS) else "regular",
                "shouldIgnore": False,
                **({"oid": _blob(found.commits[sha][path])} if path in found.commits[sha] else {}),
            }
            for path in (each["path"] for each in json.loads(self.body)["files"])
        ]
        self._send(200, {"files": modes})

    def batch(self, name: str) -> None:
        self._writer_of(name)
        objects = []
        for each in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}
            objects.append({**each, **({} if each["oid"] in self.hub.stored else {"actions": upload})})
        self._send(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if _sha256(self.body) != oid:
            raise Refusal(400, message="not what was announced")
        self.hub.stored[oid] = self.body
        self._send(200)

    def commit(self, kind: str, name: str, revision: str) -> None:
        self._writer_of(name)
        found, _ = self._commit(kind, name, revision)
        files: dict[str, bytes | None] = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                files[value["path"]] = None
        sha = found.commit(files, revision)
        self._send(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _blob(data: bytes) -> str:
    """What git calls these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    told = {"type": "file", "path": path, "size": len(data), "oid": _blob(data)}
    return told | (
        {"lfs": {"oid": _sha256(data), "size": len(data), "pointerSize": 134}} if path.endswith(IN_LFS) else {}
    )


KIND, NAME, REVISION = r"/api/(?P<kind>models|datasets)", r"/(?P<name>[^/]+/[^/]+?)", r"/(?P<revision>[^/]+)"
ROUTES = [
    ("HEAD GET", "/", _Handler.home),
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("GET", KIND, _Handler.all_of),
    ("GET", KIND + NAME + "(?:/revision" + REVISION + ")?", _Handler.info),
    ("GET", KIND + NAME + "/auth-check", _Handler.auth_check),
    ("GET", KIND + NAME + "/refs", _Handler.refs),
    ("GET", KIND + NAME + "/tree" + REVISION + "(?:/(?P<folder>.+))?", _Handler.tree),
    ("POST", KIND + NAME + "/paths-info" + REVISION, _Handler.paths_info),
    ("POST", KIND + NAME + "/branch/(?P<branch>[^/]+)", _Handler.branch),
    ("POST", KIND + NAME + "/preupload" + REVISION, _Handler.preupload),
    ("POST", KIND + NAME + "/commit" + REVISION, _Handler.commit),
    ("POST", NAME + r"\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", _Handler.upload),
    ("HEAD GET", "/cdn/(?P<oid>[0-9a-f]{64})", _Handler.cdn),
    ("HEAD GET", "(?P<kind>/datasets)?" + NAME + "/resolve" + REVISION + "/(?P<path>.+)", _Handler.resolve),
]
