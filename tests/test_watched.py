"""What the tests of hostile files watch with would notice what it is there to notice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from watched import foreign

# Each is one thing that no recipe and no model may do.
DEEDS = {
    "a file": "open('a', 'w').close()",
    "a file, by the operating system's call": "os.close(os.open('b', os.O_CREAT | os.O_WRONLY))",
    "a line more": "open('old', 'a').close()",
    "a directory": "os.mkdir('c')",
    "a directory beside one that is open": "os.mkdir('f', dir_fd=os.open('.', os.O_RDONLY))",
    "another name": "os.rename('old', 'new')",
    "a link": "os.symlink('old', 'd')",
    "a hard link": "os.link('new', 'e')",
    "a shorter file": "os.truncate('new', 0)",
    "other rights": "os.fchmod(os.open('new', os.O_RDONLY), 0o600)",
    "its end": "os.remove('new')",
    "a temporary file": "tempfile.mkstemp()",
    "a copy": "shutil.copyfile('a', 'g')",
    "a program": "subprocess.run(['true'])",
    "a shell's command": "os.system('true')",
    "a child": "os._exit(0) if os.fork() == 0 else os.wait()",
    "a connection": "socket.socket().connect_ex(('127.0.0.1', 9))",
    "a connection by name": "socket.getaddrinfo('localhost', 9)",
    "a datagram": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "a pickle": "pickle.loads(pickle.dumps(os.getcwd))",
}
HARMLESS = "open('a').read(), os.listdir('.'), os.stat('a'), json.loads('[1]')"


def test_every_deed_is_noticed_and_looking_is_none(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    code = (
        "import json, os, pickle, shutil, socket, subprocess, sys, tempfile\n"
        "from watched import Watch\n"
        "watch, found = Watch(), {}\n"
        "for name, deed in json.load(sys.stdin).items():\n"
        "    with watch.on() as events:\n"
        "        exec(deed)\n"
        "    found[name] = events\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=json.dumps({**DEEDS, "looking": HARMLESS}),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parent), "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("looking") == []
    for name, events in found.items():
        assert foreign(events, cache="/nobodys/cache", port=10), name
    assert foreign(found["other rights"], cache=str(tmp_path)) == []


def test_only_the_cache_and_the_hub_are_allowed() -> None:
    def allowed(*event: str) -> bool:
        return not foreign([list(event)], cache="/home/hf", port=80)

    assert allowed("open", "/home/hf/hub/x")
    assert not allowed("open", "/home/hf/../x")
    assert not allowed("open", "/home/hfx")
    assert not allowed("open", "x")
    assert allowed("os.rename", "/home/hf/a", "/home/hf/b", "-1", "-1")
    assert not allowed("os.rename", "/home/hf/a", "/home/b", "-1", "-1")
    assert allowed("os.symlink", "../../blobs/a", "/home/hf/b", "-1")
    assert not allowed("subprocess.Popen", "/home/hf/x", "['x']", "None", "None")
    assert allowed("socket.connect", "<socket>", "('127.0.0.1', 80)")
    assert not allowed("socket.connect", "<socket>", "('127.0.0.1', 8080)")
    assert not allowed("socket.connect", "<socket>", "('1.2.3.4', 80)")
    assert allowed("socket.getaddrinfo", "localhost", "80", "0", "1", "0")
    assert not allowed("socket.getaddrinfo", "evil.example", "80", "0", "1", "0")
    assert foreign([["socket.connect", "<socket>", "('127.0.0.1', 80)"]], cache="/home/hf", port=None)
