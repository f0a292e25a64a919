"""Windows and macOS: the package uses nothing that Python has on POSIX alone, unless something else takes its place."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import expirytrack_dagster

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(expirytrack_dagster.__file__).parent
MODULES = {
    *("fcntl", "grp", "posix", "pty", "pwd", "resource", "spwd", "syslog", "termios", "tty"),
    *("crypt", "nis", "ossaudiodev", "pipes", "readline", "curses", "uvloop", "pexpect"),
}
NAMES = {
    "os": {
        *("chown", "chroot", "ctermid", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid"),
        *("getgroups", "getloadavg", "getpgid", "getpgrp", "getpriority", "getresuid", "getsid", "getuid", "killpg"),
        *("lchown", "lockf", "mkfifo", "mknod", "nice", "openpty", "pipe2", "posix_fadvise", "posix_fallocate"),
        *("posix_spawn", "pread", "preadv", "pwrite", "pwritev", "sched_getaffinity", "sched_setaffinity"),
        *("sched_yield", "sendfile", "setgid", "setpgid", "setpriority", "setsid", "setuid", "statvfs", "sync"),
        *("sysconf", "tcgetpgrp", "uname", "wait", "wait3", "wait4", "waitid", "O_CLOEXEC", "O_DIRECTORY", "O_DSYNC"),
        *("O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "WNOHANG"),
    },
    "signal": {
        *("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGUSR1"),
        *("SIGUSR2", "SIGWINCH", "alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait"),
    },
    "socket": {"AF_UNIX", "socketpair"},
    "asyncio": {"start_unix_server", "open_unix_connection"},
    "time": {"tzset", "clock_gettime", "CLOCK_MONOTONIC", "CLOCK_BOOTTIME"},
}
WITH_A_FALLBACK = {("security/private_files.py", "os.geteuid"), ("upstox/clock.py", "time.clock_gettime")}
"""Uses behind a question for the system, looked at by a person: (file, name)."""

IMPORT_ALL = """
import builtins, importlib, pkgutil, sys
blocked = set(sys.argv[1].split(","))
real = builtins.__import__

def without(name, globals=None, locals=None, fromlist=(), level=0):
    ours = (globals or {}).get("__name__", "").startswith("expirytrack_dagster")
    if ours and level == 0 and name.partition(".")[0] in blocked:
        raise ImportError(f"{globals['__name__']} imports {name}")
    return real(name, globals, locals, fromlist, level)

builtins.__import__ = without
package = real("expirytrack_dagster")
for module in pkgutil.walk_packages(package.__path__, "expirytrack_dagster."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def used(tree: ast.AST) -> Iterator[str]:
    """Yield every module that is imported, at the top or where it is needed, and every dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def test_no_source_names_what_windows_lacks() -> None:
    """Neither a module nor a function, a flag or a signal of POSIX alone, in any line, executed here or not."""
    forbidden = MODULES | {f"{module}.{name}" for module, names in NAMES.items() for name in names}
    found = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        for name in used(ast.parse(path.read_text(encoding="utf-8")))
        if name in forbidden
    }
    assert found == WITH_A_FALLBACK


def test_every_module_imports_without_them() -> None:
    """As on a machine where Python has none of these modules."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, ",".join(sorted(MODULES))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("line", ["import fcntl", "from os import fork", "def f():\n    import pwd", "os.getuid()"])
def test_what_is_looked_for_is_found(line: str) -> None:
    """The walk itself: also within functions, and by either way of importing."""
    assert set(used(ast.parse(line))) & {"fcntl", "os.fork", "pwd", "os.getuid"}


def test_files_are_opened_with_an_encoding() -> None:
    """Without one, Windows reads and writes text in its own code page: a rupee sign would not come back."""
    missing = [
        f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"read_text", "write_text"}
        and "encoding" not in {keyword.arg for keyword in node.keywords}
    ]
    assert missing == []
