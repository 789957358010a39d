"""A server on the loopback address that speaks the part of the Hub's protocol which its unmodified client uses.

Requests of huggingface_hub with HF_ENDPOINT set to it: repositories are made, files are announced (preupload), large
ones are put (LFS), commits are made, trees are listed and files are read; and any request can be made to fail. Models
are at owner/name and Spaces at spaces/owner/name, and can be written; data sets are at datasets/owner/name and can
be read.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

TOKENS = {"hf_writer": "write", "hf_reader": "read"}
LARGE = (".safetensors", ".bin", ".png")
PART = 1_000_000
"""Large files longer than this are put in parts of it."""


@dataclass
class Commit:
    """A state of a branch."""

    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """Branches of commits, the newest last."""

    private: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=lambda: {"main": []})

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The files of a branch or commit."""
        return self.find(revision).files

    def find(self, revision: str) -> Commit | None:
        """The commit that a branch or an oid names."""
        if revision in self.branches:
            return self.branches[revision][-1]
        found = [commit for commits in self.branches.values() for commit in commits if commit.oid == revision]
        return found[0] if found else None

    def commit(self, revision: str, message: str, files: dict[str, bytes]) -> Commit:
        """Put a commit on a branch."""
        seed = f"{revision} {message} {len(self.branches[revision])} {sorted(files)} {time.time_ns()}"
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), message, files)
        self.branches[revision].append(commit)
        return commit


@dataclass
class Request:
    """What was received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class _Fault:
    matches: Callable[[str], object]
    kind: int | str
    left: float
    headers: dict[str, str]


class HubServer:
    """Use as `with HubServer() as server`; everything is kept in memory."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.faults: list[_Fault] = []
        self.lock = threading.RLock()
        self.released = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str | None = "hf_writer") -> dict[str, str]:
        """Variables for a process that talks to this server."""
        variables = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return variables if token is None else {**variables, "HF_TOKEN": token}

    def redirect(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """Make the client in this process, and in those that it starts, talk to this server."""
        for name, value in self.environment(home).items():
            monkeypatch.setenv(name, value)
        # The client has read its environment already.
        for name, value in [
            ("ENDPOINT", self.url),
            ("HUGGINGFACE_CO_URL_TEMPLATE", self.url + "/{repo_id}/resolve/{revision}/{filename}"),
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_HUB_CACHE", str(home / "hub")),
        ]:
            monkeypatch.setattr(constants, name, value)

    def add(self, repo_id: str, files: dict[str, bytes], private: bool = False) -> str:
        """Put a repository there, whatever its files are called; returns the commit's oid."""
        repository = self.repositories[repo_id] = Repository(private)
        return repository.commit("main", "initial commit", dict(files)).oid

    def fail(self, what: str, kind: int | str, times: float = 1, headers: dict[str, str] | None = None) -> None:
        """Make the next `times` requests whose "METHOD /path" matches the expression `what` fail.

        `kind` is an HTTP status, "cut" (the connection breaks while the body travels), "hang" (no answer), or
        "corrupt" (a byte of what is read is another).
        """
        with self.lock:
            self.faults.append(_Fault(re.compile(what).search, kind, times, headers or {}))

    def clear(self) -> None:
        """Forget faults and requests."""
        with self.lock:
            self.faults.clear()
            self.requests.clear()

    def fault(self, line: str) -> _Fault | None:
        """The fault that is due for a request."""
        with self.lock:
            for fault in self.faults:
                if fault.left > 0 and fault.matches(line):
                    fault.left -= 1
                    return fault
        return None


class _Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str | None = None, **more):
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


