"""A run says how it was launched, never its secrets, and has a readable name."""

import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import time
from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment_hooks import launch, wire
from tests.support import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


def known(place: Any, **environ: str) -> Dict[str, Any]:
    """The facts of a process in a directory with nothing but this environment."""
    return launch.facts(
        environ=environ, argv=["train.py"], directory=str(place), root=str(place)
    )


def write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# --- facts ---------------------------------------------------------------------------


def test_a_process_says_what_it_is(tmp_path: pathlib.Path) -> None:
    found = known(tmp_path, USER="ada")
    assert found["command"] == ["train.py"]
    assert found["directory"] == str(tmp_path)
    assert found["user"] == "ada"
    assert found["pid"] == os.getpid()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["implementation"] == "cpython"
    assert found["host"]
    assert found["platform"].startswith(os.uname().sysname)
    assert not {"git", "scheduler", "pod", "container", "conda"} & set(found)


def test_left_alone_it_describes_this_process() -> None:
    found = launch.facts()
    assert found["directory"] == os.getcwd()
    given = sys.argv[1:]
    assert found["command"][len(found["command"]) - len(given) :] == given
    wire.encode_plain(found)


SAYS_ITS_COMMAND = """
    import json
    from experiment_hooks import launch
    print(json.dumps(launch.facts()["command"]))
"""
STARTED: Dict[str, Tuple[List[str], List[str]]] = {
    "a script": (["-u", "train.py", "lr=1"], ["-u", "train.py", "lr=1"]),
    "a script without arguments": (["train.py"], ["train.py"]),
    "a module": (["-m", "train", "lr=1"], ["-m", "train", "lr=1"]),
    "a secret": (
        ["-u", "train.py", "--token", "x"],
        ["-u", "train.py", "--token", "***"],
    ),
}


@pytest.mark.parametrize("name", STARTED)
def test_the_command_is_what_was_typed(name: str, tmp_path: pathlib.Path) -> None:
    arguments, said = STARTED[name]
    (tmp_path / "train.py").write_text(textwrap.dedent(SAYS_ITS_COMMAND))
    assert command_of(tmp_path, *arguments) == [sys.executable, *said]


def test_code_on_the_command_line_is_not_said(tmp_path: pathlib.Path) -> None:
    code = textwrap.dedent(SAYS_ITS_COMMAND)
    assert command_of(tmp_path, "-c", code, "lr=1") == ["-c", "lr=1"]


def test_a_changed_command_is_said_as_the_program_has_it(
    tmp_path: pathlib.Path,
) -> None:
    changed = "import sys; sys.argv[1:] = ['lr=2']" + SAYS_ITS_COMMAND.replace(
        "    ", ""
    )
    (tmp_path / "train.py").write_text(changed)
    assert command_of(tmp_path, "train.py", "lr=1") == ["train.py", "lr=2"]


def command_of(place: pathlib.Path, *arguments: str) -> Any:
    """What a Python that is started there with these arguments says of its command."""
    said = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(said.stdout)


def test_a_private_run_says_nothing(tmp_path: pathlib.Path) -> None:
    assert launch.facts(private=True) == {}


def test_the_command_is_said_without_its_secrets() -> None:
    found = launch.facts(environ={}, argv=["a.py", "--token", "abc", "x.api_key=1"])
    assert found["command"] == ["a.py", "--token", "***", "x.api_key=***"]


def test_a_user_without_a_variable_is_found_by_its_id() -> None:
    assert launch.facts(environ={})["user"]


