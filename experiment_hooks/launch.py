"""How a run was launched, what in it is a secret, and what it is called.

Rules of this module:

- It is asked once, at ``open_run``, in less than a millisecond: files are read, no
  process is started, no network is asked.
- It never raises: a fact that the machine does not give is left out.
- Secrets are masked here, in the process that has them, before anything is sent or
  spooled. Where in doubt it masks.
"""

import os
import re
import sys
import time
import unicodedata
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

MASK = "***"
MAX_ARGUMENTS = 256
MAX_ARGUMENT = 1024
MAX_COMMAND_BYTES = 1 << 20
MAX_SLUG = 40
MAX_PARENTS = 64
"""A repository is looked for in so many directories above."""
MAX_REFS_BYTES = 1 << 20
"""So much of ``packed-refs`` is searched."""

_SCHEDULERS = (
    "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_STEP_ID",
    "SLURM_PROCID", "SLURM_RESTART_COUNT", "SLURM_JOB_PARTITION", "SLURM_CLUSTER_NAME",
    "PBS_JOBID", "PBS_ARRAY_INDEX", "PBS_ARRAYID",
    "LSB_JOBID", "LSB_JOBINDEX",
    "RAY_JOB_ID",
)  # fmt: skip
"""Variables by which schedulers name a job; its id before its parts."""


class _Place(NamedTuple):
    """Where the run is launched."""

    environ: Mapping[str, str]
    argv: Optional[Sequence[str]]
    directory: str
    root: str


def facts(
    *,
    private: bool = False,
    environ: Optional[Mapping[str, str]] = None,
    argv: Optional[Sequence[str]] = None,
    directory: Optional[str] = None,
    root: str = "/",
) -> Dict[str, Any]:
    """What the process knows of its own launch; never raises.

    Args:
        private: nothing is to be said.
        environ: the environment, by default the process's.
        argv: the command, by default the process's, with Python and its options where
            these are known; its secrets are masked.
        directory: where it was started, by default the current one.
        root: where a container's mark files lie.

    Returns:
        Those of these that are known: ``command`` (a list), ``directory``, ``host``,
        ``user``, ``pid``, ``python``, ``implementation``, ``platform``, ``git``
        (``commit`` and ``branch``), ``scheduler`` (by variable), ``pod``,
        ``container``, ``cuda_visible_devices``, ``conda``, ``venv``.
    """
    if private:
        return {}
    place = _Place(
        os.environ if environ is None else environ,
        argv,
        os.path.abspath(directory) if directory else _here(),
        root,
    )
    found: Dict[str, Any] = {}
    for read in (_process, _machine, _git, _scheduler, _containers, _environment):
        try:
            found.update(read(place))
        except Exception:  # one fact that cannot be had spares the others
            continue
    return {name: value for name, value in found.items() if value not in (None, "", {})}


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:  # the directory was removed
        return ""


def _typed() -> Sequence[str]:
    """What was typed to start this process, else what the program was given of it.

    It is the latter where that is not the end of the former: the program may have
    changed it since, or be the child of ``multiprocessing``; and code after ``-c`` is
    not said, it may hold anything.
    """
    given = getattr(sys, "argv", [])
    whole = getattr(sys, "orig_argv", None) or _command_line()  # from Python 3.10 on
    first = len(whole) - len(given)
    if not given or first < 1:
        return given
    script = whole[first] == given[0] or whole[first - 1] == "-m"
    return whole if script and whole[first + 1 :] == given[1:] else given


def _command_line() -> List[str]:
    try:
        with open("/proc/self/cmdline", "rb") as file:
            data = file.read(MAX_COMMAND_BYTES)
    except OSError:  # not Linux
        return []
    return [os.fsdecode(argument) for argument in data.split(b"\0")[:-1]]


def _clean(text: Any, most: int = MAX_ARGUMENT) -> str:
    """Text that can be sent: bounded, and without lone surrogates."""
    if not isinstance(text, str):
        return ""
    return text[:most].encode("utf-8", "replace").decode("utf-8")