REPO = r"(?P<repo>((datasets|spaces)/)?[^/]+/[^/]+)"
WRITTEN = r"(models/)?(?P<repo>(spaces/)?[^/]+/[^/]+)"
ROUTES: list[tuple[str, re.Pattern, str]] = [
    (method, re.compile(pattern), name)
    for method, pattern, name in [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", rf"/api/{WRITTEN}/branch/(?P<rev>.+)", "branch"),
        ("POST", rf"/api/{WRITTEN}/preupload/(?P<rev>.+)", "preupload"),
        ("POST", rf"/api/{WRITTEN}/commit/(?P<rev>.+)", "commit"),
        ("GET", rf"/api/(models/)?{REPO}/tree/(?P<rev>[^/]+)(/(?P<folder>.+))?", "tree"),
        ("POST", rf"/api/(models/)?{REPO}/paths-info/(?P<rev>[^/]+)", "paths"),
        ("GET", rf"/api/(models/)?{REPO}(/revision/(?P<rev>.+))?", "info"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("POST", r"/lfs/(?P<oid>\w+)/(?P<what>verify|complete)", "complete"),
        ("PUT", r"/lfs/(?P<oid>\w+)(/(?P<part>\d+))?", "put"),
        ("GET", rf"/{REPO}/resolve/(?P<rev>[^/]+)/(?P<file>.+)", "resolve"),
        ("HEAD", rf"/{REPO}/resolve/(?P<rev>[^/]+)/(?P<file>.+)", "resolve"),
    ]
]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: HubServer

    def log_message(self, *_):
        """Say nothing."""

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        fault = self.hub.fault(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        if fault is not None and fault.kind == "cut" and length:
            self.rfile.read(length // 2)
            return self.break_off()
        body = self.rfile.read(length)
        with self.hub.lock:
            self.hub.requests.append(Request(self.command, path, dict(self.headers), body))
        if fault is not None and fault.kind == "hang":
            self.hub.released.wait()
            return self.break_off()
        try:
            if fault is not None and isinstance(fault.kind, int):
                self.reply({"error": "a fault"}, fault.kind, fault.headers)
                return None
            for method, pattern, name in ROUTES:
                match = pattern.fullmatch(path) if method == self.command else None
                if match:
                    with self.hub.lock:
                        content, headers = getattr(self, name)(json_or_bytes(body), **match.groupdict())
                    self.reply(content, 200, headers, fault.kind if fault else None)
                    return None
            raise _Problem(404, f"no route for {self.command} {path}")
        except _Problem as problem:
            code = {"X-Error-Code": problem.code} if problem.code else {}
            self.reply(
                {"error": str(problem), **problem.more}, problem.status, {**code, "X-Error-Message": str(problem)}
            )

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def break_off(self) -> None:
        self.close_connection = True
        self.connection.close()

    def reply(self, content, status: int, headers: dict[str, str], fault: str | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        if fault == "corrupt":
            data = bytes([data[0] ^ 1]) + data[1:]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and status == 200 and "ETag" in headers:
            status, data = 206, data[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        if fault == "cut":
            self.wfile.flush()
            self.break_off()

    # Who asks, and for what.

    def right(self) -> str | None:
        """`write`, `read`, or None without a token."""
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in TOKENS:
            raise _Problem(401, "Invalid credentials in Authorization header")
        return TOKENS.get(given)

    def writer(self) -> None:
        right = self.right()
        if right != "write":
            raise _Problem(401 if right is None else 403, "You don't have the rights to write here")

    def find(self, repo: str) -> Repository:
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and self.right() is None):
            raise _Problem(401 if self.right() is None else 404, "Repository not found", "RepoNotFound")
        return found

    def find_commit(self, repo: str, rev: str) -> Commit:
        commit = self.find(repo).find(rev)
        if commit is None:
            raise _Problem(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        return commit

    # The routes: each returns what is sent and the headers.

    def whoami(self, body):
        if self.right() is None:
            raise _Problem(401, "Invalid username or password.")
        return {"name": "user", "type": "user", "auth": {"accessToken": {"role": self.right()}}}, {}

    def validate(self, body):
        return {"errors": [], "warnings": []}, {}

    def create(self, body):
        self.writer()
        repo = f"{body.get('organization') or 'user'}/{body['name']}"
        repo = f"spaces/{repo}" if body.get("type") == "space" else repo
        url = {"url": f"{self.hub.url}/{repo}", "name": repo}
        if repo in self.hub.repositories:
            raise _Problem(409, "You already created this model repo", **url)
        private = body.get("visibility") == "private" or body.get("private") is True
        self.hub.repositories[repo] = Repository(private)
        self.hub.repositories[repo].commit("main", "initial commit", {".gitattributes": b"*.png filter=lfs\n"})
        return url, {}

    def branch(self, body, repo, rev):
        self.writer()
        repository = self.find(repo)
        if rev in repository.branches:
            raise _Problem(409, "Reference already exists")
        repository.branches[rev] = [repository.find("main")]
        return {}, {}

    def preupload(self, body, repo, rev):
        self.writer()
        there = self.find_commit(repo, rev).files
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": oid_of(file["path"], there[file["path"]]) if file["path"] in there else None,
            }
            for file in body["files"]
        ]
        return {"files": files, "commitOid": self.find_commit(repo, rev).oid}, {}

    def batch(self, body, repo):
        self.writer()
        objects = []
        for wanted in body["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            where = f"{self.hub.url}/lfs/{oid}"
            upload = {"href": where}
            if size > PART:
                parts = {str(i + 1): f"{where}/{i + 1}" for i in range(-(-size // PART))}
                upload = {"href": f"{where}/complete", "header": {"chunk_size": str(PART), **parts}}
            actions = {"upload": upload, "verify": {"href": f"{where}/verify"}}
            objects.append({"oid": oid, "size": size} | ({} if oid in self.hub.objects else {"actions": actions}))
        return {"transfer": "basic", "objects": objects}, {}

    def put(self, body, oid, part):
        if part is not None:
            self.hub.parts[oid, int(part)] = body
            return {}, {"ETag": hashlib.md5(body).hexdigest()}
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Problem(400, "the content is not that of the oid")
        self.hub.objects[oid] = body
        return {}, {}

    def complete(self, body, oid, what):
        if what == "complete":
            content = b"".join(self.hub.parts.pop((oid, part["partNumber"])) for part in body["parts"])
            self.put(content, oid, None)
        if oid not in self.hub.objects:
            raise _Problem(404, "no such object")
        return {}, {}

    def commit(self, body, repo, rev):
        self.writer()
        repository, files = self.find(repo), dict(self.find_commit(repo, rev).files)
        message = ""
        for line in body.splitlines() if isinstance(body, bytes) else [json.dumps(body)]:
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, repository.find(rev).oid):
                    raise _Problem(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise _Problem(400, f"{value['path']} was not uploaded")
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            elif key == "deletedFolder":
                folder = value["path"].rstrip("/") + "/"
                files = {name: data for name, data in files.items() if not name.startswith(folder)}
        done = repository.commit(rev, message, files)
        return {"commitUrl": f"{self.hub.url}/{repo}/commit/{done.oid}", "commitOid": done.oid}, {}

    def info(self, body, repo, rev):
        commit = self.find_commit(repo, rev or "main")
        siblings = [{"rfilename": name} for name in commit.files]
        private = self.hub.repositories[repo].private
        repo = repo.removeprefix("datasets/").removeprefix("spaces/")
        return {"id": repo, "modelId": repo, "private": private, "sha": commit.oid, "siblings": siblings}, {}

    def tree(self, body, repo, rev, folder):
        commit = self.find_commit(repo, rev)
        start = f"{folder}/" if folder else ""
        inside = [name for name in commit.files if name.startswith(start)]
        if folder and not inside:
            raise _Problem(404, f"{folder} does not exist", "EntryNotFound")
        folders = sorted({str(parent) for name in inside for parent in PurePosixPath(name).parents})
        folders = [name for name in folders if name.startswith(start) and name != "."]
        if parse_qs(urlsplit(self.path).query).get("recursive", ["True"])[0].lower() != "true":
            folders = [name for name in folders if "/" not in name[len(start) :]]
            inside = [name for name in inside if "/" not in name[len(start) :]]
        return [entry_of(commit, name) for name in [*folders, *inside]], {}

    def paths(self, body, repo, rev):
        commit = self.find_commit(repo, rev)
        there = {str(path) for name in commit.files for path in (PurePosixPath(name), *PurePosixPath(name).parents)}
        wanted = parse_qs(body.decode())["paths"]  # a form
        return [entry_of(commit, name) for name in wanted if name in there], {}

    def resolve(self, body, repo, rev, file):
        commit = self.find_commit(repo, rev)
        if file not in commit.files:
            raise _Problem(404, "Entry not found", "EntryNotFound")
        data = commit.files[file]
        return data, {"ETag": f'"{oid_of(file, data)}"', "X-Repo-Commit": commit.oid, "X-Linked-Size": str(len(data))}


def json_or_bytes(body: bytes):
    """A body as JSON, if it is."""
    try:
        return json.loads(body)
    except ValueError:
        return body


def entry_of(commit: Commit, name: str) -> dict:
    """What a listing says of a file, or of a folder."""
    if name not in commit.files:
        return {"type": "directory", "path": name, "size": 0, "oid": git_oid(name.encode())}
    data = commit.files[name]
    entry = {"type": "file", "path": name, "size": len(data), "oid": git_oid(data)}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def git_oid(data: bytes) -> str:
    """SHA-1 of a blob, as git has it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def oid_of(name: str, data: bytes) -> str:
    """What identifies a file's content: SHA-256 of a large one, SHA-1 as git has it of another."""
    return hashlib.sha256(data).hexdigest() if name.endswith(LARGE) else git_oid(data)