ENVIRONMENTS = {
    "slurm": (
        {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_NTASKS": "9"},
        {"scheduler": {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}},
    ),
    "pbs": ({"PBS_JOBID": "7.pbs"}, {"scheduler": {"PBS_JOBID": "7.pbs"}}),
    "lsf": ({"LSB_JOBID": "7"}, {"scheduler": {"LSB_JOBID": "7"}}),
    "sge": (
        {"SGE_TASK_ID": "undefined", "JOB_ID": "7"},
        {"scheduler": {"JOB_ID": "7", "SGE_TASK_ID": "undefined"}},
    ),
    "a job id of nobody's": ({"JOB_ID": "7"}, {}),
    "ray": ({"RAY_JOB_ID": "7"}, {"scheduler": {"RAY_JOB_ID": "7"}}),
    "kubernetes": (
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "pod-1"},
        {"pod": "pod-1", "container": "kubernetes"},
    ),
    "a named pod": ({"POD_NAME": "pod-1"}, {"pod": "pod-1"}),
    "apptainer": ({"APPTAINER_CONTAINER": "/a.sif"}, {"container": "apptainer"}),
    "systemd": ({"container": "systemd-nspawn"}, {"container": "systemd-nspawn"}),
    "cuda": ({"CUDA_VISIBLE_DEVICES": "0,1"}, {"cuda_visible_devices": "0,1"}),
    "no cuda": ({"CUDA_VISIBLE_DEVICES": ""}, {}),
    "conda": ({"CONDA_DEFAULT_ENV": "rl"}, {"conda": "rl"}),
    "venv": ({"VIRTUAL_ENV": "/home/ada/rl/"}, {"venv": "rl"}),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_environment_tells_where_a_run_lives(
    name: str, tmp_path: pathlib.Path
) -> None:
    environ, expected = ENVIRONMENTS[name]
    found = known(tmp_path, **environ)
    told = ["scheduler", "pod", "container", "cuda_visible_devices", "conda"]
    told += ["venv"] if name == "venv" else []
    assert {key: found[key] for key in told if key in found} == expected


@pytest.mark.parametrize(
    ("mark", "name"), [(".dockerenv", "docker"), ("run/.containerenv", "podman")]
)
def test_a_container_is_known_by_its_mark(
    mark: str, name: str, tmp_path: pathlib.Path
) -> None:
    write(tmp_path / mark, "")
    assert known(tmp_path)["container"] == name


ODD = {
    "surrogates": {"USER": "\udcff", "SLURM_JOB_ID": "\udcff"},
    "very long": {"USER": "a" * 10**6, "CONDA_DEFAULT_ENV": "b" * 10**6},
    "no text": {"USER": 5, "VIRTUAL_ENV": 5, "SLURM_JOB_ID": None},
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_environment_costs_a_fact_at_most(name: str) -> None:
    environ: Any = ODD[name]
    found = launch.facts(environ=environ, argv=["\udcff", "a" * 10**6] * 1000)
    assert found["pid"] == os.getpid()
    assert len(wire.encode_plain(found)) < wire.MAX_RECORD_BYTES


def test_a_removed_directory_is_no_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = launch.facts(environ={}, argv=[])
    assert "directory" not in found
    assert found["pid"] == os.getpid()


def test_facts_are_cheap() -> None:
    launch.facts()
    times = []
    for _ in range(50):
        start = time.perf_counter()
        launch.facts()
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3


# --- the repository ------------------------------------------------------------------


def branch(git: pathlib.Path, name: str = "main", commit: str = COMMIT) -> None:
    write(git / "HEAD", f"ref: refs/heads/{name}\n")
    write(git / "refs/heads" / name, f"{commit}\n")


def test_a_branch_and_its_commit_are_found_from_below(tmp_path: pathlib.Path) -> None:
    branch(tmp_path / ".git", "feature/x")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert known(below)["git"] == {"branch": "feature/x", "commit": COMMIT}


def test_a_packed_branch_is_found(tmp_path: pathlib.Path) -> None:
    write(tmp_path / ".git/HEAD", "ref: refs/heads/main\n")
    write(
        tmp_path / ".git/packed-refs",
        "# pack-refs with: peeled fully-peeled sorted\n"
        f"{OTHER} refs/heads/main2\n{OTHER} refs/heads/my/refs/heads/main\n"
        f"{COMMIT} refs/heads/main\n{OTHER} refs/tags/v1\n^{OTHER}\n",
    )
    assert known(tmp_path)["git"] == {"branch": "main", "commit": COMMIT}


def test_a_detached_head_is_a_commit(tmp_path: pathlib.Path) -> None:
    write(tmp_path / ".git/HEAD", COMMIT + "\n")
    assert known(tmp_path)["git"] == {"commit": COMMIT}


def test_a_worktree_has_its_own_head(tmp_path: pathlib.Path) -> None:
    branch(tmp_path / "main/.git", commit=OTHER)
    write(tmp_path / "main/.git/refs/heads/side", COMMIT)
    home = tmp_path / "main/.git/worktrees/side"
    write(home / "HEAD", "ref: refs/heads/side\n")
    write(home / "commondir", "../..\n")
    write(tmp_path / "side/.git", f"gitdir: {home}\n")
    assert known(tmp_path / "side")["git"] == {"branch": "side", "commit": COMMIT}


def test_a_submodule_is_found_by_its_relative_path(tmp_path: pathlib.Path) -> None:
    branch(tmp_path / ".git/modules/sub")
    write(tmp_path / "sub/.git", "gitdir: ../.git/modules/sub\n")
    assert known(tmp_path / "sub")["git"] == {"branch": "main", "commit": COMMIT}


NO_COMMITS = {
    "a new repository": ({"HEAD": "ref: refs/heads/main\n"}, {"branch": "main"}),
    "reftables": ({"HEAD": "ref: refs/heads/.invalid\n"}, None),
    "nonsense": ({"HEAD": "\x00\xff" * 100}, None),
    "an empty directory": ({"config": ""}, None),
    "another file's first line": (
        {"HEAD": "ref: ../secret\n", "../secret": "hunter2\n"},
        None,
    ),
}


@pytest.mark.parametrize("name", NO_COMMITS)
def test_where_there_is_no_commit_none_is_told(
    name: str, tmp_path: pathlib.Path
) -> None:
    files, expected = NO_COMMITS[name]
    for path, text in files.items():
        write(tmp_path / ".git" / path, text)
    assert known(tmp_path).get("git") == expected


# --- secrets -------------------------------------------------------------------------

SECRETS = """
    password Password PASSWORD db.password dbPassword DB_PASSWORD PGPASSWORD passwd
    token TOKEN hf_token HF_TOKEN hfToken HFToken token2 access-token accessToken
    secret client_secret clientSecret secrets api_key apikey API_KEY apiKey APIKey
    x.api.key api_keys credential credentials aws_credentials private_key privateKey
    private-key access_key accessKeyId AWS_ACCESS_KEY_ID secretkey auth auth.user
    Authorization x-auth-token oauth OAuth oauth2 passphrase passwords
    eos_token_secret
""".split()
HARMLESS = """
    tokenizer tokenizers max_tokens num_tokens maxTokens tokens tokens_per_second author
    authors authority key keys keyboard monkey api apis private access secretary
    keypoints pad_token eosToken mask_token_id compass passes lr name key_id api_version
    tokenized detokenize ε
""".split()


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_known_by_a_word_of_its_name(name: str) -> None:
    assert launch.mask({name: "hunter2"}) == {name: "***"}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_name_that_only_looks_like_one_is_left(name: str) -> None:
    assert launch.mask({name: "x"}) == {name: "x"}
    assert launch.mask_command([f"--{name}", "x", f"{name}=x"]) == [
        f"--{name}",
        "x",
        f"{name}=x",
    ]


VALUES = {
    "nested": ({"a": [{"token": 5, "b": 1}]}, {"a": [{"token": "***", "b": 1}]}),
    "a whole section": ({"credentials": {"user": "a"}}, {"credentials": "***"}),
    "a list": ({"api_keys": ["a", "b"]}, {"api_keys": "***"}),
    "nothing": ({"token": None, "auth": True}, {"token": None, "auth": True}),
    "a url": (
        {"db": "postgres://me:hunter2@host/db"},
        {"db": "postgres://me:***@host/db"},
    ),
    "overrides": (
        {"task": ["+db.password=a b", "lr=0.1"]},
        {"task": ["+db.password=***", "lr=0.1"]},
    ),
    "a command": ({"argv": ["x", "--token", "abc"]}, {"argv": ["x", "--token", "***"]}),
    "a text with a pair in it": (
        {"note": "use password=hunter2, then go"},
        {"note": "use password=***, then go"},
    ),
    "a scalar": (5, 5),
    "a text": ("lr: 0.1, time: 12:30", "lr: 0.1, time: 12:30"),
    "a list of many": ({"a": ["x"] * 1000}, {"a": ["x"] * 1000}),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_are_masked_where_they_lie(name: str) -> None:
    value, expected = VALUES[name]
    assert launch.mask(value) == expected


ARGUMENTS = {
    "an option": (["--token=abc"], ["--token=***"]),
    "an option and its value": (["--token", "abc", "x"], ["--token", "***", "x"]),
    "a value with a dash": (["--token", "-abc"], ["--token", "***"]),
    "a flag before options": (
        ["--auth", "-v", "--auth", "--lr", "1"],
        ["--auth", "-v", "--auth", "--lr", "1"],
    ),
    "an option at the end": (["--token"], ["--token"]),
    "one dash": (["-token", "abc"], ["-token", "***"]),
    "in camel case": (["--apiKey", "abc"], ["--apiKey", "***"]),
    "hydra": (["db.api_key=abc"], ["db.api_key=***"]),
    "hydra adds": (["+db.api_key=a,b"], ["+db.api_key=***"]),
    "hydra forces": (["++db.api_key='a b'"], ["++db.api_key=***"]),
    "hydra deletes": (["~db.api_key=abc"], ["~db.api_key=***"]),
    "hydra's dict": (
        ["db={user:me,password:abc}", "db={password: abc, port: 1}"],
        ["db={user:me,password:***}", "db={password: ***, port: 1}"],
    ),
    "a variable": (["PASSWORD=abc"], ["PASSWORD=***"]),
    "json": (
        ['{"api_key": "a\\"b", "n": 1}', '{"auth": ["a", "b"], "n": 1}'],
        ['{"api_key": ***, "n": 1}', '{"auth": ***, "n": 1}'],
    ),
    "a quote that does not end": (['x {"token": "abc def'], ['x {"token": ***']),
    "a header": (
        ["Authorization: Bearer abc", "--header=Authorization: Bearer abc"],
        ["Authorization: ***", "--header=Authorization: ***"],
    ),
    "a url": (
        ["https://me:p@ss@host/x", "redis://:abc@host", "--db=pg://me:abc@host"],
        ["https://me:***@host/x", "redis://:***@host", "--db=pg://me:***@host"],
    ),
    "a url with a token": (
        ["https://abc@host/x.git", "https://host/?token=abc&n=1"],
        ["https://***@host/x.git", "https://host/?token=***&n=1"],
    ),
    "urls without secrets": (
        ["https://host:80/a@b", "ssh://git@host/x", "git@host:x"],
        ["https://host:80/a@b", "ssh://git@host/x", "git@host:x"],
    ),
    "nothing secret": (
        ["train.py", "-v", "lr=0.1", "--max-tokens", "100", "C:\\data", "a:b"],
        ["train.py", "-v", "lr=0.1", "--max-tokens", "100", "C:\\data", "a:b"],
    ),
    "surrogates": (["\udcff"], ["?"]),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_commands_secrets_are_masked(name: str) -> None:
    command, expected = ARGUMENTS[name]
    assert launch.mask_command(command) == expected


def test_a_command_is_bounded_and_no_secret_shows_by_the_cut() -> None:
    long = ["x"] * 1000 + ["--token", "abc"]
    assert launch.mask_command(long) == ["x"] * 256
    found = launch.mask_command(["https://me:" + "a" * 5000 + "@host"])
    assert found == ["https://me:***@host"]


ODD_COMMANDS: Dict[str, Any] = {
    "a number in it": ["a", 5],
    "none": None,
    "bytes": [b"a"],
}


@pytest.mark.parametrize("name", ODD_COMMANDS)
def test_what_is_no_command_is_masked(name: str) -> None:
    assert launch.mask_command(ODD_COMMANDS[name]) == ["***"]


def test_what_cannot_be_masked_is_not_shown() -> None:
    deep: List[Any] = [1]
    for _ in range(100_000):
        deep = [deep]
    assert launch.mask(deep) == "***"


LONG = {
    "letters": "a" * 65000 + "=",
    "dashes": "-" * 65000 + ":",
    "spaces": "a" + " " * 65000 + "b=1",
    "words": "a " * 30000 + "=:",
    "dots": "a." * 30000 + ":",
    "addresses": "://a:" * 13000,
    "long addresses": "://" + "a" * 65000 + ":",
    "pairs": "x token=" + "token=" * 10000,
    "open quotes": "x " + 'token=", ' * 8000,
    "open brackets": "x " + "token=[, " * 8000,
    "backslashes": 'x token="' + "\\" * 60000,
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_text_is_masked_in_linear_time(name: str) -> None:
    start = time.process_time()
    launch.mask(LONG[name])
    assert time.process_time() - start < 2  # where it is quadratic, minutes


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)


@settings(max_examples=100)
@given(PLAIN)
def test_masking_twice_is_masking_once(value: Any) -> None:
    once = launch.mask(value)
    assert launch.mask(once) == once
    assert type(once) is type(value) or once == "***"


@settings(max_examples=100)
@given(st.text("abcABC_.-:= /@{}[]'\",token", max_size=40))
def test_a_secret_never_shows_beside_its_name(around: str) -> None:
    for argument in (f"{around} token=hunter2", f"password: hunter2 {around}"):
        assert "hunter2" not in "".join(launch.mask_command([argument]))


# --- names ---------------------------------------------------------------------------

SLUGS = {
    "Q Learning": "q-learning",
    "q_learning/v2": "q-learning-v2",
    "  --x--  ": "x",
    "Müller": "muller",
    "学習": "run",
    "": "run",
    "a" * 100: "a" * 40,
    "a" * 39 + " b": "a" * 39,
}


@pytest.mark.parametrize("name", SLUGS)
def test_a_slug_is_short_and_simple(name: str) -> None:
    assert launch.slug(name) == SLUGS[name]


def test_a_run_id_says_its_name_and_its_second_in_utc() -> None:
    found = launch.new_run_id("Q learning", 1795232232.9, b"\xa3\xf9")
    assert found == "q-learning-20261121-033712-a3f9"


@given(st.text(), st.binary(min_size=2, max_size=8))
def test_a_run_id_is_fit_for_a_label_and_a_path(name: str, random: bytes) -> None:
    found = launch.new_run_id(name, 0.0, random)
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}-19700101-000000-[0-9a-f]+", found)