def _process(place: _Place) -> Dict[str, Any]:
    return {
        "command": mask_command(_typed() if place.argv is None else place.argv),
        "directory": _clean(place.directory),
        "pid": os.getpid(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "implementation": sys.implementation.name,
    }


def _machine(place: _Place) -> Dict[str, Any]:
    env = place.environ
    found = {
        "user": _clean(env.get("USER") or env.get("LOGNAME") or env.get("USERNAME")),
        "host": _clean(env.get("COMPUTERNAME")),
        "platform": sys.platform,
    }
    if hasattr(os, "uname"):  # platform.uname() would start a process on Python 3.8
        system = os.uname()
        found["host"] = _clean(system.nodename)
        found["platform"] = f"{system.sysname}-{system.release}-{system.machine}"
    if not found["user"] and hasattr(os, "getuid"):
        found["user"] = _user_name()
    return found


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user need not have a name
        return str(os.getuid())


def _scheduler(place: _Place) -> Dict[str, Any]:
    env = place.environ
    names = list(_SCHEDULERS)
    if "SGE_ROOT" in env or "SGE_TASK_ID" in env:
        names += ["JOB_ID", "SGE_TASK_ID"]
    found = {name: _clean(env.get(name), 200) for name in names}
    pod = env.get("POD_NAME")
    if not pod and "KUBERNETES_SERVICE_HOST" in env:
        pod = env.get("HOSTNAME")
    known = {name: value for name, value in found.items() if value}
    return {"scheduler": known, "pod": _clean(pod, 200)}


def _containers(place: _Place) -> Dict[str, Any]:
    env = place.environ
    if env.get("APPTAINER_CONTAINER") or env.get("SINGULARITY_CONTAINER"):
        return {"container": "apptainer"}
    if "KUBERNETES_SERVICE_HOST" in env:
        return {"container": "kubernetes"}
    if os.path.exists(os.path.join(place.root, ".dockerenv")):
        return {"container": "docker"}
    if os.path.exists(os.path.join(place.root, "run", ".containerenv")):
        return {"container": "podman"}
    return {"container": _clean(env.get("container"), 200)}


def _environment(place: _Place) -> Dict[str, Any]:
    env = place.environ
    venv = env.get("VIRTUAL_ENV") or (sys.prefix != sys.base_prefix and sys.prefix)
    return {
        "cuda_visible_devices": _clean(env.get("CUDA_VISIBLE_DEVICES")),
        "conda": _clean(env.get("CONDA_DEFAULT_ENV"), 200),
        "venv": _clean(os.path.basename(venv.rstrip("/\\")), 200) if venv else "",
    }


# --- the repository ------------------------------------------------------------------

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def _git(place: _Place) -> Dict[str, Any]:
    """Commit and branch of the repository that the directory is in, by its files."""
    home = _git_directory(place.directory)
    if home is None:
        return {}
    # A worktree has its own HEAD; the branches are those of the main repository.
    shared = os.path.join(home, _first_line(os.path.join(home, "commondir")) or ".")
    head = _first_line(os.path.join(home, "HEAD"))
    found = {}
    if head.startswith("ref: "):
        ref = head[5:].strip()
        if ref.startswith("refs/heads/") and ref != "refs/heads/.invalid":
            found["branch"] = _clean(ref[len("refs/heads/") :], 200)
        head = (
            _first_line(os.path.join(home, ref))
            or _first_line(os.path.join(shared, ref))
            or _packed(os.path.join(shared, "packed-refs"), ref)
        )
    if _COMMIT.fullmatch(head):
        found["commit"] = head
    return {"git": found}


def _git_directory(directory: str) -> Optional[str]:
    for _ in range(MAX_PARENTS):
        path = os.path.join(directory, ".git")
        if os.path.isdir(path):
            return path
        if os.path.isfile(path):  # of a worktree or a submodule
            line = _first_line(path)
            if line.startswith("gitdir: "):
                return os.path.join(directory, line[8:].strip())
            return None
        directory, below = os.path.dirname(directory), directory
        if directory == below:
            return None
    return None


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline(4096).strip()
    except OSError:
        return ""


def _packed(path: str, ref: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_REFS_BYTES)
    except OSError:
        return ""
    end = data.find(b" " + ref.encode("utf-8", "replace") + b"\n")
    start = data.rfind(b"\n", 0, max(end, 0)) + 1
    return data[start:end].decode("ascii", "replace") if end > 0 else ""


# --- secrets -------------------------------------------------------------------------

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORDS = frozenset([
    "secret", "secrets", "token", "passphrase", "pwd", "credential", "credentials",
    "auth", "oauth", "authorization", "authentication",
    "accesskey", "accesstoken", "authtoken", "privatekey", "secretkey",
])  # fmt: skip
_SECRET_PARTS = ("password", "passwd", "apikey")  # also in PGPASSWORD
_KEYS = frozenset(["key", "keys", "tokens"])
_KEY_OWNERS = frozenset(["api", "private", "access", "signing", "encryption", "ssh"])
_VOCABULARY = frozenset(["bos", "cls", "eos", "mask", "pad", "sep", "unk"])
"""Before ``token``: a word of a language model's vocabulary, not a secret."""

# No pattern may look at the same characters again and again: texts can be long.
_URL = re.compile(r"(://[^\s/@:]*):[^\s/]+@")
_BARE_USER = re.compile(r"(https?://)[^\s/@:]+@")
_ASSIGNED = re.compile(r"([-+~\w.@/]+)(=|:(?!//)\s*).+", re.DOTALL)
_PAIR = re.compile(r"""(?<![\w.-])([\w.-]+)["']?\s*[=:](?!//)\s*""")
_VALUE = re.compile(
    r"""
    "(?:[^"\\]|\\.)*"? | '(?:[^'\\]|\\.)*'?
    | \[[^\]]{0,1024}\]? | \{[^}]{0,1024}\}? | \([^)]{0,1024}\)?
    | (?:(?:basic|bearer|token)\s+)? [^\s,;&}\])"']+
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


def is_secret(name: str) -> bool:
    """Whether a value under this name is a secret, by its words.

    Words are separated by case, underscores, dots, dashes: ``apiKey`` and
    ``db.api_key`` are, ``tokenizer``, ``max_tokens`` and ``author`` are not.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        if word == "token" and before in _VOCABULARY:
            continue
        if word in _SECRET_WORDS or any(part in word for part in _SECRET_PARTS):
            return True
        if word in _KEYS and before in _KEY_OWNERS:
            return True
    return False


def mask(value: Any) -> Any:
    """Plain values (see ``plain``) with ``***`` for the secrets in them; never raises.

    What lies under a secret's name is masked as a whole; None, True and False are no
    secrets. In texts, those that are written as ``name=value`` or in an address are.
    """
    try:
        return _masked(value)
    except Exception:
        return MASK


def mask_command(command: Sequence[str]) -> List[str]:
    """A command, at most 256 arguments, with ``***`` for its secrets; never raises.

    ``--token=x``, ``--token x``, Hydra's ``+db.api_key=x``, ``PASSWORD=x`` and
    ``https://user:x@host`` are known.
    """
    try:
        # Masked before it is cut: what is cut away may show that the rest is a secret.
        bounded = [
            argument[: 16 * MAX_ARGUMENT] for argument in command[:MAX_ARGUMENTS]
        ]
        return [_clean(argument) for argument in _masked_arguments(bounded)]
    except Exception:
        return [MASK]


def _masked_arguments(arguments: Sequence[str]) -> List[str]:
    found: List[str] = []
    awaited = False  # the option before names a secret, and this may be it
    for argument in arguments:
        option = argument.startswith("--") or (
            argument[:1] == "-" and len(argument) == 2
        )
        found.append(MASK if awaited and not option else _masked_text(argument))
        bare = "=" not in argument and ":" not in argument
        awaited = argument.startswith("-") and bare and is_secret(argument)
    return found


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _under(name, inner) for name, inner in value.items()}
    if isinstance(value, list):
        if all(isinstance(inner, str) for inner in value):
            return _masked_arguments(value)
        return [_masked(inner) for inner in value]
    return _masked_text(value) if isinstance(value, str) else value


def _under(name: Any, value: Any) -> Any:
    known = value is None or isinstance(value, bool)
    if not known and isinstance(name, str) and is_secret(name):
        return MASK
    return _masked(value)


def _masked_text(text: str) -> str:
    """A text without what is written in it as a secret."""
    if "://" in text:
        text = _URL.sub(rf"\1:{MASK}@", text)
        text = _BARE_USER.sub(rf"\1{MASK}@", text)
    if "=" not in text and ":" not in text:
        return text
    whole = _ASSIGNED.fullmatch(text)
    if whole and is_secret(whole[1]):
        return f"{whole[1]}{whole[2]}{MASK}"
    return _masked_pairs(text)


def _masked_pairs(text: str) -> str:
    """A longer text: each ``name=value`` in it, also in each other's values."""
    parts = []
    done = 0
    for pair in _PAIR.finditer(text):
        if pair.start() < done or not is_secret(pair[1]):
            continue
        value = _VALUE.match(text, pair.end())
        parts += [text[done : pair.end()], MASK if value else ""]
        done = value.end() if value else pair.end()
    return "".join([*parts, text[done:]])


# --- names ---------------------------------------------------------------------------


def slug(name: str) -> str:
    """A name as ``[a-z0-9-]``, at most 40 characters, never empty."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_only.lower()).strip("-")
    return words[:MAX_SLUG].strip("-") or "run"


def new_run_id(name: str, now: float, random_bytes: bytes) -> str:
    """A readable id that is unique, such as ``q-learning-20261121-033712-a3f9``.

    Args:
        name: the experiment's name.
        now: Unix seconds; the id shows them in UTC.
        random_bytes: what tells it from others of the same second; two are enough for
            runs started by hand, an array of a thousand jobs wants four.
    """
    moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    return f"{slug(name)}-{moment}-{random_bytes.hex()}"
